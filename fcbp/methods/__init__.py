"""Methods against loss of plasticity, each a pair of pure functions applied after the optimiser's step."""

from fcbp.methods.backprop import backprop
from fcbp.methods.base import Method
from fcbp.methods.cbp import cbp

__all__ = ["Method", "backprop", "cbp"]
