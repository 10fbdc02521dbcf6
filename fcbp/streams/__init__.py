"""The non-stationary problems of the papers, as pure functions of a key."""

from fcbp.streams.base import Spec, Stream, from_sampler
from fcbp.streams.bit_flipping import BitFlippingState, BitFlippingWindow, bit_flipping

__all__ = ["BitFlippingState", "BitFlippingWindow", "Spec", "Stream", "bit_flipping", "from_sampler"]
