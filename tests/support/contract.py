"""The table of algorithms that the promises are tested over; ``test_contract.py`` holds the promises.

A row is a pure function of one member's inputs, a pytree of tensors, and a way to make the inputs of the ``i``-th
member. To add a method, add its :class:`MethodRow` to ``METHOD_ROWS``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import optree
import torch

import fcbp
from fcbp import initializers, methods, optim, random, utility
from fcbp.units import Slice, UnitGroup

MEMBERS = 6


@dataclass(frozen=True)
class Row:
    """One public function with its options.

    Attributes:
        subject: the public function that the row is of; ``test_contract.py`` counts on one for each.
        variant: what tells this row from another of the subject.
        function: one member's inputs -> outputs, pytrees of tensors (and of nothing else).
        member: the inputs of the ``i``-th member.
        keeps: what the outputs must have in common with the inputs: a function of both that gives pairs of pytrees of
            equal structure, shapes and dtypes.
        exact: whether vmap equals the loop to the bit; else to rounding.
        generated: whether the compiled test has code generated for the row, which takes seconds each: for one row of
            each kind. The others are traced and lowered, and run as eager kernels.
        compiled: whether the compiled test has the row at all.
    """

    subject: str
    variant: str
    function: Callable[[Any], Any]
    member: Callable[[int], Any]
    keeps: Callable[[Any, Any], list[tuple[Any, Any]]] = lambda inputs, outputs: []
    exact: bool = True
    generated: bool = False
    compiled: bool = True

    @property
    def name(self) -> str:
        """What a failing test is called."""
        return f"{self.subject} {self.variant}".strip()

    def members(self, *indices: int) -> Any:
        """The inputs of several members, stacked."""
        return stack([self.member(i) for i in indices])


def stack(trees: list[Any]) -> Any:
    return optree.tree_map(lambda *leaves: torch.stack(leaves), *trees)


def unstack(tree: Any, i: int) -> Any:
    return optree.tree_map(lambda leaf: leaf[i], tree)


# --- a network in the middle of its life ------------------------------------------------------------------

SIZES = (3, 5, 9, 2)  # a group of few units and one of more


def hidden(i: int) -> UnitGroup:
    return UnitGroup(
        f"layer{i}",
        SIZES[i + 1],
        incoming=(Slice((f"{i}.weight",), 0),),
        bias=(Slice((f"{i}.bias",), 0),),
        outgoing=(Slice((f"{i + 1}.weight",), 1),),
        outgoing_bias=((f"{i + 1}.bias",),),
        norm_scale=(Slice((f"{i}.norm.weight",), 0),),
        norm_shift=(Slice((f"{i}.norm.bias",), 0),),
        running_mean=(Slice((f"{i}.norm.running_mean",), 0),),
        running_var=(Slice((f"{i}.norm.running_var",), 0),),
    )


UNITS = (hidden(0), hidden(1))
# Most rows act on one of the groups and leave the other be: that halves what is compiled.
FEW, MANY = UNITS[:1], UNITS[1:]


def drawn_once(draw: Callable[[int], Any]) -> Callable[[int], Any]:
    """The same draws for a member whenever they are asked for, in tensors of their own."""
    kept = functools.cache(draw)
    return functools.wraps(draw)(lambda member: optree.tree_map(torch.clone, kept(member)))


@drawn_once
def key(member: int) -> torch.Tensor:
    return random.fold_in(random.key(11), member)


@drawn_once
def params(member: int) -> dict[str, torch.Tensor]:
    """The parameters of a member."""
    shapes: dict[str, tuple[int, ...]] = {}
    for i in range(len(SIZES) - 1):
        shapes |= {f"{i}.weight": (SIZES[i + 1], SIZES[i]), f"{i}.bias": (SIZES[i + 1],)}
    for i, group in enumerate(UNITS):
        shapes |= {f"{i}.norm.weight": (group.size,), f"{i}.norm.bias": (group.size,)}
    return {n: random.normal(random.fold_in(key(member), i), shape) for i, (n, shape) in enumerate(shapes.items())}


def grads(member: int) -> dict[str, torch.Tensor]:
    return params(member + 100)


@drawn_once
def buffers(member: int) -> dict[str, torch.Tensor]:
    statistics = {
        f"{i}.norm.{name}": random.uniform(random.fold_in(key(member), 50 + 2 * i + j), (group.size,))
        for i, group in enumerate(UNITS)
        for j, name in enumerate(("running_mean", "running_var"))
    }
    return {**statistics, "0.norm.num_batches_tracked": torch.tensor(member)}


@drawn_once
def features(member: int) -> dict[str, torch.Tensor]:
    return {g.name: random.normal(random.fold_in(key(member), 60 + i), (7, g.size)) for i, g in enumerate(UNITS)}


def hyper(member: int) -> fcbp.Hyperparams:
    """Numbers that differ between members; some replace all at once, some nothing."""
    rate = [0.3, 0.0, 1.0, 1e-3, 0.5, 0.15][member % 6]
    return fcbp.Hyperparams(
        torch.tensor(rate, dtype=torch.float64), torch.tensor(float(member % 3)), torch.tensor(0.9 + 0.01 * member)
    )


@drawn_once
def state(member: int) -> fcbp.CBPState:
    """A state some steps on: ages on both sides of the threshold, utilities in no order, something owed."""
    fresh = fcbp.init_state(UNITS, params(member), random.fold_in(key(member), 70))

    def draw(i: int, g: UnitGroup) -> torch.Tensor:
        return random.uniform(random.fold_in(key(member), 80 + i), (g.size,))

    return fresh._replace(
        age={g.name: (draw(i, g) * 8).to(torch.int32) for i, g in enumerate(UNITS)},
        utility={g.name: draw(i + 2, g) for i, g in enumerate(UNITS)},
        mean_activation={g.name: draw(i + 4, g) for i, g in enumerate(UNITS)},
        owed={g.name: fresh.owed[g.name] + 0.3 * i for i, g in enumerate(UNITS)},
    )


@drawn_once
def replaced(member: int) -> dict[str, torch.Tensor]:
    return {g.name: random.bernoulli(random.fold_in(key(member), 90), 0.4, (g.size,)) for g in UNITS}


# --- the rows ---------------------------------------------------------------------------------------------


def select_row(
    name: str,
    units: tuple[UnitGroup, ...],
    initializer: Any = "kaiming_uniform",
    generated: bool = False,
    **options: Any,
) -> Row:
    def function(inputs: Any) -> Any:
        state, params, hyper = inputs
        return fcbp.select_and_reset(state, params, hyper, units=units, initializer=initializer, **options)

    return Row(
        "select_and_reset",
        name,
        function,
        lambda i: (state(i), params(i), hyper(i)),
        lambda inputs, outputs: [(inputs[0], outputs[1]), (inputs[1], outputs[0])],
        generated=generated,
    )


def measure_row(measure: str | utility.Measure) -> Row:
    def function(inputs: Any) -> Any:
        state, params, features, hyper, grads = inputs
        return fcbp.update_utility(state, params, features, hyper, units=MANY, measure=measure, grads=grads)

    return Row(
        *((f"update_utility {measure}", "") if isinstance(measure, str) else ("update_utility", "of an own measure")),
        function,
        lambda i: (state(i), params(i), features(i), hyper(i), grads(i)),
        lambda inputs, outputs: [(inputs[0], outputs)],
        exact=False,  # means over samples and weights may be summed in another order
        generated=measure == "feature_by_input",
    )


def optimizer_row(
    name: str, variant: str, build: Callable[[Any], optim.Optimizer], number: Callable[[int], float]
) -> Row:
    """An optimiser, one update on, whose number and step size are the member's."""

    def function(inputs: Any) -> Any:
        params, opt_state, grads, number, step_size = inputs
        return build(number).update(grads, opt_state, params, step_size=step_size)

    def member(i: int) -> Any:
        own = torch.tensor(number(i))
        optimizer = build(own)
        moved, opt_state = optimizer.update(grads(i), optimizer.init(params(i)), params(i), step_size=0.01)
        return moved, opt_state, grads(i + 50), own, torch.tensor(0.01 * (i + 1))

    return Row(
        f"optim.{name}",
        variant,
        function,
        member,
        lambda inputs, outputs: [(inputs[0], outputs[0]), (inputs[1], outputs[1])],
        generated=name == "adam" or variant == "momentum",
    )


