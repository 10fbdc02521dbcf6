"""``fcbp.stateful`` in loops as people write them."""

from __future__ import annotations

import copy
import functools
import io
import pickle
from typing import Any

import pytest
import small_nets
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import fcbp
from fcbp.stateful import ContinualBackprop

NUMBERS = {"replacement_rate": 0.02, "maturity_threshold": 3}
X = torch.randn(40, 8, 4, generator=torch.Generator().manual_seed(1))


def network(**keywords: Any) -> nn.Module:
    torch.manual_seed(0)
    return fcbp.nets.mlp(4, (16, 12), 2, **keywords)


def loss_of(model: nn.Module, x: Tensor) -> Tensor:
    return nn.functional.mse_loss(model(x), x[:, :2].sin())


def adapter(model: nn.Module, optimizer: Any = None, **keywords: Any) -> tuple[Any, ContinualBackprop]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01) if optimizer is None else optimizer
    return optimizer, ContinualBackprop(model, optimizer, X[0], **{**NUMBERS, **keywords})


def run(model: nn.Module, optimizer: Any, cbp: ContinualBackprop, x: Tensor = X) -> nn.Module:
    for batch in x:
        optimizer.zero_grad()
        loss_of(model, batch).backward()
        optimizer.step()
        cbp.step()
    return model


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


@functools.cache
def plain_run() -> tuple[nn.Module, ContinualBackprop]:
    model = network()
    optimizer, cbp = adapter(model)
    run(model, optimizer, cbp)
    assert sum(int(n.sum()) for n in cbp.replaced.values()) > 10
    return model, cbp


# --- which forwards count -------------------------------------------------------------------------------


def test_forwards_in_eval_mode_or_without_gradients_do_not_count():
    model = network()
    optimizer, cbp = adapter(model)
    for batch in X:
        optimizer.zero_grad()
        with torch.no_grad():
            model(100 * batch)
        loss_of(model, batch).backward()
        model.eval()
        model(100 * batch)
        model.train()
        with torch.inference_mode():
            model(100 * batch)
        optimizer.step()
        cbp.step()
        with torch.no_grad():
            model(100 * batch)
    assert same(model, plain_run()[0])


def test_a_training_forward_counts():
    model = network()
    optimizer, cbp = adapter(model)
    for batch in X:
        model(100 * batch.roll(1, 1))
        optimizer.zero_grad()
        loss_of(model, batch).backward()
        optimizer.step()
        cbp.step()
    assert not same(model, plain_run()[0])


@pytest.mark.parametrize("measure", ["contribution", "adaptable_contribution"])
def test_several_forwards_before_a_step_are_averaged(measure):
    found = []
    for parts in (1, 4):
        model = network()
        optimizer, cbp = adapter(model, measure=measure)
        for batch in X:
            optimizer.zero_grad()
            for part in batch.chunk(parts):
                (loss_of(model, part) / parts).backward()
            optimizer.step()
            cbp.step()
        found.append((model, cbp))
    assert sum(int(n.sum()) for n in found[0][1].replaced.values()) > 10
    for name, n in found[0][1].replaced.items():
        assert torch.equal(n, found[1][1].replaced[name])
    for p, q in zip(*(model.parameters() for model, _ in found), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)


def test_many_forwards_before_a_step_take_no_more_memory_than_two():
    model = network()
    _, cbp = adapter(model)
    for _ in range(10):
        loss_of(model, X[0]).backward()
    assert all(len(calls) == 1 for calls in cbp._readings.calls.values())


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_forward_repeated_by_activation_checkpointing_counts_once(reentrant):
    class Checkpointed(nn.Module):
        def __init__(self, inner: nn.Module):
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(self.inner, x, use_reentrant=reentrant)

    model = Checkpointed(network())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    cbp = ContinualBackprop(model, optimizer, X[0], units=renamed(network()), **NUMBERS)
    for batch in X:
        optimizer.zero_grad()
        loss_of(model, batch.clone().requires_grad_()).backward()
        if cbp.steps == 0:
            assert all(len(calls) == 1 for calls in cbp._readings.calls.values())
        optimizer.step()
        cbp.step()
    assert same(model.inner, plain_run()[0])


