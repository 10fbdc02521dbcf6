"""What ``fcbp.stateful`` costs beside torch's own training step, in turn with it.

``python tests/benchmarks/stateful_cost.py resnet18 gpt2 [--length 10] [--rounds 5] [--threads 1] [--new 0.013]
    [--profile]``

ResNet-18 on batches of 32 images of 32x32 pixels, and a transformer of GPT-2 small's shape on 2 x 128 tokens, both by
AdamW. Units are mature from the start, so that they are replaced in every run, and a share of ``--new`` of all units
is as new as if just replaced: at a rate of 1e-4 so many are within the 128 steps in which Adam's count is put right.
Times are CPU time; a ratio is the median over rounds of the ratio in a round.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
from collections.abc import Callable

import torch
from in_turn import over_first, seconds_in_turn
from torch import Tensor, nn

import fcbp

AIM = 0.05


class GPT(nn.Module):
    """Of GPT-2 small's shape: 12 blocks of width 768, 12 heads, 50257 tokens, tied embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(50257, 768), nn.Embedding(1024, 768)
        self.encoder = fcbp.nets.TransformerEncoder(768, 12, 12)
        self.head = nn.Linear(768, 50257, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1], device=tokens.device))
        return self.head(self.encoder(x))


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Tensor, Tensor]]]] = {
    "resnet18": (lambda: fcbp.nets.resnet18(100), lambda: (torch.rand(32, 3, 32, 32), torch.randint(0, 100, (32,)))),
    "gpt2": (GPT, lambda: (torch.randint(0, 50257, (2, 128)), torch.randint(0, 50257, (256,)))),
}


def runner(case: str, method: bool, length: int, new: float) -> Callable[[], None]:
    """A run of ``length`` steps."""
    make, draw = CASES[case]
    torch.manual_seed(0)
    model, (x, y) = make(), draw()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    cbp = fcbp.stateful.ContinualBackprop(model, optimizer, x, maturity_threshold=0) if method else None

    def run() -> None:
        for _ in range(length):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x).flatten(0, -2), y).backward()
            optimizer.step()
            if cbp is not None:
                cbp.step()

    run()
    if cbp is not None and new:
        chance = torch.Generator().manual_seed(0)
        cbp.moments.reset_units({g.name: torch.rand(g.size, generator=chance) < new for g in cbp.units})
    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="+", choices=CASES)
    parser.add_argument("--length", type=int, default=10, help="steps of a run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--new", type=float, default=0.013, help="share of new units")
    parser.add_argument("--profile", action="store_true", help="of the last case, where the time goes")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for case in options.cases:
        runs = {
            f"{case}, torch alone": runner(case, False, options.length, 0.0),
            f"{case}, with cbp": runner(case, True, options.length, options.new),
        }
        for name, (median, ratio) in over_first(seconds_in_turn(runs, options.rounds)).items():
            each = median / options.length * 1e3
            print(f"{name}: {each:.4g} ms a step, {ratio - 1:+.1%} (aim: {AIM:.0%})", flush=True)
    if options.profile:
        with cProfile.Profile() as profile:
            runs[f"{case}, with cbp"]()
        pstats.Stats(profile).sort_stats("cumulative").print_stats(45)


if __name__ == "__main__":
    main()
