"""What a replaced unit's entries in an optimiser's state become."""

import copy
import itertools

import optree
import pytest
import torch
from cbp_cases import normal, perceptron, state_with

import fcbp
from fcbp import optim
from fcbp.units import Slice, UnitGroup


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"inner": (s, [torch.tensor(1.0)])}, lambda s: [s, None, 3]])
def test_moments_and_counts_are_reset_wherever_they_lie(wrap):
    params, units = perceptron()
    moments = optree.tree_map(torch.ones_like, params)
    state = optim.AdamState(moments, moments, optree.tree_map(lambda p: torch.ones_like(p, dtype=torch.int32), params))
    replaced = {"h": torch.tensor([True] + [False] * 5)}
    reset = fcbp.reset_moments(wrap(state), replaced, units=units)
    inner = reset if isinstance(reset, optim.AdamState) else reset["inner"][0] if isinstance(reset, dict) else reset[0]
    assert isinstance(inner, optim.AdamState)
    for field, old in zip(inner, state, strict=True):
        assert not field["w1"][0].any()
        assert not field["b1"][0].any()
        assert not field["w2"][:, 0].any()
        assert field["w1"][1:].all()
        assert field["b1"][1:].all()
        assert field["w2"][:, 1:].all()
        assert field["b2"].all()
        assert all(field[name].dtype == old[name].dtype for name in old)
        assert all(old[name].all() for name in old)


def by_kind(leaves, *names):
    return {name: leaves[name] for name in names}


def perceptron_moments(make=torch.ones_like):
    params, units = perceptron(hidden=6, inputs=3, outputs=2)
    return params, units, {name: make(leaf) for name, leaf in params.items()}


def adam_of(moments):
    counts = optree.tree_map(lambda leaf: torch.ones_like(leaf, dtype=torch.int32), moments)
    return optim.AdamState(moments, moments, counts)


PARTS = {
    "a part for each kind": lambda m: {
        "polyak": m,
        "muon": by_kind(m, "w1", "w2"),
        "adam": adam_of(by_kind(m, "b1", "b2")),
    },
    "two parts": lambda m: {"muon": by_kind(m, "w1", "w2"), "adam": by_kind(m, "b1", "b2")},
    "an optimiser a layer": lambda m: [adam_of(by_kind(m, "w1", "b1")), optim.SGDState(by_kind(m, "w2", "b2"))],
    "decay groups": lambda m: (
        {"decay": {"mean": by_kind(m, "w1", "w2")}, "rest": {"mean": by_kind(m, "b1", "b2")}},
        3,
    ),
    "by name": lambda m: {name: {"exp_avg": leaf, "step": torch.tensor(3.0)} for name, leaf in m.items()},
    "by name, in pairs": lambda m: {name: (leaf, leaf) for name, leaf in m.items()},
    "by name, in states": lambda m: {"state": {name: optim.AdamState(leaf, leaf, leaf) for name, leaf in m.items()}},
    "None for what is frozen": lambda m: adam_of({**m, "b1": None, "w2": None}),
    "() for what is frozen": lambda m: {"mean": {**m, "b1": (), "w2": ()}},
    "without the biases": lambda m: {"muon": by_kind(m, "w1", "w2"), "key": torch.zeros(2, dtype=torch.int64)},
    "tensors beside a subtree": lambda m: {"w1": m["w1"], "adam": by_kind(m, "b1", "w2", "b2")},
    "a placeholder for a factored tensor": lambda m: {"m": m, "v": {**m, "w1": torch.ones(1)}},
}


def assert_reset(reset, value=0.0, names=("w1", "b1", "w2")):
    """Of every tensor of a parameter's shape unit 0's entries are ``value`` and the others 1."""
    shapes = {(6, 3): "w1", (6,): "b1", (2, 6): "w2"}
    found = set()
    for leaf in optree.tree_leaves(reset):
        if isinstance(leaf, torch.Tensor) and tuple(leaf.shape) in shapes:
            name = shapes[tuple(leaf.shape)]
            found.add(name)
            own = leaf[:, 0] if name == "w2" else leaf[0]
            others = leaf[:, 1:] if name == "w2" else leaf[1:]
            assert (own == (value if leaf.is_floating_point() else 0)).all(), name
            assert (others == 1).all(), name
        elif isinstance(leaf, torch.Tensor) and leaf.is_floating_point():
            assert leaf.all()
    assert found == set(names)


