"""Random networks: blocks that map (batch, channels, positions) to the same kind, stacked and joined at random."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

ACTIVATIONS = (nn.ReLU, nn.Tanh, nn.GELU, nn.Identity)


class Block(nn.Module):
    """A block; ``outputs`` is its number of channels."""

    outputs: int


class Conv(Block):
    def __init__(self, channels, rng):
        super().__init__()
        self.outputs = rng.choice([2, 3, 4, 6])
        kernel, dilation = rng.choice([(1, 1), (3, 1), (3, 2)])
        self.conv = nn.Conv1d(
            channels, self.outputs, kernel, padding=dilation * (kernel // 2), dilation=dilation, bias=rng.random() < 0.8
        )
        self.act = rng.choice(ACTIVATIONS)()

    def forward(self, x):
        return self.act(self.conv(x))


class Norm(Block):
    def __init__(self, channels, rng):
        super().__init__()
        self.outputs = channels
        kinds = [nn.BatchNorm1d(channels), nn.InstanceNorm1d(channels, affine=True), nn.GroupNorm(1, channels)]
        if channels % 2 == 0:
            kinds.append(nn.GroupNorm(2, channels))
        self.norm = rng.choice(kinds)

    def forward(self, x):
        return self.norm(x)


class ChannelsLast(Block):
    """A linear layer, a layer norm or a softmax on transposed maps."""

    def __init__(self, channels, rng):
        super().__init__()
        kind = rng.choice(["linear", "norm", "softmax", "rms"])
        self.outputs = rng.choice([2, 4, 5]) if kind == "linear" else channels
        self.inner = {
            "linear": nn.Linear(channels, self.outputs),
            "norm": nn.LayerNorm(channels),
            "softmax": nn.Softmax(-1),
            "rms": nn.RMSNorm(channels),
        }[kind]

    def forward(self, x):
        return self.inner(x.transpose(1, 2)).transpose(1, 2)


class Residual(Block):
    def __init__(self, channels, rng):
        super().__init__()
        self.outputs = channels
        self.inner = Stack(channels, rng, rng.randint(1, 2))
        self.back = nn.Conv1d(self.inner.outputs, channels, 1)

    def forward(self, x):
        return x + self.back(self.inner(x))


class Branches(Block):
    """Two branches side by side."""

    def __init__(self, channels, rng):
        super().__init__()
        self.a, self.b = Stack(channels, rng, 1), Stack(channels, rng, 1)
        self.outputs = self.a.outputs + self.b.outputs

    def forward(self, x):
        return torch.cat([self.a(x), self.b(x)], 1)


class Gate(Block):
    """A gated linear unit, written in one of three ways."""

    def __init__(self, channels, rng):
        super().__init__()
        self.outputs = rng.choice([2, 3])
        self.conv = nn.Conv1d(channels, 2 * self.outputs, 1)
        self.kind = rng.choice(["glu", "chunk", "view"])

    def forward(self, x):
        x = self.conv(x)
        if self.kind == "glu":
            return F.glu(x, 1)
        if self.kind == "chunk":
            a, b = x.chunk(2, 1)
            return a.tanh() * b
        a, b = x.unflatten(1, (self.outputs, 2)).unbind(2)
        return a.sigmoid() * b


class Concatenated(Block):
    """CReLU."""

    def __init__(self, channels, rng):
        super().__init__()
        self.outputs = 2 * channels

    def forward(self, x):
        return torch.cat([x.relu(), (-x).relu()], 1)


class Depthwise(Block):
    def __init__(self, channels, rng):
        super().__init__()
        times = rng.choice([1, 1, 2])
        self.outputs = channels * times
        self.conv = nn.Conv1d(channels, self.outputs, 3, padding=1, groups=channels)

    def forward(self, x):
        return self.conv(x).relu()


class Grouped(Block):
    def __init__(self, channels, rng):
        super().__init__()
        self.outputs = channels if channels % 2 else 6
        self.conv = nn.Conv1d(channels, self.outputs, 3, padding=1, groups=1 if channels % 2 else 2)

    def forward(self, x):
        return self.conv(x).tanh()


class Transposed(Block):
    def __init__(self, channels, rng):
        super().__init__()
        self.outputs = rng.choice([2, 3])
        self.conv = nn.ConvTranspose1d(channels, self.outputs, 3, padding=1)

    def forward(self, x):
        return self.conv(x).relu()


class Halves(Block):
    """Different treatment of two halves of the channels."""

    def __init__(self, channels, rng):
        super().__init__()
        self.outputs = channels
        self.cut = max(1, channels // 2)

    def forward(self, x):
        return torch.cat([x[:, : self.cut].relu(), x[:, self.cut :].tanh()], 1)


class Moved(Block):
    """Channels in another order, or mixed with their neighbours."""

    def __init__(self, channels, rng):
        super().__init__()
        self.outputs = channels
        self.kind = rng.choice(["shuffle", "flip", "add flipped", "roll", "pool"])

    def forward(self, x):
        if self.kind == "shuffle" and self.outputs % 2 == 0:
            return x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)
        if self.kind == "flip":
            return x.flip(1)
        if self.kind == "add flipped":
            return x + x.flip(1)
        if self.kind == "pool":
            return F.avg_pool1d(x.transpose(1, 2), 3, 1, 1).transpose(1, 2)
        return x.roll(1, 1)


class Scaled(Block):
    """A parameter that multiplies, one that is added at every position, squeeze and excitation."""

    def __init__(self, channels, rng):
        super().__init__()
        self.outputs = channels
        self.scale = nn.Parameter(torch.ones(channels, 1))
        self.shift = nn.Parameter(torch.ones(channels, 8))
        self.squeeze = nn.Linear(channels, channels)
        self.kind = rng.choice(["scale", "shift", "squeeze"])

    def forward(self, x):
        if self.kind == "scale":
            return x * self.scale
        if self.kind == "shift":
            return x + self.shift
        return x * self.squeeze(x.mean(-1)).sigmoid().unsqueeze(-1)


class Attention(Block):
    def __init__(self, channels, rng):
        super().__init__()
        self.heads, width = 2, rng.choice([2, 3])
        self.outputs = rng.choice([3, 4])
        self.qkv = nn.Linear(channels, 3 * self.heads * width)
        self.proj = nn.Linear(self.heads * width, self.outputs)
        self.kind = rng.choice(["sdpa", "einsum"])

    def forward(self, x):
        q, k, v = self.qkv(x.transpose(1, 2)).unflatten(-1, (3, self.heads, -1)).unbind(2)
        if self.kind == "sdpa":
            y = F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v))).transpose(1, 2)
        else:
            y = torch.einsum("bhts,bshd->bthd", torch.einsum("bthd,bshd->bhts", q, k).softmax(-1), v)
        return self.proj(y.flatten(2)).transpose(1, 2)


BLOCKS = (
    Conv, Conv, Conv, Norm, Norm, ChannelsLast, Residual, Branches, Gate, Concatenated, Depthwise, Grouped, Transposed,
    Halves, Moved, Scaled, Attention,
)  # fmt: skip


class Stack(Block):
    def __init__(self, channels, rng, depth):
        super().__init__()
        blocks = []
        for _ in range(depth):
            blocks.append(rng.choice(BLOCKS)(channels, rng))
            channels = blocks[-1].outputs
        self.blocks = nn.Sequential(*blocks)
        self.outputs = channels

    def forward(self, x):
        return self.blocks(x)


class RandomNet(nn.Module):
    """A stem, a random stack, and a head that reads the mean over positions, or all of them flattened."""

    def __init__(self, rng):
        super().__init__()
        self.stem = nn.Conv1d(2, rng.choice([3, 4, 6]), 3, padding=1)
        self.body = Stack(self.stem.out_channels, rng, rng.randint(1, 5))
        self.flat = rng.random() < 0.4
        self.head = nn.Linear(self.body.outputs * (8 if self.flat else 1), 3)

    def forward(self, x):
        x = self.body(self.stem(x))
        return self.head(x.flatten(1) if self.flat else x.mean(-1))
