"""The methods by the name that learners, sweeps and the command take."""

from __future__ import annotations

import functools

from fcbp import weights
from fcbp.cbp import Hyperparams
from fcbp.methods.backprop import backprop
from fcbp.methods.base import Kind
from fcbp.methods.cbp import cbp
from fcbp.methods.cbp_weights import cbp_weights
from fcbp.methods.ccbp import CCBPHyperparams, ccbp
from fcbp.methods.cpr import CPRHyperparams, cpr
from fcbp.methods.fresh import fresh
from fcbp.methods.l2 import L2Hyperparams, l2
from fcbp.methods.l2_init import L2InitHyperparams, l2_init
from fcbp.methods.redo import RedoHyperparams, redo
from fcbp.methods.regrama import RegramaHyperparams, regrama
from fcbp.methods.shrink_perturb import ShrinkPerturbHyperparams, shrink_perturb
from fcbp.methods.snr import SNRHyperparams, snr
from fcbp.methods.swr import SWRHyperparams, swr
from fcbp.methods.task_reset import full_reset, head_reset
from fcbp.methods.upgd import UPGDHyperparams, upgd
from fcbp.methods.weight_decay import WeightDecayHyperparams, weight_decay

__all__ = ["METHODS"]

METHODS: dict[str, Kind] = {
    "bp": Kind("plain backpropagation", backprop),
    "fresh": Kind("a new learner with every task, of which batches have to tell: the from-scratch arm", fresh),
    "cbp": Kind(
        "Continual Backpropagation: replace mature units of low utility",
        cbp,
        Hyperparams,
        {"replacement_rate": (1e-5, 1e-4, 1e-3)},
        capacity=True,
        initializer=True,
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
        capacity=True,
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
        capacity=True,
        initializer=True,
    ),
    "regrama": Kind(
        "ReGraMa: at times, make units new whose gradient is a small share of their layer's",
        regrama,
        RegramaHyperparams,
        {"threshold": (0.001, 0.01, 0.1), "decay_rate": (0.99,)},
        capacity=True,
        initializer=True,
    ),
    "cpr": Kind(
        "continuous partial resets: at times, move units of low utility a little towards new ones",
        cpr,
        CPRHyperparams,
        {"rate": (0.0015, 0.015, 0.15)},
        initializer=True,
    ),
    "ccbp": Kind(
        "continuous Continual Backpropagation: partial resets that units grow out of",
        ccbp,
        CCBPHyperparams,
        {"replacement_rate": (0.0015, 0.015, 0.15)},
        capacity=True,
        initializer=True,
    ),
    "snr": Kind(
        "self-normalised resets: make units new that are silent longer than by their own habit",
        snr,
        SNRHyperparams,
        {"rejection": (0.01, 0.03, 0.1)},
        capacity=True,
        initializer=True,
    ),
}
"""The methods by name; add an entry and its name is a learner's, a sweep's and the command's."""