@pytest.mark.parametrize("with_params", [False, True])
@pytest.mark.parametrize("case", PARTS)
def test_every_part_of_an_optimisers_state_is_reset(case, with_params):
    params, units, moments = perceptron_moments()
    state = PARTS[case](moments)
    before = copy.deepcopy(state)
    replaced = {"h": torch.tensor([True] + [False] * 5)}
    options = {"units": units, "params": params if with_params else None}
    reset = fcbp.reset_moments(state, replaced, **options)
    assert optree.tree_structure(reset) == optree.tree_structure(state)
    names = {"w1"} if "frozen" in case else {"w1", "w2"} if "without" in case else {"w1", "b1", "w2"}
    assert_reset(reset, names=names)
    assert_reset(fcbp.reset_moments(state, replaced, fresh=-3.0, **options), -3.0, names)
    for a, b in zip(*map(optree.tree_leaves, (state, before)), strict=True):
        assert a == b if not isinstance(a, torch.Tensor) else a.equal(b)
    nobody = {"h": torch.zeros(6, dtype=torch.bool)}
    for a, b in zip(*map(optree.tree_leaves, (fcbp.reset_moments(state, nobody, **options), state)), strict=True):
        assert a == b if not isinstance(a, torch.Tensor) else a.equal(b)


def square():
    params = {"w1": torch.ones(4, 4), "w2": torch.ones(2, 4)}
    return params, (UnitGroup("h", 4, (Slice(("w1",), 0),), (), (Slice(("w2",), 1),), (None,)),)


FACTORED = {
    "by role": lambda r, c: {"row": {"w1": r[0], "w2": r[1]}, "col": {"w1": c[0], "w2": c[1]}},
    "by name": lambda r, c: {f"w{i + 1}": {"exp_avg_sq_row": r[i], "exp_avg_sq_col": c[i]} for i in range(2)},
    "kept axes": lambda r, c: {f"w{i + 1}": {"a": r[i][:, None], "b": c[i][None]} for i in range(2)},
    "beside a moment": lambda r, c: {
        "m": {"w1": torch.ones(4, len(c[0])), "w2": torch.ones(2, 4)},
        "v_row": {"w1": r[0], "w2": r[1]},
        "v_col": {"w1": c[0], "w2": c[1]},
    },
}


@pytest.mark.parametrize("inputs", [3, 4])
# A pair may be of anything's moments, where the shapes are not known.
@pytest.mark.parametrize(("case", "with_params"), [*itertools.product(FACTORED, (False, True)), ("in pairs", True)])
def test_factored_moments_are_reset_along_the_units_axis(case, with_params, inputs):
    params, units = square()
    params["w1"] = torch.ones(4, inputs)
    rows, columns = [torch.ones(4), torch.ones(2)], [torch.ones(inputs), torch.ones(4)]
    pairs = lambda r, c: {f"w{i + 1}": (r[i], c[i]) for i in range(2)}  # noqa: E731
    state = FACTORED.get(case, pairs)(rows, columns)
    replaced = {"h": torch.tensor([False, True, False, False])}
    reset = fcbp.reset_moments(state, replaced, units=units, params=params if with_params else None)
    wanted = FACTORED.get(case, pairs)(
        [torch.tensor([1.0, 0, 1, 1]), torch.ones(2)], [torch.ones(inputs), torch.tensor([1.0, 0, 1, 1])]
    )
    if case == "beside a moment":
        wanted["m"]["w1"][1] = 0
        wanted["m"]["w2"][:, 1] = 0
    for a, b in zip(*map(optree.tree_leaves, (reset, wanted)), strict=True):
        assert a.equal(b)


def test_a_row_that_may_be_a_column_is_named():
    params, units = square()
    replaced = {"h": torch.zeros(4, dtype=torch.bool)}
    with pytest.raises(ValueError, match=r"a/w1 of shape \(4,\) under the name of w1, \(4, 4\), and may be a row or"):
        fcbp.reset_moments({"a": {"w1": torch.ones(4), "w2": torch.ones(2)}}, replaced, units=units, params=params)
    with pytest.raises(ValueError, match=r"w1/0 of shape \(4,\), w1/1 of shape \(4,\) .* cannot be told; .* params="):
        fcbp.reset_moments({"w1": (torch.ones(4), torch.ones(4))}, replaced, units=units)


