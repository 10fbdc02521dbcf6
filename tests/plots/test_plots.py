"""Pictures: what is drawn, with which labels, and from results with gaps."""

import matplotlib
import numpy as np
import pytest
from made_results import VARIABLES, results

matplotlib.use("Agg")

from matplotlib import pyplot

from fcbp import analysis, experiment, plots
from fcbp.plots import files, parts


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    pyplot.close("all")


SEEDS = range(4)
RATES = [0.0, 1e-4, 1e-2]


def labels(ax):
    return ax.get_legend_handles_labels()[1]


def test_learning_curves_are_means_in_a_band_of_one_standard_error():
    data = results(seed=SEEDS, replacement_rate=RATES)
    ax = plots.learning_curves(data)
    assert labels(ax) == ["replacement rate 0", "replacement rate 0.0001", "replacement rate 0.01"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == labels(ax)
    assert ax.get_xlabel() == "examples seen"
    assert ax.get_ylabel() == "mean loss over the bin"
    assert ax.get_title() == "mean ± standard error of 4 seeds"
    assert len(ax.lines) == len(ax.collections) == 3
    for i, (line, band) in enumerate(zip(ax.lines, ax.collections, strict=True)):
        values = data["loss"].isel(replacement_rate=i).values
        np.testing.assert_allclose(line.get_xdata(), data["step"])
        np.testing.assert_allclose(line.get_ydata(), values.mean(0))
        error = values.std(0, ddof=1) / 2
        edges = band.get_paths()[0].vertices
        np.testing.assert_allclose(edges[:, 1].max(), (values.mean(0) + error).max())
        np.testing.assert_allclose(edges[:, 1].min(), (values.mean(0) - error).min())


def test_another_variable_and_given_axes():
    data = results(seed=SEEDS)
    _, given = pyplot.subplots()
    ax = plots.learning_curves(data, "units_replaced", ax=given)
    assert ax is given
    assert ax.get_ylabel() == "units replaced in the bin"
    assert ax.get_legend() is None  # one line needs no name


def test_two_swept_settings_have_colours_and_dashes():
    ax = plots.learning_curves(results(seed=SEEDS, replacement_rate=RATES, activation=["relu", "tanh"]))
    assert labels(ax)[3] == "replacement rate 0.0001, activation tanh"
    colors = [line.get_color() for line in ax.lines]
    dashes = [line.get_linestyle() for line in ax.lines]
    assert colors[0] == colors[1] != colors[2] == colors[3]
    assert dashes == ["-", "--"] * 3


@pytest.mark.parametrize("sizes", [(12,), (3, 7), (2, 3, 4), (11, 2)])
def test_no_two_lines_look_alike(sizes):
    axes = {name: range(size) for name, size in zip(("a", "b", "c"), sizes, strict=False)}
    ax = plots.learning_curves(results(seed=[0], **axes))
    looks = {(line.get_color(), line.get_linestyle()) for line in ax.lines}
    assert len(looks) == len(ax.lines) == np.prod(sizes)
    assert len(set(labels(ax))) == len(labels(ax))


def test_one_seed_has_no_band_and_a_setting_of_one_value_no_name():
    ax = plots.learning_curves(results(seed=[0], replacement_rate=RATES, step_size=[0.1]))
    assert len(ax.lines) == 3
    assert not ax.collections
    assert ax.get_title() == ""
    assert labels(ax)[0] == "replacement rate 0"


def test_averaging_over_another_dimension():
    data = results(seed=range(3), replacement_rate=RATES)
    ax = plots.learning_curves(data, over="replacement_rate")
    assert labels(ax) == ["seed 0", "seed 1", "seed 2"]
    assert "3 replacement_rates" in ax.get_title()


def test_failed_members_leave_the_mean_of_the_others():
    data = results(seed=SEEDS, replacement_rate=RATES)
    for name in VARIABLES:
        data[name][0, 1, 5:] = np.nan  # one seed fails
        data[name][:, 2, 3:] = np.nan  # all of them do
        data[name][1:, 0, 8:] = np.nan  # one is left
    ax = plots.learning_curves(data)
    np.testing.assert_allclose(ax.lines[1].get_ydata()[5:], data["loss"][1:, 1, 5:].mean("seed"))
    assert np.isnan(ax.lines[2].get_ydata()[3:]).all()
    np.testing.assert_allclose(ax.lines[0].get_ydata()[8:], data["loss"][0, 0, 8:])
    ax = plots.sensitivity(data)
    drawn = ax.lines[0].get_ydata()
    np.testing.assert_allclose(drawn[1], data["loss"][1:, 1, 8:].mean())
    assert np.isnan(drawn[2])


def test_a_member_that_fails_near_the_end_has_no_end():
    data = results(seed=range(3))
    data["loss"][1, 9] = np.nan
    end = analysis.end_of_run(data["loss"], last=0.5)
    assert end.isnull().values.tolist() == [False, True, False]
    np.testing.assert_allclose(end[0], data["loss"][0, 5:].mean())
    assert end.attrs["long_name"] == "mean loss over the bin"


def test_members_side_by_side_are_named_by_what_sets_them_apart():
    data = results(member=range(2)).assign_coords(
        seed=("member", [0, 0]), step_size=("member", [0.1, 0.01]), activation=("member", ["relu", "tanh"])
    )
    ax = plots.learning_curves(data)
    assert labels(ax) == ["step size 0.1, activation relu", "step size 0.01, activation tanh"]


def test_long_runs_have_short_ticks():
    ax = plots.learning_curves(results(seed=SEEDS, steps=1_000_000))
    ax.figure.canvas.draw()
    ticks = [tick.get_text() for tick in ax.get_xticklabels()]
    assert "200k" in ticks
    assert len(ticks) <= 8


# --- sensitivity ----------------------------------------------------------------------------------------


def test_sensitivity_is_the_end_of_the_run_on_a_logarithmic_axis_with_a_place_for_0():
    data = results(seed=SEEDS, replacement_rate=[1e-2, 0.0, 1e-4], step_size=[0.1, 0.01])
    ax = plots.sensitivity(data, last=0.3)
    assert ax.get_xscale() == "symlog"
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0", "0.0001", "0.01"]
    assert ax.get_xlabel() == "replacement rate"
    assert ax.get_ylabel() == "mean loss over the bin, last 30% of the run"
    assert labels(ax) == ["step size 0.1", "step size 0.01"]
    end = data["loss"].isel(step=slice(-3, None)).mean("step").sortby("replacement_rate")
    for i, (container, _) in enumerate(zip(ax.containers, "ab", strict=True)):
        line, _, (bars,) = container
        values = end.isel(step_size=i)
        np.testing.assert_allclose(line.get_xdata(), [0, 1e-4, 1e-2])
        np.testing.assert_allclose(line.get_ydata(), values.mean("seed"))
        heights = [path.vertices[:, 1] for path in bars.get_paths()]
        np.testing.assert_allclose(np.ptp(heights, axis=1), 2 * values.std("seed", ddof=1) / 2)
    # The places of 0 and of the rates are apart, and in order.
    places = ax.transData.transform([(x, 0) for x in (0, 1e-4, 1e-2)])[:, 0]
    assert (np.diff(places) > 0.15 * ax.bbox.width).all()


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ([1e-4, 1e-3, 1e-2], "log"),
        ([0.1, 0.2, 0.3], "linear"),
        ([0.0, 0.1], "linear"),
        ([0.0, 1e-5, 1.0], "symlog"),
        ([-1.0, 0.0, 100.0], "linear"),
    ],
)
def test_scales(values, scale):
    ax = plots.sensitivity(results(seed=SEEDS, step_size=values), across="step_size")
    assert ax.get_xscale() == scale
    ax.figure.canvas.draw()