def clip_row() -> Row:
    """Members whose norm is below, above, and far above the bound."""

    def function(inputs: Any) -> Any:
        return optim.clip_by_global_norm(*inputs), {"norm": optim.global_norm(inputs[0])}

    return Row(
        "optim.clip_by_global_norm",
        "",
        function,
        lambda i: (grads(i), torch.tensor((8.0, 0.5, 1e3, 1.0, 1e-3, 2.0)[i])),
        lambda inputs, outputs: [(inputs[0], outputs[0])],
        exact=False,
        generated=True,
    )


def schedule_row(name: str, numbers: Callable[[int], dict[str, float]]) -> Row:
    """A schedule whose numbers, and whose step, are the member's."""

    def function(inputs: Any) -> Any:
        numbers, step = inputs
        return {"step size": optim.SCHEDULES[name](**numbers)(step)}

    def member(i: int) -> Any:
        own = {key: torch.tensor(value, dtype=torch.float32) for key, value in numbers(i).items()}
        return own, torch.tensor(4 * i, dtype=torch.int32)

    return Row(f"optim.{name}", "", function, member, exact=False, generated=name == "warmup-cosine")


def piecewise_row() -> Row:
    def function(inputs: Any) -> Any:
        (first, second), values, step = inputs
        return {"step size": optim.piecewise((first, second), values.unbind())(step)}

    def member(i: int) -> Any:
        boundaries = torch.tensor(3 * i), torch.tensor(4 * i + 1)
        return boundaries, torch.tensor([1.0, 0.5, 0.1]) * (i + 1), torch.tensor(4 * i, dtype=torch.int32)

    return Row("optim.piecewise", "", function, member)


