"""Experiments as data: a stream, a network, an optimiser, a method and their settings.

>>> import fcbp
>>> experiment = fcbp.experiment.EXPERIMENTS["bit-flipping"]
>>> experiment.stream, experiment.method, experiment.measure
('bit-flipping', 'cbp', 'adaptable_contribution')

:class:`Experiment` is the data, :func:`build_program` makes of it pure functions for one member, and members with
equal :meth:`Experiment.program_key` share one of those programs, vmapped.
"""

from fcbp.experiment.files import from_yaml, lines, load, read, to_yaml
from fcbp.experiment.maker import ExperimentMaker, check
from fcbp.experiment.measurements import ASKED, METRICS, PER_STEP, VARIABLES, variables_of
from fcbp.experiment.named import PROGRAMS, NamedProgram
from fcbp.experiment.parts import ACTIVATIONS, NETWORKS, OPTIMIZERS, STREAMS, NetworkKind, StreamKind
from fcbp.experiment.program import Assembled, assemble, build_program
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
    "PROGRAMS",
    "STREAMS",
    "VARIABLES",
    "Assembled",
    "Experiment",
    "ExperimentMaker",
    "NamedProgram",
    "NetworkKind",
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

_DIGITS = {
    "network": "mlp",
    "hidden": (100, 100),
    "initial": "module",
    "optimizer": "adam",
    "step_size": 1e-3,
    "measure": "contribution",
    "batch_size": 16,
    "bin": "task",
    "metrics": ("accuracy", "test_accuracy", "dormant_units", "effective_rank", "weight_magnitude"),
}

EXPERIMENTS: dict[str, Experiment] = {
    "bit-flipping": Experiment(),
    # 300 tasks of one pass over the 1,437 training images.
    "permuted-digits": Experiment(stream="permuted-inputs", steps=300 * 89, **_DIGITS),
    # 30 tasks of 100 passes over 240 images.
    "random-label-digits": Experiment(stream="random-labels", subset=240, epochs=100, steps=30 * 1500, **_DIGITS),
}
"""Named experiments; ``fcbp list`` prints them."""


def get(name: str) -> Experiment:
    """The experiment of that name.

    Raises:
        ValueError: there is none.
    """
    return lookup("experiment", name, EXPERIMENTS)
