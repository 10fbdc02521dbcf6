"""Unit groups: the places of a network's hidden units in its parameters, and the search for them."""

from fcbp.units.checks import check_features, check_units
from fcbp.units.explain import Explanation, explain
from fcbp.units.features import forward_with_features
from fcbp.units.find import find_units
from fcbp.units.group import Slice, UnitGroup

__all__ = [
    "Explanation",
    "Slice",
    "UnitGroup",
    "check_features",
    "check_units",
    "explain",
    "find_units",
    "forward_with_features",
]