@dataclass(frozen=True)
class MethodRow:
    """A method of :mod:`fcbp.methods`, which ``test_method_contract.py`` runs in a learner as well.

    Attributes:
        method: its name in ``fcbp.methods.METHODS``.
        variant: what tells this row from another of the method.
        build: makes the method; called for each member, so that nothing is shared.
        hyper: the numbers of the ``i``-th member, as tensors; such that ``steps`` steps of a new network show it.
        zero: plain numbers with which it is plain backpropagation.
        signalled: it acts on the first batch of a new task, and where there is none, is plain backpropagation.
        steps: steps of the row in ``ROWS``, all on one batch.
        exact: whether vmap equals the loop to the bit.
        generated: whether the compiled test has code generated for the row.
        compiled: whether the compiled test has the row at all; not where a row of the method differs little.
    """

    method: str
    build: Callable[[], fcbp.methods.Method]
    hyper: Callable[[int], Any]
    zero: Any
    variant: str = ""
    signalled: bool = False
    steps: int = 1
    exact: bool = False
    generated: bool = False
    compiled: bool = True

    @property
    def name(self) -> str:
        """What a failing test is called."""
        return f"{self.method} {self.variant}".strip()


def method_row(method: MethodRow) -> Row:
    """A method's first steps on one hidden layer without norm, with an optimiser that has momentum."""
    units = (replace(UNITS[0], norm_scale=(), norm_shift=(), running_mean=(), running_var=()),)
    names = ("0.weight", "0.bias", "1.weight", "1.bias", "layer0")

    def of_one_layer(tree: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: leaf for name, leaf in tree.items() if name in names}

    def function(inputs: Any) -> Any:
        key, params, buffers, grads, features, hyper, step_size, new_task = inputs
        functions, optimizer = method.build(), optim.sgd(0.9)
        given = {
            "units": units,
            "features": features,
            "hyper": hyper,
            "step_size": step_size,
            "new_task": new_task,
        }
        fresh = state = functions.init(units, params, key)
        opt_state = optimizer.init(params)
        for _ in range(method.steps):
            previous = params
            adjusted, state = functions.adjust(state, grads, params, **given)
            params, opt_state = optimizer.update(adjusted, opt_state, params, step_size=step_size)
            params, opt_state, buffers, state, info = functions.update(
                state, params, opt_state, buffers, grads=grads, previous=previous, **given
            )
        return fresh, params, opt_state, buffers, state, info

    def member(i: int) -> Any:
        step = torch.tensor(0.01 * (i + 1)), torch.tensor(i != 1)
        trees = (of_one_layer(make(i)) for make in (params, buffers, grads, features))
        return key(i), *trees, method.hyper(i), *step

    return Row(
        f"methods.{method.method}",
        method.variant,
        function,
        member,
        lambda inputs, outputs: [(inputs[1], outputs[1]), (inputs[2], outputs[3]), (outputs[0], outputs[4])],
        exact=method.exact,
        generated=method.generated,
        compiled=method.compiled,
    )


