"""Draw the pictures of the page on units: ``python docs/tools/pictures.py``.

Each picture is a table: a row for each parameter, a column for each group of units, a mark for what a replacement
does to the parameter. Parameters of one axis that no group touches have no row.
"""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

import fcbp

plt.switch_backend("agg")
plt.rcParams["svg.hashsalt"] = "fcbp"

FOLDER = Path(__file__).parent.parent / "pictures"
MARKS = {
    "incoming": ("s", "#1f77b4", "drawn anew"),
    "outgoing": ("o", "#d62728", "set to 0"),
    "bias": ("D", "#9467bd", "bias, shift: 0"),
    "norm": ("^", "#2ca02c", "scale: 1"),
}


class Block(nn.Module):
    """A block of a transformer that reads the past alone."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        heads = [part.unflatten(-1, (2, -1)).transpose(-2, -3) for part in self.qkv(self.norm1(x)).chunk(3, -1)]
        read = nn.functional.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + self.out(read.transpose(-2, -3).flatten(-2))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    """Two blocks between an embedding and a head."""

    def __init__(self, words: int = 50, width: int = 32) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(words, width), nn.Embedding(16, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, words, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.words(tokens) + self.places(torch.arange(tokens.shape[-1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class Recurrent(nn.Module):
    """Two layers of an LSTM and a head that reads the last state."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(8, 16, num_layers=2, batch_first=True), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


NETWORKS = {
    "resnet": (lambda: fcbp.nets.resnet18(10), lambda: torch.zeros(1, 3, 32, 32)),
    "vit": (
        lambda: fcbp.nets.VisionTransformer(10, image=16, patch=8, width=32, depth=2, heads=2),
        lambda: torch.zeros(1, 3, 16, 16),
    ),
    "gpt": (GPT, lambda: torch.zeros(1, 16, dtype=torch.long)),
    "lstm": (Recurrent, lambda: torch.zeros(1, 5, 8)),
}


def _slices(group: fcbp.UnitGroup, role: str) -> tuple[fcbp.Slice, ...]:
    """The parameters that have a role in a group."""
    if role == "bias":
        return (*group.bias, *group.norm_shift)
    return group.norm_scale if role == "norm" else getattr(group, role)


def draw(name: str, model: nn.Module, example: Tensor) -> str:
    """Draw one network's picture and give the text of ``explain``."""
    units = fcbp.find_units(model, example)
    slices = {
        role: [(s.path[0], column) for column, group in enumerate(units) for s in _slices(group, role)]
        for role in MARKS
    }
    rows = {name for places in slices.values() for name, _ in places}
    names = [name for name, parameter in model.named_parameters() if name in rows or parameter.ndim > 1]
    figure, axes = plt.subplots(figsize=(2.6 + 0.36 * len(units), 1.5 + 0.19 * len(names)), layout="constrained")
    for role, (marker, colour, label) in MARKS.items():
        places = [(column, names.index(name)) for name, column in slices[role]]
        if places:
            axes.scatter(*zip(*places, strict=True), marker=marker, color=colour, s=34, label=label, zorder=3)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    for label in axes.get_yticklabels():
        label.set_color("black" if label.get_text() in rows else "#999999")
    axes.set_xticks(range(len(units)), [f"{g.name} ({g.size})" for g in units], rotation=90, fontsize=8)
    axes.xaxis.tick_top()
    axes.set(xlim=(-0.7, len(units) - 0.3), ylim=(len(names) - 0.4, -0.6))
    axes.grid(color="#e5e5e5", linewidth=0.6)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    figure.savefig(FOLDER / f"units-{name}.svg", metadata={"Date": None}, facecolor="white")
    plt.close(figure)
    return re.sub(r"[ \t]+$", "", str(fcbp.units.explain(model, example)), flags=re.MULTILINE)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for network, (make, example) in NETWORKS.items():
        torch.manual_seed(0)
        print(f"{network}\n{draw(network, make(), example())}\n")
