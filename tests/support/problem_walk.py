"""The named problems once more, in NumPy: data, a network of one hidden layer, its optimiser, and events between tasks.

Batches come from the walks of :mod:`task_walk`; gradients are written out. Nothing is taken from ``fcbp``.
"""

import itertools
from typing import Any, NamedTuple

import numpy as np
import task_walk


class Made(NamedTuple):
    """Images ``(n, channels, height, width)`` as uint8, their targets, and the published mean and deviation."""

    x: Any
    y: Any
    test_x: Any
    test_y: Any
    mean: Any
    sd: Any


class Batch(NamedTuple):
    """A batch and its place."""

    task: int
    epoch: int
    ends_pass: bool
    ends_task: bool
    x: Any
    y: Any


def pixels(made, images, normalise="unit"):
    mean, sd = {"unit": (0, 1), "symmetric": (0.5, 0.5), "published": (made.mean, made.sd)}[normalise]
    return task_walk.images(images, 255, mean, sd)


def placed(positions, sizes, batch, *, epochs=1, task_length=None, pass_length=None):
    """``positions`` of :func:`task_walk.batches`, each with its place in its task."""
    sizes = iter(sizes)
    size, now = None, None
    for task, t, rows in positions:
        if task != now:
            now, size = task, next(sizes)
        in_a_pass = pass_length or size // batch
        length = task_length or epochs * in_a_pass
        last = t + 1 == length
        yield task, t // in_a_pass, last or (t + 1) % in_a_pass == 0, last, rows


def of_classes(targets, classes, each, skip=0):
    return [(row, j) for j, c in enumerate(classes) for row in task_walk.of_class(targets, c, skip + each)[skip:]]


