"""The activations that parameters read in forwards that hand weights to functions instead of modules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["Reads"]

# Functions in which a weight reads an activation, and the places of the two among their arguments.
_PRODUCTS = (F.linear, torch.matmul, torch.mm, torch.bmm, torch.mv, torch.dot, torch.inner, torch.tensordot)
_METHODS = (Tensor.matmul, Tensor.__matmul__, Tensor.__rmatmul__, Tensor.mm, Tensor.bmm, Tensor.mv, Tensor.dot)
_SUMS = (torch.addmm, torch.addmv, torch.baddbmm, torch.addbmm)
_SUM_METHODS = (Tensor.addmm, Tensor.addmv, Tensor.baddbmm, Tensor.addbmm)
_ELEMENTWISE = (torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__)  # summed, these are products as well
_CONVOLUTIONS = (
    F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d,
)  # fmt: skip
_CELLS = (torch.gru_cell, torch.lstm_cell, torch.rnn_tanh_cell, torch.rnn_relu_cell)
_OPERANDS: dict[Callable[..., Any], slice] = {
    **dict.fromkeys((*_PRODUCTS, *_METHODS, *_ELEMENTWISE, *_CONVOLUTIONS), slice(0, 2)),
    **dict.fromkeys((*_SUMS, *_SUM_METHODS), slice(1, 3)),
    torch.einsum: slice(0, None),
    F.bilinear: slice(0, 3),
}
_RECURRENT = (torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu)


class Reads(TorchFunctionMode):
    """A mode that calls ``record(name, activation)`` whenever a parameter reads an activation.

    Parameters are known by identity, as are tensors that are computed from parameters alone: views of them, products
    with a scale, weight norms. The layers of a recurrent module are run one by one, so that the input of each is seen.

    Args:
        parameters: the tensors that the forward will meet, by name.
        constants: further tensors that are no activation, such as buffers.
        record: is called with the name of a parameter and the activation that it reads.

    Example:
        >>> w, seen = torch.ones(2, 3), []
        >>> with Reads({"w": w}, (), lambda name, x: seen.append((name, x.shape))):
        ...     y = torch.ones(4, 3) @ w.T
        >>> seen
        [('w', torch.Size([4, 3]))]
    """

    def __init__(
        self, parameters: Mapping[str, Tensor], constants: Iterable[Tensor], record: Callable[[str, Tensor], None]
    ):
        super().__init__()
        self.record = record
        self.known: dict[Tensor, tuple[str, ...]] = dict.fromkeys(constants, ())
        for name, x in parameters.items():
            self.known[x] = (*self.known.get(x, ()), name)

    def names(self, x: Tensor) -> tuple[str, ...] | None:
        """Return the parameters that a tensor is computed from; ``None`` if it is computed from other tensors too."""
        if x in self.known:
            return self.known[x]
        # A compiler hides the results of properties such as ``.T``, but they are views.
        base = x._base
        return self.known.get(base) if base is not None else None

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _RECURRENT and not kwargs:
            return self._layers(func, *args)
        out = func(*args, **kwargs)
        inputs = [(x, self.names(x)) for x in _tensors((args, *kwargs.values()))]
        if inputs and all(names is not None for _, names in inputs):
            self.known.update(dict.fromkeys(_tensors(out), _joined(names for _, names in inputs)))
        elif func in _OPERANDS:
            operands = (*args, *(x for key, x in kwargs.items() if key != "bias"))
            self._meet(operands[_OPERANDS[func]])
        elif func in _CELLS:
            self._meet((args[0], args[2]))
            self._meet((next(_tensors(args[1])), args[3]))
        return out

    def _meet(self, operands: Any) -> None:
        """Record that the parameters among the operands read the first operand that is an activation."""
        inputs = [(x, self.names(x)) for x in _tensors(operands)]
        activations = [x for x, names in inputs if names is None]
        for name in _joined(names for _, names in inputs):
            if activations:
                self.record(name, activations[0])

    def _layers(self, func: Callable[..., Any], x: Tensor, *args: Any) -> Any:
        """Run ``torch.lstm`` and the like as one call for each layer."""
        # A packed sequence has the batch sizes of its steps, and no flag for a batch that comes first.
        packed = isinstance(args[2], (list, tuple))
        sizes, (state, weights, biased, count, dropout, train, both, *first) = args[:packed], args[packed:]
        states = [torch.chunk(h, count) for h in _tensors(state)]
        width = len(weights) // count
        ends = []
        for k in range(count):
            own = weights[k * width : (k + 1) * width]
            self._meet((x, own))
            start = [parts[k] for parts in states]
            own_state = start if func is torch.lstm else start[0]
            x, *end = func(x, *sizes, own_state, own, biased, 1, 0.0, train, both, *first)
            ends.append(end)
            x = F.dropout(x, dropout, train) if k < count - 1 and dropout else x
        return (x, *(torch.cat(parts) for parts in zip(*ends, strict=True)))


def _tensors(x: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested lists and tuples."""
    if isinstance(x, Tensor):
        yield x
    elif isinstance(x, (list, tuple)):
        for entry in x:
            yield from _tensors(entry)


def _joined(found: Iterable[tuple[str, ...] | None]) -> tuple[str, ...]:
    """Join names, each once."""
    return tuple(dict.fromkeys(name for names in found for name in names or ()))
