"""Small networks of every kind that ``find_units`` must see through."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class GRU(nn.Module):
    """A GRU cell over time, a head on its last state."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(4, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        h = x.new_zeros(x.shape[0], 6)
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
        return self.head(h)


class WrittenGRU(nn.Module):
    """A GRU written out, its update and reset gates one layer that reads input and state side by side."""

    def __init__(self):
        super().__init__()
        self.gates, self.new, self.head = nn.Linear(10, 12), nn.Linear(10, 6), nn.Linear(6, 2)

    def forward(self, x):
        h = x.new_zeros(x.shape[0], 6)
        for t in range(x.shape[1]):
            z, r = torch.sigmoid(self.gates(torch.cat([x[:, t], h], -1))).chunk(2, -1)
            n = torch.tanh(self.new(torch.cat([x[:, t], r * h], -1)))
            h = (1 - z) * n + z * h
        return self.head(h)


class ParameterGRU(nn.Module):
    """A GRU written out in parameters of its own; no module reads its state."""

    def __init__(self):
        super().__init__()
        shapes = {"wx": (18, 4), "wh": (18, 6), "bx": (18,), "bh": (18,), "wo": (6, 2), "bo": (2,)}
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.rand(shape) - 0.5))

    def forward(self, x):
        h = x.new_zeros(x.shape[0], 6)
        states = []
        for t in range(x.shape[1]):
            r, z, n = (x[:, t] @ self.wx.T + self.bx).chunk(3, -1)
            own_r, own_z, own_n = F.linear(h, self.wh, self.bh).chunk(3, -1)
            z = torch.sigmoid(z + own_z)
            h = (1 - z) * torch.tanh(n + torch.sigmoid(r + own_r) * own_n) + z * h
            states.append(h)
        return torch.stack(states, 1) @ self.wo + self.bo


class Recurrent(nn.Module):
    """Two layers of ``nn.LSTM`` or ``nn.GRU``, a head on every state."""

    def __init__(self, kind):
        super().__init__()
        self.rnn = kind(4, 6, 2, batch_first=True)
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        return self.head(self.rnn(x)[0])


class UNet(nn.Module):
    """One level down and up; the skip goes beside."""

    def __init__(self):
        super().__init__()
        self.e1, self.e2 = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
        self.up = nn.ConvTranspose2d(6, 5, 2, 2)
        self.d1, self.out = nn.Conv2d(9, 4, 3, padding=1), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        a = F.relu(self.e1(x))
        b = F.relu(self.e2(F.max_pool2d(a, 2)))
        return self.out(F.relu(self.d1(torch.cat([self.up(b), a], 1))))


class Inception(nn.Module):
    """Two branches side by side, then a map flattened into a linear layer."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 5, 3, padding=1)
        self.c, self.fc = nn.Conv2d(9, 6, 3), nn.Linear(6 * 16, 2)

    def forward(self, x):
        x = torch.cat([F.relu(self.a(x)), F.relu(self.b(x))], 1)
        return self.fc(F.relu(self.c(x)).flatten(1))


class SwiGLU(nn.Module):
    """A gated block whose two halves are one layer."""

    def __init__(self):
        super().__init__()
        self.w12, self.w3 = nn.Linear(4, 16), nn.Linear(8, 4)

    def forward(self, x):
        a, b = self.w12(x).chunk(2, -1)
        return self.w3(F.silu(a) * b)


class CReLU(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(12, 3)

    def forward(self, x):
        x = self.a(x)
        return self.b(torch.cat([F.relu(x), F.relu(-x)], -1))


class MobileNet(nn.Module):
    """Inverted residual: expand, depthwise, project."""

    def __init__(self):
        super().__init__()
        self.stem, self.expand = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(6), nn.BatchNorm2d(6)
        self.depthwise, self.project = nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.Conv2d(6, 4, 1)
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        x = F.relu(self.stem(x))
        y = F.relu6(self.bn1(self.expand(x)))
        y = self.project(F.relu6(self.bn2(self.depthwise(y))))
        return self.fc((x + y).mean([2, 3]))


class Siamese(nn.Module):
    """One network on two inputs, compared."""

    def __init__(self):
        super().__init__()
        self.f = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5))
        self.head = nn.Linear(5, 2)

    def forward(self, a, b):
        return self.head(self.f(a) * self.f(b))


class MultiheadAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, norm_first=True, dropout=0.0)
        self.out = nn.Linear(8, 2)

    def forward(self, x):
        return self.out(self.layer(self.inner(x)))


class LanguageModel(nn.Module):
    """Embedding, a residual block, logits; tied or not."""

    def __init__(self, tied):
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.f, self.g = nn.Linear(8, 6), nn.Linear(6, 8)
        self.logits = nn.Linear(8, 11, bias=False)
        if tied:
            self.logits.weight = self.embed.weight

    def forward(self, tokens):
        x = self.embed(tokens)
        return self.logits(x + self.g(F.relu(self.f(x))))


class Mixer(nn.Module):
    """A mixing layer over tokens and one over channels."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(3, 6)
        self.tokens = nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 5))
        self.channels = nn.Sequential(nn.Linear(6, 9), nn.GELU(), nn.Linear(9, 6))
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        x = self.embed(x)
        x = x + self.tokens(x.transpose(1, 2)).transpose(1, 2)
        x = x + self.channels(x)
        return self.head(x.mean(1))
