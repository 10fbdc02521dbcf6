"""When values can be read, and when not."""

import torch
from torch.fx.experimental.proxy_tensor import make_fx

from fcbp.concrete import is_concrete


def test_numbers_and_plain_tensors_are_concrete():
    assert is_concrete(1.0, None, torch.ones(2), torch.nn.Parameter(torch.ones(2)))


def test_what_is_vmapped_differentiated_traced_or_compiled_is_not():
    seen = {}

    def look(name):
        def f(x):
            seen[name] = is_concrete(0.5, x)
            return (x * 2).sum()

        return f

    x = torch.ones(3)
    torch.vmap(look("vmap"))(x)
    torch.func.grad(look("grad"))(x)
    make_fx(look("make_fx"))(x)
    make_fx(torch.func.functionalize(look("functionalize")))(x)
    assert seen == {"vmap": False, "grad": False, "make_fx": False, "functionalize": False}
    compiled = torch.compile(lambda x: x + is_concrete(x), backend="eager", fullgraph=True)
    assert compiled(torch.zeros(1)).item() == 0
