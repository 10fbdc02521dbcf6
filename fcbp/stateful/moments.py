"""The moments of reset weights in torch's optimisers: cleared in place, and their first steps put right."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from fcbp.cbp.state import count_dtype
from fcbp.stateful.rules import Rule, rule_of
from fcbp.units import UnitGroup

__all__ = ["Moments"]

OLD = 1 << 30
"""The count of a weight that is as old as its tensor."""

CLEARED = frozenset({
    "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "momentum_buffer", "square_avg", "grad_avg", "acc_delta",
    "sum", "prev", "row_var", "col_var", "variance",
})  # fmt: skip
"""Names of moments. Whatever else has a tensor's shape is left alone: a master copy of the weights, say."""


class Moments:
    """The moments of the parameters' optimisers, and how many steps reset weights have seen.

    Args:
        params: the parameters by name.
        units: the groups that may be reset.
        optimizers: whose state it is; every parameter belongs to one of them.
    """

    def __init__(
        self,
        params: Mapping[str, Tensor],
        units: Iterable[UnitGroup],
        optimizers: Iterable[torch.optim.Optimizer],
    ):
        self.params, self.units = params, tuple(units)
        names = {id(p): name for name, p in params.items()}
        self.places: dict[str, tuple[torch.optim.Optimizer, int]] = {}
        for optimizer in optimizers:
            for number, group in enumerate(optimizer.param_groups):
                for p in group["params"]:
                    if id(p) in names:
                        self.places[names[id(p)]] = optimizer, number
        self.owners = _owners(self.units, params)
        self.counts: dict[str, dict[int, Tensor]] = {
            name: {
                axis: torch.full((params[name].shape[axis],), OLD, dtype=torch.int32, device=params[name].device)
                for axis in axes
            }
            for name, axes in self.owners.items()
        }
        # Counts of single weights, where a method resets such; made when one is.
        self.single: dict[str, Tensor] = {}
        # By name and axis (none: single weights) the steps until every weight is old, as far as the processor knows.
        self.young: dict[str, dict[int | None, int]] = {name: {} for name in params}
        # Weights before a step whose gradient a weight decay joins.
        self.start: dict[str, Tensor] = {}
        self.warned: set[tuple[str, str]] = set()

    # --- resets -----------------------------------------------------------------------------------------

    @torch.no_grad()
    def reset_units(self, replaced: Mapping[str, Tensor]) -> None:
        """Clear the moments of replaced units' weights, and begin their counts.

        Args:
            replaced: by group name the mask ``(units,)``.
        """
        masks = [replaced[group.name] for group in self.units]
        on_processor = all(is_read(mask) for mask in masks)
        if not masks or (on_processor and not any(bool(mask.any()) for mask in masks)):
            return
        everyone = torch.cat([*masks, masks[0].new_zeros(1)])
        for name, axes in self.owners.items():
            for axis, owners in axes.items():
                marked = everyone[owners[0]]
                for owner in owners[1:]:
                    marked = marked | everyone[owner]
                if on_processor and not marked.any():
                    continue
                self._clear(name, axis, marked)
                self.counts[name][axis].masked_fill_(marked, 0)
                self.young[name][axis] = self._horizon(name)

    @torch.no_grad()
    def reset_weights(self, masks: Mapping[str, Tensor]) -> None:
        """Clear the moments of single weights, and begin their counts.

        Args:
            masks: by the name of a parameter the mask of what was reset, of its shape.
        """
        for name, mask in masks.items():
            if is_read(mask) and not mask.any():
                continue
            self._clear(name, None, mask)
            if self._horizon(name):
                if name not in self.single:
                    self.single[name] = torch.full_like(mask, OLD, dtype=torch.int32)
                self.single[name].masked_fill_(mask, 0)
                self.young[name][None] = self._horizon(name)

    def _clear(self, name: str, axis: int | None, marked: Tensor) -> None:
        p = self.params[name]
        optimizer, number = self.places[name]
        for key, moment in optimizer.state.get(p, {}).items():
            if not isinstance(moment, Tensor) or moment.ndim != p.ndim or moment.ndim == 0:
                continue
            if key not in CLEARED or not moment.is_floating_point():
                self._warn(optimizer, key)
                continue
            value = optimizer.param_groups[number].get("initial_accumulator_value", 0) if key == "sum" else 0
            if axis is None:
                _fill_single(moment, marked, value)
            elif moment.shape[axis] == p.shape[axis]:
                if is_read(marked):
                    moment.index_fill_(axis, marked.nonzero().squeeze(-1), value)
                else:
                    moment.masked_fill_(_along(marked, axis, p.ndim), value)

    def _warn(self, optimizer: torch.optim.Optimizer, key: str) -> None:
        kind = type(optimizer).__name__
        if (kind, key) not in self.warned and not type(optimizer).__module__.startswith("torch.optim"):
            self.warned.add((kind, key))
            warnings.warn(
                f"{kind} remembers {key!r} of each weight, which fcbp does not know; it keeps its value where a unit "
                "is replaced",
                stacklevel=5,
            )

    # --- saving -----------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the counts of reset weights, as tensors, numbers and names."""
        return {
            "counts": {name: {axis: x.clone() for axis, x in axes.items()} for name, axes in self.counts.items()},
            "single": {name: x.clone() for name, x in self.single.items()},
            "young": {name: dict(axes) for name, axes in self.young.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state_dict` gave."""
        for name, axes in self.counts.items():
            for axis, count in axes.items():
                count.copy_(state["counts"][name][axis])
        self.single = {name: x.to(self.params[name].device, copy=True) for name, x in state["single"].items()}
        self.young = {name: dict(axes) for name, axes in state["young"].items()}

    # --- counts -----------------------------------------------------------------------------------------

    @torch.no_grad()
    def before(self, optimizer: torch.optim.Optimizer) -> None:
        """Prepare an optimiser's step: move Adafactor's running means, whose decay depends on the count, and keep what
        the weights were."""
        for name in self._stepping(optimizer):
            p, group = self.params[name], self._group(name)
            if not any(self.young[name].values()) or not optimizer.state.get(p):
                continue
            rule = rule_of(optimizer, group)
            if isinstance(optimizer, torch.optim.Adafactor):
                _prepare_adafactor(p, optimizer.state[p], group, [laid for _, laid in self._laid_counts(name)])
            elif rule is not None and rule.reads_grad and group["weight_decay"]:
                self.start[name] = p.detach().clone()

    @torch.no_grad()
    def after(self, optimizer: torch.optim.Optimizer) -> None:
        """Move new weights, after an optimiser's step, to where a count of their own would have taken them."""
        for name in self._stepping(optimizer):
            counts = self._laid_counts(name)
            for _, count in counts:
                count.add_(1)
            rule, young = rule_of(optimizer, self._group(name)), self.young[name]
            for i, (axis, _) in enumerate(counts):
                if rule is not None and young.get(axis):
                    self._correct(name, counts, i, rule)
            for axis, left in young.items():
                young[axis] = max(left - 1, 0)
        self.start.clear()

    def _stepping(self, optimizer: torch.optim.Optimizer) -> list[str]:
        return [n for n, (own, _) in self.places.items() if own is optimizer and self.params[n].grad is not None]

    def _group(self, name: str) -> Mapping[str, Any]:
        optimizer, number = self.places[name]
        return optimizer.param_groups[number]

    def _horizon(self, name: str) -> int:
        optimizer = self.places[name][0]
        if isinstance(optimizer, torch.optim.Adafactor):
            return ADAFACTOR
        rule = rule_of(optimizer, self._group(name))
        return 0 if rule is None else rule.horizon(self._group(name))

    def _laid_counts(self, name: str) -> list[tuple[int | None, Tensor]]:
        """Return the counts of a parameter's weights: by axis, in a shape that broadcasts, and of single weights."""
        ndim = self.params[name].ndim
        counts: list[tuple[int | None, Tensor]] = [
            (axis, _along(count, axis, ndim)) for axis, count in self.counts.get(name, {}).items()
        ]
        return counts + ([(None, self.single[name])] if name in self.single else [])

    def _correct(self, name: str, counts: list[tuple[int | None, Tensor]], i: int, rule: Rule) -> None:
        """Correct the weights that are new along one axis; those new along an earlier one have been."""
        p, group = self.params[name], self._group(name)
        state, horizon = self.places[name][0].state[p], rule.horizon(group)
        axis = counts[i][0]
        some = _Some(p, axis, counts[i][1], horizon)
        if some.index is not None and not len(some.index):
            return
        laid = [some.of(count) for _, count in counts]
        k, new = laid[i], laid[i] <= horizon
        for other in laid[i + 1 :]:
            k = torch.minimum(k, other)
        for earlier in laid[:i]:
            new = new & (earlier > horizon)
        fine = torch.promote_types(p.dtype, torch.float32)
        moments = {key: x for key, x in state.items() if isinstance(x, Tensor) and x.shape == p.shape and x.ndim}
        rows = {key: some.of(x).to(fine) for key, x in moments.items()}
        if rule.reads_grad:
            assert p.grad is not None
            rows["grad"] = _effective(some.of(p.grad), some.of(self.start.get(name, p)), group).to(fine)
        if "mu_product" in state:
            rows["mu_product"] = state["mu_product"].to(p.device)
        steps = _steps(state)
        own = k.clamp(max=horizon).to(count_dtype(p.device))
        moved = rule.moved(group, rows, steps) - rule.moved(group, rows, own)
        some.add(p, torch.where(new, moved, 0).to(p.dtype))
        grown = new & (k == horizon)
        if is_read(p) and not grown.any():
            return
        # Scaled to the moments of an old weight, for torch's count to serve from now on.
        for key in moments.keys() & rule.scales.keys():
            factor = rule.scales[key](group, steps) / rule.scales[key](group, float(horizon))
            some.put(moments[key], torch.where(grown, rows[key] * factor, rows[key]))


# --- parts ----------------------------------------------------------------------------------------------


def _owners(units: tuple[UnitGroup, ...], params: Mapping[str, Tensor]) -> dict[str, dict[int, list[Tensor]]]:
    """Return by parameter and axis, for each entry, the number of the unit that it belongs to, all units in a row;
    those of no unit have the number after the last. An entry that several units share is in several such lists."""
    total = sum(group.size for group in units)
    owners: dict[str, dict[int, list[Tensor]]] = {}
    first = 0
    for group in units:
        for s in group.parameter_slices():
            leaf = params[str(s.path[0])]
            axis = s.axis % leaf.ndim
            entries = torch.tensor(s.entries(group.size))
            own = torch.arange(first, first + group.size).unsqueeze(-1).expand_as(entries)
            lists = owners.setdefault(str(s.path[0]), {}).setdefault(axis, [])
            free = next((x for x in lists if bool((x[entries] == total).all())), None)
            if free is None:
                free = torch.full((leaf.shape[axis],), total)
                lists.append(free)
            free[entries] = own
        first += group.size
    return {
        name: {axis: [x.to(params[name].device) for x in lists] for axis, lists in axes.items()}
        for name, axes in owners.items()
    }


def is_read(x: Tensor) -> bool:
    """Tell whether a tensor's numbers are read, for a short cut: on a device the processor would wait for them."""
    return x.device.type == "cpu"


class _Some:
    """The entries of a parameter along an axis that may be new: on a device all, whose counts are not read."""

    def __init__(self, p: Tensor, axis: int | None, count: Tensor, horizon: int):
        self.axis, self.length = axis, None if axis is None else p.shape[axis]
        known = axis is not None and is_read(p)
        self.index = (count.flatten() <= horizon).nonzero().squeeze(-1) if known else None

    def of(self, x: Tensor) -> Tensor:
        """Return the entries of a tensor that has the axis, or broadcasts along it."""
        if self.index is None or self.axis is None or x.shape[self.axis] != self.length:
            return x
        return x.index_select(self.axis, self.index)

    def add(self, x: Tensor, values: Tensor) -> None:
        if self.index is None or self.axis is None:
            x.add_(values)
        else:
            x.index_add_(self.axis, self.index, values)

    def put(self, x: Tensor, values: Tensor) -> None:
        if self.index is None or self.axis is None:
            x.copy_(values)
        else:
            x.index_copy_(self.axis, self.index, values.to(x.dtype))


def _along(x: Tensor, axis: int, ndim: int) -> Tensor:
    return x.view(*(1,) * axis, -1, *(1,) * (ndim - axis - 1))


def _steps(state: Mapping[str, Any]) -> Tensor | float:
    """Return the tensor's own count; a number where it is at hand."""
    step = state.get("step", float(OLD))
    if not isinstance(step, Tensor):
        return float(step)
    return step.to(count_dtype(step.device)) if step.device.type != "cpu" else step.item()


def _fill_single(moment: Tensor, marked: Tensor, value: float) -> None:
    """Make a moment that is a mean over an axis new, if all entries of the mean are new."""
    for axis in range(moment.ndim):
        if moment.shape[axis] != marked.shape[axis]:
            marked = marked.all(axis, keepdim=True)
    moment.masked_fill_(marked, value)


def _effective(grad: Tensor, p: Tensor, group: Mapping[str, Any]) -> Tensor:
    """Return the gradient that an optimiser takes, its weight decay included."""
    if group.get("maximize"):
        grad = -grad
    if group.get("weight_decay") and not group.get("decoupled_weight_decay"):
        grad = grad + group["weight_decay"] * p
    return grad


ADAFACTOR = 1000  # its running means are small: the cost is little
"""Steps that Adafactor's running means of new weights decay by their own count."""


def _prepare_adafactor(p: Tensor, state: Mapping[str, Any], group: Mapping[str, Any], counts: list[Tensor]) -> None:
    """Move Adafactor's running means of new weights so that its step, which moves them by the tensor's count, takes
    them to where their own count would have.

    At count t a running mean moves by the share ``t ** beta2_decay`` towards the new square.
    """
    assert p.grad is not None
    square = p.grad.to(torch.promote_types(p.dtype, torch.float32)).square()
    theirs = (_steps(state) + 1) ** group["beta2_decay"]
    for key in ("row_var", "col_var", "variance"):
        mean = state.get(key)
        if mean is None:
            continue
        now, own = square, torch.full_like(mean, OLD, dtype=torch.int32)
        over = [axis for axis in range(mean.ndim) if mean.shape[axis] != p.shape[axis]]
        for axis in over:
            now = now.mean(axis, keepdim=True)
        for count in counts:
            # A mean over an axis is as old as the oldest of what it is the mean of.
            own = torch.minimum(own, count.amax(over, keepdim=True) if over else count)
        ours = (own + 1).to(now.dtype) ** group["beta2_decay"]
        reached = ((1 - ours) * mean + (ours - theirs) * now) / (1 - theirs)
        mean.copy_(torch.where(own < ADAFACTOR, reached, mean))
