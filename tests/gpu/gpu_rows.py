"""Learners at published sizes on a GPU: members per second, gaps between launches, and what bounds them."""

import itertools
import time

import optree
import problems
import torch

import fcbp
from fcbp import loop, methods

ROWS = {
    "20-5-1, batch 1": ((20, 5, 1), 1, "mse"),
    "64-100-100-100-10, batch 1": ((64, 100, 100, 100, 10), 1, "cross_entropy"),
    "64-100-100-100-10, batch 32": ((64, 100, 100, 100, 10), 32, "cross_entropy"),
    "17-64-64-6, batch 64": ((17, 64, 64, 6), 64, "cross_entropy"),
    "784-100-100-100-10, batch 1": ((784, 100, 100, 100, 10), 1, "cross_entropy"),
    "784-300-150-10, batch 1": ((784, 300, 150, 10), 1, "cross_entropy"),
    "784-300-150-10, batch 32": ((784, 300, 150, 10), 32, "cross_entropy"),
}
"""Sizes, batch and loss."""
COUNTS = (64, 1024, 8192, 65_536)
"""Members."""
COMPILED = ("64-100-100-100-10, batch 1", 1024)
"""The row on which the compiled scan is timed: it takes a minute to compile."""
FEW = 8
"""Members that are made; the others are copies."""
COPIES = 10
"""States and activations that live at once, about."""


class Device:
    """A device's clock and limits."""

    def __init__(self, name):
        self.device = torch.device(name)
        self.cuda = self.device.type == "cuda"

    def wait(self):
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def seconds(self, function, most=0.4, rounds=5):
        """The median time of a call, after one that is not timed."""
        function()
        self.wait()
        times, end = [], time.perf_counter() + most
        while len(times) < 2 or (len(times) < rounds and time.perf_counter() < end):
            begin = time.perf_counter()
            function()
            self.wait()
            times.append(time.perf_counter() - begin)
        return sorted(times)[len(times) // 2]

    def free(self):
        return torch.cuda.mem_get_info(self.device)[0] if self.cuda else 1 << 30

    def peaks(self):
        """Multiply-adds and bytes a second: a product of large matrices in float32, and a copy."""
        n = 4096 if self.cuda else 256
        a, b = torch.randn(2, n, n, device=self.device)
        large = torch.empty((1 << 28) if self.cuda else (1 << 20), device=self.device)
        other = torch.empty_like(large)
        return n**3 / self.seconds(lambda: a @ b), 8 * large.numel() / self.seconds(lambda: other.copy_(large))


def job(name, members, steps, device):
    """A learner with CBP whose members are copies of a few; and its work for a member's step."""
    sizes, batch, loss = ROWS[name]
    model = fcbp.nets.mlp(sizes[0], sizes[1:-1], sizes[-1])
    units = fcbp.find_units(model, torch.zeros(batch, sizes[0]))
    few = min(FEW, members)
    targets = torch.rand(1, few, batch, 1) if loss == "mse" else torch.randint(sizes[-1], (1, few, batch))
    made = problems.job(model, units, (torch.rand(1, few, batch, sizes[0]), targets), members=few, loss=loss,
                        method=methods.cbp(capacity=1))  # fmt: skip

    def many(leaf):
        return leaf.to(device).repeat(members // few, *[1] * (leaf.ndim - 1))

    xs = tuple(
        x[0].to(device).repeat(members // few, *[1] * (x.ndim - 2)).expand(steps, members, *x.shape[2:])
        for x in made.xs
    )
    weights = [a * b for a, b in itertools.pairwise(sizes)]
    multiply_adds = sum((2 if i == 0 else 3) * n for i, n in enumerate(weights)) * batch
    # Forward, backward, and a read and a write for the update; of single precision.
    moved = 4 * (4 * sum(weights) - weights[0])
    return problems.Job(made.step, optree.tree_map(many, made.carry), xs, steps), multiply_adds, moved


def graph_of(job, device):
    """A function that replays a step as a CUDA graph, the carry in place."""
    static = optree.tree_map(torch.clone, job.carry)
    x = tuple(x[0].clone() for x in job.xs)

    def step():
        new, _ = job.step(static, x)
        for old, leaf in zip(optree.tree_leaves(static), optree.tree_leaves(new), strict=True):
            old.copy_(leaf)

    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream), torch.no_grad():
        for _ in range(3):
            step()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph), torch.no_grad():
        step()
    return graph.replay


def needs(name, members):
    """About how many bytes so many members need."""
    sizes, batch, _ = ROWS[name]
    return 4 * members * COPIES * (sum(a * b for a, b in itertools.pairwise(sizes)) + batch * sum(sizes))


def attempt(function):
    """A number, or the reason why there is none."""
    try:
        return function(), None
    except Exception as error:  # a report has all that fails
        return None, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def measure(name, members, clock, peaks, steps=20):
    """One row of the table: seconds a step by each way, and what they mean."""
    row = {"row": name, "members": members}
    if needs(name, members) > 0.9 * clock.free():
        return {**row, "left out": f"needs about {needs(name, members) >> 30} GiB"}
    made, multiply_adds, moved = job(name, members, steps, clock.device)
    one = tuple(x[0] for x in made.xs)
    ways, why = {}, {}

    def timed(way, function, per=1):
        seconds, reason = attempt(lambda: clock.seconds(function()) / per)
        ways.update({way: seconds} if seconds else {})
        why.update({way: reason} if reason else {})

    with torch.no_grad():
        timed("eager", lambda: lambda: made.step(made.carry, one))
        if clock.cuda:
            timed("graph", lambda: graph_of(made, clock.device))
        timed("kernel", lambda: lambda: loop.scan(made.step, made.carry, made.xs, backend="lanes"), steps)
        if (name, members) == COMPILED and clock.cuda:
            timed("scan", lambda: lambda: loop.scan(made.step, made.carry, made.xs, backend="scan"), steps)
    row.update({"seconds a step": ways, "failed": why})
    if not ways:
        return row
    way, best = min(ways.items(), key=lambda one: one[1])
    row["fastest"], row["members per second"] = way, members / best
    if "graph" in ways and "eager" in ways:
        row["launch gaps"] = max(0.0, 1 - ways["graph"] / ways["eager"])
    arithmetic, bandwidth = (
        members * work / best / peak for work, peak in zip((multiply_adds, moved), peaks, strict=True)
    )
    row["of peak arithmetic"], row["of peak bandwidth"] = arithmetic, bandwidth
    row["bound by"] = (
        "launches" if max(arithmetic, bandwidth) < 0.1 else "arithmetic" if arithmetic > bandwidth else "bandwidth"
    )
    return row


def line(row):
    """A row of the printed table."""
    head = f"{row['row']:32} {row['members']:>7,}"
    if "members per second" not in row:
        return (
            f"{head}  {row.get('left out') or '; '.join(f'{way}: {why}' for way, why in row['failed'].items())[:160]}"
        )
    micro = "  ".join(f"{way} {1e6 * seconds:,.0f}" for way, seconds in row["seconds a step"].items())
    gaps = f"gaps {row['launch gaps']:.0%}  " if "launch gaps" in row else ""
    shares = f"arithmetic {row['of peak arithmetic']:.1%}, bandwidth {row['of peak bandwidth']:.1%}: {row['bound by']}"
    failed = "".join(f"\n      {way} failed: {why}" for way, why in row["failed"].items())
    return f"{head} {row['members per second']:>14,.0f}/s  us a step: {micro}  {gaps}{shares}{failed}"