@pytest.mark.parametrize("values", [["tanh", "relu"], [True, False]])
def test_sensitivity_to_what_is_no_number(values):
    ax = plots.sensitivity(results(seed=SEEDS, activation=values), across="activation")
    assert [tick.get_text() for tick in ax.get_xticklabels()] == list(map(str, values))
    assert len(ax.lines[0].get_xdata()) == 2


def test_sensitivity_of_one_seed_has_no_errors():
    data = results(seed=[0], replacement_rate=RATES)
    ax = plots.sensitivity(data)
    assert not ax.collections
    without = plots.sensitivity(results(replacement_rate=RATES))
    assert len(without.lines) == 1


# --- files ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_save(tmp_path):
    paths = plots.save(results(seed=SEEDS, replacement_rate=RATES, step_size=[0.1, 0.01]), tmp_path)
    assert [path.name for path in paths] == [
        "learning_curves.png",
        "sensitivity.png",
        "heat.png",
        "replaced.png",
        "units.png",
    ]
    for path in paths:
        picture = matplotlib.image.imread(path)
        assert picture.shape[0] > 400
        assert picture.shape[1] > 800
        assert picture.std() > 0.05
    assert not pyplot.get_fignums()


def test_saved_pictures_have_one_legend_for_all_panels_outside_them(tmp_path):
    data = results(seed=SEEDS, replacement_rate=RATES)
    figure = files.curves_picture(data)
    assert [ax.get_legend() for ax in figure.axes] == [None] * 3
    (legend,) = figure.legends
    assert len(legend.get_texts()) == 3
    figure.canvas.draw()
    box = legend.get_window_extent()
    assert not any(box.overlaps(ax.get_tightbbox()) for ax in figure.axes)
    assert figure.get_suptitle() == "mean ± standard error of 4 seeds"


