"""Inputs from a data set: taken by number inside the loop, augmented and normalised, and no others."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fcbp import random
from fcbp.data import Dataset, Normalisation, Split
from fcbp.kinds import Within, fits, shown

__all__ = ["Augmentation", "Normalise", "Pixels", "constants", "pick", "to_dataset"]

Angle = Annotated[float, Within(-360, 360, "an angle in degrees, of -360 to 360")]
Normalise = Literal["unit", "symmetric", "published"]
DRAWS = 4
"""Random words of an example's augmentation: flip, two of the crop, angle."""


def to_dataset(data: object) -> Dataset:
    """Return a data set as it is, or made of arrays.

    Args:
        data: a :class:`fcbp.data.Dataset`; or ``(inputs, targets)``, or ``(inputs, targets, test_inputs,
            test_targets)``, tensors or NumPy arrays.

    Raises:
        ValueError: it is neither, or what :class:`fcbp.data.Dataset` refuses; or a number is NaN or infinite.
    """
    if isinstance(data, Dataset):
        return data
    if not isinstance(data, (tuple, list)) or len(data) not in (2, 4):
        what = f"{type(data).__name__} of {len(data)}" if isinstance(data, (tuple, list)) else repr(data)
        raise ValueError(f"data is {what}; expected a fcbp.data.Dataset, or inputs and targets, or these and a test's")
    splits = [_split(*data[i : i + 2]) for i in range(0, len(data), 2)]
    pixels = splits[0].inputs.dtype == torch.uint8
    test = splits[1] if len(splits) == 2 else splits[0].none()
    return Dataset("data", splits[0], test, normalisation=Normalisation(scale=255.0 if pixels else 1.0))


def _split(inputs: Any, targets: Any) -> Split:
    x, y = (torch.from_numpy(part) if isinstance(part, np.ndarray) else part for part in (inputs, targets))
    for name, part in (("inputs", x), ("targets", y)):
        if not isinstance(part, Tensor):
            raise ValueError(f"data: {name} are {type(part).__name__}; expected a tensor or an array")
    if x.is_floating_point():
        if not x.isfinite().all():
            raise ValueError("data: inputs have numbers that are NaN or infinite")
        x = x.to(torch.float32)
    if not y.is_floating_point() and y.dtype != torch.bool:
        y = y.to(torch.int64)
    return Split(x, y)


def constants(tensors: dict[str, Tensor], flat: tuple[str, ...] = ()) -> Callable[[torch.device], dict[str, Tensor]]:
    """Make a function that gives the tensors on a device, ``constants(tensors)(device)``; each device has one copy,
    which all members read.

    A device other than the CPU is to be asked for once before a program is traced: a copy made by a program is its own.

    Args:
        tensors: by name.
        flat: of these there is a view of one axis too, by the name with ``" flat"`` after it. Such a view is made
            here because lanes make a copy of one that is part of the program.
    """
    copies: dict[torch.device, dict[str, Tensor]] = {}

    def there(device: torch.device) -> dict[str, Tensor]:
        if device not in copies:
            made = {name: tensor.to(device) for name, tensor in tensors.items()}
            copies[device] = {**made, **{f"{name} flat": made[name].view(-1) for name in flat}}
        return copies[device]

    there(torch.device("cpu"))
    return there


def pick(table: Tensor, index: Int64[Tensor, "..."]) -> Tensor:
    """``table[index]``, also for an index without axes."""
    return table[index] if index.ndim else table[index.unsqueeze(0)].squeeze(0)