def test_an_entry_becomes_what_a_function_or_the_optimisers_init_says():
    _, units, moments = perceptron_moments()
    replaced = {"h": torch.tensor([True] + [False] * 5)}
    state = {"log_step": moments, "trace": moments, "adam": adam_of(moments)}

    def fresh(path, leaf):
        return -4.6 if path[0] == "log_step" else torch.full_like(leaf, 0.5) if path[0] == "trace" else 0

    reset = fcbp.reset_moments(state, replaced, units=units, fresh=fresh)
    for part, value in (("log_step", -4.6), ("trace", 0.5), ("adam", 0.0)):
        assert_reset(reset[part], torch.tensor(value))
    init = optree.tree_map(lambda leaf: torch.full_like(leaf, 7), state)
    reset = fcbp.reset_moments(state, replaced, units=units, fresh=init)
    assert reset["adam"].step["w1"][:2].tolist() == [[7] * 3, [1] * 3]
    assert_reset({part: reset[part] for part in ("log_step", "trace")}, 7.0)
    for bad, message in (
        ({"log_step": moments}, r"fresh has nothing at trace/w1"),
        (lambda path, leaf: leaf[:1], r"fresh has shape \(1, 3\) at log_step/w1; expected \(6, 3\)"),
        (lambda path, leaf: "zero", r"fresh has 'zero' at log_step/w1; expected a number or a tensor"),
    ):
        with pytest.raises(ValueError, match=message):
            fcbp.reset_moments(state, replaced, units=units, fresh=bad)


@pytest.mark.parametrize("with_params", [False, True])
@pytest.mark.parametrize("name", ["w1", "b1", "w2"])
@pytest.mark.parametrize("change", ["grown", "shrunk"])
def test_moments_from_before_a_layer_changed_its_size_are_named(change, name, with_params):
    params, units, moments = perceptron_moments()
    old = 5 if change == "grown" else 7
    shape = [old if n == 6 else n for n in moments[name].shape]
    state = {"mean": {**moments, name: torch.ones(shape)}}
    replaced = {"h": torch.zeros(6, dtype=torch.bool)}
    with pytest.raises(ValueError, match=rf"opt_state has mean/{name} of shape .* under the name of {name}; expected "):
        fcbp.reset_moments(state, replaced, units=units, params=params if with_params else None)


def test_moments_of_a_grown_head_are_named():
    params, units, moments = perceptron_moments()
    replaced = {"h": torch.zeros(6, dtype=torch.bool)}
    grown = {**moments, "w2": torch.ones(5, 6)}
    with pytest.raises(ValueError, match=r"square/w2 of shape \(2, 6\) under the name of w2; expected \(5, 6\)"):
        fcbp.reset_moments({"mean": grown, "square": moments}, replaced, units=units)
    with pytest.raises(ValueError, match=r"mean/w2 of shape \(2, 6\) under the name of w2; expected \(5, 6\)"):
        fcbp.reset_moments({"mean": moments}, replaced, units=units, params={**params, "w2": torch.ones(5, 6)})


def test_another_parameters_moments_are_not_taken_for_a_units():
    """A decoder whose parameters have the encoder's names, one level deeper."""
    params = {"0": {"w": torch.ones(3, 2)}, "decoder": {"0": {"w": torch.ones(3, 2)}}}
    units = (UnitGroup("h", 3, (Slice(("0", "w"), 0),), (), (), ()),)
    state, replaced = {"mean": params}, {"h": torch.ones(3, dtype=torch.bool)}
    reset = fcbp.reset_moments(state, replaced, units=units, params=params)
    assert not reset["mean"]["0"]["w"].any()
    assert reset["mean"]["decoder"]["0"]["w"].all()
    with pytest.raises(ValueError, match=r"holds 0/w twice in one subtree, .* at mean/decoder/0/w; expected params="):
        fcbp.reset_moments(state, replaced, units=units)