def renamed(model: nn.Module) -> tuple[fcbp.UnitGroup, ...]:
    """The groups of a module as the child ``inner`` of another."""

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x)

    return fcbp.find_units(Outer(), X[0])


# --- precision and layout -------------------------------------------------------------------------------


def test_autocast_forwards_are_read():
    model = network()
    optimizer, cbp = adapter(model)
    for batch in X:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(model, batch)
        loss.backward()
        optimizer.step()
        cbp.step()
    assert sum(int(n.sum()) for n in cbp.replaced.values()) > 10
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("method", ["cbp", "l2"])
def test_a_step_that_the_grad_scaler_skips_is_no_step(fused, method):
    found = []
    for scaled in (False, True):
        model = network()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01, fused=fused)
        numbers = NUMBERS if method == "cbp" else {"strength": 0.5}
        cbp = ContinualBackprop(model, optimizer, X[0], method=method, **numbers)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1000, enabled=scaled)
        for i, batch in enumerate(X):
            for bad in (i % 7 == 6, False) if i % 7 == 6 else (False,):
                if bad and not scaled:
                    continue
                optimizer.zero_grad()
                loss = loss_of(model, batch)
                scaler.scale(loss * torch.inf if bad else loss).backward()
                scaler.step(optimizer)
                scaler.update()
                replaced = cbp.step()
                if bad:
                    assert not any(mask.any() for mask in replaced.values())
        assert cbp.steps == len(X)
        found.append((model, cbp))
    if method == "cbp":
        assert sum(int(n.sum()) for n in found[0][1].replaced.values()) > 10
    for p, q in zip(*(model.parameters() for model, _ in found), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)


def test_bfloat16_parameters_stay_what_they_are():
    model = network().to(torch.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    cbp = ContinualBackprop(model, optimizer, X[0].bfloat16(), **NUMBERS)
    run(model, optimizer, cbp, X.bfloat16())
    assert sum(int(n.sum()) for n in cbp.replaced.values()) > 10
    assert all(p.dtype == torch.bfloat16 and p.isfinite().all() for p in model.parameters())
    assert all(u.dtype == torch.float32 for u in cbp.method_state.utility.values())


def test_channels_last_is_kept_and_changes_nothing():
    def make() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6, 2)
        )

    x, found = torch.randn(40, 4, 3, 5, 5), []
    for layout in (torch.contiguous_format, torch.channels_last):
        model = make().to(memory_format=layout)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        cbp = ContinualBackprop(model, optimizer, x[0], **NUMBERS)
        for batch in x:
            optimizer.zero_grad()
            model(batch.to(memory_format=layout)).square().mean().backward()
            optimizer.step()
            cbp.step()
        found.append((model, cbp))
        assert model[0].weight.is_contiguous(memory_format=layout)
    assert sum(int(n.sum()) for n in found[0][1].replaced.values()) > 5
    for p, q in zip(*(model.parameters() for model, _ in found), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)


# --- the loop -------------------------------------------------------------------------------------------


def test_clipped_gradients_and_schedulers_need_nothing():
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=len(X))
    cbp = ContinualBackprop(model, optimizer, X[0], method="weight-decay", strength=0.5)
    for batch in X:
        optimizer.zero_grad()
        loss_of(model, batch).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        rate, before = optimizer.param_groups[0]["lr"], [p.detach().clone() for p in model.parameters()]
        optimizer.step()
        scheduler.step()
        stepped = [p.detach().clone() for p in model.parameters()]
        cbp.step()
        # The decay is by the step size of this step, not of the next, and of the weights before it.
        for p, after, start in zip(model.parameters(), stepped, before, strict=True):
            torch.testing.assert_close(p, after - rate * 0.5 * start)


