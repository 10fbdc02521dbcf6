"""The Python in the documents runs as it stands there.

A block that cannot run has a comment above it that says why: ``<!-- not run: needs lightning -->``.
"""

import re
from pathlib import Path

import matplotlib
import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"(<!-- not run: \S[^\n]*-->\n+)?^```(\S*) *\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)


def blocks(document: Path) -> list[str]:
    """The blocks of Python that run, in order."""
    found = BLOCK.findall(document.read_text())
    return [code for reason, language, code in found if language == "python" and not reason]


PAGES = [page for page in sorted((ROOT / "docs").rglob("*.md")) if blocks(page)]
DOCUMENTS = [pytest.param(ROOT / "README.md", marks=pytest.mark.compiled), *PAGES]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_python_of_a_document_runs_in_order(document, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    assert blocks(document)
    names = {"__name__": "document"}
    for block in blocks(document):
        exec(compile(block, str(document), "exec"), names)


def test_a_block_is_left_out_only_with_a_reason(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- not run: a cluster -->\n```python\n1\n```\n\n```python\n2\n```\n<!-- note -->\n```python\n3\n```\n"
    )
    assert blocks(page) == ["2\n", "3\n"]


@pytest.mark.parametrize("document", sorted((ROOT / "docs").rglob("*.md")), ids=lambda path: path.name)
def test_python_has_no_other_name_under_which_it_would_not_run(document):
    languages = {language for _, language, _ in BLOCK.findall(document.read_text())}
    assert languages <= {"python", "bash", "text", "cpp", "yaml", "toml", "bibtex", "json"}
