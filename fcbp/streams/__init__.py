"""The non-stationary problems of the papers, as pairs of pure functions of a key."""

from fcbp.streams.base import Stream
from fcbp.streams.bit_flipping import BitFlippingState, bit_flipping

__all__ = ["BitFlippingState", "Stream", "bit_flipping"]
