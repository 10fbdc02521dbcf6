"""One valid call of every public function, and values that are wrong for most arguments."""

from __future__ import annotations

import dataclasses
import inspect
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import fcbp

KEY = fcbp.random.key(0)


def model() -> nn.Module:
    torch.manual_seed(0)
    return fcbp.nets.mlp(4, (6, 5), 2)


X = torch.randn(8, 4)
NET = model()
UNITS = fcbp.find_units(NET, X)
PARAMS = {name: p.detach() for name, p in NET.named_parameters()}
GRADS = {name: torch.ones_like(p) for name, p in PARAMS.items()}
FEATURES = {group.name: torch.rand(8, group.size) for group in UNITS}
STATE = fcbp.init_state(UNITS, PARAMS, KEY)
HYPER = fcbp.Hyperparams()
REPLACED = {group.name: torch.zeros(group.size, dtype=torch.bool) for group in UNITS}
WEIGHTS = fcbp.weights.init_state(PARAMS, KEY)
ADAM = fcbp.optim.adam()
OBSERVATION = fcbp.utility.Observation(torch.rand(8, 3, 1), torch.rand(3), (torch.rand(3, 4),), (torch.rand(3, 2),))
GRADIENTS = dataclasses.replace(OBSERVATION, incoming_grads=(torch.rand(3, 4),), outgoing_grads=(torch.rand(3, 2),))
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    RESULTS = fcbp.sweep(
        "bit-flipping", {"seed": [0, 1], "replacement_rate": [0.0, 0.1]}, steps=8, bin=4, progress=False, compile=False
    )
ONE = RESULTS.isel(replacement_rate=0)
ARMS = RESULTS.rename(replacement_rate="method").assign_coords(method=["fresh", "bp"])
ROWS = fcbp.analysis.summary(RESULTS)
SETTING = ROWS[0].setting
DATA = fcbp.data.Dataset(
    "made",
    fcbp.data.Split(torch.randint(0, 255, (12, 1, 4, 4), dtype=torch.uint8), torch.arange(12) % 3),
    fcbp.data.Split(torch.randint(0, 255, (6, 1, 4, 4), dtype=torch.uint8), torch.arange(6) % 3),
    ("a", "b", "c"),
)
FOLDER = tempfile.TemporaryDirectory()
BIT = fcbp.streams.bit_flipping()
YAML = Path(FOLDER.name) / "a.yaml"
YAML.write_text("step_size: 0.1\n")
RUN = Path(FOLDER.name) / "run"


def a_step(carry: Any, x: Any = None) -> Any:
    return carry + 1, carry


DRAW = {"key": KEY, "shape": (3, 4), "fan_in": 4, "fan_out": 3, "dtype": torch.float32, "device": None, "gain": 1.0}
FROM_WEIGHTS = {k: v for k, v in DRAW.items() if k != "gain"}
LEARNED = {"output": torch.randn(8, 3), "targets": torch.arange(8) % 3}
NUMBERS = {"output": torch.randn(8, 3), "targets": torch.randn(8, 3)}
SCHEDULES = {"start": 1.0, "end": 0.0, "decay_steps": 100}
TASKS = {
    **{"data": DATA, "batch_size": 1, "epochs": 1, "task_length": None, "pass_length": None, "reshuffle": True},
    **{"gradual": 0, "normalise": "unit", "flatten": False, "flip": False, "crop": 0, "rotation": (0.0, 0.0)},
    **{"test_examples": None, "augment_test": False, "task_signal": False},
}
FIND = {"include": None, "exclude": None, "attention_heads": True, "residual": False, "groups": (), "outputs": None}
CHOICE = {"initializer": "kaiming_uniform", "capacity": None}
RESET = {**CHOICE, "rounding": "accumulate", "rate_counts": "eligible"}
MATRIX = torch.randn(8, 5)
SCORES = np.arange(12.0).reshape(6, 2)
CARTPOLE = fcbp.envs.get("cartpole")
AGENT = {
    **{"environment": "cartpole", "change": "none", "task_length": None, "time_limit": 10, "method": "bp"},
    **{"hidden": (4,), "activation": "relu", "copies": 2, "horizon": 4, "minibatch": 4, "capacity": None},
    **{"schedule": None, "measure": None, "change_options": None},
}
CHANGING = {**AGENT, "change": "offset", "task_length": 2, "policy": None, "shared": False, "epochs": 1}
PLACE = {"progress": False, "device": None, "devices": None, "backend": None, "address": None}

