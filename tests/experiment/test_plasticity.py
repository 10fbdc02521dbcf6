"""UPGD's plasticity: the share of a batch's loss that its own step takes away."""

import pytest
import torch

import fcbp
from fcbp import metrics
from fcbp.experiment import Experiment, assemble
from fcbp.sweeps import sweep


def test_it_is_clipped_and_divides_by_no_zero():
    before, after = torch.tensor([2.0, 1.0, 0.0, 0.0, 1e-9]), torch.tensor([0.5, 3.0, 0.0, 1.0, 1e-9])
    expected = [max(0.0, min(1.0, 1 - a / max(b, 1e-8))) for b, a in zip(before.tolist(), after.tolist(), strict=True)]
    torch.testing.assert_close(metrics.plasticity(before, after), torch.tensor(expected))


@pytest.mark.parametrize("method", ["bp", "cbp", "upgd", "fresh"])
def test_a_step_tells_the_loss_on_its_own_examples_before_and_after(method):
    run = fcbp.experiment.get("permuted-digits").replace(
        method=method, metrics=("plasticity",), hidden=(20,), task_length=3, step_size=0.01
    )
    built = assemble([run])
    hyper = built.hyper({name: built.number_of(run, name) for name in built.numbers})
    state = built.learner.init(fcbp.random.key(0))
    model = fcbp.nets.mlp(64, (20,), 10)
    _, batches = built.stream.sample(built.stream.init(fcbp.random.key(1)), 7)
    seen = []
    for t in range(7):
        batch = tuple(part[t] for part in batches)
        state, info = built.learner.step(state, batch, hyper)
        output = torch.func.functional_call(model, dict(state.params), (batch[0].flatten(1),))
        after = torch.nn.functional.cross_entropy(output, batch[1])
        expected = (1 - after / info["loss"]).clamp(0, 1)
        torch.testing.assert_close(built.per_step(info)["plasticity"], expected, rtol=1e-4, atol=1e-5)
        seen.append(float(expected))
    assert max(seen) > 0.01


def test_it_is_measured_only_where_it_is_asked_for_and_changes_nothing_else():
    base = Experiment(method="upgd", steps=40, bin=20, metrics=("weight_magnitude",))
    plain, asked = (
        sweep(base.replace(metrics=chosen), fcbp.grid(seed=range(2)), progress=False, compile=False)
        for chosen in (base.metrics, (*base.metrics, "plasticity"))
    )
    assert "plasticity" not in plain
    assert ((asked.plasticity >= 0) & (asked.plasticity <= 1)).all()
    for name in plain.data_vars:
        assert (plain[name] == asked[name]).all()
