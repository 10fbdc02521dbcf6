"""Weights that functions are handed: what they read is the activation, as a module's input is."""

import pytest
import torch
import torch.nn.functional as F
from permutation import check_group, randomised, state
from small_nets import ParameterGRU
from torch import nn

import fcbp
from fcbp import Slice, UnitGroup, loop, methods, random
from fcbp.learner import LearnerHyperparams, make_learner


class Read(nn.Module):
    """A layer of five units on three inputs, read by ``reader`` with a parameter ``w``; ``more`` are others."""

    def __init__(self, reader, w=(2, 5), **more):
        super().__init__()
        for name, shape in {"a": (3, 5), "w": w, **more}.items():
            self.register_parameter(name, nn.Parameter(torch.rand(shape) - 0.5))
        self.reader = reader

    def hidden(self, x):
        return torch.relu(x @ self.a)

    def forward(self, x):
        return self.reader(self, self.hidden(x))


READERS = {
    "linear": lambda m, h: F.linear(h, m.w),
    "linear by name": lambda m, h: F.linear(bias=None, weight=m.w, input=h),
    "matmul, T": lambda m, h: h @ m.w.T,
    "matmul, mT": lambda m, h: torch.matmul(h, m.w.mT),
    "matmul, t": lambda m, h: h.matmul(m.w.t()),
    "mm, transpose": lambda m, h: h.mm(m.w.transpose(0, 1)),
    "mm, permute": lambda m, h: torch.mm(h, m.w.permute(1, 0)),
    "mv": lambda m, h: torch.stack([torch.mv(m.w, row) for row in h]),
    "bmm": lambda m, h: torch.bmm(h[None], m.w.T.unsqueeze(0))[0],
    "addmm": lambda m, h: torch.addmm(m.c, h, m.w.T),
    "addmm method": lambda m, h: m.c.expand(h.shape[0], -1).addmm(h, m.w.T),
    "from the left": lambda m, h: (m.w @ h.T).T,
    "einsum": lambda m, h: torch.einsum("oi,bi->bo", m.w, h),
    "tensordot": lambda m, h: torch.tensordot(h, m.w, dims=([1], [1])),
    "convolution": lambda m, h: F.conv1d(h.T[None], m.w[..., None])[0].T,
    "computed of parameters": lambda m, h: h @ (torch.tanh(m.w) * 0.5 * m.c[:, None]).view(2, 5).T,
    "normalised": lambda m, h: F.linear(h, F.normalize(m.w, dim=1)),
    "of low rank": lambda m, h: F.linear(h, m.left @ m.w),
    "gru cell": lambda m, h: torch.gru_cell(h, h.new_zeros(h.shape[0], 2), m.w6, m.w26),
}


@pytest.mark.parametrize("name", READERS)
def test_what_a_parameter_reads_is_the_activation(name):
    net = Read(READERS[name], c=(2,), left=(2, 2), w6=(6, 5), w26=(6, 2))
    x = torch.randn((4, 3), generator=torch.Generator().manual_seed(1))
    (group,) = fcbp.find_units(net, x, include="a")
    reader = "w6" if name == "gru cell" else "w"
    assert (group.size, group.activation) == (5, reader)
    assert group.outgoing == (Slice((reader,), 1),)
    check_group(randomised(net), [x], group)
    params, buffers = state(net)
    output, features, _ = fcbp.forward_with_features(net, (group,))(params, buffers, x)
    torch.testing.assert_close(output, net(x))
    torch.testing.assert_close(features["a"].movedim(group.activation_axis, -1).reshape(4, 5), net.hidden(x))
    fcbp.units.check_features((group,), features)
    assert f"input of {reader}, axis {group.activation_axis}" in str(fcbp.units.explain(net, x))


def test_every_step_of_a_sequence_is_a_sample():
    net, x = ParameterGRU(), torch.randn(2, 5, 4)
    (group,) = fcbp.find_units(net, x)
    by_hand = UnitGroup(**{**group.__dict__, "activation": "wh"})
    _, features, _ = fcbp.forward_with_features(net, (by_hand,))(*state(net), x)
    assert features["wx"].shape == (10, 6)
    assert not features["wx"][:2].any(), "the first state is zero"
    (before, *_), (after, *_) = ([*fcbp.forward_with_features(net, (g,))(*state(net), x)[1].values()] for g in
                                 (group, by_hand))  # fmt: skip
    torch.testing.assert_close(before[:, :-1].transpose(0, 1).flatten(0, 1), after[2:])


