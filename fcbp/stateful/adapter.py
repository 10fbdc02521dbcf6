"""``ContinualBackprop``: a method of this library beside an ``nn.Module`` and an optimiser of torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import optree
import torch
from torch import Tensor, nn

from fcbp import random
from fcbp.checks import arguments, shown
from fcbp.kinds import PyTree
from fcbp.methods import Method
from fcbp.stateful.moments import Moments
from fcbp.stateful.options import Choice, accepted, choose, rehearse
from fcbp.stateful.parts import Parts, managed, trainable, unwrapped
from fcbp.stateful.ranks import Ranks, data_parallel
from fcbp.stateful.readings import Readings
from fcbp.stateful.saved import FORMAT, check_saved, leaves_by_name
from fcbp.stateful.summary import Dormancy, Summary, summarize
from fcbp.units import UnitGroup, find_units

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = ["ContinualBackprop"]


class ContinualBackprop:
    """Keep a model able to learn: call :meth:`step` after ``optimizer.step()``.

    The method's pure functions are given the parameters, the buffers and what the hooks have read; what they return is
    copied back in place, so that parameters keep their identity. Moments of reset weights are cleared in the
    optimisers' state. torch counts steps per tensor; the first 128 steps of reset weights are put right to those of a
    count of their own (:mod:`fcbp.stateful.rules`).

    Activations are read in *training forwards*: the model in ``train()`` mode, gradients enabled. Forwards in
    ``eval()`` mode or under ``no_grad`` do not count; several forwards before a step are averaged. Groups with a frozen
    weight are left out (``left_out`` says why). A step that ``GradScaler`` skips is no step. Under
    ``DistributedDataParallel`` activations are averaged over ranks, and all ranks replace the same units. Make it
    before the first call of a compiled model. A copy of the model (an average of its weights) is not read.

    Args:
        model: any module, ``torch.compile``d or data-parallel as well.
        optimizer: the optimiser of the model's parameters, or a tuple of several.
        *example_inputs: inputs of the model's forward, to find its units; see :func:`fcbp.find_units`.
        method: a name of :data:`fcbp.methods.METHODS`, or a :class:`fcbp.methods.Method`.
        seed: the seed of the draws, or a key of :mod:`fcbp.random`; the same on every rank.
        units: the groups; by default those that :func:`fcbp.find_units` finds.
        example_kwargs: keyword arguments of the forward, beside ``example_inputs``.
        hyper: the method's numbers, in place of ``options``.
        process_group: the processes to average over; by default those of ``DistributedDataParallel``, or all.
        **options: the method's numbers and options by name: ``replacement_rate=1e-4``, ``measure="contribution"``.

    Raises:
        ValueError: an option is unknown or out of range; the optimiser's parameters are not the model's; no group is
            left; the model is sharded; ranks disagree.

    Example:
        >>> import torch, fcbp
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
        >>> optimizer = torch.optim.Adam(model.parameters())
        >>> cbp = fcbp.stateful.ContinualBackprop(model, optimizer, torch.zeros(1, 4), replacement_rate=1e-3)
        >>> loss = model(torch.ones(16, 4)).square().mean()
        >>> loss.backward()
        >>> optimizer.step()
        >>> cbp.step()["0"].sum()
        tensor(0)
    """

    @arguments(at_once=True)
    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
        *example_inputs: PyTree,
        method: str | Method = "cbp",
        seed: int | Tensor = 0,
        units: Iterable[UnitGroup] | None = None,
        example_kwargs: Mapping[str, Any] | None = None,
        hyper: PyTree = None,
        process_group: ProcessGroup | None = None,
        **options: object,
    ):
        key = _key(seed)
        self.choice: Choice = choose(method, hyper, options)
        self.model, group = data_parallel(model, process_group)
        self.ranks = Ranks(group)
        self.optimizers = unwrapped(optimizer)
        self.params = trainable(self.model, self.optimizers)
        self.units, self.left_out = self._units(units, example_inputs, dict(example_kwargs or {}))
        """The groups, and by name why others are left out."""
        self.hyper = self.choice.hyper
        """The method's numbers; a changed one is used from the next step on."""
        self.ranks.agree("units, method or seed", (self.units, self.choice.name, repr(self.hyper), seed))

        device = next(iter(self.params.values())).device
        key = key.to(device)
        self.method_state = self.choice.method.init(self.units, self._values(), key)
        rehearse(self.choice, key, self._values(), dict(self.model.named_buffers()), self.units)
        self.moments = Moments(self.params, self.units, self.optimizers)
        read = self.units if self.choice.reads("features") else ()
        self._readings = Readings(self.model, read, by_moments=self.choice.by_moments)
        self._parts = Parts(self.model, self.params, (key for key, _ in self._readings.keys.values()))
        self._dormancy = Dormancy(read)
        self.steps = 0
        """Steps so far."""
        self.replaced = {g.name: torch.zeros(g.size, dtype=torch.int32, device=device) for g in self.units}
        """By group name, the number of replacements of each unit."""
        self._stepped: set[torch.optim.Optimizer] = set()
        self._rates: list[Any] = []
        self._skipped = False
        self._grads: dict[str, Tensor] | None = None
        self._previous: dict[str, Tensor] | None = None
        self._handles: list[Any] = []
        for one in self.optimizers:
            self._handles.append(one.register_step_pre_hook(self._before))
            self._handles.append(one.register_step_post_hook(self._after))

    # --- what users call --------------------------------------------------------------------------------

    @torch.no_grad()
    def step(self, *, new_task: bool | Tensor | None = None) -> dict[str, Tensor]:
        """Take the method's step, after the optimiser's.

        Args:
            new_task: whether a new task began with this step's batch, for methods that act on it.

        Returns:
            By group name the mask ``(units,)`` of what was replaced; for methods that reset single weights, by
            parameter name a mask of its shape. All are false where ``GradScaler`` skipped the optimiser's step.

        Raises:
            ValueError: no ``optimizer.step()`` or no training forward came before; the model was changed.
        """
        self._parts.check()
        self._check_turn()
        if self._skipped:
            self._forget()
            return {group.name: torch.zeros_like(self.replaced[group.name], dtype=torch.bool) for group in self.units}
        given = self._given(new_task)
        params, buffers = self._values(), self._parts.buffers()
        new_params, _, new_buffers, state, info = self.choice.method.update(
            self.method_state, params, (), buffers, **accepted(self.choice.method.update, given)
        )
        _copy_back(params, new_params)
        _copy_back(buffers, new_buffers)
        _copy_back(self.method_state, state)
        replaced, weights = info.get("replaced", {}), info.get("reset_weights")
        if replaced:
            self.moments.reset_units(replaced)
            for name, mask in replaced.items():
                self.replaced[name] += mask
        if weights is not None:
            self.moments.reset_weights(weights)
        self._dormancy.see(self.steps, given["features"])
        self.steps += 1
        self._forget()
        return dict(replaced) if replaced or weights is None else dict(weights)

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a resumed run needs, beside the model's and the optimisers' own: tensors, numbers and
        names."""
        return {
            "format": FORMAT,
            "method": self.choice.name,
            "units": {group.name: group.size for group in self.units},
            "steps": self.steps,
            "state": {name: leaf.detach().clone() for name, leaf in leaves_by_name(self.method_state).items()},
            "replaced": {name: count.clone() for name, count in self.replaced.items()},
            "moments": self.moments.state_dict(),
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state_dict` gave.

        Raises:
            ValueError: it is of another method or network, or ranks have been given different ones.
        """
        check_saved(state, self.state_dict())
        self.ranks.agree("state", {name: value.tolist() for name, value in state["state"].items()})
        self.steps = state["steps"]
        for own, saved in (
            (leaves_by_name(self.method_state), state["state"]),
            (self.replaced, state["replaced"]),
        ):
            for name, value in own.items():
                value.copy_(saved[name])
        self.moments.load_state_dict(state["moments"])
        self._forget()

    def summary(self) -> Summary:
        """Return utilities, ages, replacements and dormant units of every group; prints as a table."""
        return summarize(self.choice.name, self.steps, self.units, self.method_state, self.hyper, self.replaced,
                         self._dormancy, self.left_out)  # fmt: skip

    def remove(self) -> None:
        """Take all hooks off the model and the optimisers; the weights stay as they are."""
        self._readings.remove()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    @property
    def is_due(self) -> bool:
        """Whether an optimiser has stepped since the last :meth:`step`."""
        return bool(self._stepped)

    # --- around the optimiser's step --------------------------------------------------------------------

    def _before(
        self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Act ahead of an optimiser's step; where the step has a closure, after the closure has made the gradients."""
        given = args[1] if len(args) > 1 else kwargs.get("closure")
        if given is None:
            self._prepare(optimizer)
            return None

        def closure() -> Any:
            with torch.enable_grad():
                loss = given()
            self._prepare(optimizer)
            return loss

        if len(args) > 1:
            return (args[0], closure, *args[2:]), kwargs
        return args, {**kwargs, "closure": closure}

    @torch.no_grad()
    def _prepare(self, optimizer: torch.optim.Optimizer) -> None:
        if not self._stepped:
            # As they are now: a scheduler may step before the method does.
            self._rates = [group["lr"] for one in self.optimizers for group in one.param_groups]
            if self.choice.reads("previous"):
                self._previous = {name: p.detach().clone() for name, p in self.params.items()}
            if self.choice.adjusts:
                self._adjust(getattr(optimizer, "grad_scale", None))
        self.moments.before(optimizer)

    def _adjust(self, scale: Tensor | None) -> None:
        """Let the method act on the gradients, which the optimiser is about to divide by ``scale``."""
        if scale is not None:
            for p in self.params.values():
                if p.grad is not None:
                    p.grad.div_(scale.to(p.device))
        grads = self._gradients()
        self._grads = {name: g.clone() for name, g in grads.items()} if self.choice.reads("grads") else None
        method, given = self.choice.method, self._given(None)
        del given["grads"], given["previous"]
        adjusted, state = method.adjust(self.method_state, grads, self._values(), **accepted(method.adjust, given))
        for name, p in self.params.items():
            if p.grad is not None and adjusted[name] is not grads[name]:
                p.grad.copy_(adjusted[name])
            if p.grad is not None and scale is not None:
                p.grad.mul_(scale.to(p.device))
        _copy_back(self.method_state, state)

    def _after(self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found_inf = getattr(optimizer, "found_inf", None)
        skipped = found_inf is not None and bool(found_inf)
        self._skipped = skipped and (self._skipped or not self._stepped)
        self._stepped.add(optimizer)
        if skipped:
            return
        if self._grads is None and self.choice.reads("grads"):
            self._grads = self._gradients()
        self.moments.after(optimizer)

    # --- parts ------------------------------------------------------------------------------------------

    def _units(
        self, units: Iterable[UnitGroup] | None, inputs: tuple[Any, ...], keywords: dict[str, Any]
    ) -> tuple[tuple[UnitGroup, ...], dict[str, str]]:
        if not self.choice.reads("units") and not self.choice.reads("features"):
            return (), {}
        if units is None:
            if not inputs and not keywords:
                raise ValueError("example_inputs is (); expected what the model's forward takes, or units=")
            units = find_units(self.model, *inputs, **keywords)
        kept, left_out = managed(units, self.params)
        if not kept:
            raise ValueError(
                f"units: no group is left whose weights are all trained ({left_out}); expected one at least"
            )
        return kept, left_out

    def _values(self) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in self.params.items()}

    def _gradients(self) -> dict[str, Tensor]:
        return {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in self.params.items()}

    def _given(self, new_task: bool | Tensor | None) -> dict[str, Any]:
        """Return the arguments of a method's protocol by keyword."""
        device = next(iter(self.params.values())).device
        rates = self._rates
        same = all(rate is rates[0] or (isinstance(rate, float) and rate == rates[0]) for rate in rates)
        if not same and self.choice.reads("step_size"):
            raise ValueError(
                f"optimizer has step sizes {', '.join(map(str, rates))}; {self.choice.name} expects the same for all "
                "parameters"
            )
        if isinstance(new_task, bool):
            new_task = torch.tensor(new_task, device=device)
        return {
            "units": self.units,
            "features": self._features(),
            "grads": self._grads,
            "previous": self._previous,
            "hyper": self.hyper,
            "step_size": rates[0] if same else None,
            "new_task": new_task,
        }

    def _features(self) -> dict[str, Tensor]:
        self._readings.check()
        features = self._readings.features(as_moments=bool(self.ranks) and self.choice.by_moments)
        if self.choice.by_moments:
            return self.ranks.average(features)
        return self.ranks.gather(features, self._readings.units)

    def _check_turn(self) -> None:
        """Check that it is the method's turn, or see that ``GradScaler`` skipped the optimiser's step."""
        if self._stepped:
            return
        finite = [torch.isfinite(p.grad).all() for p in self.params.values() if p.grad is not None]
        # GradScaler unscales the gradients, sees that they are not finite and leaves the optimiser alone.
        if finite and not all(map(bool, finite)):
            self._skipped = True
            return
        raise ValueError(
            "cbp.step(): no optimizer.step() came before, or none since the last cbp.step(); expected "
            "loss.backward(), optimizer.step(), cbp.step(), with the optimiser that ContinualBackprop was given"
        )

    def _forget(self) -> None:
        self._readings.clear()
        self._stepped.clear()
        self._skipped, self._grads, self._previous = False, None, None


def _key(seed: int | Tensor) -> Tensor:
    """Return the key of a seed; a key is one already."""
    if not isinstance(seed, Tensor):
        return random.key(seed)
    if seed.dtype != torch.int64 or seed.ndim:
        raise ValueError(f"seed is {shown(seed)}; expected a whole number, or a key such as fcbp.random.key(0)")
    return seed


def _copy_back(old: Any, new: Any) -> None:
    """Copy a pytree's tensors into those of another, where they differ."""
    pairs = zip(optree.tree_leaves(old), optree.tree_leaves(new), strict=True)
    for mine, theirs in pairs:
        if mine is not theirs:
            mine.copy_(theirs)
