"""The tasks once more, in NumPy: batch after batch and task after task, as the papers tell of them.

Nothing here is taken from ``fcbp.streams``: words are Python's integers modulo 2^64, walks are loops, and the order of
a pass is the list of where each position goes.
"""

import itertools
import math

import numpy as np

GAMMA, FOLD = 0x9E3779B97F4A7C15, 0xD1B54A32D192ED03
ALL = (1 << 64) - 1
ORDER, CHANGE, SUBSET, AUGMENT, MIXTURE = range(5)
MOST_TASKS = 100


def mix(x, first, second, shifts):
    x = ((x ^ (x >> shifts[0])) * first) & ALL
    x = ((x ^ (x >> shifts[1])) * second) & ALL
    return x ^ (x >> shifts[2])


def word(key, index):
    """The word of SplitMix64 at a place."""
    return mix((key + (index + 1) * GAMMA) & ALL, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB, (30, 27, 31))


def fold_in(key, data):
    return mix(((key ^ FOLD) + data * GAMMA) & ALL, 0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53, (33, 33, 33))


def permutation(key, n):
    signed = [w - (1 << 64) if w >> 63 else w for w in (word(key, i) for i in range(n))]
    return sorted(range(n), key=lambda i: signed[i])


def bases(size):
    root = math.isqrt(size)
    least = min(max(2, root // 8), max(size - 1, 1))
    best = None
    for low in range(max(root, least), least - 1, -1):
        if best is None or -size % low < best[0]:
            best = -size % low, low
    low = best[1]
    return low, -(-size // low), 10 if size > 64 else 24


def shuffled(key, number, size, rounds=None):
    """Where the permutation of that number takes 0, 1, 2, ...; tasks of several sizes share their most rounds."""
    low, high, own_rounds = bases(size)
    rounds = rounds or own_rounds

    def once(position):
        digits = [position // high, position % high]
        for i in range(rounds):
            mine, other, base = (0, 1, low) if i % 2 == 0 else (1, 0, high)
            draw = ((word(key, (number * rounds + i) * high + digits[other]) >> 32) * base) >> 32
            digits[mine] = (digits[mine] + draw) % base
        return digits[0] * high + digits[1]

    result = []
    for position in range(size):
        position = once(position)
        while position >= size:  # walk on until it is a position again
            position = once(position)
        result.append(position)
    return result


def batches(key, task_sizes, *, batch_size, epochs=1, task_length=None, pass_length=None, reshuffle=True):
    """``(task, batch of the task, positions in the task)`` of batch after batch; ``task_sizes`` yields sizes."""
    own = fold_in(key, ORDER)
    task_sizes = list(itertools.islice(task_sizes, MOST_TASKS))
    rounds = max(bases(size)[2] for size in task_sizes)
    for task, size in enumerate(task_sizes):
        in_a_pass = pass_length or size // batch_size
        for t in range(task_length or epochs * in_a_pass):
            turn, at = divmod(t, in_a_pass)
            if at == 0 or t == 0:
                order = shuffled(own, (task << 20) + (turn if reshuffle else 0), size, rounds)
            yield task, t, order[at * batch_size : (at + 1) * batch_size]


def images(array, scale=255, mean=0.0, sd=1.0):
    x = array.astype(np.float32) / np.float32(scale)
    mean, sd = (np.asarray(v, np.float32).reshape(-1, *[1] * (x.ndim - 2)) for v in (mean, sd))
    return (x - mean) / sd


def of_class(targets, c, per_class):
    return [row for row, target in enumerate(targets) if target == c][:per_class]


def augmented(image, key, number, flip, crop, rotation):
    """One image ``(channels, height, width)``, already normalised: flip, reflect-padded crop, rotation."""
    own = fold_in(key, AUGMENT)
    draws = [word(own, number * 4 + i) >> 32 for i in range(4)]
    _, height, width = image.shape
    if flip and draws[0] >> 31:
        image = image[:, :, ::-1]
    if crop:
        padded = np.pad(image, ((0, 0), (crop, crop), (crop, crop)), mode="reflect")
        y, x = ((draws[i] * (2 * crop + 1)) >> 32 for i in (1, 2))
        image = padded[:, y : y + height, x : x + width]
    if rotation != (0.0, 0.0):
        low, high = np.radians(rotation)
        angle = low + (high - low) * ((draws[3] * (1 << 24)) >> 32) / 2**24
        turned = np.zeros_like(image)
        for i in range(height):
            for j in range(width):
                # The place turned back about the middle; rows count downwards, so that + is counter-clockwise.
                right, down = j - (width - 1) / 2, i - (height - 1) / 2
                x = right * np.cos(angle) - down * np.sin(angle) + (width - 1) / 2
                y = right * np.sin(angle) + down * np.cos(angle) + (height - 1) / 2
                x, y = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
                if 0 <= x < width and 0 <= y < height:
                    turned[:, i, j] = image[:, y, x]
        image = turned
    return image
