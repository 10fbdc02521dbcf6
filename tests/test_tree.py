"""Access by path, in every kind of container."""

from collections import OrderedDict, defaultdict
from types import MappingProxyType
from typing import NamedTuple

import optree
import pytest

from fcbp import tree


class Pair(NamedTuple):
    left: object
    right: object


CONTAINERS = [
    ({"a": 1, "b": 2}, "b"),
    (OrderedDict(b=1, a=2), "a"),
    (defaultdict(list, {"a": 1, "b": 2}), "b"),
    (MappingProxyType({"a": 1, "b": 2}), "b"),
    ([1, 2], 1),
    ((1, 2), 1),
    (Pair(1, 2), "right"),
    (Pair(1, 2), 1),
]


@pytest.mark.parametrize(("container", "entry"), CONTAINERS)
def test_get_and_replace(container, entry):
    nested = {"x": [container, 0]}
    path = ("x", 0, entry)
    assert tree.get(nested, path) == 2
    new = tree.replace(nested, {path: 3})
    assert tree.get(new, path) == 3
    assert tree.get(nested, path) == 2  # as it was
    assert type(new["x"][0]) is type(container)
    assert list(new["x"][0]) == ([1, 3] if isinstance(container, (list, tuple)) else list(container))


def test_what_is_not_replaced_is_shared():
    shared = [1]
    nested = {"a": shared, "b": {"c": 2}}
    new = tree.replace(nested, {("b", "c"): 3})
    assert new == {"a": [1], "b": {"c": 3}}
    assert new["a"] is shared
    assert tree.replace(nested, {}) is nested
    assert tree.replace(nested, {(): 5}) == 5


def test_a_defaultdict_keeps_its_factory_and_does_not_grow():
    nested = defaultdict(list, {"a": 1})
    with pytest.raises(KeyError):
        tree.get(nested, ("b",))
    assert dict(nested) == {"a": 1}
    assert tree.replace(nested, {("a",): 2}).default_factory is list


def test_several_leaves_at_once():
    nested = {"a": [1, 2, (3, 4)], "b": 5}
    new = tree.replace(nested, {("a", 0): 10, ("a", 2, 1): 40, ("b",): 50})
    assert new == {"a": [10, 2, (3, 40)], "b": 50}


@pytest.mark.parametrize(
    ("nested", "path"),
    [
        ({"a": 1}, ("b",)),
        ({"a": 1}, ("a", "b")),
        ([1, 2], (2,)),
        ([1, 2], (-1,)),  # one leaf has one path
        ([1, 2], ("0",)),
        (Pair(1, 2), ("middle",)),
        (3, ("a",)),
    ],
)
def test_a_missing_leaf_is_a_key_error_with_its_path(nested, path):
    with pytest.raises(KeyError) as error:
        tree.get(nested, path)
    assert error.value.args == (path,)


def test_paths_are_those_of_optree():
    nested = {"a": [1, {"b": 2}], "c": Pair(3, (4,))}
    for path, leaf in zip(optree.tree_paths(nested), optree.tree_leaves(nested), strict=True):
        assert tree.get(nested, path) == leaf


def test_show():
    assert tree.show(("0.weight",)) == "0.weight"
    assert tree.show(("layers", 0, "weight")) == "layers/0/weight"
