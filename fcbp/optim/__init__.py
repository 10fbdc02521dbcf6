"""Optimisers as pure functions, a bound on the gradients' norm, and schedules of the step size."""

from fcbp.optim.clip import clip_by_global_norm, global_norm
from fcbp.optim.optimizers import (
    OPTIMIZERS,
    AdamState,
    Optimizer,
    SGDState,
    adam,
    adamw,
    cast_like,
    moving_average,
    sgd,
)
from fcbp.optim.schedules import (
    SCHEDULES,
    Schedule,
    constant,
    cosine,
    linear,
    piecewise,
    warmup,
    warmup_cosine,
    warmup_linear,
)

__all__ = [
    "OPTIMIZERS",
    "SCHEDULES",
    "AdamState",
    "Optimizer",
    "SGDState",
    "Schedule",
    "adam",
    "adamw",
    "cast_like",
    "clip_by_global_norm",
    "constant",
    "cosine",
    "global_norm",
    "linear",
    "moving_average",
    "piecewise",
    "sgd",
    "warmup",
    "warmup_cosine",
    "warmup_linear",
]
