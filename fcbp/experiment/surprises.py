"""Notes for a person before experiments start."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fcbp.checks import arguments
from fcbp.experiment.settings import Experiment

__all__ = ["surprises"]


@arguments
def surprises(runs: Sequence[Experiment], steps: int) -> list[str]:
    """Messages about settings under which no unit can or is likely to be replaced.

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


def _join(values: Iterable[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
