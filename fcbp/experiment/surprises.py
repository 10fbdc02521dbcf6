"""Notes for a person before experiments start."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fcbp.checks import arguments
from fcbp.experiment import parts
from fcbp.experiment.named import PROBLEMS
from fcbp.experiment.settings import Experiment

__all__ = ["of_another_method", "surprises"]


@arguments
def surprises(runs: Sequence[Experiment], steps: int) -> list[str]:
    """Return messages about settings under which no unit can or is likely to be replaced.

    Example:
        >>> surprises([Experiment(maturity_threshold=50)], steps=20)
        ['no unit will be replaced: steps is 20 and maturity_threshold 50; a unit is only replaced when it is older']
    """
    messages = []
    cbp = [run for run in runs if run.reads("replacement_rate") and run.reads("maturity_threshold")]
    active = [run for run in cbp if run.replacement_rate > 0]
    young = sorted({run.maturity_threshold for run in active if steps <= run.maturity_threshold})
    if young:
        messages.append(
            f"no unit will be replaced: steps is {steps} and maturity_threshold {_join(young)}; a unit is only "
            "replaced when it is older"
        )
    idle = sorted(
        {
            (run.replacement_rate, max(run.hidden))
            for run in active
            if run.hidden
            and run.maturity_threshold < steps
            and run.replacement_rate * max(run.hidden) * (steps - run.maturity_threshold) < 1
        }
    )
    for units in sorted({units for _, units in idle}):
        rates = _join(rate for rate, n in idle if n == units)
        messages.append(
            f"no unit is expected to be replaced: replacement_rate {rates} x {units} units x {steps} steps gives less "
            "than one replacement in a layer"
        )
    return messages


@arguments
def of_another_method(base: Experiment, runs: Sequence[Experiment]) -> list[str]:
    """Return messages about members that have numbers which a published problem has for another method.

    Args:
        base: what the members share.
        runs: the members.

    Example:
        >>> problem = PROBLEMS["input-permuted-mnist"]
        >>> run = problem.experiment.replace(method="cbp", weight_decay=0.0)
        >>> of_another_method(problem.experiment, [run])[0]
        'cbp has decay_rate 0.9999, which input-permuted-mnist has for upgd; its own: Problem.with_method'
        >>> of_another_method(problem.experiment, [problem.with_method("cbp")])
        []
    """
    method = parts.method_name(base.method)
    numbers = {name: value for name, value in base.settings if name in parts.method(base.method).defaults}
    names = [
        name
        for name, problem in PROBLEMS.items()
        if (problem.experiment.stream, problem.experiment.method) == (base.stream, base.method)
        and numbers.items() <= dict(problem.experiment.settings).items()
    ]
    others = {parts.method_name(run.method): run for run in runs if parts.method_name(run.method) != method}
    messages = []
    for other, run in others.items() if names and numbers else ():
        own = PROBLEMS[names[0]].with_method(run.method)
        taken = [
            f"{name} {value!r}"
            for name, value in numbers.items()
            if run.reads(name) and getattr(run, name) == value != getattr(own, name)
        ]
        if taken:
            messages.append(
                f"{other} has {', '.join(taken)}, which {names[0]} has for {method}; its own: Problem.with_method"
            )
    return messages


def _join(values: Iterable[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
