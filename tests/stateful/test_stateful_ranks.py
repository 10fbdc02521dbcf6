"""``fcbp.stateful`` in two processes: one replacement for both, and an error where there can be none."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import fcbp
from fcbp.stateful import ContinualBackprop

pytestmark = pytest.mark.slow  # it starts processes

RANKS, STEPS = 2, 200
NUMBERS = {"replacement_rate": 0.01, "maturity_threshold": 10}


def batches() -> Tensor:
    return torch.randn(STEPS, RANKS * 6, 4, generator=torch.Generator().manual_seed(1))


def network() -> nn.Module:
    torch.manual_seed(0)
    return fcbp.nets.mlp(4, (16, 12), 2)


def learn(model: nn.Module, optimizer: Any, x: Tensor) -> None:
    optimizer.zero_grad()
    nn.functional.mse_loss(model(x), x[:, :2].sin()).backward()
    optimizer.step()


def learner(rank: int, **options: Any) -> dict[str, Any]:
    """Two hundred steps of a rank on its half of every batch."""
    model = DistributedDataParallel(network())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    cbp = ContinualBackprop(model, optimizer, torch.zeros(1, 4), **{**NUMBERS, **options})
    for x in batches():
        learn(model, optimizer, x.chunk(RANKS)[rank])
        cbp.step()
    return {"params": model.module.state_dict(), "cbp": cbp.state_dict()}


def every_sample(rank: int) -> dict[str, Any]:
    return learner(rank, measure="adaptable_contribution")


def without_the_wrapper(rank: int) -> dict[str, Any]:
    """Gradients averaged by hand: the adapter sees that there are processes."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    cbp = ContinualBackprop(model, optimizer, torch.zeros(1, 4), **NUMBERS)
    for x in batches():
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x.chunk(RANKS)[rank]), x.chunk(RANKS)[rank][:, :2].sin()).backward()
        for p in model.parameters():
            dist.all_reduce(p.grad)
            p.grad /= RANKS
        optimizer.step()
        cbp.step()
    return {"params": model.state_dict(), "cbp": cbp.state_dict()}


def another_seed(rank: int) -> str:
    return error(lambda: learner(rank, seed=rank))


def another_state(rank: int) -> str:
    model = network()
    cbp = ContinualBackprop(model, torch.optim.SGD(model.parameters(), lr=0.1), torch.zeros(1, 4))
    state = cbp.state_dict()
    state["state"]["age/0"] += rank
    return error(lambda: cbp.load_state_dict(state))


def sharded(rank: int) -> str:
    model = network()
    fully_shard(model, mesh=dist.init_device_mesh("cpu", (RANKS,)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return error(lambda: ContinualBackprop(model, optimizer, torch.zeros(1, 4)))


def error(call: Callable[[], Any]) -> str:
    try:
        call()
    except ValueError as problem:
        return str(problem)
    return "no error"


WORK = (learner, every_sample, without_the_wrapper, another_seed, another_state, sharded)


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=RANKS)
    try:
        torch.save({work.__name__: work(rank) for work in WORK}, f"{folder}/{rank}.pt")
    except Exception:
        Path(folder, f"{rank}.error").write_text(traceback.format_exc())
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """By the name of the work what each rank found; processes take long to begin, so they begin once."""
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(worker, (str(folder),), nprocs=RANKS)
    assert not list(folder.glob("*.error")), "\n".join(path.read_text() for path in folder.glob("*.error"))
    ranks = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]
    return {work.__name__: [rank[work.__name__] for rank in ranks] for work in WORK}


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    return torch.equal(a, b) if isinstance(a, Tensor) else a == b


@pytest.mark.parametrize("work", ["learner", "every_sample", "without_the_wrapper"])
def test_ranks_are_equal_to_the_bit_after_two_hundred_steps_on_different_batches(work, found):
    first, second = found[work]
    assert equal(first, second)
    assert sum(int(n.sum()) for n in first["cbp"]["replaced"].values()) > 20


def test_utilities_are_those_of_one_process_on_the_whole_batch(found):
    averaged = found["learner"][0]["cbp"]
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    cbp = ContinualBackprop(model, optimizer, torch.zeros(1, 4), **NUMBERS)
    for x in batches():
        learn(model, optimizer, x)
        cbp.step()
    for name, count in cbp.replaced.items():
        assert torch.equal(count, averaged["replaced"][name])
    for name, utility in cbp.method_state.utility.items():
        torch.testing.assert_close(averaged["state"][f"utility/{name}"], utility, rtol=1e-3, atol=1e-6)


def test_ranks_that_disagree_are_told(found):
    for message in found["another_seed"]:
        assert message.startswith("ranks disagree: units, method or seed of rank 0 is not that of rank 1")


def test_ranks_that_load_different_states_are_told(found):
    for message in found["another_state"]:
        assert message.startswith("ranks disagree: state of rank 0 is not that of rank 1")


def test_a_sharded_model_is_refused(found):
    for message in found["sharded"]:
        assert "sharded (FSDP, DTensor)" in message
        assert "wrap the model in DistributedDataParallel" in message
