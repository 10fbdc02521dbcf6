"""The non-stationary problems of the papers, as pure functions of a key."""

from fcbp.streams import tasks
from fcbp.streams.base import Spec, Stream, from_sampler
from fcbp.streams.bit_flipping import BitFlippingState, BitFlippingWindow, bit_flipping
from fcbp.streams.border import Border, Calendar
from fcbp.streams.tasks import (
    class_pairs,
    growing_classes,
    growing_data,
    hard_and_easy,
    permuted_inputs,
    permuted_labels,
    random_labels,
)

__all__ = [
    "BitFlippingState",
    "BitFlippingWindow",
    "Border",
    "Calendar",
    "Spec",
    "Stream",
    "bit_flipping",
    "class_pairs",
    "from_sampler",
    "growing_classes",
    "growing_data",
    "hard_and_easy",
    "permuted_inputs",
    "permuted_labels",
    "random_labels",
    "tasks",
]
