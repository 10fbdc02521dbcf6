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
SWEPT = {"extending.md", "doors.md", "agents.md"}
"""Pages whose code takes more than some seconds."""
DOCUMENTS = [pytest.param(ROOT / "README.md", marks=pytest.mark.compiled)]
DOCUMENTS += [pytest.param(page, marks=[pytest.mark.slow] * (page.name in SWEPT)) for page in PAGES]


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


def missing_tests(text: str) -> set[str]:
    """Functions and files of tests that a page names."""
    files = sorted((ROOT / "tests").rglob("*.py"))
    known = {file.name for file in files}
    known |= {name for file in files for name in re.findall(r"^def (test_\w+)", file.read_text(), flags=re.MULTILINE)}
    # A metric may be called so too, by two words.
    named = re.findall(r"\btest_\w+\.py|\btest_[a-z0-9]+(?:_[a-z0-9]+){2,}(?!\w|\.{3})", text)
    return set(named) - known


def test_every_test_that_a_page_names_is_there():
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        assert not missing_tests(page.read_text()), page.name


def test_a_test_that_is_not_there_is_seen():
    text = "`test_docs.py`, `test_no_such_thing`, `test_first_of_...` and `test_a_test_that_is_not_there_is_seen`"
    assert missing_tests(text) == {"test_no_such_thing"}