class Walk:
    """A named problem's batches, test sets and validation sets, task after task.

    Args:
        kind: the stream's name.
        made: the data.
        word: the key's word.
        options: the stream's settings.
    """

    def __init__(self, kind, made, word, options):
        self.kind, self.made, self.word, self.options = kind, made, word, options
        self.changed = task_walk.fold_in(word, task_walk.CHANGE)
        order = task_walk.shuffled(task_walk.fold_in(word, task_walk.SUBSET), 0, len(made.y))
        subset = options.get("subset")
        drawn = subset is not None or kind == "growing-data"
        self.rows = order[: subset or len(order)] if drawn else list(range(len(made.y)))
        self.rest = order[len(self.rows) :]
        self.classes = int(made.y.max()) + 1
        self.each, self.test_each = (int(np.bincount(y, minlength=self.classes).min()) for y in (made.y, made.test_y))
        self.skip = options.get("validation", 0)
        self.each = options.get("per_class") or self.each - self.skip

    def order(self, number, size):
        return task_walk.permutation(task_walk.fold_in(self.changed, number), size)

    def size(self, task):
        """Examples of a task."""
        if self.kind == "growing-data":
            return min(self.options["increment"] * (task + 1), len(self.rows))
        if self.kind in ("class-pairs", "growing-classes", "hard-and-easy"):
            return self.each * len(self.classes_of(task))
        return len(self.rows)

    def classes_of(self, task):
        if self.kind == "class-pairs":
            return self.order(0, self.classes)[2 * (task % (self.classes // 2)) :][:2]
        if self.kind == "growing-classes":
            return self.order(0, self.classes)[: self.options["increment"] * (task + 1)]
        hard, easy = self.options["hard"], self.options["easy"]
        first = task // 2 % (self.classes // (hard + easy)) * (hard + easy) + task % 2 * hard
        return self.order(0, self.classes)[first : first + (easy if task % 2 else hard)]

    def labelled(self, task, rows, targets, images):
        """Inputs and targets of a task's examples, before they are changed at random."""
        x, y = pixels(self.made, images[rows], self.options["normalise"]), targets[rows]
        if self.kind == "permuted-inputs":
            x = x.reshape(len(x), -1)
            is_first = task == 0 and not self.options["first_task_permuted"]
            x = x if is_first else x[:, self.order(task, x.shape[1])]
        if self.kind == "permuted-labels":
            y = np.array(self.order(task, self.classes))[y]
        return x, y

    def numbered(self, task, pairs, targets, images):
        """The same of examples that are ``(row, place of the class in the task)``."""
        rows, places = (list(part) for part in zip(*pairs, strict=True))
        classes = self.classes_of(task)
        x, _ = self.labelled(task, rows, targets, images)
        return x, np.array([classes[j] if self.kind == "hard-and-easy" else j for j in places])

    def examples(self, task, positions):
        made = self.made
        if self.kind in ("class-pairs", "growing-classes", "hard-and-easy"):
            pairs = of_classes(made.y, self.classes_of(task), self.each, self.skip)
            return self.numbered(task, [pairs[p] for p in positions], made.y, made.x)
        x, y = self.labelled(task, [self.rows[p] for p in positions], made.y, made.x)
        if self.kind == "random-labels":
            other = task_walk.shuffled(self.changed, task, len(self.rows))
            y = made.y[[self.rows[other[p]] for p in positions]]
        return x, y

    def test(self, task, most):
        """The test set of a task, ``most`` of the largest."""
        made = self.made
        if self.kind == "growing-data" and self.options["test_on"] == "rest":
            return self.labelled(task, self.rest, made.y, made.x)
        if self.kind in ("class-pairs", "growing-classes", "hard-and-easy"):
            pairs = of_classes(made.test_y, self.classes_of(task), self.test_each)
            return self.numbered(task, [pairs[i * len(pairs) // most] for i in range(most)], made.test_y, made.test_x)
        return self.labelled(task, list(range(len(made.test_y))), made.test_y, made.test_x)

    def validation(self, task, most):
        pairs = of_classes(self.made.y, self.classes_of(task), self.skip)
        return self.numbered(task, [pairs[i * len(pairs) // most] for i in range(most)], self.made.y, self.made.x)

    def __iter__(self):
        o = self.options
        form = {name: o[name] for name in ("task_length", "pass_length", "epochs")}
        form["epochs"] = form["epochs"] or 1
        sizes = [self.size(task) for task in range(60)]
        number = 0
        positions = task_walk.batches(self.word, sizes, batch_size=o["batch_size"], **form)
        for task, epoch, ends_pass, ends_task, rows in placed(positions, sizes, o["batch_size"], **form):
            x, y = self.examples(task, rows)
            if o["flip"] or o["crop"]:
                changes = (o["flip"], o["crop"], tuple(o["rotation"]))
                x = np.stack([task_walk.augmented(image, self.word, number + i, *changes) for i, image in enumerate(x)])
            number += len(rows)
            yield Batch(task, epoch, ends_pass, ends_task, x.reshape(len(x), -1), y)


def outputs(params, x):
    hidden = np.maximum(x @ params[0].T + params[1], 0)
    return hidden, hidden @ params[2].T + params[3]


def gradients(params, x, y, classes):
    """Of the mean cross-entropy over the first ``classes`` outputs."""
    hidden, logits = outputs(params, x)
    logits = logits[:, :classes]
    share = np.exp(logits - logits.max(1, keepdims=True))
    share /= share.sum(1, keepdims=True)
    share[np.arange(len(y)), y] -= 1
    out = np.zeros((len(y), len(params[3])))
    out[:, :classes] = share / len(y)
    back = (out @ params[2]) * (hidden > 0)
    return [back.T @ x, back.sum(0), out.T @ hidden, out.sum(0)]


class SGD:
    def __init__(self, momentum=0.0, weight_decay=0.0):
        self.momentum, self.weight_decay, self.buffers = momentum, weight_decay, [0.0] * 4

    def step(self, params, grads, rate):
        grads = [g + self.weight_decay * p for g, p in zip(grads, params, strict=True)]
        self.buffers = [self.momentum * b + g for b, g in zip(self.buffers, grads, strict=True)]
        return [p - rate * b for p, b in zip(params, self.buffers, strict=True)]


class Adam:
    def __init__(self):
        self.count, self.mean, self.square = 0, [0.0] * 4, [0.0] * 4

    def step(self, params, grads, rate):
        self.count += 1
        self.mean = [0.9 * m + 0.1 * g for m, g in zip(self.mean, grads, strict=True)]
        self.square = [0.999 * v + 0.001 * g * g for v, g in zip(self.square, grads, strict=True)]
        moved = zip(params, self.mean, self.square, strict=True)
        one, two = 1 - 0.9**self.count, 1 - 0.999**self.count
        return [p - rate * (m / one) / (np.sqrt(v / two) + 1e-8) for p, m, v in moved]


def learn(walk, params, steps, *, step_size, optimizer, fresh=None):
    """The parameters after ``steps`` batches, and the online accuracy of each.

    Args:
        walk: a :class:`Walk`.
        params: weights and biases of the hidden layer, and of the output layer, as they are drawn.
        steps: how many batches.
        step_size: of the optimiser.
        optimizer: a function that makes one.
        fresh: a function ``task -> params`` of the draws that are added before a task.
    """
    o, moments = walk.options, optimizer()
    right, best, best_accuracy = [], None, 0.0

    def begin(task, params, moments):
        if fresh is not None:
            shrunk = zip(params, fresh(task), strict=True)
            params = [o["shrink_before"] * p + o["perturb_before"] * new for p, new in shrunk]
        if o["zero_head"]:
            params = [*params[:2], params[2] * 0, params[3] * 0]
        return params, optimizer() if o["fresh_moments"] else moments

    params, moments = begin(0, params, moments)
    best = params
    for batch in itertools.islice(walk, steps):
        seen = len(walk.classes_of(batch.task)) if o["cut_unseen"] else len(params[3])
        rate = step_size * o["milestone_factor"] ** sum(batch.epoch >= mark for mark in o["milestones"])
        right.append(float((outputs(params, batch.x)[1][:, :seen].argmax(1) == batch.y).mean()))
        params = moments.step(params, gradients(params, batch.x, batch.y, seen), rate)
        if o["early_stopping"] and batch.ends_pass:
            x, y = walk.validation(batch.task, walk.skip * walk.classes)
            accuracy = float((outputs(params, x.reshape(len(x), -1))[1][:, :seen].argmax(1) == y).mean())
            if accuracy > best_accuracy:
                best, best_accuracy = params, accuracy
            if batch.ends_task:
                params, best_accuracy = best, 0.0
        if batch.ends_task:
            params, moments = begin(batch.task + 1, params, moments)
    return params, right
