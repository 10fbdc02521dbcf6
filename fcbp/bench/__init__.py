"""Suites: problems and methods, tuned and reported apart, on one page.

>>> import fcbp
>>> [problem.name for problem in fcbp.bench.SUITES["digits"].problems]
['permuted-digits', 'random-label-digits']
"""

from fcbp.bench.digits import DIGITS
from fcbp.bench.page import page
from fcbp.bench.suite import Problem, Suite, run

SUITES: dict[str, Suite] = {"digits": DIGITS}
"""The suites by name."""

__all__ = ["SUITES", "Problem", "Suite", "page", "run"]
