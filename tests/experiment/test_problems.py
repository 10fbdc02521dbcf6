"""The published problems: their numbers, the order of events between tasks, and runs from the command line."""

from pathlib import Path

import made_data
import numpy as np
import pytest
import torch
import torch.nn.functional as F

import fcbp
from fcbp import cli, data, streams
from fcbp.cli.run import members_of
from fcbp.experiment import PROBLEMS, over_data, parts
from fcbp.experiment.program import build_program
from fcbp.experiment.surprises import of_another_method
from fcbp.streams import Border, Calendar
from fcbp.sweeps import chunk

SHAPES = {
    "mnist": ((1, 28, 28), 10, 60_000, 100),
    "emnist-balanced": ((1, 28, 28), 47, 112_800, 94),
    "cifar10": ((3, 32, 32), 10, 50_000, 100),
    "cifar100": ((3, 32, 32), 100, 50_000, 100),
    "imagenet32": ((3, 32, 32), 4, 2_400, 400),
    "mini-imagenet": ((2048,), 100, 600, 100),
}
"""Shape, classes, examples of training and of the test; of ImageNet and of the features few."""


def made(name, root=None):
    if name not in SHAPES:
        return data.load(name, root)
    shape, classes, *sizes = SHAPES[name]
    inputs = (torch.zeros(n, *shape, dtype=torch.float32 if len(shape) == 1 else torch.uint8) for n in sizes)
    train, test = (data.Split(x, torch.arange(len(x)) % classes) for x in inputs)
    three = data.Normalisation((0.5,) * shape[0], (0.25,) * shape[0]) if len(shape) == 3 else data.Normalisation()
    return data.Dataset(name, train, test, normalisation=three)


# Batch, batches of a pass, batches of a task (the first), steps, network, hidden units or parameters, step size.
PUBLISHED = {
    "permuted-digits": (16, 89, 89, 300 * 89, "mlp", (100, 100), 1e-3),
    "random-label-digits": (16, 15, 1_500, 30 * 1_500, "mlp", (100, 100), 1e-3),
    "permuted-mnist": (1, 60_000, 60_000, 48_000_000, "mlp", (2000, 2000, 2000), 0.003),
    "continual-imagenet": (100, 12, 3_000, 5_000 * 3_000, "conv-net", (), 0.01),
    "incremental-cifar100": (90, 25, 5_000, 1_050_000, "resnet18", (), 0.1),
    "input-permuted-mnist": (1, 60_000, 5_000, 1_000_000, "mlp", (300, 150), 0.01),
    "label-permuted-emnist": (1, 112_800, 2_500, 1_000_000, "mlp", (300, 150), 0.01),
    "label-permuted-cifar10": (1, 50_000, 2_500, 1_000_000, "lenet", (), 0.01),
    "label-permuted-mini-imagenet": (1, 600, 2_500, 1_000_000, "mlp", (300, 150), 0.01),
    "permuted-mnist-l2init": (16, 625, 625, 312_500, "mlp", (100, 100), 1e-3),
    "random-label-mnist": (16, 75, 30_000, 1_500_000, "mlp", (100, 100), 1e-3),
    "random-label-cifar10": (16, 75, 30_000, 1_500_000, "cnn16", (), 1e-3),
    "five-plus-one-cifar100": (32, 78, 780, 23_400, "cnn16", (), 1e-3),
    "continual-imagenet-l2init": (100, 12, 120, 60_000, "cnn16", (), 1e-3),
    "permuted-mnist-swr": (30, 2_000, 2_000, 2_000_000, "mlp", (100, 100, 100), 0.05),
    "warm-start-cifar10": (128, 7, 175, 25 * 4_627, "resnet18", (), 1e-3),
}
BORDERS = {
    "continual-imagenet": Border(zero_head=True),
    "incremental-cifar100": Border(
        milestones=(60, 120, 160), milestone_factor=0.2, cut_unseen=True, early_stopping=True
    ),
    "warm-start-cifar10": Border(shrink_before=0.4, perturb_before=0.1, fresh_moments=True),
}