def test_what_was_asked_for_is_drawn_with_the_usual_curves():
    data = results(seed=SEEDS, replacement_rate=RATES)
    for name in ("dormant_units", "update_magnitude"):
        data[name] = data["loss"].assign_attrs(long_name=experiment.VARIABLES[name][0])
    figure = files.curves_picture(data)
    usual = ["mean loss over the bin", "fraction of dead or saturated units", "effective rank of the activations"]
    asked = [experiment.VARIABLES[name][0] for name in ("dormant_units", "update_magnitude")]
    assert [ax.get_ylabel() for ax in figure.axes] == usual + asked


def test_resets_are_drawn_where_one_of_those_drawn_has_some(tmp_path):
    """Of very many settings the best are drawn, which may be those that replaced nothing."""
    data = results(seed=SEEDS, replacement_rate=np.arange(parts.MOST_LINES + 1) / 100)
    for name in ("units_replaced", "weights_reset"):
        data[name][:, :-1] = 0
    paths = plots.save(data, tmp_path)
    assert "replaced.png" not in [path.name for path in paths]


def test_the_count_of_units_replaced_is_a_running_total():
    data = results(seed=SEEDS, replacement_rate=RATES)
    figure = files.replaced_picture(data)
    total = data["units_replaced"].mean("seed").cumsum("step")
    for i, line in enumerate(figure.axes[0].lines):
        np.testing.assert_allclose(line.get_ydata(), total.isel(replacement_rate=i))
        np.testing.assert_allclose(line.get_xdata(), data["step"])


@pytest.mark.parametrize("axes", [{"seed": SEEDS}, {"replacement_rate": [0.1]}, {"seed": [0]}, {"member": [0, 1]}, {}])
def test_save_without_a_sweep_of_the_rate(axes, tmp_path):
    paths = plots.save(results(**axes), tmp_path)
    assert [path.name for path in paths] == ["learning_curves.png", "replaced.png", "units.png"]


def test_save_where_everything_failed(tmp_path):
    data = results(seed=SEEDS, replacement_rate=RATES)
    for name in VARIABLES:
        data[name][:] = np.nan
    assert len(plots.save(data, tmp_path)) == 3  # nothing was replaced


# --- bad input ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda data: plots.learning_curves(data, "los"), "variable is 'los'; expected one of loss, units_replaced"),
        (lambda data: plots.sensitivity(data, "los"), "variable is 'los'"),
        (lambda data: plots.sensitivity(data, across="step_size"), "across is 'step_size'.* replacement_rate$"),
        (lambda data: plots.sensitivity(data, across="step"), "across is 'step'"),
        (lambda data: plots.sensitivity(data, across="seed"), "across is 'seed'"),
        (lambda data: plots.sensitivity(data, last=0.0), "last is 0.0"),
        (lambda data: plots.sensitivity(data, last=1.5), "last is 1.5"),
    ],
)
def test_bad_arguments(draw, message):
    with pytest.raises(ValueError, match=message):
        draw(results(seed=SEEDS, replacement_rate=RATES))
    assert not pyplot.get_fignums()


def test_a_missing_extra_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"pip install 'fcbp\[plot\]'"):
        plots.learning_curves(results(seed=SEEDS))


def test_a_table_of_two_numbers_has_the_mean_of_each_cell():
    data = results(seed=SEEDS, replacement_rate=RATES, maturity_threshold=[10, 100])
    ax = plots.heat(data, across="replacement_rate", down="maturity_threshold")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("replacement rate", "maturity threshold")
    assert [text.get_text() for text in ax.get_xticklabels()] == ["0", "0.0001", "0.01"]
    end = data["loss"].isel(step=slice(-2, None)).mean(("seed", "step")).transpose("maturity_threshold", ...)
    np.testing.assert_allclose(ax.images[0].get_array(), end, rtol=1e-6)
    assert [text.get_text() for text in ax.texts] == [f"{value:.3g}" for value in end.values.ravel()]
    with pytest.raises(ValueError, match="down is 'maturity'; expected one of the swept settings, replacement_rate"):
        plots.heat(data, across="replacement_rate", down="maturity")