def test_a_closure_makes_its_gradients_before_the_method_sees_them():
    found = []
    for closed in (False, True):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        cbp = ContinualBackprop(
            model, optimizer, X[0],
            method=fcbp.methods.chain(fcbp.methods.l2(), fcbp.methods.cbp()),
            hyper=(fcbp.methods.L2Hyperparams(0.1), fcbp.Hyperparams(0.02, 3)),
        )  # fmt: skip
        for batch in X:

            def closure(batch=batch, model=model, optimizer=optimizer) -> Tensor:
                optimizer.zero_grad()
                loss = loss_of(model, batch)
                loss.backward()
                return loss

            if closed:
                optimizer.step(closure)
            else:
                closure()
                optimizer.step()
            cbp.step()
        found.append(model)
    assert same(*found)
    assert not same(found[0], plain_run()[0])


@pytest.mark.parametrize("given", [False, True])
def test_layers_that_are_frozen_are_left_alone(given):
    model = network()
    units = fcbp.find_units(model, X[0]) if given else None
    model[0].requires_grad_(False)
    before = [p.detach().clone() for p in model[0].parameters()]
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    cbp = ContinualBackprop(model, optimizer, X[0], units=units, **NUMBERS)
    run(model, optimizer, cbp)
    assert [group.name for group in cbp.units] == ["2"]
    if given:
        assert cbp.left_out == {"0": "0.weight is frozen"}
        assert "left out: 0, 0.weight is frozen" in str(cbp.summary())
    assert all(torch.equal(p, q) for p, q in zip(model[0].parameters(), before, strict=True))
    assert int(cbp.replaced["2"].sum()) > 3


def test_part_of_a_concatenation_may_be_frozen():
    torch.manual_seed(0)
    model, x = small_nets.Inception(), torch.randn(40, 3, 3, 6, 6)
    units = fcbp.find_units(model, x[0])
    model.a.requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    cbp = ContinualBackprop(model, optimizer, units=units, **NUMBERS)
    for batch in x:
        optimizer.zero_grad()
        model(batch).square().mean().backward()
        optimizer.step()
        cbp.step()
    assert set(cbp.left_out) == {"a"}


def test_a_copy_of_the_model_is_not_read_and_follows_it():
    model = network()
    optimizer, cbp = adapter(model)
    average = torch.optim.swa_utils.AveragedModel(model)
    for batch in X:
        optimizer.zero_grad()
        loss_of(model, batch).backward()
        average(100 * batch)
        pickle.loads(pickle.dumps(model))(100 * batch)
        copy.deepcopy(model)(100 * batch)
        optimizer.step()
        cbp.step()
        average.update_parameters(model)
    assert same(model, plain_run()[0])


def test_tied_weights_stay_tied():
    torch.manual_seed(0)
    model = small_nets.LanguageModel(True)
    tokens = torch.randint(0, 11, (40, 3, 5))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    cbp = ContinualBackprop(model, optimizer, tokens[0], **NUMBERS)
    for batch in tokens:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(batch).flatten(0, 1), batch.flatten()).backward()
        optimizer.step()
        cbp.step()
    assert model.logits.weight is model.embed.weight
    assert sum(int(n.sum()) for n in cbp.replaced.values()) > 2