class Augmentation(NamedTuple):
    """Random changes of an image: each example's own."""

    flip: bool = False
    """Left and right are exchanged in half of the images."""
    crop: int = 0
    """Pixels that are put around the image, by reflection, before a piece of its size is cut out."""
    rotation: tuple[float, float] = (0.0, 0.0)
    """Degrees, counter-clockwise, between which the angle is drawn; corners become 0, the nearest pixel is taken."""

    def check(self, shape: tuple[int, ...]) -> None:
        """Check that images of that shape can be changed so.

        Raises:
            ValueError: they cannot, or a number is out of its range.
        """
        if not isinstance(self.crop, int) or isinstance(self.crop, bool) or self.crop < 0:
            raise ValueError(f"crop is {self.crop!r}; expected a number of pixels, 0 or more")
        angles = self.rotation
        two = fits(angles, tuple[Angle, Angle])
        if not two or angles[0] > angles[1]:
            raise ValueError(
                f"rotation is {shown(angles)}; expected two angles in degrees, of -360 to 360, the smaller one first"
            )
        if self and len(shape) != 3:
            raise ValueError(f"flip, crop and rotation are of images (channels, height, width); inputs are {shape}")
        if self.crop and self.crop >= min(shape[1:]):
            raise ValueError(f"crop is {self.crop}; expected less than the images' {min(shape[1:])} pixels")

    def __bool__(self) -> bool:
        return bool(self.flip or self.crop or tuple(self.rotation) != (0.0, 0.0))

    def places(
        self, key: Int64[Tensor, ""], number: Int64[Tensor, "..."], height: int, width: int
    ) -> tuple[Int64[Tensor, "... height width"], Tensor | None]:
        """Return for each pixel of the changed images its place in the image, and whether it has one (``None``: all
        have).

        The order is that of the published programs: flip, then crop, then rotation.

        Args:
            key: of the draws.
            number: of each example; examples of one number are changed alike.
            height: of the images.
            width: of the images.
        """

        def draw(i: int, below: int) -> Tensor:
            word = (random.bits_at(key, number * DRAWS + i) >> 32) & 0xFFFFFFFF
            return ((word * below) >> 32)[..., None, None]

        y = torch.arange(height, device=key.device)[:, None].expand(height, width)
        x = torch.arange(width, device=key.device).expand(height, width)
        inside = None
        if tuple(self.rotation) != (0.0, 0.0):
            y, x = self._rotated(draw(3, 1 << 24), y, x, height, width)
            inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        if self.crop:
            y = _reflected(y + draw(1, 2 * self.crop + 1) - self.crop, height)
            x = _reflected(x + draw(2, 2 * self.crop + 1) - self.crop, width)
        if self.flip:
            x = torch.where(draw(0, 2) == 1, width - 1 - x, x)
        place = y * width + x
        return (place, None) if inside is None else (torch.where(inside, place, 0), inside)

    def _rotated(self, draw: Tensor, y: Tensor, x: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        low, high = (math.radians(angle) for angle in self.rotation)
        # In float64: the last places of a sine, which differ between devices, decide on no pixel.
        angle = low + (high - low) * draw.to(torch.float64) * 2.0**-24
        from_middle_y, from_middle_x = (y - (height - 1) / 2).to(torch.float64), (x - (width - 1) / 2).to(torch.float64)
        cos, sin = torch.cos(angle), torch.sin(angle)
        source_x = from_middle_x * cos - from_middle_y * sin + (width - 1) / 2
        source_y = from_middle_x * sin + from_middle_y * cos + (height - 1) / 2
        return tuple((torch.floor(place + 0.5)).to(torch.int64) for place in (source_y, source_x))  # type: ignore[return-value]


def _reflected(place: Tensor, size: int) -> Tensor:
    """Return a place beyond an edge, mirrored at it."""
    return (size - 1) - ((size - 1) - place.abs()).abs()


class Pixels:
    """The inputs of a data set, as a stream gives them.

    Args:
        dataset: their source.
        normalise: ``"unit"``: pixels from 0 to 1; ``"symmetric"``: from -1 to 1; ``"published"``: by the data set's
            mean and standard deviation. Of inputs that are no pixels ``"unit"`` leaves the numbers as they are.
        flatten: whether an input has one axis.
        augmentation: of images to learn from.
    """

    def __init__(self, dataset: Dataset, normalise: Normalise, flatten: bool, augmentation: Augmentation) -> None:
        self.image, self.augmentation = dataset.shape, augmentation
        self.size = math.prod(self.image)
        self.few = max(dataset.train.inputs.numel(), dataset.test.inputs.numel()) < 1 << 31
        self.shape = (self.size,) if flatten else self.image
        scale = dataset.normalisation.scale
        mean, sd = {
            "unit": ((0.0,), (1.0,)),
            "symmetric": ((0.5,), (0.5,)),
            "published": (dataset.normalisation.mean, dataset.normalisation.sd),
        }[normalise]
        self.moves, self.stretches = any(mean), any(value != 1 for value in sd)
        self.scales = scale != 1

        def of_each(values: tuple[float, ...]) -> Tensor:
            """Return one value for each pixel."""
            each = torch.tensor(values, dtype=torch.float32).reshape(-1, 1)
            channels = self.image[0] if len(values) > 1 else 1
            return each.expand(channels, self.size // channels).reshape(-1).contiguous()

        self.constants = constants(
            {
                "train": dataset.train.inputs.reshape(-1, self.size),
                "test": dataset.test.inputs.reshape(-1, self.size),
                # Tensors: a device may divide by a plain number as it multiplies by its inverse.
                "scale": torch.tensor([scale], dtype=torch.float32),
                "mean": of_each(mean),
                "sd": of_each(sd),
            },
            flat=("train", "test"),
        )

    def plain(self, split: str, rows: Int64[Tensor, "..."]) -> Float[Tensor, "... *shape"]:
        """Return the inputs of these numbers."""
        there = self.constants(rows.device)
        return self._normalised(pick(there[split], rows), there, None).reshape(*rows.shape, *self.shape)

    def permuted(
        self, split: str, rows: Int64[Tensor, "..."], order: Int64[Tensor, "... size"]
    ) -> Float[Tensor, "... *shape"]:
        """Return the inputs of these numbers, their pixels in this order."""
        there = self.constants(rows.device)
        values = pick(there[f"{split} flat"], self.index(rows.unsqueeze(-1) * self.size) + self.index(order))
        return self._normalised(values, there, order).reshape(*rows.shape, *self.shape)

    def augmented(
        self, split: str, rows: Int64[Tensor, "..."], key: Int64[Tensor, ""], number: Int64[Tensor, "..."]
    ) -> Float[Tensor, "... *shape"]:
        """Return the inputs of these numbers, changed at random."""
        there = self.constants(rows.device)
        channels, height, width = self.image
        place, inside = self.augmentation.places(key, number, height, width)
        plane = self.index(torch.arange(channels, device=rows.device)[:, None, None] * (height * width))
        within = plane + self.index(place).unsqueeze(-3)
        values = pick(there[f"{split} flat"], self.index(rows[..., None, None, None] * self.size) + within)
        made = self._normalised(values.flatten(-3), there, None).reshape(*rows.shape, *self.image)
        if inside is not None:
            made = torch.where(inside.unsqueeze(-3), made, 0.0)
        return made.reshape(*rows.shape, *self.shape)

    def index(self, places: Tensor) -> Tensor:
        """Return places in the flat data, in half of the memory where these are few enough."""
        return places.to(torch.int32 if self.few else torch.int64)

    def _normalised(self, values: Tensor, there: dict[str, Tensor], order: Tensor | None) -> Float[Tensor, "..."]:
        def of(name: str) -> Tensor:
            each = there[name]
            return each if order is None or len(each) == 1 else pick(each, order)

        values = values.to(torch.float32)
        values = values / there["scale"] if self.scales else values
        values = values - of("mean") if self.moves else values
        return values / of("sd") if self.stretches else values