def draw_row(name: str, draw: Callable[[torch.Tensor], Any], generated: bool = False) -> Row:
    return Row(name, "", lambda k: {"draw": draw(k)}, key, generated=generated)


def own_measure(group: utility.Observation) -> torch.Tensor:
    return group.activation.amax((0, -1)) * group.outgoing[0].abs().amax((0, -1))


def own_initializer(key, shape, fan_in, fan_out, dtype, device):  # type: ignore[no-untyped-def]
    return random.uniform(key, shape, dtype, -1.0, 1.0) / fan_in


def moments_row() -> Row:
    def member(i: int) -> Any:
        count = {name: torch.ones_like(p, dtype=torch.int32) for name, p in params(i).items()}
        return optim.AdamState(params(i), params(i + 1), count), replaced(i)

    return Row(
        "reset_moments",
        "",
        lambda inputs: fcbp.reset_moments(inputs[0], inputs[1], units=UNITS),
        member,
        lambda inputs, outputs: [(inputs[0], outputs)],
        generated=True,
    )


def numbers(kind: Callable[..., Any], *values: float) -> Any:
    """The first numbers of a method, as tensors; the others are the defaults."""
    return kind(*(torch.tensor(value, dtype=torch.float32) for value in (*values, *kind()[len(values) :])))


def at_times(hyper: Callable[..., Any], name: str, values: tuple[float, ...], **others: float) -> Callable[[int], Any]:
    """Numbers of members that differ in one of them, for a method that acts at every step."""

    def member(i: int) -> Any:
        own = hyper(**{name: values[i % len(values)], "period": 1, **others})
        return optree.tree_map(lambda value: torch.tensor(value, dtype=torch.float64), own)

    return member


