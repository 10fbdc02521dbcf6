"""What must hold on a GPU: each check is a function of a device, which returns what it looked at or raises."""

import contextlib
import dataclasses
import tempfile
import types
import warnings
from unittest import mock

import contract
import optree
import pytest
import torch
from classifiers import classifiers
from gpu_dry import kernels_on_host, passes_nvcc
from interruption import raise_after
from lanes_table import GROUPS
from lanes_values import assert_true, truth, values

import fcbp
from fcbp import lanes, loop

MEMBERS = 5
EXPERIMENT = fcbp.Experiment(maturity_threshold=5, replacement_rate=0.1, steps=60, bin=20)


def on(device, tree):
    return optree.tree_map(lambda leaf: leaf.to(device), tree)


def assert_close(found, expected, what, rtol=2e-5, atol=2e-6):
    for place, (one, other) in enumerate(zip(optree.tree_leaves(found), optree.tree_leaves(expected), strict=True)):
        text = f"{what}, result {place}"
        torch.testing.assert_close(
            one.cpu(), other.cpu(), rtol=rtol, atol=atol, equal_nan=True, msg=lambda m, text=text: f"{text}: {m}"
        )


def random_bits(device):
    """Random numbers are the CPU's."""
    keys = fcbp.random.split(fcbp.random.key(3), 1000)
    draws = {
        "bits": lambda key: fcbp.random.bits(key, (7,)),
        "uniform": lambda key: fcbp.random.uniform(key, (7,)),
        "randint": lambda key: fcbp.random.randint(key, (7,), 0, 1000),
        "bernoulli": lambda key: fcbp.random.bernoulli(key, 0.3, (7,)),
        "permutation": lambda key: fcbp.random.permutation(key, 9),
        "split": lambda key: fcbp.random.split(key, 3),
    }
    for name, draw in draws.items():
        there = torch.vmap(draw)(keys.to(device))
        assert there.device.type == torch.device(device).type, name
        assert torch.equal(there.cpu(), torch.vmap(draw)(keys)), f"{name} differs from the CPU's"
    normal = [torch.vmap(lambda key: fcbp.random.normal(key, (7,)))(k).cpu() for k in (keys, keys.to(device))]
    torch.testing.assert_close(*normal, rtol=1e-6, atol=1e-6)
    equal = (normal[0] == normal[1]).double().mean().item()
    return f"{len(draws)} draws of {len(keys)} keys to the bit; of normal draws {equal:.2%} are"


def contract_on_device(device):
    """Every public function gives on the device what it gives on the CPU."""
    everyone = range(contract.MEMBERS)
    wrong = []
    for row in contract.ROWS:
        inputs = row.members(*everyone)
        try:
            found = torch.vmap(row.function)(on(device, inputs))
            assert_close(found, torch.vmap(row.function)(inputs), row.name, rtol=3e-5, atol=3e-6)
        except Exception as error:  # all rows are to be heard
            wrong.append(f"{row.name}: {' '.join(str(error).split())[:160]}")
    assert not wrong, f"{len(wrong)} of {len(contract.ROWS)} rows: " + "; ".join(wrong[:8])
    return f"{len(contract.ROWS)} rows"


def kernel_of(group):
    """A check that the kernel of a group of operations gives what eager gives."""

    def check(device):
        def step(carry, _):
            member = types.SimpleNamespace(**carry)
            found = [optree.tree_leaves(operation(member)) for operation in GROUPS[group].values()]
            return carry, [torch.as_tensor(leaf) for leaves in found for leaf in leaves]

        inputs = on(device, values(MEMBERS, 3, 4, 2, 7))
        said = kernel_is_taken(step, inputs, ())
        results = iter(loop.scan(torch.vmap(step), inputs, (), 1, backend="lanes")[1])
        wrong = []
        for name, operation in GROUPS[group].items():
            for known in zip(*truth(operation, on("cpu", inputs)), strict=True):
                try:
                    assert_true(name, next(results)[0].cpu(), *known)
                except AssertionError as error:  # all are to be heard
                    wrong.append(str(error))
        assert not wrong, "; ".join(wrong)
        return f"{len(GROUPS[group])} operations{said}"

    check.__doc__ = f"The kernel of {group} operations gives what eager gives."
    return check


def kernel_is_taken(step, carry, xs):
    """Whether ``nvcc`` takes a step's kernel, in words; nothing where it is not installed."""
    leaves, spec = optree.tree_flatten(carry)
    draft = lanes.draft(torch.vmap(step), leaves, spec, xs, lambda *_: None)
    assert draft.elements == "threads", draft.elements
    return ", built by nvcc" if passes_nvcc(draft.source) else ""


