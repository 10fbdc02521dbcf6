"""The Python in the documents runs as it stands there."""

import re
from pathlib import Path

import matplotlib
import pytest

ROOT = Path(__file__).parent.parent
PAGES = [page for page in sorted((ROOT / "docs").glob("*.md")) if "\n```python\n" in page.read_text()]
DOCUMENTS = [pytest.param(ROOT / "README.md", marks=pytest.mark.compiled), *PAGES]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_python_of_a_document_runs_in_order(document, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    blocks = re.findall(r"^```python\n(.*?)^```", document.read_text(), flags=re.DOTALL | re.MULTILINE)
    assert blocks
    names = {"__name__": "document"}
    for block in blocks:
        exec(compile(block, str(document), "exec"), names)
