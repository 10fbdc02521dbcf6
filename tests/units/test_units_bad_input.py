"""What ``find_units`` says where it cannot find groups, and odd models that it handles."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from permutation import check_group, randomised
from torch import nn

from fcbp import find_units
from fcbp.nets import mlp
from fcbp.units import explain

X = torch.zeros(4, 3)


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 5), nn.Linear(5, 2)


class Branching(Base):
    def forward(self, x):
        h = self.a(x)
        if h.sum() > 0:
            h = -h
        return self.b(h)


class Item(Base):
    def forward(self, x):
        return self.b(self.a(x) * self.a.weight.max().item())


class Masked(Base):
    def forward(self, x):
        h = self.a(x)
        return self.b(h[h.sum(-1) > 0])


@pytest.mark.parametrize(
    ("model", "line"),
    [(Branching, r"if h\.sum\(\) > 0"), (Item, r"max\(\)\.item\(\)"), (Masked, r"h\[h\.sum")],
)
def test_a_forward_that_depends_on_values_names_operation_and_line_and_the_way_out(model, line):
    with pytest.raises(
        ValueError, match=r"(?s)values of tensors: aten\.\w+.*test_units_bad_input\.py:\d+ \(.*" + line
    ) as e:
        find_units(model(), X)
    assert "Write the group by hand" in str(e.value)


def test_a_group_written_by_hand_does_not_ask_for_a_trace():
    from fcbp import Slice, UnitGroup
    from fcbp.units import check_units

    model = Branching()
    group = UnitGroup(
        "a", 5, (Slice(("a.weight",), 0),), (Slice(("a.bias",), 0),), (Slice(("b.weight",), 1),), (("b.bias",),),
        activation="b",
    )  # fmt: skip
    check_units((group,), dict(model.named_parameters()))


@pytest.mark.parametrize("inputs", [(), (torch.zeros(4, 7),), (X, X)])
def test_wrong_example_inputs(inputs):
    with pytest.raises(
        ValueError, match=r"find_units: the forward failed on the example inputs at .*Expected inputs as"
    ):
        find_units(mlp(3, (5,), 2), *inputs)


def test_no_module():
    with pytest.raises(ValueError, match=r"model is function; expected a torch\.nn\.Module"):
        find_units(lambda x: x, X)


def test_lazily_initialised():
    model = nn.Sequential(nn.LazyLinear(5), nn.ReLU(), nn.Linear(5, 2))
    with pytest.raises(ValueError, match=r"0\.weight, 0\.bias of the model are lazily initialised.*call model"):
        find_units(model, X)
    model(X)
    assert [g.name for g in find_units(model, X)] == ["0"]


def test_an_empty_result_says_what_was_left_out_and_why():
    with pytest.raises(
        ValueError, match=r"(?s)no group of units is left.*network's output\n  0 \(3 units\): no parameter makes them"
    ):
        find_units(nn.Sequential(nn.Linear(3, 2)), X)
    with pytest.raises(ValueError, match="the forward uses no parameter"):
        find_units(nn.ReLU(), X)
    assert "no group of units was found" in str(explain(nn.Linear(3, 2), X))


@pytest.mark.parametrize("name", ["0.weight", "0.bias", "2.weight"])
def test_a_frozen_parameter(name):
    model = mlp(3, (5, 4), 2)
    model.get_parameter(name).requires_grad_(False)
    (row,) = [x for x in explain(model, X).excluded if "frozen" in x.reason and x.name == "0"]
    assert row.reason.startswith(f"{name} is frozen (requires_grad=False)")
    model.requires_grad_(False)
    with pytest.raises(ValueError, match=r"0 \(5 units\): 0\.weight, 0\.bias, 2\.weight is frozen"):
        find_units(model, X)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(dtype):
    model = nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.Conv1d(4, 2, 3)).to(dtype)
    assert [g.name for g in find_units(model, torch.zeros(2, 3, 9, dtype=dtype))] == ["0"]


def test_training_mode_with_dropout():
    model = nn.Sequential(
        nn.Linear(3, 5), nn.Dropout(0.5), nn.ReLU(), nn.Linear(5, 4), nn.AlphaDropout(), nn.Linear(4, 2)
    )
    state = torch.get_rng_state()
    units = find_units(model.train(), X)
    assert torch.equal(torch.get_rng_state(), state)
    assert [g.name for g in units] == ["0", "3"]
    assert units == find_units(model.eval(), X)


def test_the_meta_device():
    with torch.device("meta"):
        model = mlp(3, (5,), 2)
    assert [g.size for g in find_units(model, torch.zeros(1, 3, device="meta"))] == [5]


class Outputs(Base):
    def __init__(self, wrap):
        super().__init__()
        self.wrap = wrap

    def forward(self, x):
        h = self.a(x)
        return self.wrap(h, self.b(h))


@dataclasses.dataclass
class Result:
    hidden: torch.Tensor
    logits: torch.Tensor


@pytest.mark.parametrize(
    "wrap", [lambda h, y: (h, y), lambda h, y: {"h": h, "y": [y]}, Result, lambda h, y: (y, Result(h, y), None, 3)]
)
def test_units_that_leave_through_any_kind_of_output_are_left_out(wrap):
    found = explain(Outputs(wrap), X)
    assert not found.units
    (reason,) = (x.reason for x in found.excluded if (x.name, x.size) == ("a", 5))
    assert reason.startswith("they are the network's output '")


def test_inputs_of_other_kinds():
    class Keyword(Base):
        def forward(self, x, scale=1.0, *, shift=None, options=()):
            return self.b(self.a(x["x"]) * scale + shift) * len(options)

    units = find_units(Keyword(), {"x": X}, 2.0, shift=torch.zeros(()), options=[1])
    assert [g.name for g in units] == ["a"]


def test_tied_weights_of_an_autoencoder():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.encode = nn.Linear(3, 5)

        def forward(self, x):
            return F.linear(self.encode(x).relu(), self.encode.weight.t())

    (row,) = [x for x in explain(Tied(), X).excluded if x.size == 5]
    assert row.reason == "tied weights: axis 0 of encode.weight both makes and reads them"


def test_a_leaf_used_under_two_names():
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 2))
    model[2].bias = model[0].bias
    (group,) = find_units(model, X)
    assert group.size == 5
    assert {s.path for s in group.bias} == {("0.bias",)}
    check_group(randomised(model), [torch.randn(4, 3)], group)


def test_a_buffer_that_the_units_meet():
    class Buffered(Base):
        def __init__(self):
            super().__init__()
            self.register_buffer("scale", torch.ones(5))

        def forward(self, x):
            return self.b(self.a(x) * self.scale)

    (row,) = [x for x in explain(Buffered(), X).excluded if x.name == "a" and x.size == 5]
    assert row.reason == "they meet the buffer scale, which is no parameter"


def test_a_prelu_of_all_units_is_no_ones_slope():
    (group,) = find_units(nn.Sequential(nn.Linear(3, 5), nn.PReLU(), nn.Linear(5, 2)), X)
    assert (group.name, group.slope) == ("0", ())


def test_hooks_of_the_caller_stay_and_are_not_called_on_real_tensors():
    model, seen = mlp(3, (5,), 2), []
    handle = model[0].register_forward_hook(lambda m, i, o: seen.append(type(o).__name__))
    find_units(model, X)
    assert list(model[0]._forward_hooks) == [handle.id]
    assert set(seen) <= {"FakeTensor"}


@pytest.mark.parametrize("listed", [((0,), (1,)), ((0,), (1,), (2,), (3,), (4, 5)), ((),) * 5])
def test_a_slice_that_lists_other_entries_than_the_units(listed):
    model = mlp(3, (5,), 2)
    (group,) = find_units(model, X)
    wrong = dataclasses.replace(group, incoming=(dataclasses.replace(group.incoming[0], listed=listed),))
    with pytest.raises(ValueError, match=r"group '0', incoming: .* lists .*; expected a tuple for each of 5 units"):
        find_units(model, X, groups=(wrong,))
