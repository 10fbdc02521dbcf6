"""A published problem as data: the experiment with its settings, and their source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fcbp.experiment import parts
from fcbp.experiment.settings import Experiment
from fcbp.methods import Kind

__all__ = ["Problem"]


@dataclass(frozen=True)
class Problem:
    """An experiment with published settings.

    Example:
        >>> import fcbp
        >>> problem = fcbp.experiment.PROBLEMS["permuted-mnist-l2init"]
        >>> problem.with_method("bp").step_size
        0.0001
    """

    experiment: Experiment
    """The experiment with the settings that are published for its method."""
    source: str
    """Paper and code."""
    task: str
    """The task: its kind, its length, and the change at its end."""
    departs: tuple[str, ...] = ()
    """Differences of code and paper, or of this from them: the default first, then the way to the other."""
    best: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The settings that the authors chose for a method, by method, where they differ."""

    def with_method(self, method: str | Kind) -> Experiment:
        """Return the experiment with another method and the settings published for it; else with the method's defaults.

        Numbers of the experiment's own method are that method's alone: another that has some of their names has its
        defaults.
        """
        fields = self.experiment.to_dict()
        own = {name for name, _ in self.experiment.settings}
        if method != self.experiment.method:
            gone = own & set(parts.method(self.experiment.method).defaults)
            fields = {name: value for name, value in fields.items() if name not in gone}
        probe = Experiment(**{name: value for name, value in fields.items() if name not in own} | {"method": method})
        kept = {name: value for name, value in fields.items() if name not in own or probe.reads(name)}
        chosen = self.best.get(method, {}) if isinstance(method, str) else {}
        return Experiment(**{**kept, "method": method, **chosen})
