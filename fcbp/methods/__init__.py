"""Methods against loss of plasticity: pure functions that a learner calls around the optimiser's step."""

import functools

from fcbp import weights
from fcbp.cbp import Hyperparams
from fcbp.methods.backprop import backprop
from fcbp.methods.base import Kind, Method, NoHyperparams, keep_gradients
from fcbp.methods.cbp import cbp
from fcbp.methods.cbp_weights import cbp_weights
from fcbp.methods.ccbp import CCBPHyperparams, CCBPState, ccbp
from fcbp.methods.chain import chain
from fcbp.methods.cpr import CPRHyperparams, CPRState, cpr
from fcbp.methods.l2 import L2Hyperparams, l2
from fcbp.methods.l2_init import L2InitHyperparams, L2InitState, l2_init
from fcbp.methods.redo import RedoHyperparams, redo
from fcbp.methods.regrama import RegramaHyperparams, regrama
from fcbp.methods.shrink_perturb import ShrinkPerturbHyperparams, ShrinkPerturbState, shrink_perturb
from fcbp.methods.snr import SNRHyperparams, SNRState, snr
from fcbp.methods.swr import SWRHyperparams, swr
from fcbp.methods.task_reset import TaskResetState, full_reset, head_reset
from fcbp.methods.threshold import ThresholdState
from fcbp.methods.upgd import UPGDHyperparams, UPGDState, upgd
from fcbp.methods.weight_decay import WeightDecayHyperparams, weight_decay

__all__ = [
    "METHODS",
    "CCBPHyperparams",
    "CCBPState",
    "CPRHyperparams",
    "CPRState",
    "Kind",
    "L2Hyperparams",
    "L2InitHyperparams",
    "L2InitState",
    "Method",
    "NoHyperparams",
    "RedoHyperparams",
    "RegramaHyperparams",
    "SNRHyperparams",
    "SNRState",
    "SWRHyperparams",
    "ShrinkPerturbHyperparams",
    "ShrinkPerturbState",
    "TaskResetState",
    "ThresholdState",
    "UPGDHyperparams",
    "UPGDState",
    "WeightDecayHyperparams",
    "backprop",
    "cbp",
    "cbp_weights",
    "ccbp",
    "chain",
    "cpr",
    "full_reset",
    "head_reset",
    "keep_gradients",
    "l2",
    "l2_init",
    "redo",
    "regrama",
    "shrink_perturb",
    "snr",
    "swr",
    "upgd",
    "weight_decay",
]

METHODS: dict[str, Kind] = {
    "bp": Kind("plain backpropagation", backprop),
    "cbp": Kind(
        "Continual Backpropagation: replace mature units of low utility",
        cbp,
        Hyperparams,
        {"replacement_rate": (1e-5, 1e-4, 1e-3)},
    ),
    "l2": Kind(
        "L2 regularisation: a penalty on the squared parameters, through the optimiser",
        l2,
        L2Hyperparams,
        {"strength": (1e-5, 1e-4, 1e-3)},
    ),
    "weight-decay": Kind(
        "decoupled weight decay: shrink the parameters beside the optimiser's step",
        weight_decay,
        WeightDecayHyperparams,
        {"strength": (1e-3, 1e-2, 1e-1)},
    ),
    "l2-init": Kind(
        "L2 Init: regularisation towards the initial parameters",
        l2_init,
        L2InitHyperparams,
        {"strength": (1e-5, 1e-4, 1e-3, 1e-2)},
    ),
    "shrink-perturb": Kind(
        "shrink and perturb: at every step, or at times, shrink the parameters and add noise",
        shrink_perturb,
        ShrinkPerturbHyperparams,
        {"shrink": (0.9999,), "noise_std": (1e-5, 1e-4, 1e-3), "period": (1,)},
    ),
    "upgd": Kind(
        "utility-based perturbed gradient descent: step less, and with less noise, where a weight is of use",
        upgd,
        UPGDHyperparams,
        {"noise_std": (1e-4, 1e-3, 1e-2)},
    ),
    "upgd-features": Kind(
        "the same, by the utility of units",
        functools.partial(upgd, "features"),
        UPGDHyperparams,
        {"noise_std": (1e-4, 1e-3, 1e-2)},
    ),
    "cbp-weights": Kind(
        "Continual Backpropagation per weight: reset mature weights of low utility",
        cbp_weights,
        weights.Hyperparams,
        {"reset_rate": (1e-6, 1e-5, 1e-4)},
    ),
    "swr": Kind(
        "selective weight reinitialisation: now and then, draw the least useful weights anew",
        swr,
        SWRHyperparams,
        {"factor": (0.01, 0.05, 0.2)},
    ),
    "head-reset": Kind("a new last layer with every task, of which batches have to tell", head_reset),
    "full-reset": Kind("a new network with every task, of which batches have to tell", full_reset),
    "redo": Kind(
        "ReDo: at times, make units new whose activation is a small share of their layer's",
        redo,
        RedoHyperparams,
        {"threshold": (0.01, 0.025, 0.1), "decay_rate": (0.99,)},
    ),
    "regrama": Kind(
        "ReGraMa: at times, make units new whose gradient is a small share of their layer's",
        regrama,
        RegramaHyperparams,
        {"threshold": (0.001, 0.01, 0.1), "decay_rate": (0.99,)},
    ),
    "cpr": Kind(
        "continuous partial resets: at times, move units of low utility a little towards new ones",
        cpr,
        CPRHyperparams,
        {"rate": (0.0015, 0.015, 0.15)},
    ),
    "ccbp": Kind(
        "continuous Continual Backpropagation: partial resets that units grow out of",
        ccbp,
        CCBPHyperparams,
        {"replacement_rate": (0.0015, 0.015, 0.15)},
    ),
    "snr": Kind(
        "self-normalised resets: make units new that are silent longer than by their own habit",
        snr,
        SNRHyperparams,
        {"rejection": (0.01, 0.03, 0.1)},
    ),
}
"""The methods by the name that sweeps and the command take."""
