"""Learners: model, loss, optimiser and method as one pair of pure functions."""

from fcbp.learner.core import Learner, LearnerHyperparams, LearnerState, make_learner
from fcbp.learner.draws import draw_params
from fcbp.losses import LOSSES

__all__ = ["LOSSES", "Learner", "LearnerHyperparams", "LearnerState", "draw_params", "make_learner"]