LOUD = {
    "softplus": lambda m: F.softplus(m.w),
    "softmax": lambda m: m.w.softmax(0),
    "standardised": lambda m: m.w - m.w.mean(1, keepdim=True),
    "a constant added": lambda m: m.w + 1,
    "a product of exponentials": lambda m: m.w.exp() * m.c.exp()[:, None],
    "a quotient of a constant": lambda m: 1 / m.w,
    "clipped": lambda m: m.w.clamp(0.1, 1),
    "side by side": lambda m: torch.cat([m.w, m.w.cos()]),
    "of low rank": lambda m: m.left @ m.w.sigmoid(),
}


@pytest.mark.parametrize("name", LOUD)
def test_a_weight_that_is_not_silent_at_zero(name):
    """A reset unit's outgoing weights are 0; what the forward makes of them has to be 0 as well."""
    net, x = Read(lambda m, h: F.linear(h, LOUD[name](m)), c=(2,), left=(2, 2)), torch.randn(4, 3)
    (row,) = [row for row in fcbp.units.explain(net, x).excluded if row.size == 5]
    assert "so a weight of 0 does not silence them" in row.reason
    with torch.no_grad():
        net.w[:, 1] = 0
    before = net(x)
    with torch.no_grad():
        net.a[:, 1] += 7
    assert not torch.allclose(net(x), before), "it is not silent indeed"


QUIET = {
    "a product with its exponential": lambda m: m.w * m.w.exp(),
    "a sum of low rank": lambda m: m.w + m.left @ m.w.tanh(),
    "clipped": lambda m: m.w.pow(3).clamp(-1, 1) / m.w.norm(),
}


@pytest.mark.parametrize("name", QUIET)
def test_a_weight_that_is_computed_and_silent_at_zero(name):
    net, x = Read(lambda m, h: F.linear(h, QUIET[name](m)), left=(2, 2)), torch.randn(4, 3)
    (group,) = fcbp.find_units(net, x, include="a")
    check_group(randomised(net), [x], group)
    with torch.no_grad():
        net.w[:, 1] = 0
    before = net(x)
    with torch.no_grad():
        net.a[:, 1] += 7
    assert torch.equal(net(x), before)


@pytest.mark.parametrize("axis", [-3, 1, 0])
def test_every_call_of_a_shared_module_is_a_sample(axis):
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(1, 3, 1), nn.Conv2d(3, 2, 3)

        def forward(self, x):
            h = self.a(x)
            return self.b(h).mean() + self.b(h[..., 1:] * 2).mean()

    net, x = Shared(), torch.randn(2, 1, 5, 4) if axis else torch.randn(1, 5, 4)
    (group,) = fcbp.find_units(net, x)
    assert group.activation_axis == -3
    group = UnitGroup(**{**group.__dict__, "activation_axis": axis})
    _, features, _ = fcbp.forward_with_features(net, (group,))(*state(net), x)
    h = features["a"].movedim(axis, -1).flatten(0, -2)
    fcbp.units.check_features((group,), features)
    y = net.a(x).movedim(-3, -1)
    torch.testing.assert_close(h, torch.cat([y.reshape(-1, 3), 2 * y[..., 1:, :].reshape(-1, 3)]))


RECURRENT = {
    "lstm": (nn.LSTM, {}),
    "lstm, dropout off": (nn.LSTM, {"dropout": 0.5, "bidirectional": True}),
    "lstm, projected": (nn.LSTM, {"proj_size": 4, "bias": False}),
    "gru": (nn.GRU, {"bidirectional": True}),
    "rnn": (nn.RNN, {"nonlinearity": "relu"}),
}


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", RECURRENT)
def test_layers_of_a_recurrent_module_give_what_it_gives(name, packed):
    kind, options = RECURRENT[name]
    rnn = kind(3, 6, 3, **options).eval()
    x = torch.randn(4, 2, 3)
    width = options.get("proj_size", 6) * (2 if options.get("bidirectional") else 1)
    group = UnitGroup(
        "g", width, (Slice(("weight_hh_l0",), 0),), (), (Slice(("weight_ih_l1",), 1),), (None,),
        activation="weight_ih_l1",
    )  # fmt: skip
    if packed:
        x = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([4, 2]))
    output, features, _ = fcbp.forward_with_features(rnn, (group,))(dict(rnn.named_parameters()), {}, x)
    torch.testing.assert_close(output, rnn(x))
    single = kind(3, 6, 1, **{**options, "dropout": 0.0})
    single.load_state_dict({name: leaf for name, leaf in rnn.state_dict().items() if "_l0" in name})
    expected = single(x)[0]
    torch.testing.assert_close(features["g"], expected.data if packed else expected)


