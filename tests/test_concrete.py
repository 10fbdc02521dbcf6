"""When values can be read, and when not."""

import torch
from torch.fx.experimental.proxy_tensor import make_fx

from fcbp.concrete import is_concrete, is_nothing, is_plain


def test_numbers_and_plain_tensors_are_concrete():
    assert is_concrete(1.0, None, torch.ones(2), torch.nn.Parameter(torch.ones(2)))


def test_tensors_of_no_numbers_are_not():
    assert not is_concrete(torch.ones(2, device="meta"))


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


def test_nowhere_is_plain_but_outside_of_all_transforms():
    seen = {}

    def look(name):
        def f(x):
            seen[name] = is_plain()
            return (x * 2).sum()

        return f

    x = torch.ones(3)
    look("eager")(x)
    torch.vmap(look("vmap"))(x)
    torch.vmap(lambda x: look("closed over")(torch.ones(3)) + x)(x)
    torch.func.grad(look("grad"))(x)
    make_fx(look("make_fx"))(x)
    make_fx(torch.func.functionalize(look("functionalize")))(x)
    assert seen.pop("eager")
    assert len(seen) == 5
    assert not any(seen.values())
    compiled = torch.compile(lambda x: x + is_plain(), backend="eager", fullgraph=True)
    assert compiled(torch.zeros(1)).item() == 0


def test_masks_known_to_be_false():
    no, yes = torch.zeros(2, dtype=torch.bool), torch.ones(2, dtype=torch.bool)
    assert is_nothing({"a": no, "b": no})
    assert not is_nothing({"a": no, "b": yes})
    assert torch.vmap(lambda x: x + is_nothing({"a": x}))(torch.zeros(2)).tolist() == [0, 0]
