"""The numbers of Continual Backpropagation and its memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int32, Int64
from torch import Tensor

from fcbp import random, show, tree
from fcbp.checks import arguments
from fcbp.kinds import Tensors
from fcbp.names import check_option
from fcbp.units import UnitGroup, check_units

__all__ = [
    "CBPState",
    "Hyperparams",
    "Params",
    "Replaced",
    "check_by_group",
    "check_capacity",
    "check_counting",
    "check_groups",
    "check_hyperparams",
    "check_number",
    "check_params",
    "check_state",
    "count_dtype",
    "init_state",
]

Params = Tensors
Replaced = dict[str, Bool[Tensor, "units"]]

Rounding = Literal["accumulate", "stochastic"]
"""The use of the fraction of a replacement that is due: it is owed to later steps, or rounded at random."""
RateCounts = Literal["eligible", "all"]
"""The units that the replacement rate multiplies: the mature ones, or all."""


class Hyperparams(NamedTuple):
    """The numbers of Continual Backpropagation; each a float or a 0-d tensor, which may be vmapped.

    A float64 tensor keeps small rates exact over long runs; a float32 tensor is taken for what it holds.
    """

    replacement_rate: float | Tensor = 1e-4
    """Fraction of the eligible units replaced per step (rho), in [0, 1]."""
    maturity_threshold: float | Tensor = 100
    """Steps a unit is safe for (m), at least 0."""
    decay_rate: float | Tensor = 0.99
    """Decay of the running means of utility and activation (eta), in [0, 1)."""


@show.by_fields
class CBPState(NamedTuple):
    """The memory of Continual Backpropagation; the dicts are by group name."""

    age: dict[str, Int32[Tensor, "units"]]
    """Steps since the unit was made."""
    utility: dict[str, Float[Tensor, "units"]]
    """Running mean of the instantaneous utility, not yet bias-corrected."""
    mean_activation: dict[str, Float[Tensor, "units"]]
    """Running mean of the activation, not yet bias-corrected."""
    owed: dict[str, Float[Tensor, ""]]
    """Replacements carried over: the fraction not yet due, and what ``capacity`` deferred."""
    key: Int64[Tensor, ""]
    """The key of the next draws."""


def check_counting(rounding: Rounding, rate_counts: RateCounts, capacity: int | None, replaced: str) -> None:
    """Check the options that say how many are replaced; ``replaced`` is the word: units or weights.

    Raises:
        ValueError: an option is unknown, or ``capacity`` is no number of them.
    """
    check_option("rounding", rounding, Rounding)
    check_option("rate_counts", rate_counts, RateCounts)
    check_capacity(capacity, replaced)


def check_capacity(capacity: int | None, replaced: str = "units") -> None:
    """Check the most that are replaced in a group at once; ``replaced`` names them: units or weights.

    Raises:
        ValueError: it is no whole number, or below 0.
    """
    if capacity is not None and (isinstance(capacity, bool) or not isinstance(capacity, int) or capacity < 0):
        raise ValueError(f"capacity is {capacity!r}; expected a number of {replaced}, 0 or more, or None")


def check_hyperparams(hyper: Hyperparams) -> None:
    """Check plain numbers (a tensor may be vmapped or on a device; its values are not read).

    Raises:
        ValueError: a number is NaN or out of its range.
    """
    check_number(hyper, Hyperparams, "replacement_rate", lambda x: 0 <= x <= 1, "a number in [0, 1]")
    check_number(hyper, Hyperparams, "maturity_threshold", lambda x: x >= 0, "a number of steps, 0 or more")
    check_number(hyper, Hyperparams, "decay_rate", lambda x: 0 <= x < 1, "a number in [0, 1)")


def check_number(hyper: object, kind: type, name: str, good: Callable[[float], bool], expected: str) -> None:
    """Check one field of ``hyper``, a tensor of no axes or a number (a tensor's values are not read).

    Raises:
        ValueError: it is missing, no number, or out of its range.
    """
    if not hasattr(hyper, name):
        raise ValueError(f"hyper is {hyper!r}; expected {kind.__name__}")
    value = getattr(hyper, name)
    if isinstance(value, Tensor):
        if value.ndim or value.is_complex() or value.dtype == torch.bool:
            raise ValueError(
                f"{name} is a tensor {tuple(value.shape)} {value.dtype}; expected {expected}, or a 0-d tensor of one "
                "(for several, vmap)"
            )
    elif isinstance(value, bool) or not isinstance(value, Real) or not good(float(value)):
        raise ValueError(f"{name} is {value!r}; expected {expected}")


@arguments
def init_state(units: Iterable[UnitGroup], params: Params, key: Int64[Tensor, ""]) -> CBPState:
    """Return the state before the first step: every unit of age, utility and mean activation 0.

    Args:
        units: the groups to manage.
        params: any pytree of tensors.
        key: a key of :mod:`fcbp.random`; the state draws from it alone.

    Raises:
        ValueError: a group does not fit ``params`` (see :func:`fcbp.units.check_units`), or ``key`` is no key.
    """
    units = check_groups(units)
    check_params(params)
    check_units(units, params)
    random.check_key(key)
    age, util, mean, owed = {}, {}, {}, {}
    for group in units:
        leaf = tree.get(params, (group.incoming + group.outgoing)[0].path)
        dtype = torch.promote_types(leaf.dtype, torch.float32)
        age[group.name] = torch.zeros(group.size, dtype=torch.int32, device=leaf.device)
        util[group.name] = torch.zeros(group.size, dtype=dtype, device=leaf.device)
        mean[group.name] = torch.zeros(group.size, dtype=dtype, device=leaf.device)
        owed[group.name] = torch.zeros((), dtype=count_dtype(leaf.device), device=leaf.device)
    return CBPState(age, util, mean, owed, key.clone())


def count_dtype(device: torch.device) -> torch.dtype:
    """Return the dtype of the debt: sums of millions of tiny rates need more than float32's 24 bits, where a device
    has more; Apple's devices do not."""
    return torch.float32 if device.type == "mps" else torch.float64


def check_groups(units: Iterable[UnitGroup]) -> tuple[UnitGroup, ...]:
    """``units`` as a tuple.

    Raises:
        ValueError: they are no groups, or a name is given twice.
    """
    if isinstance(units, (str, UnitGroup)) or not isinstance(units, Iterable):
        raise ValueError(f"units is {units!r}; expected an iterable of UnitGroup, such as find_units gives")
    units = tuple(units)
    names: set[str] = set()
    for group in units:
        if not isinstance(group, UnitGroup):
            raise ValueError(f"units holds {group!r}; expected UnitGroup")
        if group.name in names:
            count = sum(other.name == group.name for other in units)
            raise ValueError(f"units: {count} groups are called {group.name!r}; expected distinct names")
        names.add(group.name)
    return units


def check_params(params: Params, argument: str = "params") -> None:
    """Check that ``params`` may be a pytree of tensors.

    Raises:
        ValueError: it is a module, or nothing that holds tensors.
    """
    if isinstance(params, torch.nn.Module):
        raise ValueError(
            f"{argument} is a module, {type(params).__name__}; expected its parameters as a pytree of tensors: "
            "dict(model.named_parameters())"
        )
    if not isinstance(params, (Tensor, Mapping, tuple, list)):
        raise ValueError(f"{argument} is {params!r}; expected a pytree of tensors: dict(model.named_parameters())")


def check_state(state: object, kind: type) -> None:
    """Check that ``state`` has the fields of ``kind``.

    Raises:
        ValueError: it has not.
    """
    if not all(hasattr(state, name) for name in kind._fields):  # type: ignore[attr-defined]
        raise ValueError(f"state is {state!r}; expected a {kind.__name__}, as init_state gives it")


def check_by_group(argument: str, values: Mapping[str, Tensor], units: tuple[UnitGroup, ...]) -> None:
    """Check that ``values`` has a vector ``(units,)`` for each group.

    Raises:
        ValueError: a group's is missing or of another size.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{argument} is {values!r}; expected a dict by the groups' names")
    for group in units:
        if getattr(values.get(group.name), "shape", None) != (group.size,):
            found = {name: tuple(getattr(value, "shape", ())) for name, value in values.items()}
            raise ValueError(f"{argument} holds {found}; expected ({group.size},) for group {group.name!r}")