def learners(device, members=70, steps=30):
    step, state = classifiers(members, "tanh")
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(steps, members, 5, 6, generator=generator)
    return step, on(device, state), on(device, (inputs, torch.randint(3, inputs.shape[:3], generator=generator)))


def kernel_of_a_learner(device):
    """The kernel of a learner gives what eager on the CPU gives, and the bits of the CPU's lanes."""
    step, state, xs = learners(device)
    said = kernel_is_taken(step, state, tuple(x[:1] for x in xs))
    found = loop.scan(torch.vmap(step), state, xs, backend="lanes")
    with as_on_a_cpu():
        here = on("cpu", (state, xs))
        cpu = loop.scan(torch.vmap(lambda s, x: step(s, x)), *here, backend="lanes")
        eager = loop.scan(torch.vmap(step), *here, backend="eager")
    assert_close(found, eager, "against eager", rtol=1e-3, atol=1e-4)
    pairs = list(zip(optree.tree_leaves(found), optree.tree_leaves(cpu), strict=True))
    same = all(torch.equal(one.cpu(), other) for one, other in pairs)
    assert same, (
        f"{sum(not torch.equal(a.cpu(), b) for a, b in pairs)} of {len(pairs)} leaves differ from the CPU's bits"
    )
    return f"70 members, 30 steps, the CPU's bits{said}"


def as_on_a_cpu():
    """Lanes make vectors of steps on the CPU, also in a dry run."""
    return mock.patch("fcbp.lanes.elements_on", lambda device: "threads" if device.type == "cuda" else "vectors")


def resume_across_devices(device):
    """A sweep that was killed on the CPU goes on on the device, and the reverse."""

    class Enough(BaseException):
        pass

    members = {"seed": [0, 1, 2], "replacement_rate": [0.0, 0.1]}
    whole = fcbp.sweep(EXPERIMENT, members, compile=False, progress=False)
    for first, second in (("cpu", device), (device, "cpu")):
        with tempfile.TemporaryDirectory() as out:
            options = {"out": out, "checkpoint_every": 0, "progress": False, "compile": False}
            with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Enough):
                raise_after(patch, 5, Enough)
                fcbp.sweep(EXPERIMENT, members, device=first, **options)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                results = fcbp.resume(out, device=second, progress=False, accept_changes=True)
        for name in whole.data_vars:
            found, expected = (torch.as_tensor(data[name].values).double() for data in (results, whole))
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4, equal_nan=True)
    return f"6 members, both ways, {len(whole.data_vars)} variables"


def memory_in_chunks(device):
    """A sweep in chunks of members has the numbers of the whole."""
    members = {"seed": [0, 1, 2, 3, 4]}
    whole, parts = (
        fcbp.sweep(EXPERIMENT, members, device=device, compile=False, progress=False, members_at_once=count)
        for count in (5, 2)
    )
    for name in whole.data_vars:
        found, expected = (torch.as_tensor(data[name].values).double() for data in (parts, whole))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5, equal_nan=True)
    fits = fcbp.sweeps.memory.available(str(device)) >> 20
    return f"5 members in chunks of 2; {fits} MiB free"


def out_of_memory_is_halved(device):
    """Members that do not fit go on as two halves, with a warning: memory is made short by a hog."""
    members = {"seed": range(64)}
    experiment = dataclasses.replace(EXPERIMENT, hidden=(256, 256))
    if torch.device(device).type != "cuda":
        return "not run: the CPU's memory is not made short"
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, (torch.cuda.memory_reserved(device) + (96 << 20)) / total))
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            options = {"device": device, "compile": False, "progress": False, "members_at_once": 64}
            results = fcbp.sweep(experiment, members, **options)
            assert results.sizes["seed"] == 64
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    halved = [str(one.message) for one in warned if "do not fit into memory" in str(one.message)]
    assert halved, "96 MiB held 64 members: nothing was halved"
    return halved[-1][:120]


CHECKS = {
    "random bits": random_bits,
    "contract": contract_on_device,
    **{f"kernel of {group}": kernel_of(group) for group in GROUPS},
    "kernel of a learner": kernel_of_a_learner,
    "resume across devices": resume_across_devices,
    "chunks of members": memory_in_chunks,
    "out of memory": out_of_memory_is_halved,
}


def run(name, device, dry):
    """A check's result: whether it passed, and what it says."""
    try:
        if dry and name.startswith("kernel"):
            with kernels_on_host():
                return True, CHECKS[name](device)
        return True, CHECKS[name](device)
    except Exception as error:  # a report has all that fails
        return False, f"{type(error).__name__}: {' '.join(str(error).split())[:1500]}"
