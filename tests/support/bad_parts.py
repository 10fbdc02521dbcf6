"""Parts of an experiment and programs, each wrong in one way that its name says; `test_parts.py` tries them all."""

import random

import numpy
import torch

import fcbp

SPEC = fcbp.streams.Spec((3,), 2)
HITS = []


def _init(key):
    return {"key": key}


def _examples(state, length, batch=4):
    keys = fcbp.random.split(state["key"])
    x = fcbp.random.normal(keys[0], (length, batch, 3))
    return {"key": keys[1]}, (x, x[..., :2])


def _stream(init=_init, sample=_examples, spec=SPEC, **more):
    return fcbp.streams.from_sampler(init, sample, spec=spec, **more)


def _with_examples(change):
    def sample(state, length):
        state, batches = _examples(state, length)
        return state, change(*batches)

    return sample


def stream_that_is_right(width=1):
    return _stream()


def right_stream_without_options():
    return _stream()


def classes_that_are_right():
    spec = fcbp.streams.Spec((3,), 2, "classification")
    sample = _with_examples(lambda x, y: (x, (y[..., 0] > 0).long()))
    return _stream(sample=sample, spec=spec, held_out=lambda state: (torch.zeros(5, 3), torch.zeros(5).long()))


# --- streams --------------------------------------------------------------------------------------------


def stream_that_needs(length):
    return _stream()


def stream_that_raises():
    raise RuntimeError("no data today")


def stream_that_raises_a_value_error():
    raise ValueError("no data today")


def stream_that_is_none():
    return None


def stream_whose_init_raises():
    return _stream(init=lambda key: {}["key"])


def stream_whose_sample_raises():
    return _stream(sample=lambda state, length: {}["key"])


def stream_whose_sample_is_no_pair():
    return _stream(sample=lambda state, length: torch.zeros(length, 4, 3))


def stream_whose_sample_gives_one_tensor():
    return _stream(sample=lambda state, length: (state, torch.zeros(length, 4, 3)))


def stream_whose_sample_gives_numbers():
    return _stream(sample=_with_examples(lambda x, y: (x, 1.0)))


def stream_without_a_leading_axis():
    return _stream(sample=_with_examples(lambda x, y: (x[0], y[0])))


def stream_of_other_shapes():
    return _stream(sample=_with_examples(lambda x, y: (x[..., :2], y)))


def stream_of_other_targets():
    return _stream(sample=_with_examples(lambda x, y: (x, y[..., :1])))


def stream_of_batches_that_differ():
    return _stream(sample=_with_examples(lambda x, y: (x, y[:, :2])))


def stream_of_float64():
    return _stream(sample=_with_examples(lambda x, y: (x.double(), y)))


def stream_of_float64_targets():
    return _stream(sample=_with_examples(lambda x, y: (x, y.double())))


def stream_of_classes_as_numbers():
    return _stream(
        sample=_with_examples(lambda x, y: (x, y[..., 0])), spec=fcbp.streams.Spec((3,), 2, "classification")
    )


def stream_of_int32_classes():
    sample = _with_examples(lambda x, y: (x, (y[..., 0] > 0).int()))
    return _stream(sample=sample, spec=fcbp.streams.Spec((3,), 2, "classification"))


def stream_of_classes_out_of_range():
    sample = _with_examples(lambda x, y: (x, (y[..., 0] > 0).long() + 1))
    return _stream(sample=sample, spec=fcbp.streams.Spec((3,), 2, "classification"))


def stream_whose_state_changes_shape():
    def sample(state, length):
        _, batches = _examples({"key": state["key"].flatten()[0]}, length)
        return {"key": torch.stack([state["key"].flatten()[0]] * 2)}, batches

    return _stream(sample=sample)


def stream_whose_state_is_no_tensor():
    return _stream(init=lambda key: {"key": key, "step": 0}, sample=lambda s, n: (s, _examples(s, n)[1]))


def stream_that_draws_globally():
    return _stream(sample=lambda state, n: (state, (torch.randn(n, 4, 3), torch.zeros(n, 4, 2))))


def stream_that_draws_from_numpy():
    def sample(state, n):
        numpy.random.rand()  # noqa: NPY002
        return _examples(state, n)

    return _stream(sample=sample)


def stream_whose_init_draws_globally():
    def init(key):
        random.random()
        return {"key": key}

    return _stream(init=init)


def stream_that_changes_its_state():
    def sample(state, n):
        state["key"] += 1
        return state, _examples(state, n)[1]

    return _stream(sample=sample)


def stream_that_counts_outside():
    def sample(state, n):
        HITS.append(n)
        state, (x, y) = _examples(state, n)
        return state, (x + len(HITS), y)

    return _stream(sample=sample)


def stream_that_branches():
    def sample(state, n):
        if state["key"] > 0:
            return _examples(state, n)
        return _examples(state, n)

    return _stream(sample=sample)


