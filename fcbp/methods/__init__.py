"""Methods against loss of plasticity: pure functions that a learner calls around the optimiser's step."""

from fcbp.methods.backprop import backprop
from fcbp.methods.base import Kind, Method, NoHyperparams, keep_gradients
from fcbp.methods.cbp import cbp
from fcbp.methods.cbp_weights import cbp_weights
from fcbp.methods.ccbp import CCBPHyperparams, CCBPState, ccbp
from fcbp.methods.chain import chain, chain_kinds
from fcbp.methods.cpr import CPRHyperparams, CPRState, cpr
from fcbp.methods.fresh import fresh
from fcbp.methods.l2 import L2Hyperparams, l2
from fcbp.methods.l2_init import L2InitHyperparams, L2InitState, l2_init
from fcbp.methods.redo import RedoHyperparams, redo
from fcbp.methods.regrama import RegramaHyperparams, regrama
from fcbp.methods.shrink_perturb import ShrinkPerturbHyperparams, ShrinkPerturbState, shrink_perturb
from fcbp.methods.snr import SNRHyperparams, SNRState, snr
from fcbp.methods.swr import SWRHyperparams, swr
from fcbp.methods.table import METHODS
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
    "chain_kinds",
    "cpr",
    "fresh",
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
