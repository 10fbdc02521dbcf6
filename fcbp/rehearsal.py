"""A program rehearsed before a sweep starts: what it measures, and whether it keeps its promises."""

from __future__ import annotations

import contextlib
import functools
import random as python_random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import optree
import torch
from torch import Tensor

from fcbp import random
from fcbp.loop import check_carry
from fcbp.program import Program

T = TypeVar("T")

__all__ = ["Rehearsed", "call", "call_pure", "rehearse", "rehearse_members"]

_rehearsed: WeakKeyDictionary[Program, dict[str, Rehearsed]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Rehearsed:
    """The findings of a rehearsal."""

    averaged: tuple[str, ...]
    """Measured floating-point values of a step, whose mean over a bin is a result."""
    summed: tuple[str, ...]
    """Measured bools and integers of a step, whose sum over a bin is a result."""
    probed: tuple[str, ...]
    """Values measured at the end of a bin."""
    variables: Mapping[str, tuple[str, str]]
    """Long name and unit of all of them."""
    batch_size: int | None
    """Examples of a batch; ``None`` without a stream."""
    per: Mapping[str, str]
    """For an averaged value the summed one that its sum is divided by, in place of the steps."""
    structure: str
    """The carry's shapes and dtypes, the numbers and the results, in words: the same in every process, or the program
    is not the same."""


def rehearse(
    program: Program,
    numbers: Mapping[str, float] | None = None,
    *,
    device: torch.device | str | None = None,
    name: str = "",
) -> Rehearsed:
    """Run a program's functions once, and check everything that a sweep relies on.

    Args:
        program: of one member.
        numbers: a member's; by default the program's own.
        device: where it will run.
        name: its name in messages; with the empty one a ``ValueError`` of its own is left as it is.

    Raises:
        ValueError: a function raises, gives something else than promised, changes its arguments, moves a global random
            generator, gives other results for the same arguments, or cannot be vmapped; a number is never read.
    """
    known = _rehearsed.setdefault(program, {})
    if str(device) not in known:
        known[str(device)] = _Rehearsal(program, program.settings(numbers), device, name).run()
    return known[str(device)]


def rehearse_members(
    program: Program, members: Sequence[Mapping[str, float]], name: str = "", most: int = 32
) -> Rehearsed:
    """Rehearse a program, and take a step with the numbers of members: of very many values of a number some.

    Args:
        program: of one member.
        members: the numbers that each member sets.
        name: as for :func:`rehearse`.
        most: values of a number that are tried.

    Raises:
        ValueError: as for :func:`rehearse`; or a number is out of its range.
    """
    rows = [program.settings(row) for row in members]
    found = rehearse(program, rows[0], device="cpu", name=name)
    for row in telling(rows, most):
        step_once(program, row, name)
    return found


def step_once(program: Program, numbers: Mapping[str, float], name: str = "") -> None:
    """Take one step of one member whose numbers are plain floats, so that any error in a number shows.

    The functions took tensors before, so an error for lack of a tensor's methods is none.
    """
    rehearsal = _Rehearsal(program, numbers, None, name)
    with contextlib.suppress(AttributeError, TypeError):
        try:
            carry = program.init(random.key(0), dict(numbers))
            program.step(carry, dict(numbers), *rehearsal.first_batch())
        except ValueError as error:
            if not name:
                raise
            raise ValueError(f"step{rehearsal.of} fails: ValueError: {error}") from error


def call(about: str, function: Callable[..., T], *arguments: object, **keywords: object) -> T:
    """Call a function.

    Raises:
        ValueError: it fails; ``about`` begins the message.
    """
    try:
        return function(*arguments, **keywords)
    except Exception as error:
        raise ValueError(f"{about} fails: {type(error).__name__}: {error}") from error


def call_pure(
    about: str,
    function: Callable[..., T],
    *arguments: object,
    call: Callable[..., Any] | None = None,
    **keywords: object,
) -> T:
    """Call a function that must keep the promises of a pure one.

    Args:
        about: begins a message.
        function: called twice, on tensors that are no part of a transformation of torch.
        arguments: pytrees of tensors.
        call: ``call(function, *arguments, **keywords)``, which says how the function fails.
        keywords: as ``arguments``.

    Raises:
        ValueError: the function fails, changes its arguments, moves a global random generator, or gives other results
            for the same arguments.
    """
    call = functools.partial(_call, about) if call is None else call
    before, generators = _copy((arguments, keywords)), _generators()
    given: T = call(function, *arguments, **keywords)
    for generator, state in _generators().items():
        if state != generators[generator]:
            raise ValueError(
                f"{about} draws from the global generator of {generator}; expected draws by fcbp.random from a key in "
                "the carry"
            )
    if not _same(before, (arguments, keywords)):
        raise ValueError(f"{about} changes its arguments in place; expected new tensors")
    kept = _copy(given)
    if not _same(kept, call(function, *arguments, **keywords)):
        raise ValueError(f"{about} gives other results for the same arguments; expected a pure function of them")
    return given


_call = call


class _Reads(dict[str, Any]):
    """Settings that remember which of them were read."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__(values)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        if name not in self:
            raise KeyError(
                f"{name!r}, which is none of the program's numbers ({', '.join(dict.keys(self)) or 'it has none'})"
            )
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.read.add(name)
        return super().get(name, default)

    def _all(self) -> None:
        self.read |= set(dict.keys(self))  # and not set(self), which would ask again

    def keys(self) -> Any:
        self._all()
        return super().keys()

    def values(self) -> Any:
        self._all()
        return super().values()

    def items(self) -> Any:
        self._all()
        return super().items()

    def __iter__(self) -> Iterator[str]:
        self._all()
        return super().__iter__()


class _Rehearsal:
    def __init__(
        self, program: Program, numbers: Mapping[str, float], device: torch.device | str | None, name: str
    ) -> None:
        self.program, self.device, self.name = program, device, name
        self.settings = _Reads(
            {n: torch.tensor(value, dtype=program.dtypes[n], device=device) for n, value in numbers.items()}
        )

    def run(self) -> Rehearsed:
        program = self.program
        carry = self.pure("init", program.init, random.key(0, device=self.device), self.settings)
        leaves, spec = self.leaves("init", carry)
        batch = self.first_batch()
        given = self.pure("step", program.step, carry, self.settings, *batch)
        new, measured = self.pair(given)
        try:
            check_carry(leaves, spec, new)
        except ValueError as error:
            raise ValueError(f"step{self.of} does not give back its carry's structure: {error}") from None
        of_step = self.measured("step", measured)
        probed = self.probe(new)
        twice = set(of_step) & set(probed)
        if twice:
            raise ValueError(f"step and probe{self.of} both measure {sorted(twice)[0]!r}; expected different names")
        self.check_failed(new)
        unread = set(program.numbers) - self.settings.read
        if unread:
            raise ValueError(
                f"numbers{self.of} has {sorted(unread)[0]!r}, which no function of the program reads; expected names "
                "that step reads"
            )
        for finite in program.finite or ():
            if finite not in of_step:
                raise ValueError(f"finite{self.of} has {finite!r}, which step does not measure")
        for name, count in program.per.items():
            if name not in of_step or not of_step[name].is_floating_point():
                raise ValueError(f"per{self.of} has {name!r}, which is no floating-point value that step measures")
            if count not in of_step or of_step[count].is_floating_point():
                raise ValueError(f"per{self.of} has {name!r}: {count!r}; expected a count that step measures")
        self.check_side_by_side(carry)
        averaged = tuple(n for n, value in of_step.items() if value.is_floating_point())
        names = (*of_step, *probed)
        return Rehearsed(
            averaged,
            tuple(n for n in of_step if n not in averaged),
            tuple(probed),
            {n: program.variables.get(n, (n.replace("_", " "), "1")) for n in names},
            len(batch[0][0]) if batch else None,
            program.per,
            f"carry {[(tuple(leaf.shape), str(leaf.dtype)) for leaf in leaves]}, numbers {sorted(program.numbers)}, "
            f"results {list(names)}",
        )

    @property
    def of(self) -> str:
        return f" of {self.name}" if self.name else ""

    def example(self, length: int) -> tuple[Any, ...]:
        """Return a step's arguments beside its carry and settings: batches on a leading axis, or nothing."""
        if self.program.stream is None:
            return ()
        _, batches = self.program.stream.sample(self.program.stream.init(random.key(0, device=self.device)), length)
        return (tuple(batches),)

    def first_batch(self) -> tuple[Any, ...]:
        return tuple(tuple(part[0] for part in batches) for batches in self.example(1))

    def call(self, what: str, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except Exception as error:
            if isinstance(error, ValueError) and not self.name:
                raise
            raise ValueError(f"{what}{self.of} fails: {type(error).__name__}: {error}") from error

    def pure(self, what: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return a function's result, after checks that it changed nothing and gives the same again."""
        settings = {n: value.clone() for n, value in dict.items(self.settings)}
        given = call_pure(f"{what}{self.of}", function, *arguments, call=functools.partial(self.call, what))
        if not _same(settings, dict(dict.items(self.settings))):
            raise ValueError(f"{what}{self.of} changes its arguments in place; expected new tensors")
        return given

    def leaves(self, what: str, tree: Any) -> tuple[list[Tensor], Any]:
        leaves, spec = optree.tree_flatten(tree)
        for place, leaf in zip(optree.tree_accessors(tree), leaves, strict=True):
            if not isinstance(leaf, Tensor):
                raise ValueError(
                    f"{what}{self.of} gives {place.codify('carry')} = {leaf!r}; expected a tensor, such as "
                    f"torch.tensor({leaf!r})"
                )
        if not leaves:
            raise ValueError(f"{what}{self.of} gives {tree!r}, which has no tensors; expected a carry with some")
        return leaves, spec

    def pair(self, given: Any) -> tuple[Any, Any]:
        if not isinstance(given, tuple) or len(given) != 2 or hasattr(given, "_fields"):
            raise ValueError(f"step{self.of} gives {type(given).__name__}; expected (carry, measured)")
        return given

    def measured(self, what: str, values: Any) -> dict[str, Tensor]:
        if not isinstance(values, Mapping):
            raise ValueError(f"{what}{self.of} measures {type(values).__name__}; expected a dict of 0-d tensors")
        for name, value in values.items():
            if not isinstance(name, str) or not name:
                raise ValueError(f"{what}{self.of} measures {name!r}; expected a name such as 'loss'")
            if not isinstance(value, Tensor) or value.ndim or value.is_complex():
                shape = f"{tuple(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else repr(value)
                raise ValueError(f"{what}{self.of} measures {name!r} as {shape}; expected a 0-d tensor")
        return dict(values)

    def probe(self, carry: Any) -> dict[str, Tensor]:
        program = self.program
        if program.probe is None:
            return {}
        return self.measured("probe", self.pure("probe", program.probe, carry, self.settings, *self.probed_examples()))

    def probed_examples(self) -> tuple[Any, ...]:
        stream = self.program.stream
        if stream is None:
            return ()
        held_out = () if stream.held_out is None else stream.held_out(stream.init(random.key(0, device=self.device)))
        return (*self.example(2), held_out)

    def check_failed(self, carry: Any) -> None:
        if self.program.failed is not None:
            value = self.pure("failed", self.program.failed, carry)
            if not isinstance(value, Tensor) or value.ndim or value.dtype != torch.bool:
                raise ValueError(f"failed{self.of} gives {value!r}; expected a 0-d bool tensor")

    def check_side_by_side(self, carry: Any) -> None:
        """Check that the functions can be vmapped: two members, one step."""
        program = self.program
        settings = dict(dict.items(self.settings))
        both: Any = (carry, settings)
        two: Any = optree.tree_map(lambda leaf: torch.stack([leaf, leaf]), both)
        keys = random.key(torch.tensor([0, 1], device=self.device))
        inner = self.first_batch()
        self.call("vmap of init", torch.vmap(program.init), keys, two[1])
        self.call("vmap of step", torch.vmap(_with(program.step, inner)), *two)
        if program.probe is not None:
            self.call("vmap of probe", torch.vmap(_with(program.probe, self.probed_examples())), *two)


def _with(function: Callable[..., Any], more: tuple[Any, ...]) -> Callable[..., Any]:
    return lambda *arguments: function(*arguments, *more)


def _copy(tree: Any) -> Any:
    return optree.tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, tree)


def _generators() -> dict[str, Any]:
    """Return the states of the global random generators."""
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002  (whether somebody draws from it is the question)
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": (kind, np.asarray(keys).tobytes(), *rest),
        "python": python_random.getstate(),
    }


def _same(a: Any, b: Any) -> bool:
    """Tell whether two pytrees hold the same numbers, NaN being NaN."""
    left, right = optree.tree_leaves(a), optree.tree_leaves(b)
    return len(left) == len(right) and all(map(_equal, left, right))


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.shape != b.shape or a.dtype != b.dtype:
            return False
        return bool(((a == b) | ((a != a) & (b != b))).all())
    return a is b or a == b


def telling(rows: Sequence[Mapping[str, float]], most: int) -> list[Mapping[str, float]]:
    """Choose rows that hold between them the values of each number; of very many values, some and the extremes."""
    chosen: dict[tuple[float, ...], Mapping[str, float]] = {}
    for name in rows[0] if rows else ():
        holder = {float(row[name]): row for row in rows}
        values = sorted(holder)
        for i in np.unique(np.linspace(0, len(values) - 1, min(len(values), most)).astype(int)):
            row = holder[values[i]]
            chosen[tuple(float(value) for value in row.values())] = row
    return list(chosen.values())
