"""Networks that were left out, or failed: each is found whole or named with the reason that is true."""

import pytest
import torch
import torch.nn.functional as F
from permutation import check_group, randomised, state
from test_units_order import check_order
from torch import nn

import fcbp
from fcbp.units import explain

X = torch.randn((4, 3), generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    """Four rectified units and what ``function`` makes of them, with parameters of its own."""

    def __init__(self, function, reads=4, **parts):
        super().__init__()
        self.a, self.b, self.function = nn.Linear(3, 4), nn.Linear(reads, 2), function
        for name, part in parts.items():
            setattr(self, name, nn.Parameter(torch.rand(part)) if isinstance(part, tuple) else part)

    def forward(self, x, *more):
        return self.function(self, F.relu(self.a(x)), *more)


def reason(found, name, size):
    (row,) = (row for row in found.excluded if (row.name, row.size) == (name, size))
    return row.reason


# --- what a module keeps in its attributes ----------------------------------------------------------------


class Keeps(nn.Module):
    """A layer that keeps what it made: for a look at it later, for an auxiliary loss."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.h, self.kept = nn.Linear(3, 4), nn.Linear(4, 2), None, {}

    def forward(self, x):
        self.h = F.relu(self.a(x))
        self.kept["loss"] = [self.h.square().mean()]
        return self.b(self.h)


@pytest.mark.parametrize("make", [
    Keeps,
    lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.utils.weight_norm(nn.Linear(4, 2))),
    lambda: nn.Sequential(nn.utils.weight_norm(nn.Linear(3, 4)), nn.utils.weight_norm(nn.Linear(4, 2), dim=1)),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_tensors_with_a_history_in_attributes_are_no_hindrance(make):
    net = randomised(make())
    net(X).sum().backward()
    kept = getattr(net, "h", None)
    (group,) = fcbp.find_units(net, X)
    params, buffers = state(net)
    output, features, _ = fcbp.forward_with_features(net, (group,))(params, buffers, X)
    assert features[group.name].shape == (4, 4)
    assert getattr(net, "h", None) is kept, "the caller's module is not touched"
    torch.testing.assert_close(output, net(X))
    check_order(net, [X], (group,))


def test_an_attribute_that_cannot_be_copied_is_named():
    net = Keeps()
    net.a.reader = (i for i in range(3))
    with pytest.raises(ValueError, match=r"find_units: .* cannot be copied because of its attribute 'a\.reader'"):
        fcbp.find_units(net, X)
    with pytest.raises(ValueError, match=r"forward_with_features: .* its attribute 'a\.reader'"):
        fcbp.forward_with_features(net, ())


def test_modules_of_torch_jit_are_refused():
    net = nn.Sequential(nn.Linear(3, 4), torch.jit.script(nn.Sequential(nn.ReLU(), nn.Linear(4, 2))))
    for call in (lambda: fcbp.find_units(net, X), lambda: fcbp.forward_with_features(net, ())):
        with pytest.raises(ValueError, match=r"its part '1' is a torch\.jit module"):
            call()


# --- complex numbers, recurrent modules without gradients -------------------------------------------------


class Complex(nn.Module):
    """A complex layer between real ones."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(3, 4), nn.Linear(4, 6), nn.Linear(2, 5), nn.Linear(5, 2)
        self.w = nn.Parameter(torch.randn(6, 2, dtype=torch.cfloat))

    def forward(self, x):
        h = F.relu(self.b(F.relu(self.a(x))))
        return self.d(F.relu(self.c((h.to(torch.cfloat) @ self.w).abs())))


def test_complex_weights_are_a_row_of_their_own():
    found = explain(Complex(), X)
    assert [g.name for g in found.units] == ["a", "c"]
    assert reason(found, "b", 6) == "w is of dtype torch.complex64, and a reset draws real numbers"


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
@pytest.mark.parametrize("grad", [False, True])
def test_members_of_recurrent_modules_run_without_gradients(kind, grad):
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.out = kind(3, 4, 2, bidirectional=True), nn.Linear(8, 2)

        def forward(self, x):
            return self.out(self.rnn(x)[0])

    net, x = Recurrent(), torch.randn(5, 2, 3)
    units = fcbp.find_units(net, x)
    forward = fcbp.forward_with_features(net, units)
    members = [{name: p.detach() + 0.1 * i for name, p in net.named_parameters()} for i in range(3)]
    stacked = {name: torch.stack([m[name] for m in members]) for name in members[0]}
    with torch.set_grad_enabled(grad):
        output, features, _ = torch.vmap(lambda p: forward(p, {}, x))(stacked)
    for i, m in enumerate(members):
        own, own_features, _ = forward(m, {}, x)
        torch.testing.assert_close(output[i], own)
        torch.testing.assert_close({name: h[i] for name, h in features.items()}, own_features)


# --- index, scatter, circular padding, products -----------------------------------------------------------

ORDER = [3, 1, 0, 2]
PICKED = {
    "a list": lambda m, h: h[:, ORDER],
    "a list behind an ellipsis": lambda m, h: h[..., ORDER],
    "a tensor": lambda m, h: h[:, torch.tensor(ORDER)],
    "negative numbers": lambda m, h: h[:, torch.tensor([-1, 1, 0, -2])],
    "an attribute": lambda m, h: h[:, m.order],
    "index_select": lambda m, h: h.index_select(1, m.order),
    "an order computed": lambda m, h: h[:, torch.argsort(torch.tensor(ORDER))],
    "arange": lambda m, h: h[:, torch.arange(3, -1, -1)],
    "in two rows": lambda m, h: h[:, [[3, 1], [0, 2]]].flatten(1),
    "some twice": lambda m, h: h[:, [3, 1, 0, 2, 3, 1, 0, 2]][:, :4],
}


@pytest.mark.parametrize("name", PICKED)
def test_units_that_a_constant_index_puts_in_order_are_found(name):
    net = randomised(Net(lambda m, h: m.b(PICKED[name](m, h)), order=torch.tensor(ORDER)))
    (group,) = explain(net, X).units
    assert group.size == 4
    check_group(net, [X], group)
    check_order(net, [X], (group,))


def test_units_that_an_index_picks_some_of_are_apart():
    net = randomised(Net(lambda m, h: m.b(torch.cat([h[:, [0, 2]], -h[:, [1, 3, 1]]], -1)), 5))
    found = explain(net, X)
    assert [(g.size, g.incoming[0].entries(2)) for g in found.units] == [(2, [[0], [2]])]
    for group in found.units:
        check_group(net, [X], group)


@pytest.mark.parametrize("index", [lambda m: torch.randperm(4), lambda m: m.order])
def test_an_index_that_is_no_constant_is_the_reason(index):
    net = Net(lambda m, h: m.b(h[:, index(m)]))
    net.register_buffer("order", torch.tensor(ORDER))
    assert reason(explain(net, X), "a", 4) == "they are picked by an index that is no constant (aten.index)"


def messages(gather):
    return lambda m, h, start, end: m.b(gather(h[start], end, h))


def wide(index, h):
    return index[:, None].expand(-1, h.shape[1])


SCATTERED = {
    "index_add": messages(lambda y, i, h: torch.zeros_like(h).index_add(0, i, y)),
    "index_add in place": messages(lambda y, i, h: h.new_zeros(6, 4).index_add_(0, i, y)),
    "index_add with a factor": messages(lambda y, i, h: torch.zeros_like(h).index_add(0, i, y, alpha=2)),
    "onto themselves": messages(lambda y, i, h: h.index_add(0, i, y)),
    "index_reduce": messages(lambda y, i, h: torch.zeros_like(h).index_reduce(0, i, y, "mean")),
    "index_copy": messages(lambda y, i, h: torch.zeros_like(h).index_copy(0, i, y)),
    "index_put": messages(lambda y, i, h: torch.zeros_like(h).index_put((i,), y, accumulate=True)),
    "scatter_add": messages(lambda y, i, h: torch.zeros_like(h).scatter_add(0, wide(i, y), y)),
    "scatter_add in place": messages(lambda y, i, h: h.new_zeros(7, 4).scatter_add_(0, i[:, None].expand_as(y), y)),
    "scatter": messages(lambda y, i, h: torch.zeros_like(h).scatter(0, wide(i, y), y)),
    "scatter_reduce": messages(lambda y, i, h: torch.zeros_like(h).scatter_reduce(0, wide(i, y), y, "amax")),
    "the mean": messages(
        lambda y, i, h: torch.zeros_like(h).scatter_reduce(0, wide(i, y), y, "mean", include_self=False)),
}  # fmt: skip
EDGES = (torch.tensor([0, 1, 2, 3, 0]), torch.tensor([1, 1, 0, 2, 3]))


@pytest.mark.filterwarnings("ignore:index_reduce")
@pytest.mark.parametrize("name", SCATTERED)
def test_messages_gathered_along_another_axis_are_followed(name):
    net = randomised(Net(SCATTERED[name]))
    found = explain(net, X, *EDGES)
    (group,) = found.units
    assert (group.size, group.outgoing_bias) == (4, (None,))
    assert any("are gathered by" in note for note in found.notes["a"])
    check_group(net, [X, *EDGES], group)
    check_order(net, [X, *EDGES], (group,))


def test_what_scatters_the_units_themselves_is_not_followed():
    index = torch.randint(4, (4, 4))
    for gather in (
        lambda m, h, i: m.b(torch.zeros_like(h).scatter_add(0, i, h)),
        lambda m, h, i: m.b(torch.zeros_like(h).scatter_add(1, i, h)),
        lambda m, h, i: m.b(torch.zeros_like(h).index_add(1, i[0], h)),
    ):
        assert "which cannot be followed" in reason(explain(Net(gather), X, index), "a", 4)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_circular_padding_is_followed(dims):
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    net = nn.Sequential(conv(2, 4, 2), nn.ReLU(), conv(4, 3, 3, padding=1, padding_mode="circular"))
    x = torch.randn(2, 2, *(6, 5, 4)[:dims])
    (group,) = fcbp.find_units(randomised(net), x)
    assert group.outgoing_bias == (("2.bias",),), "a constant stays one at the border"
    check_group(net, [x], group)
    check_order(net, [x], (group,))


SUMMED = {
    "a vector": (lambda m, h: (h * m.w).sum(-1), {"w": (4,)}),
    "from the left": (lambda m, h: (m.w * h).sum(1, keepdim=True), {"w": (4,)}),
    "a matrix and a bias": (lambda m, h: (h[:, None] * m.w).sum(-1) + m.c, {"w": (2, 4), "c": (2,)}),
    "torch.mul": (lambda m, h: torch.mul(h, m.w).sum(-1), {"w": (1, 4)}),
    "their mean": (lambda m, h: (h * m.w).mean(-1), {"w": (4,)}),
}


@pytest.mark.parametrize("name", SUMMED)
def test_a_sum_of_products_is_a_product(name):
    function, shapes = SUMMED[name]
    net = randomised(Net(function, **shapes))
    (group,) = fcbp.find_units(net, X)
    assert [s.path for s in group.outgoing] == [("w",)]
    assert group.outgoing_bias == ((("c",),) if "c" in shapes else (None,))
    assert group.activation == "w"
    check_group(net, [X], group)
    check_order(net, [X], (group,))


def test_a_scale_that_is_summed_and_read_as_well_is_both():
    net = Net(lambda m, h: (lambda y: y.sum(-1, keepdim=True) + m.b(y))(h * m.w), w=(4,))
    assert reason(explain(net, X), "a", 4) == "w is used in a way that no reset value is known for"


class GraphAttention(nn.Module):
    """Scores by two vectors a head, a softmax over each node's neighbours."""

    def __init__(self, heads=2, channels=3):
        super().__init__()
        self.heads, self.a, self.b = heads, nn.Linear(3, heads * channels, bias=False), nn.Linear(heads * channels, 2)
        self.source, self.target = (nn.Parameter(torch.rand(1, heads, channels)) for _ in range(2))

    def forward(self, x, start, end):
        h = self.a(x).view(len(x), self.heads, -1)
        score = F.leaky_relu((h * self.source).sum(-1)[start] + (h * self.target).sum(-1)[end]).exp()
        share = score / (h.new_zeros(len(x), self.heads).index_add_(0, end, score)[end] + 1e-9)
        return self.b(F.elu(torch.zeros_like(h).index_add_(0, end, share[..., None] * h[start]).flatten(1)))


@pytest.mark.parametrize("heads", [1, 2])
def test_graph_attention(heads):
    net = randomised(GraphAttention(heads))
    (group,) = fcbp.find_units(net, X, *EDGES)
    assert [str(s.path[0]) for s in group.outgoing] == ["source", "target", "b.weight"]
    check_group(net, [X, *EDGES], group)
    check_order(net, [X, *EDGES], (group,))


# --- outputs, methods, distributions ----------------------------------------------------------------------


class Cached(nn.Module):
    """Attention that returns its keys and values beside what it makes."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(8, n) for n in (8, 4, 4, 2))

    def forward(self, x):
        q = self.q(x).unflatten(-1, (4, 2)).transpose(1, 2)
        k, v = (y.unflatten(-1, (2, 2)).transpose(1, 2) for y in (self.k(x), self.v(x)))
        more = [y[:, :, None].expand(-1, -1, 2, -1, -1).flatten(1, 2) for y in (k, v)]
        y = F.scaled_dot_product_attention(q, *more).transpose(1, 2).flatten(2)
        return {"logits": self.o(y), "cache": [(k, v)]}


def test_a_cache_among_the_outputs_is_named_and_can_be_told_not_to_count():
    net, x = randomised(Cached()), torch.randn(2, 5, 8)
    assert "they are the network's output 'cache.0.1'" in str(explain(net, x))
    for outputs in ("logits", ["log*"]):
        units = fcbp.find_units(net, x, outputs=outputs)
        assert [(g.name, g.size) for g in units] == [("v:0", 2), ("v:1", 2)], "one group a head"
    assert not explain(net, x, outputs=["logits", "cache.0"]).units
    with pytest.raises(ValueError, match=r"outputs='y' matches no output; .* logits, cache\.0\.0, cache\.0\.1"):
        fcbp.find_units(net, x, outputs="y")


class Agent(nn.Module):
    """Two heads and no forward."""

    def __init__(self):
        super().__init__()
        self.critic, self.actor = (nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, n)) for n in (1, 2))

    def get_value(self, x):
        return self.critic(x)

    def get_action(self, x, validate_args=None):
        return torch.distributions.Normal(self.actor(x), 1.0, validate_args=validate_args).rsample()


def test_a_method_that_is_no_forward():
    net = Agent()
    units = fcbp.find_units(net, X, method="get_value")
    assert [g.name for g in units] == ["critic.0"]
    params, buffers = state(net)
    output, features, _ = fcbp.forward_with_features(net, units, method="get_value")(params, buffers, X)
    torch.testing.assert_close(output, net.get_value(X))
    torch.testing.assert_close(features["critic.0"], net.critic[0](X).tanh())
    with pytest.raises(ValueError, match="method is 'get'; expected the name of a method of Agent"):
        fcbp.find_units(net, X, method="get")


def test_a_distribution_that_checks_values_is_named(monkeypatch):
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", True)  # some libraries turn it off
    with pytest.raises(ValueError, match=r"a distribution checks the values .* expected .* validate_args=False"):
        fcbp.find_units(Agent(), X, method="get_action")
    assert fcbp.find_units(Agent(), X, method="get_action", validate_args=False)[0].name == "actor.0"
