"""Networks as people write them, small, for ``find_units``: what each has that others have not is its first line."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn


class DenseNet(nn.Module):
    """Every layer reads all layers before it side by side, each through a norm of its own."""

    def __init__(self):
        super().__init__()
        self.stem, self.c1, self.c2 = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 3, 3, padding=1), nn.Conv2d(7, 3, 3, padding=1)
        self.n1, self.n2, self.n3, self.fc = nn.BatchNorm2d(4), nn.BatchNorm2d(7), nn.BatchNorm2d(10), nn.Linear(10, 2)

    def forward(self, x):
        x = self.stem(x)
        x = torch.cat([x, self.c1(F.relu(self.n1(x)))], 1)
        x = torch.cat([x, self.c2(F.relu(self.n2(x)))], 1)
        return self.fc(F.relu(self.n3(x)).mean((2, 3)))


class ConvNeXt(nn.Module):
    """A block with channels last, its branch scaled by a parameter."""

    def __init__(self):
        super().__init__()
        self.stem, self.depthwise = nn.Conv2d(3, 4, 2, 2), nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.norm, self.up, self.down = nn.LayerNorm(4), nn.Linear(4, 16), nn.Linear(16, 4)
        self.scale, self.head = nn.Parameter(torch.full((4,), 1e-6)), nn.Linear(4, 2)

    def forward(self, x):
        x = self.stem(x)
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.down(F.gelu(self.up(y))) * self.scale
        return self.head((x + y.permute(0, 3, 1, 2)).mean((2, 3)))


class Dueling(nn.Module):
    """A shared trunk, a value and the advantages about their mean."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(2, 4, 3, 2), nn.ReLU(), nn.Conv2d(4, 5, 2), nn.ReLU(), nn.Flatten())
        self.v1, self.v2, self.a1, self.a2 = nn.Linear(20, 6), nn.Linear(6, 1), nn.Linear(20, 7), nn.Linear(7, 3)

    def forward(self, x):
        h = self.trunk(x)
        a = self.a2(F.relu(self.a1(h)))
        return self.v2(F.relu(self.v1(h))) + a - a.mean(-1, keepdim=True)


class Classifier(nn.Module):
    """An embedding, an LSTM in both directions, its last step."""

    def __init__(self):
        super().__init__()
        self.embed, self.rnn = nn.Embedding(11, 5), nn.LSTM(5, 6, batch_first=True, bidirectional=True)
        self.head = nn.Linear(12, 3)

    def forward(self, tokens):
        return self.head(self.rnn(self.embed(tokens))[0][:, -1])


class Autoencoder(nn.Module):
    """Maps flattened into a code and a code viewed as maps."""

    def __init__(self):
        super().__init__()
        self.encode = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5))
        self.spread = nn.Linear(5, 96)
        self.decode = nn.Sequential(nn.ConvTranspose2d(6, 4, 2, 2), nn.ReLU(), nn.Conv2d(4, 1, 3, padding=1))

    def forward(self, x):
        return self.decode(F.relu(self.spread(self.encode(x))).view(-1, 6, 4, 4))


class FiLM(nn.Module):
    """One layer's output scales and shifts another's channels."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, affine=False)
        self.film, self.out = nn.Linear(4, 12), nn.Conv2d(6, 2, 1)

    def forward(self, x, z):
        scale, shift = self.film(z)[:, :, None, None].chunk(2, 1)
        return self.out(F.relu(scale * self.norm(self.conv(x)) + shift))


class Highway(nn.Module):
    """A gate between a layer and what it reads."""

    def __init__(self):
        super().__init__()
        self.i, self.h, self.t, self.o = nn.Linear(3, 6), nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x):
        x = F.relu(self.i(x))
        t = torch.sigmoid(self.t(x))
        return self.o(t * F.relu(self.h(x)) + (1 - t) * x)


class Experts(nn.Module):
    """A soft mixture of experts: what they give is one group, each one's hidden units another."""

    def __init__(self):
        super().__init__()
        self.gate, self.out = nn.Linear(3, 2), nn.Linear(4, 2)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4)) for _ in range(2))

    def forward(self, x):
        weights = self.gate(x).softmax(-1)
        return self.out((torch.stack([e(x) for e in self.experts], -1) * weights.unsqueeze(-2)).sum(-1).relu())


class Ensemble(nn.Module):
    """Several networks in one batched product: a unit is one in each of them."""

    def __init__(self):
        super().__init__()
        for name, shape in {"w1": (4, 3, 5), "b1": (4, 1, 5), "w2": (4, 5, 2), "b2": (4, 1, 2)}.items():
            self.register_parameter(name, nn.Parameter(torch.rand(shape)))

    def forward(self, x):
        return torch.baddbmm(self.b2, torch.baddbmm(self.b1, x.expand(4, -1, -1), self.w1).relu(), self.w2)


class Positions(nn.Module):
    """Embeddings of tokens and of positions, summed."""

    def __init__(self):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(11, 6), nn.Embedding(7, 6)
        self.a, self.o = nn.Linear(6, 9), nn.Linear(9, 2)

    def forward(self, tokens):
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1]))
        return self.o(F.relu(self.a(x)).mean(1))