METHOD_ROWS: list[MethodRow] = [
    MethodRow("bp", methods.backprop, lambda i: methods.NoHyperparams(), methods.NoHyperparams(), exact=True),
    MethodRow(
        "cbp",
        lambda: methods.cbp("adaptable_contribution", transfer_bias=True),
        lambda i: hyper(i)._replace(maturity_threshold=torch.tensor(0.0)),
        fcbp.Hyperparams(replacement_rate=0.0, maturity_threshold=2),
        generated=True,
    ),
    MethodRow(
        "chain",
        lambda: methods.chain(methods.l2(), methods.cbp("weight")),
        lambda i: (numbers(methods.L2Hyperparams, 0.1 * i), hyper(i)._replace(maturity_threshold=torch.tensor(0.0))),
        (methods.L2Hyperparams(0.0), fcbp.Hyperparams(replacement_rate=0.0)),
    ),
    MethodRow("l2", methods.l2, lambda i: numbers(methods.L2Hyperparams, 0.1 * i), methods.L2Hyperparams(0.0)),
    MethodRow(
        "weight-decay",
        methods.weight_decay,
        lambda i: numbers(methods.WeightDecayHyperparams, 0.3 * i),
        methods.WeightDecayHyperparams(0.0),
    ),
    MethodRow(
        "l2-init",
        methods.l2_init,
        lambda i: numbers(methods.L2InitHyperparams, 0.1 * i),
        methods.L2InitHyperparams(0.0),
        steps=2,
    ),
    MethodRow(
        "l2-init",
        lambda: methods.l2_init("plain"),
        lambda i: numbers(methods.L2InitHyperparams, 0.1 * i),
        methods.L2InitHyperparams(0.0),
        steps=2,
        compiled=False,
        variant="plain",
    ),
    MethodRow(
        "shrink-perturb",
        methods.shrink_perturb,
        lambda i: numbers(methods.ShrinkPerturbHyperparams, 0.5 + 0.1 * i, 0.1, 1 + i // 3),
        methods.ShrinkPerturbHyperparams(1.0, 0.0, 1),
    ),
    MethodRow(
        "shrink-perturb",
        lambda: methods.shrink_perturb("new_task", noise="kaiming_uniform"),
        lambda i: numbers(methods.ShrinkPerturbHyperparams, 0.5 + 0.1 * i, 0.1, 1),
        methods.ShrinkPerturbHyperparams(),
        signalled=True,
        compiled=False,
        variant="new_task",
    ),
    *(
        MethodRow(
            name,
            build,
            lambda i: numbers(methods.UPGDHyperparams, 0.1 * i, 0.1, 0.5, 1 - 0.1 * i),
            methods.UPGDHyperparams(0.0, 0.0, 0.9, 0.0),
            variant,
            compiled=variant != "local",
        )
        for name, variant, build in (
            ("upgd", "", methods.upgd),
            ("upgd", "local", lambda: methods.upgd(scaling="local")),
            ("upgd-features", "", lambda: methods.upgd("features")),
        )
    ),
    MethodRow(
        "cbp-weights",
        methods.cbp_weights,
        lambda i: numbers(fcbp.weights.Hyperparams, 0.3, 0.5 * (i % 2), 0.9, 1 + i // 4),
        fcbp.weights.Hyperparams(reset_rate=0.0, maturity_threshold=1),
    ),
    MethodRow(
        "swr",
        methods.swr,
        lambda i: numbers(methods.SWRHyperparams, 0.1 * i, 1),
        methods.SWRHyperparams(0.0, 1),
    ),
    MethodRow(
        "swr",
        lambda: methods.swr(pruning="threshold"),
        lambda i: numbers(methods.SWRHyperparams, 0.1 * i, 1),
        methods.SWRHyperparams(0.0, 1),
        compiled=False,
        variant="threshold",
    ),
    *(
        MethodRow(name, build, lambda i: methods.NoHyperparams(), methods.NoHyperparams(), signalled=True)
        for name, build in (
            ("head-reset", methods.head_reset),
            ("full-reset", methods.full_reset),
            ("fresh", methods.fresh),
        )
    ),
    MethodRow(
        "redo",
        methods.redo,
        at_times(methods.RedoHyperparams, "threshold", (0.9, -1.0, 1.0, 0.8), decay_rate=0.9),
        methods.RedoHyperparams(threshold=-1.0, period=2),
        steps=2,
    ),
    MethodRow(
        "redo",
        lambda: methods.redo(capacity=2, initializer="xavier_uniform"),
        at_times(methods.RedoHyperparams, "threshold", (0.9, -1.0, 1.0, 0.8), decay_rate=0.0),
        methods.RedoHyperparams(threshold=-1.0, period=1),
        compiled=False,
        variant="capacity",
    ),
    MethodRow(
        "regrama",
        methods.regrama,
        at_times(methods.RegramaHyperparams, "threshold", (0.9, -1.0, 1.0, 0.8), decay_rate=0.5),
        methods.RegramaHyperparams(threshold=-1.0, period=2),
        compiled=False,
    ),
    MethodRow(
        "cpr",
        methods.cpr,
        at_times(methods.CPRHyperparams, "rate", (0.3, 0.0, 0.1, 1.0), decay_rate=0.5, sharpness=3.0),
        methods.CPRHyperparams(rate=0.0, period=2),
        generated=True,
    ),
    MethodRow(
        "cpr",
        lambda: methods.cpr("softplus", initializer="kaiming_normal"),
        at_times(methods.CPRHyperparams, "rate", (0.3, 0.0, 0.1, 1.0), decay_rate=0.9, threshold=0.9),
        methods.CPRHyperparams(rate=0.0, period=1),
        compiled=False,
        variant="softplus",
    ),
    MethodRow(
        "ccbp",
        methods.ccbp,
        at_times(
            methods.CCBPHyperparams, "replacement_rate", (0.3, 0.0, 0.1, 1.0), decay_rate=0.5, maturity_threshold=5
        ),
        methods.CCBPHyperparams(replacement_rate=0.0, period=2),
        steps=3,
    ),
    MethodRow(
        "ccbp",
        lambda: methods.ccbp(continuous=False, capacity=3),
        at_times(methods.CCBPHyperparams, "replacement_rate", (0.3, 0.0, 0.2, 1.0), decay_rate=0.5),
        methods.CCBPHyperparams(replacement_rate=0.0, period=2),
        generated=True,
        variant="discrete",
    ),
    MethodRow(
        "snr",
        methods.snr,
        at_times(methods.SNRHyperparams, "rejection", (0.3, 0.0, 0.1, 0.5), initial_threshold=1, fires_above=1.0),
        methods.SNRHyperparams(rejection=0.0, period=2),
        steps=3,
    ),
]

ROWS: list[Row] = [
    Row(
        "init_state",
        "",
        lambda inputs: fcbp.init_state(UNITS, *inputs),
        lambda i: (params(i), key(i)),
        lambda inputs, outputs: [(state(0), outputs)],
    ),
    *(measure_row(measure) for measure in (*utility.MEASURES, "random")),
    measure_row(own_measure),
    select_row("defaults", MANY),
    select_row("transfer", UNITS, transfer_bias=True),
    select_row("stochastic", FEW, "default_uniform", rounding="stochastic", rate_counts="all", generated=True),
    select_row("capacity 1", FEW, "lecun_normal", capacity=1, transfer_bias=True, generated=True),
    select_row("capacity 2", MANY, own_initializer, capacity=2, rate_counts="all", generated=True),
    moments_row(),
    Row(
        "reset_buffers",
        "",
        lambda inputs: fcbp.reset_buffers(inputs[0], inputs[1], units=UNITS),
        lambda i: (buffers(i), replaced(i)),
        lambda inputs, outputs: [(inputs[0], outputs)],
    ),
    optimizer_row("sgd", "", lambda decay: optim.sgd(weight_decay=decay), lambda i: 0.1 * i),
    optimizer_row("sgd", "momentum", lambda momentum: optim.sgd(momentum, nesterov=True), lambda i: 0.15 * i),
    optimizer_row("adam", "", lambda beta: optim.adam((beta, beta)), lambda i: 0.15 * i),
    optimizer_row("adamw", "", lambda decay: optim.adamw(weight_decay=decay), lambda i: 0.1 * i),
    clip_row(),
    schedule_row("constant", lambda i: {"value": 0.1 * i}),
    schedule_row("linear", lambda i: {"start": 1.0 + i, "end": 0.1 * i, "decay_steps": 10.0}),
    schedule_row("cosine", lambda i: {"start": 1.0 + i, "end": 0.1 * i, "decay_steps": 10.0}),
    schedule_row("warmup", lambda i: {"after": 1.0 + i, "warmup_steps": 9.0, "start": 0.1}),
    schedule_row("warmup-linear", lambda i: {"warmup_steps": 9.0, "start": 0.1 * i, "decay_steps": 5.0}),
    schedule_row("warmup-cosine", lambda i: {"warmup_steps": 3.0 * i, "end": 0.1 * i, "decay_steps": 9.0}),
    piecewise_row(),
    *map(method_row, METHOD_ROWS),
    draw_row("random.split", lambda k: random.split(k, 3)),
    draw_row("random.fold_in", lambda k: random.fold_in(k, 7)),
    draw_row("random.bits", lambda k: random.bits(k, (3, 4))),
    draw_row("random.uniform", lambda k: random.uniform(k, (9,), minval=-2.0, maxval=3.0)),
    draw_row("random.normal", lambda k: random.normal(k, (9,))),
    draw_row("random.randint", lambda k: random.randint(k, (9,), -2, 5)),
    draw_row("random.bernoulli", lambda k: random.bernoulli(k, 0.3, (9,))),
    draw_row("random.permutation", lambda k: random.permutation(k, 9)),
    *(
        draw_row(f"initializers.{name}", lambda k, f=f: f(k, (3, 5), 5, 9, torch.float32, None), "xavier" in name)
        for name, f in initializers.INITIALIZERS.items()
    ),
]
