"""The analysis of a sweep's results: the end of a run, intervals over seeds, best settings, differences between runs.

>>> import fcbp
>>> members = fcbp.grid(seed=range(4), step_size=[0.003, 0.03])
>>> results = fcbp.sweep(fcbp.Experiment(method="bp"), members, steps=300, bin=50, progress=False)
>>> [(row.setting, row.best) for row in summary(results)]
[({'step_size': 0.003}, False), ({'step_size': 0.03}, True)]
"""

from fcbp.analysis.members import (
    BINS,
    ROWS,
    Setting,
    apart,
    bins_of,
    chosen_variable,
    describe,
    identity,
    is_unset,
    main_variable,
    others,
    settings,
    show,
)
from fcbp.analysis.numbers import (
    COUNTS,
    LEVEL,
    Difference,
    Row,
    best_of_each,
    bootstrap,
    by_seed,
    compare,
    end_of_run,
    experiment_of,
    is_higher_better,
    lost_plasticity,
    summary,
)
from fcbp.analysis.robust import (
    Interval,
    interquartile_mean,
    optimality_gap,
    performance_profile,
    probability_of_improvement,
    scores,
    stratified_bootstrap,
)
from fcbp.analysis.tables import columns, differences_table, label, lost_table, ranking, table, times

__all__ = [
    "BINS",
    "COUNTS",
    "LEVEL",
    "ROWS",
    "Difference",
    "Interval",
    "Row",
    "Setting",
    "apart",
    "best_of_each",
    "bins_of",
    "bootstrap",
    "by_seed",
    "chosen_variable",
    "columns",
    "compare",
    "describe",
    "differences_table",
    "end_of_run",
    "experiment_of",
    "identity",
    "interquartile_mean",
    "is_higher_better",
    "is_unset",
    "label",
    "lost_plasticity",
    "lost_table",
    "main_variable",
    "optimality_gap",
    "others",
    "performance_profile",
    "probability_of_improvement",
    "ranking",
    "scores",
    "settings",
    "show",
    "stratified_bootstrap",
    "summary",
    "table",
    "times",
]