def test_the_page_tells_of_every_problem():
    page = (Path(__file__).parents[2] / "docs" / "problems.md").read_text()
    for name, problem in PROBLEMS.items():
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
        for part in (problem.source, problem.task, *problem.departs, f"`{problem.experiment.dataset}`"):
            assert part in row


def stream_of(run):
    part = parts.stream(run.stream)
    return part.build(**run.options(part))


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_problem_has_its_published_numbers(name, monkeypatch):
    monkeypatch.setattr(over_data, "_loaded", made)
    run = PROBLEMS[name].experiment
    batch, in_a_pass, in_a_task, steps, network, hidden, step_size = PUBLISHED[name]
    stream = stream_of(run)
    assert run.batch_size == batch
    assert (stream.calendar.passes[0], stream.calendar.lengths[0]) == (in_a_pass, in_a_task)
    assert (run.steps, run.network, run.hidden, run.step_size) == (steps, network, hidden, step_size)
    assert stream.border == BORDERS.get(name, Border())
    run.check()
    if name == "incremental-cifar100":
        assert stream.calendar.lengths == tuple(5_000 * k for k in range(1, 21))
        assert sum(stream.calendar.lengths) == run.steps
        assert stream.calendar.classes == tuple(range(5, 101, 5))
    if name == "warm-start-cifar10":
        assert stream.calendar.lengths == tuple(25 * (min(1_000 * k, 33_333) // 128) for k in range(1, 35))
        assert sum(stream.calendar.lengths) == run.steps
        assert len(stream.held_out(stream.init(fcbp.random.key(0)))[1]) == 16_667


def test_every_problem_is_in_the_table_of_numbers():
    assert set(PUBLISHED) == set(PROBLEMS)
    assert set(fcbp.experiment.EXPERIMENTS) == {"bit-flipping", *PROBLEMS}


@pytest.mark.parametrize(
    ("name", "method"), [(name, method) for name, problem in PROBLEMS.items() for method in problem.best]
)
def test_settings_that_were_chosen_for_a_method_are_read_by_it(name, method):
    run = PROBLEMS[name].with_method(method)
    run.check()
    assert run.method == method
    for setting, value in PROBLEMS[name].best[method].items():
        assert getattr(run, setting) == value
    assert all(run.reads(setting) for setting, _ in run.settings)


@pytest.mark.parametrize("name", PROBLEMS)
def test_numbers_of_a_problems_own_method_are_no_others(name):
    problem = PROBLEMS[name]
    own = set(parts.method(problem.experiment.method).defaults)
    for method in fcbp.methods.METHODS:
        run = problem.with_method(method)
        carried = {n for n, _ in run.settings if n in own and n not in problem.best.get(method, {})}
        assert method == problem.experiment.method or not carried, method


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_command_compares_methods_at_the_settings_published_for_each(name):
    problem = PROBLEMS[name]
    base, members = members_of(problem.experiment, {"method": tuple(fcbp.methods.METHODS)}, grid=False, problem=problem)
    for row in members:
        run, expected = base.replace(**row), problem.with_method(row["method"])
        for setting in {setting for setting, _ in (*run.settings, *expected.settings)} | {"step_size"}:
            assert getattr(run, setting) == getattr(expected, setting), (row["method"], setting)
    # One method alone has its published length too.
    for method in problem.best:
        alone, _ = members_of(problem.experiment, {"method": (method,)}, grid=False, problem=problem)
        assert alone == problem.with_method(method)


def test_the_command_line_goes_before_the_settings_that_are_published():
    problem = PROBLEMS["input-permuted-mnist"]
    values = {"method": ("upgd", "bp"), "weight_decay": (0.5,), "step_size": (0.1, 0.2)}
    base, members = members_of(problem.experiment, values, problem=problem)
    assert {base.replace(**row).weight_decay for row in members} == {0.5}
    assert {base.replace(**row).step_size for row in members} == {0.1, 0.2}


def test_members_that_have_a_problems_numbers_for_another_method_are_told():
    problem = PROBLEMS["input-permuted-mnist"]
    told = of_another_method(problem.experiment, [problem.experiment.replace(method="cbp")])
    assert len(told) == 1
    assert told[0].startswith("cbp has decay_rate 0.9999, weight_decay 0.01, which input-permuted-mnist has for upgd")
    for method in fcbp.methods.METHODS:
        assert of_another_method(problem.experiment, [problem.with_method(method)]) == []
    own = fcbp.Experiment(method="cbp", replacement_rate=0.5)
    assert of_another_method(own, [own.replace(method="ccbp")]) == []


@pytest.mark.parametrize("name", [name for name, p in PROBLEMS.items() if "digits" not in name])
def test_without_the_data_the_command_says_what_to_type(name, tmp_path, capsys):
    assert cli.main(["run", name, "--root", str(tmp_path / "none"), "--out", str(tmp_path / "run")]) == 2
    told = capsys.readouterr().err
    dataset = PROBLEMS[name].experiment.dataset
    assert f"fcbp data fetch {dataset} --root" in told or "save images, or the features" in told
    assert not (tmp_path / "run" / "results.zarr").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["label-permuted-cifar10", "--dataset", "digits"], "network is 'lenet', which takes images"),
        (["permuted-mnist", "--dataset", "digit"], "did you mean 'digits'"),
        (["permuted-mnist-l2init", "--dataset", "digits"], "subset is 10000; expected 1 to the 1,437 examples"),
        (["five-plus-one-cifar100", "--dataset", "digits", "--hard", "11"], "hard + easy is 12; expected 1 to the 10"),
        (["incremental-cifar100", "--dataset", "digits", "--validation", "500"], "validation is 500; expected fewer"),
        (["continual-imagenet", "--dataset", "digits", "--per-class", "600"], "per_class is 600; expected 1 to the"),
    ],
)
def test_data_that_do_not_suit_are_told_before_any_work(words, message, tmp_path, capsys):
    assert cli.main(["run", *words, "--out", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err


def spoilt(array, value):
    array = array.copy()
    array.flat[7] = value
    return array


@pytest.mark.parametrize(
    ("spoil", "words", "message"),
    [
        (lambda x, y: (spoilt(x, np.nan), y), [], "x_train has numbers that are NaN or infinite"),
        (lambda x, y: (spoilt(x, -np.inf), y), [], "x_train has numbers that are NaN or infinite"),
        (lambda x, y: (x, spoilt(y, -1)), [], "y_train has targets -1 to 2"),
        (lambda x, y: (x, y + 0.5), [], "y_train is float64"),
        (lambda x, y: (x, y[:-1]), [], "x_train has 60 inputs and 59 targets"),
        (lambda x, y: (x[:0], y[:0]), [], "no example to learn from"),
        (lambda x, y: (x, y * 0), [], "expected 2 classes or more"),
        (lambda x, y: (x, y), ["--batch-size", "61"], "batch_size is 61; expected at most the 60 examples"),
        (lambda x, y: (x, y), ["--network", "lenet"], "network is 'lenet'"),
    ],
)
def test_own_data_that_cannot_be_learned_from_are_told_before_any_work(spoil, words, message, tmp_path, capsys):
    rng = np.random.default_rng(0)
    x, y = spoil(rng.random((60, 1, 4, 4)).astype(np.float32), np.arange(60) % 3)
    np.savez(tmp_path / "own.npz", x_train=x, y_train=y)
    out = tmp_path / "run"
    assert cli.main(["run", "permuted-digits", "--dataset", str(tmp_path / "own.npz"), *words, "--out", str(out)]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_a_calendar_is_the_list_of_its_batches():
    for calendar in (
        Calendar((4, 6), (2, 3), "first"),
        Calendar((4, 6), (2, 3), "last", ends=False),
        Calendar((5,), (2,), "last"),
    ):
        expected = []
        for task in range(9):
            place = task % len(calendar.lengths) if calendar.then == "first" else min(task, len(calendar.lengths) - 1)
            endless = not calendar.ends and task + 1 >= len(calendar.lengths)
            for within in range(60 if endless else calendar.lengths[place]):
                epoch, inside = divmod(within, calendar.passes[place])
                expected.append((task, epoch, within == 0, inside == 0))
        assert [tuple(calendar.at(step)) for step in range(30)] == expected[:30]


# --- between tasks, against a loop by hand -------------------------------------------------------------------


def by_hand(run, key, steps, *, zero_head=False, milestones=(), cut_unseen=False, early_stopping=False, rows=()):
    """SGD with momentum in a plain loop; ``rows`` is ``(task, epoch, last of pass, last of task)`` of each batch."""
    program = build_program([run])
    stream = program.stream
    state = stream.init(key)
    params = {n: p.clone() for n, p in program.init(key, numbers(program)).learner.params.items()}
    moments = {n: torch.zeros_like(p) for n, p in params.items()}
    names = list(params)
    best, best_accuracy = params, 0.0

    def output(params, x):
        h = torch.relu(x.flatten(1) @ params[names[0]].T + params[names[1]])
        return h @ params[names[2]].T + params[names[3]]

    for step in range(steps):
        task, epoch, ends_pass, ends_task = rows[step]
        classes = 2 * (task + 1) if cut_unseen else 10
        if zero_head and (step == 0 or rows[step - 1][3]):
            params = {**params, names[2]: params[names[2]] * 0, names[3]: params[names[3]] * 0}
        state, (x, y) = stream.sample(state, 1)
        live = {n: p.clone().requires_grad_() for n, p in params.items()}
        loss = F.cross_entropy(output(live, x[0])[:, :classes], y[0])
        gradients = torch.autograd.grad(loss, list(live.values()))
        rate = run.step_size * 0.2 ** sum(epoch >= m for m in milestones)
        for n, g in zip(names, gradients, strict=True):
            moments[n] = run.momentum * moments[n] + g
            params = {**params, n: params[n] - rate * moments[n]}
        if early_stopping and ends_pass:
            x, y = stream.validation(state)
            accuracy = float((output(params, x)[:, :classes].argmax(1) == y).double().mean())
            if accuracy > best_accuracy:
                best, best_accuracy = params, accuracy
            if ends_task:
                params, best_accuracy = best, 0.0
    return params


def numbers(program):
    return {n: torch.tensor(v, dtype=program.dtypes[n]) for n, v in program.settings().items()}


def in_program(run, key, steps):
    program = build_program([run])
    settings, state = numbers(program), program.stream.init(key)
    carry = program.init(key, settings)
    for step in range(1, steps + 1):
        state, batches = program.stream.sample(state, 1)
        carry, _ = program.step(carry, settings, tuple(part[0] for part in batches))
        if program.next_border(step - 1) == step:
            carry = program.border(carry, state, step)
    return carry.learner.params


SMALL = {"hidden": (8,), "method": "bp", "momentum": 0.9, "step_size": 0.05, "bin": "task", "metrics": ("accuracy",)}


def test_a_head_becomes_zero_before_each_task_and_its_momentum_stays():
    run = fcbp.Experiment(stream="class-pairs", per_class=20, batch_size=10, epochs=2, zero_head=True, **SMALL)
    rows = [(t // 8, t % 8 // 4, t % 4 == 3, t % 8 == 7) for t in range(20)]
    key = fcbp.random.key(1)
    first = build_program([run]).init(key, numbers(build_program([run]))).learner.params
    assert not any(first[n].any() for n in list(first)[-2:])
    expected = by_hand(run, key, 20, zero_head=True, rows=rows)
    torch.testing.assert_close(in_program(run, key, 20), expected)
    without = by_hand(run, key, 20, rows=rows)
    assert not torch.allclose(without["3.weight"], expected["3.weight"])


def test_growing_classes_with_a_schedule_a_cut_and_early_stopping_are_the_loop_by_hand():
    run = fcbp.Experiment(
        stream="growing-classes",
        increment=2,
        per_class=20,
        validation=10,
        batch_size=10,
        epochs=3,
        milestones=(1, 2),
        cut_unseen=True,
        early_stopping=True,
        **{**SMALL, "bin": 12, "step_size": 0.3},
    )
    rows = []
    for task in range(3):
        in_a_pass = 4 * (task + 1)
        rows += [(task, t // in_a_pass, (t + 1) % in_a_pass == 0, t + 1 == 3 * in_a_pass) for t in range(3 * in_a_pass)]
    key, steps = fcbp.random.key(2), 50  # three passes of 4 and of 8 batches, and some of the third task
    options = {"milestones": (1, 2), "cut_unseen": True, "early_stopping": True}
    expected = by_hand(run, key, steps, rows=rows, **options)
    torch.testing.assert_close(in_program(run, key, steps), expected, rtol=1e-4, atol=1e-5)
    for left_out in options:
        other = by_hand(run, key, steps, rows=rows, **{**options, left_out: options[left_out] and ()})
        assert left_out == "early_stopping" or not torch.allclose(other["3.weight"], expected["3.weight"], atol=1e-4)


def test_before_a_round_weights_shrink_and_fresh_ones_are_added_and_moments_begin_anew():
    run = fcbp.Experiment(
        stream="growing-data",
        increment=40,
        batch_size=10,
        epochs=1,
        shrink_before=0.4,
        perturb_before=0.0,
        fresh_moments=True,
        **{**SMALL, "bin": 4, "step_size": 0.0},
    )
    program = build_program([run])
    key, settings = fcbp.random.key(0), numbers(build_program([run]))
    drawn = build_program([run.replace(shrink_before=1.0, fresh_moments=False)]).init(key, settings).params
    carry = program.init(key, settings)
    torch.testing.assert_close(carry.learner.params, {n: 0.4 * p for n, p in drawn.items()})
    state, batches = program.stream.sample(program.stream.init(key), 4)
    for t in range(4):
        carry, _ = program.step(carry, settings, tuple(part[t] for part in batches))
    assert any(m.any() for m in torch.utils._pytree.tree_leaves(carry.learner.opt_state))
    assert program.next_border(0) == 4
    carry = program.border(carry, state, 4)
    torch.testing.assert_close(carry.learner.params, {n: 0.16 * p for n, p in drawn.items()})
    assert not any(m.any() for m in torch.utils._pytree.tree_leaves(carry.learner.opt_state))
    perturbed = build_program([run.replace(perturb_before=0.1)])
    at = perturbed.border(perturbed.init(key, settings), state, 4).learner.params
    start = perturbed.init(key, settings).learner.params
    added = {n: at[n] - 0.4 * start[n] for n in at}
    assert 0.5 < float(added["1.weight"].std() / (0.1 * drawn["1.weight"].std())) < 2
    assert not torch.allclose(added["1.weight"], 0.1 * drawn["1.weight"])


def test_validation_is_set_aside_of_each_class():
    digits = data.load("digits")
    stream = streams.growing_classes(digits, increment=2, validation=5, batch_size=10)
    state = stream.skip(stream.init(fcbp.random.key(0)), 1)
    inputs, targets = stream.validation(state)
    assert targets.bincount(minlength=10).tolist() == [25, 25, 0, 0, 0, 0, 0, 0, 0, 0]
    firsts = {c: digits.train.inputs[digits.train.targets == c][:5] for c in range(10)}
    of_first = torch.cat(list(firsts.values())).flatten(1).float() / 16
    for image in inputs.flatten(1):
        assert (of_first == image).all(1).any()
    _, (batches, _) = stream.sample(stream.init(fcbp.random.key(0)), 13)
    seen = torch.cdist(batches.flatten(0, 1).flatten(1), of_first).min(1).values
    assert (seen > 0).all()


@pytest.mark.slow
def test_batch_norm_goes_by_running_averages_where_a_network_is_tested():
    x = torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8)
    stream = streams.permuted_labels((x, torch.arange(40) % 2, x, torch.arange(40) % 2), batch_size=10, task_length=8)
    run = fcbp.Experiment(
        stream=stream, network="resnet18", width=2, method="bp", step_size=0.01, steps=8, metrics=("test_accuracy",)
    )
    program = build_program([run])
    key, settings = fcbp.random.key(0), numbers(program)
    carry = program.init(key, settings)
    state, batches = program.stream.sample(program.stream.init(key), 2)
    buffers = carry.buffers
    carry, _ = program.step(carry, settings, tuple(part[0] for part in batches))
    assert not torch.equal(carry.buffers["bn1.running_mean"], buffers["bn1.running_mean"])
    held_out = program.stream.held_out(state)
    moved = carry._replace(buffers={n: b + 5 if "mean" in n else b for n, b in carry.buffers.items()})
    found = [float(program.probe(c, settings, batches, held_out)["test_accuracy"]) for c in (carry, moved)]
    model = fcbp.nets.resnet18(2, width=2).eval()
    for c, accuracy in zip((carry, moved), found, strict=True):
        output = torch.func.functional_call(model, {**c.params, **c.buffers}, (held_out[0],))
        assert float((output.argmax(1) == held_out[1]).float().mean()) == pytest.approx(accuracy)


# --- from the command line -----------------------------------------------------------------------------------


def resumed_is_whole(words, tmp_path, monkeypatch):
    assert cli.main(["run", *words, "--out", str(tmp_path / "whole")]) == 0
    advance, calls = chunk._advance, []

    def breaking(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return advance(*arguments)

    monkeypatch.setattr(chunk, "_advance", breaking)
    cut = tmp_path / "cut"
    assert cli.main(["run", *words, "--checkpoint-every", "0", "--out", str(cut)]) == 130
    monkeypatch.setattr(chunk, "_advance", advance)
    assert cli.main(["resume", str(cut)]) == 0
    a, b = (fcbp.sweeps.open(tmp_path / name) for name in ("whole", "cut"))
    for name in a.data_vars:
        np.testing.assert_array_equal(a[name], b[name])
    return a


@pytest.mark.slow
def test_continual_imagenet_runs_and_resumes_from_the_command_line(tmp_path, monkeypatch):
    made_data.class_folder(tmp_path / "classes", classes=4, per_class=7)
    words = ["continual-imagenet", "--dataset", str(tmp_path / "classes"), "--per-class", "6", "--batch-size", "6"]
    words += ["--epochs", "4", "--steps", "16", "--seeds", "1", "--maturity-threshold", "2", "--no-grid"]
    results = resumed_is_whole(words, tmp_path, monkeypatch)
    assert results.sizes["task"] == 2
    assert "test_accuracy" in results


@pytest.mark.slow
def test_incremental_cifar_runs_and_resumes_from_the_command_line(tmp_path, monkeypatch):
    made_data.class_folder(tmp_path / "classes", classes=4, per_class=14)
    words = ["incremental-cifar100", "--dataset", str(tmp_path / "classes"), "--validation", "3", "--increment", "2"]
    words += ["--batch-size", "9", "--epochs", "2", "--milestones", "1", "--width", "2", "--steps", "12", "--bin", "4"]
    words += ["--seeds", "1", "--maturity-threshold", "2", "--no-grid", "--normalise", "unit"]
    results = resumed_is_whole(words, tmp_path, monkeypatch)
    assert results.sizes["step"] == 3
    assert np.isfinite(results["test_accuracy"]).all()
