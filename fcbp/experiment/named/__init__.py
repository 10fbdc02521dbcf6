"""The published supervised problems by name, a file a family of papers."""

from fcbp.experiment.named import digits, dohare, elsayed, kumar, others
from fcbp.experiment.named.record import Problem

__all__ = ["PROBLEMS", "Problem"]

PROBLEMS: dict[str, Problem] = {
    name: problem for family in (digits, dohare, elsayed, kumar, others) for name, problem in family.PROBLEMS.items()
}
"""Experiments by the name that ``fcbp run`` takes; each runs over another data set with ``--dataset``."""
