"""The table that ``explain`` shows."""

import torch
from small_nets import Inception
from torch import nn

from fcbp import find_units
from fcbp.units import explain


def test_the_table_names_everything_once():
    model, x = Inception(), torch.zeros(1, 3, 6, 6)
    found = explain(model, x)
    assert found.units == find_units(model, x)
    assert str(found) == repr(found)
    lines = str(found).splitlines()
    assert lines[0].split() == ["group", "size", "producers", "consumers", "norms", "read", "at"]
    assert lines[1].split("  ")[0] == "a"
    assert "c.weight ax 1 [4:9]" in lines[2]
    assert "fc.weight ax 1 [0:96:16, 16 each]" in lines[3]
    assert "input of c, axis -3" in lines[1]
    assert lines[5].split() == ["left", "out", "size", "why"]
    assert len(lines) == 9


def test_it_says_where_a_norm_breaks_the_silence():
    model = nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5), nn.ReLU(), nn.Linear(5, 2))
    found = explain(model, torch.zeros(1, 3))
    assert found.notes["0"] == (
        "aten.native_layer_norm in '1' normalises over the units: a replaced one still takes part in its statistics",
    )
    assert "note on 0: aten.native_layer_norm in '1' normalises" in str(found)
    assert not explain(nn.Sequential(model[0], nn.BatchNorm1d(5), model[3]), torch.zeros(2, 3)).notes["0"]


def test_it_shows_slopes_of_the_units():
    model = nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5), nn.PReLU(5), nn.Linear(5, 2))
    assert "  1, slope 2.weight ax 0  " in str(explain(model, torch.zeros(1, 3)))


def test_html_is_escaped_and_whole():
    model = nn.ModuleDict({"<b>": nn.Linear(3, 5), "out": nn.Linear(5, 2)})

    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = model

        def forward(self, x):
            return self.parts["out"](self.parts["<b>"](x).softmax(-1))

    page = explain(Odd(), torch.zeros(1, 3))._repr_html_()
    assert "parts.&lt;b&gt;" in page
    assert "<b>" not in page
    assert page.count("<table>") == page.count("</table>") == 2
    assert page.count("<li>") == 1
