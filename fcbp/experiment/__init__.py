"""Experiments as data: a stream, a network, an optimiser, a method and their settings.

>>> import fcbp
>>> experiment = fcbp.experiment.EXPERIMENTS["bit-flipping"]
>>> experiment.stream, experiment.method, experiment.measure
('bit-flipping', 'cbp', 'adaptable_contribution')

:class:`Experiment` is the data, :func:`build_program` makes of it pure functions for one member, and members with
equal :meth:`Experiment.program_key` share one of those programs, vmapped.
"""

from fcbp.checks import arguments
from fcbp.experiment.files import from_yaml, lines, load, read, to_yaml
from fcbp.experiment.maker import ExperimentMaker, check
from fcbp.experiment.measurements import ASKED, METRICS, PER_STEP, VARIABLES, variables_of
from fcbp.experiment.named import PROBLEMS, Problem
from fcbp.experiment.parts import ACTIVATIONS, NETWORKS, OPTIMIZERS, STREAMS, NetworkKind, StreamKind
from fcbp.experiment.program import Assembled, assemble, build_program
from fcbp.experiment.programs import PROGRAMS, NamedProgram
from fcbp.experiment.settings import Experiment, setting_names
from fcbp.experiment.surprises import surprises
from fcbp.names import lookup

__all__ = [
    "ACTIVATIONS",
    "ASKED",
    "EXPERIMENTS",
    "METRICS",
    "NETWORKS",
    "OPTIMIZERS",
    "PER_STEP",
    "PROBLEMS",
    "PROGRAMS",
    "STREAMS",
    "VARIABLES",
    "Assembled",
    "Experiment",
    "ExperimentMaker",
    "NamedProgram",
    "NetworkKind",
    "Problem",
    "StreamKind",
    "assemble",
    "build_program",
    "check",
    "from_yaml",
    "get",
    "lines",
    "load",
    "read",
    "setting_names",
    "surprises",
    "to_yaml",
    "variables_of",
]

EXPERIMENTS: dict[str, Experiment] = {
    "bit-flipping": Experiment(),
    **{name: problem.experiment for name, problem in PROBLEMS.items()},
}
"""Named experiments; ``fcbp list`` prints them."""


@arguments
def get(name: str) -> Experiment:
    """Return the experiment of that name.

    Raises:
        ValueError: there is none.
    """
    return lookup("experiment", name, EXPERIMENTS)