def test_attention_whose_output_weight_goes_to_a_function_is_read():
    torch.manual_seed(0)
    model, x = small_nets.MultiheadAttention(), torch.randn(40, 3, 5, 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    cbp = ContinualBackprop(model, optimizer, x[0], **NUMBERS)
    assert any(group.activation.endswith("out_proj") for group in cbp.units)
    other = pickle.loads(pickle.dumps(model)), copy.deepcopy(model)
    assert all(type(m.layer.self_attn.forward).__name__ == "method" for m in other)
    assert all(m.layer.self_attn.forward.__self__ is m.layer.self_attn for m in other)
    state = cbp.method_state
    features = fcbp.forward_with_features(model, cbp.units)(dict(model.named_parameters()), {}, x[0])[1]
    model(x[0])
    for name, h in cbp._readings.features().items():
        torch.testing.assert_close(
            h.reshape(-1, h.shape[-1]), features[name].reshape(-1, h.shape[-1]), rtol=1e-4, atol=1e-6
        )
    cbp._readings.clear()
    for batch in x:
        optimizer.zero_grad()
        model(batch).square().mean().backward()
        optimizer.step()
        cbp.step()
    assert state is cbp.method_state
    assert any(int(cbp.replaced[g.name].sum()) for g in cbp.units if g.activation.endswith("out_proj"))
    cbp.remove()
    assert "forward" not in vars(model.layer.self_attn)


RENEWING = {name for name, kind in fcbp.methods.METHODS.items() if kind.build().renews}
"""They make a new learner with every task: a loop of torch refuses them by name."""


@pytest.mark.parametrize("method", [name for name in fcbp.methods.METHODS if name not in ("bp", *RENEWING)])
def test_every_method_runs_and_does_what_the_learner_does(method):
    kind = fcbp.methods.METHODS[method]
    hyper = kind.hyperparams()
    eager = {"period": 5, "maturity_threshold": 3, "replacement_rate": 0.05, "reset_rate": 0.01, "threshold": 0.5}
    if hasattr(hyper, "_replace"):
        hyper = hyper._replace(**{name: value for name, value in eager.items() if name in hyper._fields})
    model = network()
    units, rate = fcbp.find_units(model, X[0]), 2.0**-6
    built = kind.build()
    params = {name: p.detach().clone() for name, p in model.named_parameters()}
    state = fcbp.learner.LearnerState(
        params, {}, fcbp.optim.sgd().init(params), built.init(units, params, fcbp.random.key(0))
    )
    learner = fcbp.make_learner(model, units, method=built)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    cbp = ContinualBackprop(model, optimizer, X[0], method=method, hyper=hyper)
    for i, batch in enumerate(X):
        signal = torch.tensor(i % 20 == 10)
        target = batch[:, :2].sin()
        state, _ = learner.step(state, (batch, target, signal), fcbp.LearnerHyperparams(rate, hyper))
        optimizer.zero_grad()
        loss_of(model, batch).backward()
        optimizer.step()
        cbp.step(new_task=i % 20 == 10)
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), state.params[name], rtol=1e-6, atol=1e-7)


# --- saving ---------------------------------------------------------------------------------------------


