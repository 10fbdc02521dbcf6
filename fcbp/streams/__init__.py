"""The non-stationary problems of the papers, as pure functions of a key."""

from fcbp.streams.base import Stream
from fcbp.streams.bit_flipping import BitFlippingState, BitFlippingWindow, bit_flipping

__all__ = ["BitFlippingState", "BitFlippingWindow", "Stream", "bit_flipping"]
