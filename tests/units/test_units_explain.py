"""The table that ``explain`` shows."""

import pytest
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


class Over(nn.Module):
    """Units on the last axis of (batch, time, units), between two layers."""

    def __init__(self, function, **parts):
        super().__init__()
        self.a, self.b, self.function = nn.Linear(3, 5), nn.Linear(5, 2), function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.b(self.function(self, self.a(x)))


OVER_UNITS = {
    "layer norm": Over(lambda m, h: m.n(h), n=nn.LayerNorm(5)),
    "batch norm over time": Over(lambda m, h: m.n(h), n=nn.BatchNorm1d(4)),
    "batch norm over time, plain": Over(lambda m, h: m.n(h), n=nn.BatchNorm1d(4, affine=False)),
    "instance norm over time": Over(lambda m, h: m.n(h), n=nn.InstanceNorm1d(4)),
    "group norm over time": Over(lambda m, h: m.n(h), n=nn.GroupNorm(4, 4)),
    "groups of steps": Over(lambda m, h: m.n(h), n=nn.GroupNorm(2, 4)),
    "softmax": Over(lambda m, h: h.softmax(-1)),
    "one norm of the units": Over(lambda m, h: h / h.norm(dim=-1, keepdim=True)),
    "the largest of the units": Over(lambda m, h: h / h.abs().amax(-1, keepdim=True)),
    "a mean of the units": Over(lambda m, h: h - h.mean(-1, keepdim=True)),
    "a gate of the mean": Over(lambda m, h: h * h.mean(-1, keepdim=True).sigmoid()),
}
OVER_WEIGHTS = {
    "one norm": lambda w: w / w.norm(),
    "a norm of each output": lambda w: w / w.norm(dim=1, keepdim=True),
    "standard deviations": lambda w: w / w.std(1, keepdim=True),
    "normalised": lambda w: nn.functional.normalize(w, dim=1),
    "the largest": lambda w: w / w.abs().max(),
}


@pytest.mark.parametrize("name", OVER_UNITS)
@pytest.mark.parametrize("training", [False, True])
def test_a_note_says_where_a_reduction_runs_over_the_units(name, training):
    notes = explain(OVER_UNITS[name].train(training), torch.zeros(2, 4, 3)).notes["a"]
    assert any("normalises over the units" in note for note in notes)


@pytest.mark.parametrize("name", OVER_WEIGHTS)
def test_a_note_says_where_a_reduction_runs_over_the_units_weights(name):
    notes = explain(Weighted(OVER_WEIGHTS[name]), torch.zeros(2, 3)).notes["a"]
    assert any("normalises over the units" in note for note in notes)


class Weighted(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.a, self.w, self.function = nn.Linear(3, 5), nn.Parameter(torch.rand(2, 5)), function

    def forward(self, x):
        return nn.functional.linear(self.a(x), self.function(self.w))


def test_no_note_where_each_unit_is_normalised_by_itself():
    for norm in (nn.BatchNorm1d(5), nn.InstanceNorm1d(5), nn.GroupNorm(5, 5)):
        net = nn.Sequential(nn.Conv1d(2, 5, 3), norm, nn.ReLU(), nn.Conv1d(5, 2, 1))
        assert explain(net, torch.zeros(2, 2, 9)).notes["0"] == ()


def test_a_scale_at_the_root_has_its_own_name():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.gain = nn.Linear(3, 5), nn.Linear(5, 2), nn.Parameter(torch.ones(5))

        def forward(self, x):
            return self.b(self.gain * self.a(x))

    assert str(explain(Scaled(), torch.zeros(1, 3))).splitlines()[1].split("  ")[5:] != []
    assert "b.weight ax 1  gain   input of b" in str(explain(Scaled(), torch.zeros(1, 3)))


def test_repeated_blocks_and_heads_are_one_row():
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, dropout=0.0)
    found = explain(nn.TransformerEncoder(layer, 3), torch.zeros(2, 5, 8))
    assert len(found.units) == 9
    rows = str(found).splitlines()
    assert [row.split("  ")[0] for row in rows[1:3]] == ["layers.{0..2}.self_attn:{0..1}", "layers.{0..2}.linear1"]
    assert "layers.{0..2}.linear2.weight ax 1" in rows[2]
    assert found._repr_html_().count("layers.{0..2}.linear1</td>") == 1
    several = explain(nn.Sequential(*(nn.Linear(4, 4) for _ in range(4))), torch.zeros(2, 4))
    assert [row.split("  ")[0] for row in str(several).splitlines()[1:4]] == ["0", "1", "2"], "layers, not blocks"