def test_a_resumed_run_is_the_same_to_the_bit():
    def begin() -> tuple[nn.Module, Any, ContinualBackprop]:
        model = network()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        return model, optimizer, ContinualBackprop(model, optimizer, X[0], **NUMBERS)

    whole, optimizer, cbp = begin()
    run(whole, optimizer, cbp)
    half, optimizer, cbp = begin()
    run(half, optimizer, cbp, X[:20])
    file = io.BytesIO()
    torch.save({"model": half.state_dict(), "optimizer": optimizer.state_dict(), "cbp": cbp.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed, optimizer, cbp = begin()
    resumed.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    cbp.load_state_dict(saved["cbp"])
    assert cbp.steps == 20
    run(resumed, optimizer, cbp, X[20:])
    assert same(whole, resumed)


def test_a_model_with_hooks_is_saved_whole_and_its_state_dict_is_the_models():
    model = network()
    keys = list(model.state_dict())
    adapter(model)
    assert list(model.state_dict()) == keys
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    assert same(torch.load(file, weights_only=False), model)


def test_remove_takes_every_hook_off():
    model = network()
    optimizer, cbp = adapter(model)
    cbp.remove()
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


def test_the_summary_says_how_units_fare():
    _, cbp = plain_run()
    summary = cbp.summary()
    group = summary.groups["0"]
    assert (summary.steps, group.size) == (40, 16)
    assert group.replaced == int(cbp.replaced["0"].sum())
    assert group.mature == int((cbp.method_state.age["0"] > 3).sum())
    assert 0 <= group.dormant <= 16
    assert group.age.maximum <= 40
    lines = str(summary).splitlines()
    assert lines[0].startswith("cbp, 40 steps")
    assert lines[1].split() == ["group", "units", "replaced", "mature", "dormant", "age", "utility"]
    assert lines[2].split()[:3] == ["0", "16", str(group.replaced)]


# --- compiled -------------------------------------------------------------------------------------------


@pytest.mark.compiled
@pytest.mark.parametrize("way", ["before", "after", "in place"])
def test_a_compiled_model_is_read(way):
    torch.compiler.reset()
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    called: Any = model
    if way == "before":
        called = torch.compile(model, fullgraph=True)
    cbp = ContinualBackprop(called, optimizer, X[0], **NUMBERS)
    if way == "after":
        called = torch.compile(model, fullgraph=True)
    if way == "in place":
        model.compile(fullgraph=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        run(called, optimizer, cbp)
    plain, other = plain_run()
    for name, n in other.replaced.items():
        assert torch.equal(n, cbp.replaced[name])
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)


@pytest.mark.compiled
def test_several_forwards_of_a_compiled_model_are_averaged_without_another_compilation():
    torch.compiler.reset()
    model = network()
    optimizer, cbp = adapter(model)
    compiled = torch.compile(model, fullgraph=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for batch in X:
            optimizer.zero_grad()
            for part in batch.chunk(4):
                (loss_of(compiled, part) / 4).backward()
            optimizer.step()
            cbp.step()
    _, other = plain_run()
    for name, n in other.replaced.items():
        assert torch.equal(n, cbp.replaced[name])


@pytest.mark.compiled
def test_a_compiled_model_is_read_by_a_method_that_needs_every_sample():
    torch.compiler.reset()
    model, plain = network(), network()
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.01) for m in (model, plain)]
    options = {**NUMBERS, "measure": "adaptable_contribution"}
    both = [ContinualBackprop(m, o, X[0], **options) for m, o in zip((model, plain), optimizers, strict=True)]
    run(torch.compile(model), optimizers[0], both[0])
    run(plain, optimizers[1], both[1])
    for name, n in both[1].replaced.items():
        assert torch.equal(n, both[0].replaced[name])


@pytest.mark.compiled
def test_attention_in_a_compiled_model_is_read():
    torch.compiler.reset()
    torch.manual_seed(0)
    model, x = small_nets.MultiheadAttention(), torch.randn(20, 3, 5, 3)
    plain = copy.deepcopy(model)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.01) for m in (model, plain)]
    both = [ContinualBackprop(m, o, x[0], **NUMBERS) for m, o in zip((model, plain), optimizers, strict=True)]
    compiled = torch.compile(model)
    for m, optimizer, cbp in zip((compiled, plain), optimizers, both, strict=True):
        for batch in x:
            optimizer.zero_grad()
            m(batch).square().mean().backward()
            optimizer.step()
            cbp.step()
    for name, n in both[1].replaced.items():
        assert torch.equal(n, both[0].replaced[name])


@pytest.mark.compiled
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch's own, where an LSTM breaks the graph
def test_a_group_that_a_function_reads_in_a_compiled_model_is_told():
    torch.compiler.reset()
    torch.manual_seed(0)
    model, x = small_nets.Recurrent(nn.LSTM), torch.randn(3, 4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    cbp = ContinualBackprop(model, optimizer, x, **NUMBERS)
    torch.compile(model, backend="eager")(x).square().mean().backward()
    optimizer.step()
    with pytest.raises(ValueError, match=r"parameter rnn\..* reads units in a function.*expected the model uncompiled"):
        cbp.step()


def test_the_state_stays_where_it_is_for_a_captured_graph():
    model = network()
    optimizer, cbp = adapter(model)
    places = [leaf.data_ptr() for leaf in fcbp.stateful.saved.leaves_by_name(cbp.method_state).values()]
    weights = [p.data_ptr() for p in model.parameters()]
    run(model, optimizer, cbp)
    assert places == [leaf.data_ptr() for leaf in fcbp.stateful.saved.leaves_by_name(cbp.method_state).values()]
    assert weights == [p.data_ptr() for p in model.parameters()]


@pytest.mark.parametrize("method", sorted(RENEWING))
def test_a_method_that_begins_anew_is_refused_by_name(method):
    model = network()
    with pytest.raises(ValueError, match=f"method is '{method}', which begins anew with every task"):
        ContinualBackprop(model, torch.optim.SGD(model.parameters(), lr=0.1), X[0], method=method)