class Record:
    def __init__(self):
        self.mean = torch.ones(2)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            lambda p: torch.optim.Adam([*p.values()]),
            r"opt_state is a torch\.optim\.Adam; .*for name, p in model\.named_",
        ),
        (
            lambda p: {"a": torch.optim.SGD([*p.values()])},
            r"opt_state, at a, is a torch\.optim\.SGD; expected its state",
        ),
        (
            lambda p: optim.adam(),
            r"opt_state, at init, is function, no pytree of tensors; expected what an optimiser's",
        ),
        (lambda p: torch.nn.Linear(2, 2), r"opt_state is Linear, no pytree of tensors"),
        (lambda p: None, r"opt_state is None; expected what an optimiser's init\(params\) returned"),
        (lambda p: "adam", r"opt_state is 'adam'; expected"),
        (lambda p: [Record()], r"opt_state, at 0, is Record, in which tensors cannot be replaced"),
        (lambda p: torch.ones(3), r"opt_state has nothing by the name of w1, and  of shape \(3,\)"),
        (
            lambda p: {"mean": by_kind(p, "w1", "w2", "b2"), "other": {"bias": p["b1"]}},
            r"nothing by the name of b1, and other/bias of shape \(6,\) by no parameter's name",
        ),
    ],
)
def test_what_is_no_state_of_an_optimiser_is_named(state, message):
    params, units = perceptron()
    with pytest.raises(ValueError, match=message):
        fcbp.reset_moments(state(params), {"h": torch.zeros(6, dtype=torch.bool)}, units=units)


def test_the_state_of_a_torch_optimiser_by_name():
    model = torch.nn.Sequential(torch.nn.Linear(3, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2))
    units = fcbp.find_units(model, torch.zeros(1, 3))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(4, 3)).square().sum().backward()
    optimizer.step()
    state = {name: optimizer.state[p] for name, p in model.named_parameters()}
    reset = fcbp.reset_moments(state, {"0": torch.tensor([True] + [False] * 5)}, units=units)
    for moment in ("exp_avg", "exp_avg_sq"):
        assert not reset["0.weight"][moment][0].any()
        assert not reset["2.weight"][moment][:, 0].any()
        assert reset["0.weight"][moment][1:].equal(state["0.weight"][moment][1:])
    assert reset["0.weight"]["step"] == 1


def test_many_members_with_parts_are_each_members_own():
    _, units, moments = perceptron_moments()
    state = PARTS["a part for each kind"](moments)
    many = optree.tree_map(lambda leaf: torch.stack([leaf, leaf * 2]), state)
    masks = torch.eye(6, dtype=torch.bool)[:2]
    together = torch.vmap(lambda s, m: fcbp.reset_moments(s, {"h": m}, units=units))(many, masks)
    for i in range(2):
        alone = fcbp.reset_moments(optree.tree_map(lambda leaf: leaf[i], many), {"h": masks[i]}, units=units)  # noqa: B023
        for a, b in zip(*map(optree.tree_leaves, (together, alone)), strict=True):
            assert a[i].equal(b)


def test_a_count_for_the_whole_tensor_stays():
    params, units = perceptron()
    state = {"mean": params, "step": {name: torch.tensor(5.0) for name in params}}
    reset = fcbp.reset_moments(state, {"h": torch.tensor([True] * 6)}, units=units)
    assert all(count == 5 for count in reset["step"].values())
    assert not reset["mean"]["w1"].any()


def test_a_single_tensor_is_a_pytree():
    """All the parameters in one leaf, at the empty path."""
    params = normal(1, 4, 3)
    units = (UnitGroup("h", 4, (Slice((), 0),), (), (), ()),)
    state = state_with(units, params, torch.tensor([3.0, 1.0, 2.0, 4.0]))
    new, _, replaced = fcbp.select_and_reset(state, params, fcbp.Hyperparams(0.25), units=units)
    assert replaced["h"].tolist() == [False, True, False, False]
    assert (new != params).any(1).tolist() == replaced["h"].tolist()
    adam = optim.adam()
    _, opt_state = adam.update(params, adam.init(params), params, step_size=0.1)
    reset = fcbp.reset_moments(opt_state, replaced, units=units)
    assert reset.step.tolist() == [[1] * 3, [0] * 3, [1] * 3, [1] * 3]