CALLS: dict[str, dict[str, Any]] = {
    "analysis.apart": {"results": RESULTS, "over": "seed"},
    "analysis.best_of_each": {"rows": ROWS},
    "analysis.bins_of": {"results": RESULTS},
    "analysis.bootstrap": {"values": np.arange(4.0), "level": 0.9, "key": 0},
    "analysis.by_seed": {"chosen": ONE, "variable": "loss", "last": 0.2},
    "analysis.chosen_variable": {"results": RESULTS},
    "analysis.interquartile_mean": {"values": SCORES},
    "analysis.is_higher_better": {"variable": "loss"},
    "analysis.lost_plasticity": {"results": ARMS, "variable": None, "baseline": "fresh", "last": 0.2},
    "analysis.lost_table": {"results": ARMS, "variable": None, "baseline": "fresh", "last": 0.2},
    "analysis.optimality_gap": {"values": SCORES, "target": 1.0},
    "analysis.performance_profile": {"values": SCORES, "thresholds": np.linspace(0.0, 1.0, 3)},
    "analysis.probability_of_improvement": {"first": SCORES, "second": SCORES + 1},
    "analysis.scores": {"results": RESULTS, "variable": None, "last": 0.2},
    "analysis.stratified_bootstrap": {
        **{"statistic": fcbp.analysis.interquartile_mean, "values": SCORES, "draws": 20, "level": 0.9, "key": 0}
    },
    "agents.dqn": {**AGENT, "updates": 1, "memory": 20, "double": False},
    "agents.ppo": {**AGENT, "policy": None, "shared": False, "epochs": 1, "head_scale": 0.01},
    **{
        f"agents.continual_{name}": {**CHANGING, "environment": name, "head_scale": 1.0}
        for name in ("acrobot", "cartpole", "pendulum")
    },
    "agents.with_defaults": {"make": fcbp.agents.ppo, "numbers": {"step_size": 0.01}, "copies": 2},
    **{
        f"envs.{name}": {"time_limit": 10, "dtype": torch.float32}
        for name in ("acrobot", "cartpole", "continuous_mountain_car", "mountain_car", "pendulum")
    },
    "envs.check_physics": {"environment": CARTPOLE, "physics": CARTPOLE.physics},
    "envs.get": {"environment": "cartpole", "time_limit": 10},
    "envs.step_and_reset": {
        **{"environment": CARTPOLE, "key": KEY, "state": CARTPOLE.reset(KEY, CARTPOLE.physics)},
        **{"action": torch.tensor(1), "physics": CARTPOLE.physics},
    },
    "analysis.columns": {"cells": {"a": ["1"]}, "left": False},
    "analysis.compare": {"first": ONE, "second": RESULTS.isel(replacement_rate=1), "variable": None, "last": 0.2},
    "analysis.describe": {"setting": SETTING},
    "analysis.differences_table": {"differences": fcbp.analysis.compare(ONE, RESULTS.isel(replacement_rate=1))},
    "analysis.end_of_run": {"values": RESULTS["loss"], "last": 0.2},
    "analysis.experiment_of": {"results": RESULTS},
    "analysis.identity": {"chosen": ONE, "names": ["replacement_rate"]},
    "analysis.is_unset": {"value": 1},
    "analysis.label": {"results": RESULTS},
    "analysis.main_variable": {"results": RESULTS},
    "analysis.others": {"setting": SETTING},
    "analysis.ranking": {"results": RESULTS},
    "analysis.settings": {"results": RESULTS, "over": "seed"},
    "analysis.show": {"value": 1},
    "analysis.summary": {"results": RESULTS, "variable": None, "last": 0.2},
    "analysis.table": {"results": RESULTS},
    "analysis.times": {"results": RESULTS},
    "data.about": {"name": "mnist", "root": FOLDER.name},
    "data.check": {"name": "mnist", "root": FOLDER.name},
    "data.load": {"name": "digits", "root": None},
    "designs.linear": {"low": 0.0, "high": 1.0, "whole": False},
    "designs.listed": {"settings": [{"seed": 1}]},
    "designs.log": {"low": 0.1, "high": 1.0, "whole": False},
    "designs.random": {"number": 2, "key": 0, "seed": 0, "step_size": fcbp.designs.log(0.1, 1.0)},
    "designs.sobol": {"number": 2, "key": 0, "seed": 0, "step_size": fcbp.designs.log(0.1, 1.0)},
    "grid": {"seed": [0, 1]},
    "paired": {"seed": [0, 1]},
    "experiment.assemble": {"runs": [fcbp.Experiment()], "device": None},
    "experiment.build_program": {"runs": [fcbp.Experiment()], "device": None},
    "experiment.check": {"runs": [fcbp.Experiment()], "swept": ()},
    "experiment.from_yaml": {"text": "step_size: 0.1"},
    "experiment.get": {"name": "bit-flipping"},
    "experiment.lines": {"settings": {"a": 1}, "defaults": {"b": 1}, "sweep": {"c": [1]}},
    "experiment.load": {"path": YAML},
    "experiment.read": {"path": YAML},
    "experiment.surprises": {"runs": [fcbp.Experiment()], "steps": 10},
    "experiment.to_yaml": {"experiment": fcbp.Experiment(), "sweep": {"seed": (0, 1)}},
    "experiment.variables_of": {"metric": "age"},
    "find_units": {"model": NET, "example_inputs": X, **FIND, "method": "forward"},
    "units.explain": {"model": NET, "example_inputs": X, **FIND, "method": "forward"},
    "forward_with_features": {"model": NET, "units": UNITS, "method": "forward"},
    "init_state": {"units": UNITS, "params": PARAMS, "key": KEY},
    "reset_buffers": {"buffers": {}, "replaced": REPLACED, "units": UNITS},
    "reset_moments": {
        **{"opt_state": ADAM.init(PARAMS), "replaced": REPLACED, "units": UNITS, "params": PARAMS, "fresh": 0.0}
    },
    "select_and_reset": {
        **{"state": STATE, "params": PARAMS, "hyper": HYPER, "units": UNITS, "transfer_bias": False},
        **RESET,
    },
    "update_utility": {
        **{"state": STATE, "params": PARAMS, "features": FEATURES, "hyper": HYPER, "units": UNITS},
        **{"measure": "contribution", "grads": GRADS},
    },
    "initializers.checked": {"initializer": fcbp.initializers.lecun_normal},
    "initializers.draws_in_order": {"initializer": fcbp.initializers.lecun_normal},
    "initializers.gain": {"nonlinearity": "relu"},
    "initializers.get": {"initializer": "kaiming_uniform", "nonlinearity": "relu"},
    **{f"initializers.{name}": DRAW for name in fcbp.initializers.__all__ if name.endswith(("_normal", "_uniform"))},
    "learner.draw_params": {"model": NET, "key": KEY, "initializer": "kaiming_uniform", "nonlinearity": "relu"},
    "make_learner": {
        **{"model": NET, "units": UNITS, "loss": "mse", "optimizer": None, "method": None, "draw": None},
        **{"with_output": False, "schedule": None, "clip": None},
    },
    "loop.explain": {"step": a_step, "carry": torch.zeros(3), "xs": torch.zeros(4)},
    "loop.nested": {
        **{"step": lambda carry, x, fixed: (carry + 1, carry), "carry": torch.zeros(3), "xs": None, "fixed": ()},
        "length": 4,
    },
    "loop.source": {"step": a_step, "carry": torch.zeros(3), "xs": torch.zeros(4)},
    "loop.compiling": {"compile": False},
    "loop.prepare": {"step": a_step, "carry": torch.zeros(3), "xs": torch.zeros(4)},
    "loop.compiles": {"step": a_step, "carry": torch.zeros(3), "xs": torch.zeros(4)},
    "loop.is_out_of_memory": {"error": ValueError()},
    "loop.scan": {"step": a_step, "carry": torch.zeros(3), "xs": None, "length": 4, "compile": False, "backend": None},
    "losses.cross_entropy": LEARNED,
    "losses.get": {"loss": "mse"},
    "losses.mse": NUMBERS,
    "methods.cbp": {"measure": "contribution", "transfer_bias": False, **RESET},
    "methods.cbp_weights": {
        **{"utility": "gradient", "managed": "matrices", "maturity": "steps", "protect": False},
        **{"scale_by_moments": False, "selection": "lowest", **RESET, "initializer": "initial"},
    },
    "methods.ccbp": {"continuous": True, **CHOICE},
    "methods.chain": {"methods": fcbp.methods.l2()},
    "methods.chain_kinds": {"kinds": "l2"},
    "methods.cpr": {"transform": "sigmoid", "initializer": "kaiming_uniform"},
    "methods.head_reset": {"head": None},
    "methods.keep_gradients": {"state": (), "grads": GRADS, "params": PARAMS},
    "methods.l2_init": {"norm": "squared"},
    "methods.redo": CHOICE,
    "methods.regrama": CHOICE,
    "methods.shrink_perturb": {"event": "period", "noise": "normal", "managed": "all"},
    "methods.snr": {"edges": (1, 2, 3, 4), **CHOICE},
    "methods.swr": {"utility": "gradient", "pruning": "proportional", "initializer": "initial"},
    "methods.upgd": {"of": "weights", "scaling": "global", "maximum": "debiased"},
    "metrics.accuracy": LEARNED,
    "metrics.age_summary": {"state": STATE},
    "metrics.approximate_rank": {"matrix": MATRIX, "fraction": 0.9},
    "metrics.dead_units": {"activation": MATRIX},
    "metrics.dormant_units": {"activation": MATRIX, "threshold": 0.1},
    "metrics.effective_rank": {"matrix": MATRIX},
    "metrics.error": LEARNED,
    "metrics.gradient_magnitude": {"grads": GRADS},
    "metrics.mature_fraction": {"state": STATE, "hyper": HYPER},
    "metrics.plasticity": {"before": MATRIX, "after": MATRIX},
    "metrics.rank": {"matrix": MATRIX, "tolerance": None},
    "metrics.saturated_units": {"activation": MATRIX, "lower": 0.0, "upper": 1.0, "tolerance": 0.1},
    "metrics.spectrum": {"matrix": MATRIX},
    "metrics.squared_error": NUMBERS,
    "metrics.srank": {"matrix": MATRIX, "delta": 0.1},
    "metrics.stable_rank": {"matrix": MATRIX},
    "metrics.summarize": {"values": MATRIX},
    "metrics.units_reset": {"info": {"replaced": REPLACED}},
    "metrics.update_magnitude": {"before": PARAMS, "after": GRADS},
    "metrics.utility_summary": {"state": STATE, "hyper": HYPER},
    "metrics.weight_magnitude": {"params": PARAMS},
    "metrics.weights_reset": {"info": {"replaced": {n: p > 0 for n, p in PARAMS.items()}}},
    "nets.Actor": {"observation_size": 3, "action_size": 2, "hidden_sizes": (4,), "activation": "relu", "log_std": 0.0},
    "nets.ConvNet": {"classes": 2, "activation": "relu"},
    "nets.Critic": {"observation_size": 3, "hidden_sizes": (4,), "activation": "relu"},
    "nets.ResNet": {"blocks": (1, 1), "classes": 2, "width": 4, "norm": True},
    "nets.TransformerEncoder": {"width": 6, "depth": 1, "heads": 2, "hidden": None},
    "nets.VisionTransformer": {
        **{"classes": 2, "image": 8, "patch": 4, "channels": 1, "width": 6, "depth": 1, "heads": 2, "hidden": None}
    },
    "nets.cnn16": {"classes": 2, "image": (3, 16, 16), "activation": "relu"},
    "nets.lenet": {"classes": 2, "image": (3, 32, 32), "activation": "relu"},
    "nets.mlp": {"input_size": 3, "hidden_sizes": (4,), "output_size": 2, "activation": "relu", "norm": None},
    "optim.adam": {"betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.0},
    "optim.adamw": {"betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.0},
    "optim.cast_like": {"number": 0.1, "leaf": X},
    "optim.clip_by_global_norm": {"grads": GRADS, "max_norm": 1.0},
    "optim.constant": {"value": 1.0},
    "optim.cosine": SCHEDULES,
    "optim.global_norm": {"grads": GRADS},
    "optim.linear": SCHEDULES,
    "optim.moving_average": {"beta": 0.9, "old": X, "new": X},
    "optim.piecewise": {"boundaries": (10,), "values": (1.0, 0.1)},
    "optim.sgd": {"momentum": 0.0, "nesterov": False, "weight_decay": 0.0},
    "optim.warmup": {"after": 1.0, "warmup_steps": 10, "start": 0.0},
    "optim.warmup_cosine": {"warmup_steps": 10, "peak": 1.0, **SCHEDULES, "start": 0.0},
    "optim.warmup_linear": {"warmup_steps": 10, "peak": 1.0, **SCHEDULES, "start": 0.0},
    "random.bernoulli": {"key": KEY, "p": 0.5, "shape": (3,)},
    "random.bits": {"key": KEY, "shape": (3,)},
    "random.bits_at": {"key": KEY, "index": torch.arange(3)},
    "random.check_key": {"key": KEY},
    "random.fold_in": {"key": KEY, "data": 3},
    "random.key": {"seed": 0, "device": None},
    "random.normal": {"key": KEY, "shape": (3,), "dtype": torch.float32},
    "random.permutation": {"key": KEY, "n": 5},
    "random.randint": {"key": KEY, "shape": (3,), "minval": 0, "maxval": 5},
    "random.split": {"key": KEY, "num": 2},
    "random.uniform": {"key": KEY, "shape": (3,), "dtype": torch.float32, "minval": 0.0, "maxval": 1.0},
    "stateful.ContinualBackprop": {
        **{"model": NET, "optimizer": torch.optim.SGD(NET.parameters(), lr=0.1), "example_inputs": X, "method": "cbp"},
        **{"seed": 0, "units": None, "example_kwargs": None, "hyper": None, "process_group": None},
    },
    "streams.bit_flipping": {
        **{"input_bits": 20, "flipping_bits": 15, "flip_period": 100, "target_units": 10, "beta": 0.7},
        **{"redraw_all": False, "batch_size": 1, "task_signal": False},
    },
    "streams.class_pairs": {**TASKS, "classes_per_task": 2, "per_class": None, "new_order": False, "numbering": "task"},
    "streams.from_sampler": {"init": BIT.init, "sample": BIT.sample, "spec": BIT.spec, "task_length": None},
    "streams.growing_classes": {**TASKS, "increment": 1, "per_class": None, "numbering": "arrival"},
    "streams.growing_data": {**TASKS, "increment": 3, "sizes": (), "subset": None},
    "streams.hard_and_easy": {
        **{
            **TASKS,
            "hard": 1,
            "easy": 1,
            "per_class": None,
            "numbering": "class",
            "epochs": None,
            "task_length": 10,
            "batch_size": 2,
        }
    },
    "streams.permuted_inputs": {**TASKS, "subset": None, "first_task_permuted": True},
    "streams.permuted_labels": {**TASKS, "subset": None},
    "streams.random_labels": {**TASKS, "subset": None, "labels": "shuffled"},
    "sweep": {
        **{"experiment": "bit-flipping", "members": {"seed": [0]}, "steps": 4, "bin": 2, "out": None, "resume": False},
        **{"accept_changes": False, "compile": False, **PLACE, "members_at_once": None, "checkpoint_every": 60.0},
        "notes": None,
    },
    "resume": {"run": RUN, **PLACE, "checkpoint_every": 60.0, "accept_changes": False},
    "open": {"run": RUN},
    "tree.get": {"tree": PARAMS, "path": (next(iter(PARAMS)),)},
    "tree.replace": {"tree": PARAMS, "updates": {(next(iter(PARAMS)),): X}},
    "tree.show": {"path": ("a",)},
    "tuning.is_tuned": {"out": RUN},
    "tuning.sweeps_of": {"out": RUN},
    "tuning.tune": {
        **{"experiment": fcbp.Experiment(steps=4, bin=2), "settings": [{"step_size": 0.1}], "tune_seeds": 1},
        **{"report_seeds": 1, "variable": None, "over": 1.0, "apart": (), "out": None, "resume": False},
        **{"compile": False, "progress": False},
    },
    "units.check_features": {"units": UNITS, "features": FEATURES},
    "units.check_units": {"units": UNITS, "params": PARAMS, "buffers": None},
    "utility.get": {"measure": "contribution"},
    **{
        f"utility.{name}": {"group": GRADIENTS}
        for name in fcbp.utility.__all__
        if inspect.isfunction(getattr(fcbp.utility, name)) and name != "get"
    },
    "weights.check_hyperparams": {"hyper": fcbp.weights.Hyperparams()},
    "weights.constant": {**FROM_WEIGHTS, "value": 0.0},
    "weights.init_state": {"params": PARAMS, "key": KEY, "managed": "matrices", "maturity": "steps", "protect": False},
    "weights.normal": {**FROM_WEIGHTS, "std": 0.1},
    "weights.reset_moments": {
        "opt_state": ADAM.init(PARAMS),
        "replaced": {n: p > 0 for n, p in PARAMS.items()},
        "fresh": 0.0,
    },
    "weights.select_and_reset": {
        **{"state": WEIGHTS, "params": PARAMS, "hyper": fcbp.weights.Hyperparams(), "selection": "lowest", **RESET},
        "initializer": "initial",
    },
    "weights.uniform": {**FROM_WEIGHTS, "width": 0.1},
    "weights.update_utility": {
        **{"state": WEIGHTS, "params": PARAMS, "grads": GRADS, "hyper": fcbp.weights.Hyperparams()},
        **{"utility": "gradient", "moments": None},
    },
}
WITHOUT_ARGUMENTS = {
    *("data.default_root", "data.names", "methods.backprop", "methods.fresh", "methods.full_reset", "methods.l2"),
    *("methods.weight_decay", "experiment.setting_names"),
}
ELSEWHERE = {"loop.check_carry", "data.fetch", "nets.resnet18", "envs.build", "tuning.resume", "tuning.table"}
"""Of traces; uses the network; large, and a ``ResNet``; of functions, as each environment calls it; of a tuning."""

HEAVY = {
    *("find_units", "units.explain", "stateful.ContinualBackprop", "sweep", "loop.scan", "loop.nested", "data.check"),
    *("experiment.assemble", "experiment.build_program", "experiment.check", "nets.ResNet"),
    *("nets.TransformerEncoder", "nets.VisionTransformer", "agents.dqn", "agents.ppo", "agents.continual_acrobot"),
    *("agents.continual_cartpole", "agents.continual_pendulum", "analysis.stratified_bootstrap", "tuning.tune"),
}
"""Calls of which each takes long, or that go on for as long as they are told: other values are tried there."""
FEW = ("None", "a dict", "an object", "a model")

WRONG: dict[str, Any] = {
    "None": None,
    "a string": "nonsense",
    "an empty string": "",
    "a dict": {"a": 1},
    "a list": ["a", None],
    "NaN": float("nan"),
    "-1": -1,
    "1e400": float("1e400"),
    "400 digits": 10**400,
    "a huge size": 10**12,
    "0.5": 0.5,
    "huge sizes": (10**12, 10**12),
    "an object": object(),
    "a model": nn.Linear(2, 2),
    "a tensor": torch.zeros(2, 3),
    "a folder": Path(FOLDER.name),
    "a device": "meta",
    "mps": "mps",
    "xpu": "xpu",
    "a function": lambda *_: None,
    "true": True,
}


def public() -> dict[str, Callable[..., Any]]:
    """Every public function by name, once, and the classes with a call in the table."""
    found: dict[int, tuple[str, Callable[..., Any]]] = {}
    for name in fcbp.__all__:
        value = getattr(fcbp, name)
        if not inspect.ismodule(value):
            found.setdefault(id(value), (name, value))
    for name in fcbp.__all__:
        value = getattr(fcbp, name)
        if inspect.ismodule(value):
            for inner in value.__all__:
                try:
                    member = getattr(value, inner)
                except ImportError:  # it belongs to an extra that is not installed
                    continue
                found.setdefault(id(member), (f"{name}.{inner}", member))
    return {name: value for name, value in found.values() if inspect.isfunction(value) or name in CALLS}


def call(function: Callable[..., Any], given: dict[str, Any]) -> Any:
    """Call it, with the arguments that have no name before."""
    kinds = inspect.signature(function).parameters
    variadic = [name for name, p in kinds.items() if p.kind is p.VAR_POSITIONAL]
    if not variadic:
        return function(**given)
    before = [given[name] for name in list(kinds)[: list(kinds).index(variadic[0])]]
    rest = {name: v for name, v in given.items() if name not in variadic and name not in list(kinds)[: len(before)]}
    return function(*before, given[variadic[0]], **rest)


def outcome(run: Callable[[], Any], argument: str, value: Any) -> str:
    """What came of a call with a wrong value; a file that is not there is an ``OSError`` that names the file."""
    try:
        run()
    except ValueError as error:
        return "names it" if argument in str(error) else f"ValueError without the name: {error}"
    except FileNotFoundError as error:
        return "no such file" if str(value) in str(error) else f"FileNotFoundError without the file: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "accepted"


with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    fcbp.sweep("bit-flipping", {"seed": [0]}, steps=4, bin=2, out=RUN, progress=False, compile=False)

__all__ = ["CALLS", "ELSEWHERE", "FEW", "HEAVY", "WITHOUT_ARGUMENTS", "WRONG", "call", "outcome", "public"]
