"""The notebooks are kept with their outputs, so that a reader sees them without running them."""

import ast
import json
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


def faults(cells: list[dict]) -> list[str]:
    """What lacks in a notebook's cells."""
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    found = []
    if [cell["execution_count"] for cell in code] != list(range(1, len(code) + 1)):
        found.append("not run from top to bottom")
    outputs = [output for cell in code for output in cell["outputs"]]
    found += [f"an error: {output['ename']}" for output in outputs if output["output_type"] == "error"]
    found += ["a message on stderr" for output in outputs if output.get("name") == "stderr"]
    if not any("image/png" in output.get("data", {}) for output in outputs):
        found.append("no picture")
    for cell in code:
        last = ast.parse("".join(cell["source"])).body[-1]
        if isinstance(last, ast.Expr) and not isinstance(last.value, ast.Call) and not cell["outputs"]:
            found.append("a value that is not shown")
    return found


def test_five_lessons_are_there():
    names = {path.stem for path in NOTEBOOKS}
    assert names >= {"quickstart", "own_loop", "own_problem", "methods", "reading_plasticity"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_lesson_has_its_outputs_and_no_error(path):
    assert not faults(json.loads(path.read_text())["cells"])


def test_what_lacks_is_seen():
    empty = {"cell_type": "code", "execution_count": None, "source": "x", "outputs": []}
    broken = {"cell_type": "code", "execution_count": 1, "source": "f()", "outputs": []}
    broken["outputs"] = [{"output_type": "error", "ename": "ValueError"}, {"output_type": "stream", "name": "stderr"}]
    assert faults([empty]) == ["not run from top to bottom", "no picture", "a value that is not shown"]
    assert faults([broken]) == ["an error: ValueError", "a message on stderr", "no picture"]
