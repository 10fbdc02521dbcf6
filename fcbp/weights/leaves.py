"""The tensors of a pytree by path and by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from fcbp import tree
from fcbp.kinds import PyTree

__all__ = ["flat", "leaves_of"]


def leaves_of(node: PyTree, path: tree.Path = ()) -> Iterator[tuple[tree.Path, Tensor]]:
    """Yield every tensor of a pytree with its path, in order."""
    if isinstance(node, Tensor):
        yield path, node
    elif isinstance(node, Mapping):
        for entry, child in node.items():
            yield from leaves_of(child, (*path, entry))
    elif isinstance(node, (tuple, list)):
        for i, child in enumerate(node):
            yield from leaves_of(child, (*path, i))


def flat(argument: str, values: PyTree, managed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the managed tensors of a pytree, flat, by name.

    Raises:
        ValueError: one of them is not there, or of another size; ``argument`` is the name that the message has.
    """
    found = {tree.show(path): leaf for path, leaf in leaves_of(values)}
    for name, like in managed.items():
        if name not in found:
            raise ValueError(f"{argument} has no {name!r}, which the state manages; it holds {sorted(found)}")
        if found[name].numel() != like.shape[0]:
            shape = tuple(found[name].shape)
            raise ValueError(f"{argument} has {name!r} of shape {shape}; expected {like.shape[0]} weights, as at first")
    return {name: found[name].flatten() for name in managed}
