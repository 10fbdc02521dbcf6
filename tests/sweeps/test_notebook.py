"""In Jupyter a sweep shows a notebook's bar, and its value is the dataset."""

import pytest

pytestmark = pytest.mark.slow  # it starts processes

CODE = """
import fcbp
fcbp.sweep("bit-flipping", {"seed": [0, 1]}, steps=40, bin=10, out=OUT)
"""


def test_a_sweep_in_a_notebook_shows_a_bar_and_the_dataset(tmp_path):
    nbformat = pytest.importorskip("nbformat", reason="pip install 'fcbp[notebook]'")
    nbclient = pytest.importorskip("nbclient", reason="pip install 'fcbp[notebook]'")
    pytest.importorskip("ipywidgets", reason="pip install 'fcbp[notebook]'")
    cell = nbformat.v4.new_code_cell(CODE.replace("OUT", repr(str(tmp_path / "run"))))
    notebook = nbformat.v4.new_notebook(cells=[cell])
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    outputs = notebook.cells[0].outputs

    (shown,) = [output.data for output in outputs if output.output_type == "display_data"]
    widgets = notebook.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"]
    box = widgets[shown["application/vnd.jupyter.widget-view+json"]["model_id"]]["state"]
    parts = [widgets[child.removeprefix("IPY_MODEL_")] for child in box["children"]]
    before, bar, after = (part["state"] for part in parts)
    assert parts[1]["model_name"] == "FloatProgressModel"
    assert (bar["value"], bar["max"], bar["bar_style"]) == (80, 80, "success")
    assert before["value"].split() == ["2", "members:", "100%"]
    for text in ("member-steps/s", "0 NaN", "0 units replaced"):
        assert text in after["value"].replace("\u2007", " ")

    (dataset,) = [output.data["text/html"] for output in outputs if output.output_type == "execute_result"]
    for text in ("xarray.Dataset", "mean loss over the bin", "units_replaced"):
        assert text in dataset
