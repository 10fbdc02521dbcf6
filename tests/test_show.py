"""Short texts of records: a line a field, shapes in place of numbers; and the records stay plain pytrees."""

import pickle

import optree
import pytest
import torch
from learners import batch_at, mlp

import fcbp
from fcbp import show
from fcbp.learner import LearnerHyperparams, make_learner
from fcbp.methods import METHODS

NAMES = {"bp": "backprop", "fresh": "backprop", "upgd-features": "upgd"}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_named_by_its_function(name):
    method = METHODS[name].build()
    maker = NAMES.get(name, name.replace("-", "_"))
    assert repr(method).startswith(f"Method({maker}")
    assert "\n" not in repr(method)
    assert " at 0x" not in repr(method)
    state = method.init(mlp()[1], make_learner(*mlp()).init(fcbp.random.key(0)).params, fcbp.random.key(0))
    if hasattr(state, "_fields"):
        lines = repr(state).splitlines()
        assert lines[0] == type(state).__name__
        assert [line.split()[0] for line in lines[1:]] == list(state._fields)
        assert "tensor(" not in repr(state)


def test_options_and_numbers_are_told():
    assert "measure='weight'" in repr(fcbp.methods.cbp("weight"))
    assert repr(fcbp.optim.adamw(weight_decay=0.5)) == (
        "Optimizer(adamw, beta1=0.9, beta2=0.999, eps=1e-08, weight_decay=0.5)"
    )
    assert repr(fcbp.methods.chain(fcbp.methods.l2())) == "Method(chain)"


def test_a_learner_and_its_state_are_told_in_a_line_a_field():
    learner = make_learner(*mlp(), loss="cross_entropy", optimizer="adam", method="cbp", schedule="linear", clip=1.0)
    lines = repr(learner).splitlines()
    assert lines[0] == "Learner"
    told = {line.split()[0]: line.split(maxsplit=1)[1] for line in lines[1:]}
    assert told["model"] == "Sequential, 77 parameters"
    assert told["units"] == "0 (6), 2 (5)"
    assert told["loss"] == "cross_entropy"
    assert told["optimizer"].startswith("Optimizer(adam,")
    assert told["method"].startswith("Method(cbp,")
    assert told["schedule"] == "linear"
    assert told["clip"] == "1.0"
    state = learner.init(fcbp.random.key(0))
    assert [line.split()[0] for line in repr(state).splitlines()] == ["LearnerState", *state._fields]
    assert "6 tensors, 77 numbers: 0.weight (6, 4), " in repr(state)
    assert max(map(len, repr(state).splitlines())) < 250
    many = torch.vmap(learner.init)(fcbp.random.key(torch.arange(3)))
    assert "0.weight (3, 6, 4)" in repr(many)


def test_a_changed_learner_is_still_told():
    learner = make_learner(*mlp())
    changed = learner._replace(step=lambda *given: learner.step(*given))
    assert repr(changed).startswith("Learner\n  init")


@pytest.mark.parametrize(
    "record",
    [
        make_learner(*mlp()),
        make_learner(*mlp(), method="cbp").init(fcbp.random.key(0)),
        fcbp.methods.cbp(),
        fcbp.optim.adam(),
        fcbp.optim.adam().init({"<w>": torch.ones(2)}),
    ],
    ids=lambda record: type(record).__name__,
)
def test_a_notebook_shows_a_table(record):
    html = record._repr_html_()
    assert html.startswith(f"<table><caption>{type(record).__name__}</caption><tr>")
    assert html.count("<tr>") == html.count("</tr>") > 0
    assert "<w>" not in html
    assert " at 0x" not in html


def test_records_stay_plain_pytrees():
    learner = make_learner(*mlp(), optimizer="adam", method="cbp")
    state = learner.init(fcbp.random.key(0))
    assert isinstance(state, tuple)
    assert state == tuple(state)
    again = optree.tree_map(lambda leaf: leaf, state)
    assert type(again) is type(state)
    assert type(pickle.loads(pickle.dumps(state))) is type(state)
    new, _ = torch.vmap(learner.step, in_dims=(0, None, None))(
        torch.vmap(learner.init)(fcbp.random.key(torch.arange(2))), batch_at(0), LearnerHyperparams()
    )
    assert type(new.method) is type(state.method)


def test_other_values_are_told_in_a_line():
    assert show.describe({}) == "{}"
    assert show.describe({"a": 1, "b": "x"}) == "a: 1, b: 'x'"
    assert show.describe([torch.ones(1)] * 6) == "6 tensors, 6 numbers: (1,), (1,), (1,), (1,), and 2 more float32"
    assert show.describe([torch.ones(1), torch.ones(1).int()]).endswith("float32/int32")
    assert show.describe(fcbp.optim.constant(0.5)) == "constant(value=0.5)"