def stream_whose_held_out_raises():
    return _stream(held_out=lambda state: {}["x"])


def stream_whose_held_out_is_none():
    return _stream(held_out=lambda state: None)


def stream_whose_held_out_is_of_other_shapes():
    return _stream(held_out=lambda state: (torch.zeros(5, 4), torch.zeros(5, 2)))


def stream_whose_held_out_is_of_float64():
    return _stream(held_out=lambda state: (torch.zeros(5, 3).double(), torch.zeros(5, 2)))


def stream_whose_held_out_draws():
    return _stream(held_out=lambda state: (torch.randn(5, 3), torch.zeros(5, 2)))


def stream_with_an_option_steps(steps=3):
    return _stream()


def stream_with_an_option_task(task=3):
    return _stream()


# --- networks -------------------------------------------------------------------------------------------


def network_that_is_right(spec, width=4):
    return torch.nn.Sequential(torch.nn.Linear(3, width), torch.nn.ReLU(), torch.nn.Linear(width, 2))


def network_of_nothing():
    return network_that_is_right(None)


def network_that_needs(spec, width):
    return network_that_is_right(spec, width)


def network_that_raises(spec):
    raise RuntimeError("no weights today")


def network_that_raises_a_value_error(spec):
    raise ValueError("no weights today")


def network_that_is_none(spec):
    return None


def network_that_is_a_class(spec):
    return torch.nn.Linear


def network_without_parameters(spec):
    return torch.nn.Flatten()


def network_of_other_inputs(spec):
    return torch.nn.Linear(4, 2)


def network_of_other_outputs(spec):
    return torch.nn.Linear(3, 3)


def network_of_pairs(spec):
    return Pairs()


def network_of_float64(spec):
    return network_that_is_right(spec).double()


def network_that_draws_in_its_forward(spec):
    return Noisy()


def network_that_changes_its_inputs(spec):
    return InPlace()


class Pairs(torch.nn.Linear):
    def __init__(self):
        super().__init__(3, 2)

    def forward(self, x):
        return super().forward(x), x


class Noisy(torch.nn.Linear):
    def __init__(self):
        super().__init__(3, 2)

    def forward(self, x):
        return super().forward(x + torch.randn(3))


class InPlace(torch.nn.Linear):
    def __init__(self):
        super().__init__(3, 2)

    def forward(self, x):
        x += 1
        return super().forward(x)


network_that_is_a_model = network_that_is_right(None)


# --- losses and metrics ---------------------------------------------------------------------------------


def loss_that_is_right(output, targets):
    return (output - targets).pow(2).mean()


def loss_of_one(output):
    return output.mean()


def loss_of_three(output, targets, weight):
    return output.mean()


def loss_that_raises(output, targets):
    raise RuntimeError("no loss today")


def loss_of_each(output, targets):
    return (output - targets).pow(2).mean(-1)


def loss_that_is_a_float(output, targets):
    return 1.0


def loss_that_is_whole(output, targets):
    return (output > targets).sum()


def loss_that_draws(output, targets):
    return output.mean() * torch.rand(())


def loss_that_changes_its_arguments(output, targets):
    return (output - targets.add_(1)).pow(2).mean()


def loss_that_reads_numbers(output, targets):
    return output.mean() * output.detach().mean().item()


def step(output, targets):
    return output.mean()


def width(output, targets):
    return output.mean()


def right_measure(group):
    return torch.stack([w.abs().flatten(0, -3).amax((0, -1)) for w in group.outgoing]).amax(0)


# --- optimisers and methods -----------------------------------------------------------------------------


def optimizer_that_needs(momentum):
    return fcbp.optim.sgd(momentum=momentum)


def optimizer_that_raises():
    raise RuntimeError("no optimiser today")


def optimizer_that_is_none():
    return None


def optimizer_whose_init_raises():
    return fcbp.optim.sgd()._replace(init=lambda params: {}["x"])


def optimizer_whose_update_raises():
    return fcbp.optim.sgd()._replace(update=lambda *arguments, **more: {}["x"])


def optimizer_whose_update_is_no_pair():
    return fcbp.optim.sgd()._replace(update=lambda grads, state, params, **more: params)


def optimizer_that_draws():
    sgd = fcbp.optim.sgd()

    def update(grads, state, params, **more):
        return sgd.update({n: g + torch.randn(()) for n, g in grads.items()}, state, params, **more)

    return sgd._replace(update=update)


def method_that_needs(rate):
    return fcbp.methods.METHODS["bp"].build()


def method_that_raises():
    raise RuntimeError("no method today")


def method_that_is_none():
    return None


def method_whose_init_raises():
    return fcbp.methods.METHODS["bp"].build()._replace(init=lambda *arguments: {}["x"])


def maker_that_is_no_program(size=3):
    return size


def maker_that_raises(size=3):
    raise RuntimeError("no program today")


a_number = 3
a_text = "text"
