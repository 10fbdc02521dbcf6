"""Small data sets and the streams over them."""

import numpy as np
import torch

import fcbp
from fcbp import data, streams


def made(n=47, classes=5, shape=(1, 4, 4), seed=0, test=23):
    """A data set of made-up images; classes have different numbers of examples."""
    rng = np.random.default_rng(seed)
    parts = [
        data.Split(
            torch.from_numpy(rng.integers(0, 256, (size, *shape), dtype=np.uint8)),
            torch.from_numpy(rng.permutation(np.arange(size) % classes)),
        )
        for size in (n, test)
    ]
    channels = shape[0]
    published = data.Normalisation(tuple(0.1 + 0.1 * i for i in range(channels)), (0.3,) * channels)
    return data.Dataset("made", *parts, normalisation=published)


MADE = made()


COLOUR = made(40, 4, (3, 6, 6), seed=1)


STREAMS = {
    "permuted_inputs": lambda **o: streams.permuted_inputs(MADE, **{"batch_size": 3, **o}),
    "permuted_inputs, first as it is": lambda **o: streams.permuted_inputs(
        MADE, **{"batch_size": 2, "subset": 31, "first_task_permuted": False, "epochs": 2, "gradual": 5, **o}
    ),
    "permuted_inputs, colours": lambda **o: streams.permuted_inputs(
        COLOUR, **{"batch_size": 4, "normalise": "published", "flatten": False, "task_length": 7, **o}
    ),
    "permuted_labels": lambda **o: streams.permuted_labels(MADE, **{"batch_size": 1, "task_length": 13, **o}),
    "permuted_labels, gradual": lambda **o: streams.permuted_labels(
        MADE, **{"batch_size": 3, "subset": 30, "gradual": 6, "reshuffle": False, "epochs": 2, **o}
    ),
    "random_labels": lambda **o: streams.random_labels(MADE, **{"batch_size": 4, "subset": 21, "epochs": 3, **o}),
    "random_labels, uniform": lambda **o: streams.random_labels(
        MADE, **{"batch_size": 4, "labels": "uniform", "gradual": 4, **o}
    ),
    "class_pairs": lambda **o: streams.class_pairs(MADE, **{"batch_size": 5, "epochs": 2, **o}),
    "class_pairs, augmented": lambda **o: streams.class_pairs(
        COLOUR,
        **{
            "batch_size": 6,
            "new_order": True,
            "flip": True,
            "crop": 2,
            "rotation": (0.0, 15.0),
            "gradual": 2,
            "normalise": "published",
            **o,
        },
    ),
    "growing_classes": lambda **o: streams.growing_classes(MADE, **{"batch_size": 4, "increment": 2, "epochs": 2, **o}),
    "growing_classes, gradual": lambda **o: streams.growing_classes(
        MADE, **{"batch_size": 4, "increment": 2, "task_length": 9, "gradual": 3, "numbering": "class", **o}
    ),
    "growing_data": lambda **o: streams.growing_data(MADE, **{"batch_size": 3, "increment": 10, "epochs": 2, **o}),
    "growing_data, two phases": lambda **o: streams.growing_data(
        MADE, **{"batch_size": 3, "sizes": (20, 40), "gradual": 2, "normalise": "symmetric", **o}
    ),
    "hard_and_easy": lambda **o: streams.hard_and_easy(
        MADE, **{"batch_size": 2, "hard": 3, "easy": 1, "task_length": 11, **o}
    ),
    "hard_and_easy, epochs": lambda **o: streams.hard_and_easy(
        MADE, **{"batch_size": 2, "hard": 2, "easy": 1, "epochs": 2, "numbering": "task", **o}
    ),
}


def same(a, b):
    one, other = (torch.utils._pytree.tree_leaves(tree) for tree in (a, b))
    assert len(one) == len(other)
    for x, y in zip(one, other, strict=True):
        assert x.dtype == y.dtype
        assert torch.equal(x, y)


KEY = fcbp.random.key(11)


X, Y = MADE.train.inputs.numpy(), MADE.train.targets.numpy()


TEST_X, TEST_Y = MADE.test.inputs.numpy(), MADE.test.targets.numpy()