class Bilinear(nn.Module):
    """Two layers' units meet in one weight."""

    def __init__(self):
        super().__init__()
        self.a, self.c, self.b, self.o = nn.Linear(3, 5), nn.Linear(3, 6), nn.Bilinear(5, 6, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.o(F.relu(self.b(F.relu(self.a(x)), torch.tanh(self.c(x)))))


class Fourier(nn.Module):
    """Sine and cosine of each unit side by side."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 6, bias=False), nn.Linear(12, 5), nn.Linear(5, 2)

    def forward(self, x):
        y = 2 * math.pi * self.a(x)
        return self.c(F.relu(self.b(torch.cat([y.sin(), y.cos()], -1))))


class LearntStart(nn.Module):
    """A recurrent network whose initial state is a parameter."""

    def __init__(self):
        super().__init__()
        self.i, self.h, self.o, self.start = (
            nn.Linear(3, 6),
            nn.Linear(6, 6),
            nn.Linear(6, 2),
            nn.Parameter(torch.ones(6)),
        )

    def forward(self, x):
        h = self.start.expand(x.shape[0], -1)
        for t in range(x.shape[1]):
            h = torch.tanh(self.i(x[:, t]) + self.h(h))
        return self.o(h)


class Cells(nn.Module):
    """Two cells above each other, step by step."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.o = nn.LSTMCell(3, 6), nn.LSTMCell(6, 4), nn.Linear(4, 2)

    def forward(self, x):
        a = b = None
        for t in range(x.shape[1]):
            a = self.first(x[:, t], a)
            b = self.second(a[0], b)
        return self.o(b[0])


class Masked(nn.Module):
    """Modules' weights taken out of them and masked."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1)
        self.register_buffer("mask", torch.tensor([[1.0, 1, 1], [1, 0, 0], [0, 0, 0]]))

    def forward(self, x):
        for conv in (self.a, self.b):
            x = F.conv2d(x.relu(), conv.weight * self.mask, conv.bias, padding=1)
        return x


class Pooling(nn.Module):
    """Attention over positions from scores of one layer."""

    def __init__(self):
        super().__init__()
        self.k, self.score, self.v, self.o = nn.Linear(3, 5), nn.Linear(5, 1), nn.Linear(3, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.o((self.score(torch.tanh(self.k(x))).softmax(1) * F.relu(self.v(x))).sum(1))


class LowRank(nn.Module):
    """A layer and its adapter, whose rank is a group as well."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.o = nn.Linear(3, 5), nn.Linear(5, 4), nn.Linear(4, 2)
        self.down, self.up = nn.Parameter(torch.rand(2, 5)), nn.Parameter(torch.zeros(4, 2))

    def forward(self, x):
        h = F.relu(self.a(x))
        return self.o(F.relu(self.b(h) + h @ self.down.T @ self.up.T))


class MaskToken(nn.Module):
    """A token of its own beside the embedded ones."""

    def __init__(self):
        super().__init__()
        self.e, self.a, self.o = nn.Linear(3, 6), nn.Linear(6, 7), nn.Linear(7, 2)
        self.token = nn.Parameter(torch.rand(1, 1, 6))

    def forward(self, x):
        return self.o(F.relu(self.a(torch.cat([self.e(x), self.token.expand(x.shape[0], 2, -1)], 1))))


class DeepSet(nn.Module):
    """Sum and maximum over the elements side by side."""

    def __init__(self):
        super().__init__()
        self.phi = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU())
        self.rho = nn.Sequential(nn.Linear(10, 4), nn.ReLU(), nn.Linear(4, 1))

    def forward(self, x):
        h = self.phi(x)
        return self.rho(torch.cat([h.sum(1), h.max(1).values], -1))


class Graph(nn.Module):
    """Layers between products with a graph's adjacency."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.o = nn.Linear(3, 6), nn.Linear(6, 5), nn.Linear(5, 2)

    def forward(self, x, adjacency):
        return self.o(F.relu(adjacency @ self.b(F.relu(adjacency @ self.a(x)))))


class Quantiles(nn.Module):
    """An embedding of quantiles multiplies an embedding of the state."""

    def __init__(self):
        super().__init__()
        self.f, self.phi, self.h, self.o = nn.Linear(3, 6), nn.Linear(8, 6), nn.Linear(6, 5), nn.Linear(5, 2)

    def forward(self, x, tau):
        waves = torch.cos(tau[..., None] * math.pi * torch.arange(8))
        return self.o(F.relu(self.h(F.relu(self.f(x))[:, None] * F.relu(self.phi(waves)))))


class Perceiver(nn.Module):
    """Queries that are parameters attend to the inputs."""

    def __init__(self):
        super().__init__()
        self.queries, self.kv = nn.Parameter(torch.rand(4, 8)), nn.Linear(3, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.f, self.o = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8)), nn.Linear(8, 2)

    def forward(self, x):
        q, k = self.queries.expand(x.shape[0], -1, -1), self.kv(x)
        h = q + self.attention(q, k, k)[0]
        return self.o((h + self.f(h)).mean(1))


class ConvLSTM(nn.Module):
    """A recurrence over maps: its convolution is called at every step."""

    def __init__(self):
        super().__init__()
        self.gates, self.o = nn.Conv2d(2 + 4, 16, 3, padding=1), nn.Conv2d(4, 1, 1)

    def forward(self, x):
        h = c = x.new_zeros(x.shape[0], 4, *x.shape[3:])
        for t in range(x.shape[1]):
            i, f, o, g = self.gates(torch.cat([x[:, t], h], 1)).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        return self.o(h)


class Projected(nn.Module):
    """LSTMs, the second of them with a projection of its cells."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.LSTM(3, 4, batch_first=True), nn.LSTM(4, 5, batch_first=True, proj_size=3)
        self.o = nn.Linear(3, 2)

    def forward(self, x):
        return self.o(self.second(self.first(x)[0])[0])
