"""A problem of a user's own: digits in another order of pixels for each task, a network, a metric, an experiment."""

import sklearn.datasets
import torch

import fcbp

IMAGES, LABELS = (torch.as_tensor(a) for a in sklearn.datasets.load_digits(return_X_y=True))
IMAGES, LABELS, TASK = IMAGES.float() / 16, LABELS.long(), 10


def permuted_digits(batch_size=1, task_length=TASK):
    """Digits whose pixels are permuted anew for each task.

    Args:
        batch_size: images of a step
        task_length: steps of a task
    """

    def init(key):
        return {"key": key, "step": torch.zeros_like(key)}

    def examples(state, steps):
        tasks = (steps // task_length).unsqueeze(-1) * 64 + torch.arange(64)
        order = fcbp.random.bits_at(fcbp.random.fold_in(state["key"], 0), tasks).argsort(-1)
        places = steps.unsqueeze(-1) * batch_size + torch.arange(batch_size)
        chosen = fcbp.random.bits_at(fcbp.random.fold_in(state["key"], 1), places) % len(LABELS)
        return IMAGES[chosen].gather(-1, order.unsqueeze(-2).expand(*chosen.shape, 64)), LABELS[chosen]

    def sample(state, length):
        steps = state["step"] + torch.arange(length)
        return {**state, "step": state["step"] + length}, examples(state, steps)

    def held_out(state):
        return IMAGES[:50], LABELS[:50]

    spec = fcbp.streams.Spec((64,), 10, "classification")
    return fcbp.streams.from_sampler(init, sample, spec=spec, held_out=held_out, task_length=task_length)


def network(spec, width=8):
    """Two hidden layers.

    Args:
        width: units of a layer
    """
    sizes = [(spec.input_shape[0], width), (width, width), (width, spec.outputs)]
    layers = [module for size in sizes for module in (torch.nn.Linear(*size), torch.nn.ReLU())]
    return torch.nn.Sequential(*layers[:-1])


def margin(output, targets):
    """How far the right class is ahead of the mean."""
    return (output.gather(-1, targets.unsqueeze(-1)).squeeze(-1) - output.mean(-1)).mean()


experiment = fcbp.Experiment(
    stream=permuted_digits,
    network=network,
    optimizer="adam",
    step_size=1e-3,
    metrics=("accuracy", margin, "test_accuracy", "dead_units"),
    steps=100,
    bin="task",
)


def _logistic(key, settings):
    return fcbp.random.uniform(key)


def _grow(population, settings):
    population = settings["growth"] * population * (1 - population)
    return population, {"population": population, "high": population > 0.5}


logistic = fcbp.Program(_logistic, _grow, numbers={"growth": 3.5})