def test_layers_of_a_recurrent_module_are_groups():
    class States(nn.Module):
        """The states of the last layer alone; all layers' last ones would be the output."""

        def __init__(self):
            super().__init__()
            self.rnn = nn.GRU(3, 6, 2, bidirectional=True)
            self.w = nn.Parameter(torch.rand(12, 2))

        def forward(self, x):
            return self.rnn(x)[0] @ self.w

    net, x = States(), torch.randn(4, 2, 3)
    units = fcbp.find_units(net, x)
    assert [(g.size, g.activation) for g in units] == [(6, r) for r in ["rnn.weight_ih_l1"] * 2 + ["w"] * 2]
    randomised(net)
    for group in units:
        check_group(net, [x], group)
    params, buffers = state(net)
    _, features, _ = fcbp.forward_with_features(net, units)(params, buffers, x)
    torch.testing.assert_close(torch.cat([features["rnn:2"], features["rnn:3"]], -1), net.rnn(x)[0])


def test_an_activation_that_names_nothing_read():
    net = Read(READERS["linear"], c=(2,))
    (group,) = fcbp.find_units(net, torch.zeros(4, 3))
    wrong = UnitGroup(**{**group.__dict__, "activation": "v"})
    with pytest.raises(ValueError, match=r"activation 'v'; expected the name of a module .* or of a parameter"):
        fcbp.forward_with_features(net, (wrong,))
    unread = UnitGroup(**{**group.__dict__, "activation": "c"})
    with pytest.raises(ValueError, match=r"nothing in the forward reads group 'a' at its activation 'c'"):
        fcbp.forward_with_features(net, (unread,))(*state(net), torch.zeros(4, 3))


@pytest.mark.compiled
@pytest.mark.parametrize("name", ["matmul, T", "computed of parameters"])
def test_compiled_whole_as_eager(name):
    """Without a graph break, though a compiler does not show what ``.T`` does, and its parameters may be views."""
    net, x = Read(READERS[name], c=(2,)), torch.randn(4, 3)
    units = fcbp.find_units(net, x)
    forward = fcbp.forward_with_features(net, units)
    params, buffers = state(net)
    flat = torch.cat([p.flatten() for p in params.values()])

    def run(flat, x):
        parts = flat.split([p.numel() for p in params.values()])
        views = {name: part.view(p.shape) for (name, p), part in zip(params.items(), parts, strict=True)}
        output, features, _ = forward(views, buffers, x)
        return output.square().sum(), features["a"]

    members = torch.vmap(torch.func.grad(run, has_aux=True), (0, None))
    for function, argument in ((run, flat), (members, torch.stack([flat, 2 * flat]))):
        expected = function(argument, x)
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(argument, x), expected)


@pytest.mark.compiled
@pytest.mark.parametrize(
    ("make", "shape", "backend"),
    [(ParameterGRU, (1, 2, 4), "lanes"), (lambda: Read(READERS["matmul, T"]), (2, 3), "scan")],
)
def test_in_loops_of_every_backend(make, shape, backend):
    net, members, steps = make(), 8, 12
    (group,) = fcbp.find_units(net, torch.zeros(shape))
    learner = make_learner(net, (group,), loss=lambda y, _: y.square().sum(), method=methods.cbp(capacity=1))
    hyper = LearnerHyperparams(0.05, fcbp.Hyperparams(0.1, 3, 0.9))
    start = torch.vmap(learner.init)(random.split(random.key(0), members))
    xs = random.normal(random.key(1), (steps, members, *shape))

    def step(carry, x):
        return learner.step(carry, (x, x), hyper)

    together = torch.vmap(step)
    expected, info = loop.scan(together, start, xs, backend="eager")
    assert info["replaced"][group.name].any()
    after, own = loop.scan(together, start, xs, backend=backend)
    assert torch.equal(own["replaced"][group.name], info["replaced"][group.name])
    torch.testing.assert_close(own["loss"], info["loss"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(after.params, expected.params, rtol=1e-4, atol=1e-5)
