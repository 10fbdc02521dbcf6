"""Methods against loss of plasticity: pure functions that a learner calls around the optimiser's step."""

from fcbp.cbp import Hyperparams
from fcbp.methods.backprop import backprop
from fcbp.methods.base import Kind, Method, NoHyperparams, keep_gradients
from fcbp.methods.cbp import cbp
from fcbp.methods.chain import chain

__all__ = ["METHODS", "Kind", "Method", "NoHyperparams", "backprop", "cbp", "chain", "keep_gradients"]

METHODS: dict[str, Kind] = {
    "bp": Kind("plain backpropagation", backprop),
    "cbp": Kind(
        "Continual Backpropagation: replace mature units of low utility",
        cbp,
        Hyperparams,
        {"replacement_rate": (1e-5, 1e-4, 1e-3)},
    ),
}
"""The methods by the name that sweeps and the command take."""
