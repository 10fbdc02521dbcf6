"""Hooks of mkdocs: pages that are written from the code and the notebooks, and formulas as MathML.

MathML needs no script and no font from elsewhere: browsers draw it themselves.
"""

from __future__ import annotations

import base64
import functools
import html
import inspect
import json
import re
import sys
from pathlib import Path
from typing import Any

import griffe
import latex2mathml.converter
from mkdocs.structure.files import File

sys.path.insert(0, str(Path(__file__).parent))

import methods
import public
import roles

import fcbp

ROOT = Path(__file__).parent.parent.parent
LESSONS = ("quickstart", "own_loop", "own_problem", "methods", "reading_plasticity", "reinforcement")
"""The notebooks, in the order of reading."""


def on_config(config: Any) -> Any:
    """Fill the sections of the navigation whose pages are written here."""
    written = {
        "API": ["api/index.md", *(f"api/{module}.md" for module in public.modules())],
        "Methods": ["methods.md", *(f"methods/{name}.md" for name in fcbp.methods.METHODS)],
        "Notebooks": [f"notebooks/{name}.md" for name in LESSONS if (ROOT / f"notebooks/{name}.ipynb").exists()],
    }
    nav = []
    for entry in config.nav:
        ((title, page),) = entry.items()
        if title in written:
            nav.append({title: written[title]})
        elif not isinstance(page, str) or (ROOT / "docs" / page).exists():
            nav.append(entry)
    config.nav = nav
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the written pages."""
    for path, content in pages().items():
        files.append(File.generated(config, path, content=content))
    return files


def pages() -> dict[str, str | bytes]:
    """The written pages and their pictures, by path."""
    found: dict[str, str | bytes] = {f"api/{module}.md": api_page(module) for module in public.modules()}
    listed = "\n".join(f"- [`{module}`]({module}.md)" for module in public.modules())
    found["api/index.md"] = f"# API\n\nEvery public name, by its module.\n\n{listed}\n"
    kinds = fcbp.methods.METHODS
    found |= {f"methods/{name}.md": methods.page(name, kind.summary) for name, kind in kinds.items()}
    for lesson in LESSONS:
        if (path := ROOT / f"notebooks/{lesson}.ipynb").exists():
            found |= notebook_pages(path)
    return found


def api_page(module: str) -> str:
    """One module's page: its docstring and every public name."""
    head = (
        f"# {module} {{#{module}}}\n\n::: {module}\n    options:\n      members: false\n"
        "      show_root_heading: false\n      show_root_toc_entry: false\n"
    )
    return "\n".join([head, *(section(module, name) for name in public.symbols(module))])


@functools.cache
def sources() -> griffe.Object | griffe.Alias:
    """The package as its sources say."""
    return griffe.load("fcbp", search_paths=[str(ROOT)], resolve_aliases=True)


def section(module: str, name: str) -> str:
    """One public name; of one that is made when the module runs, the docstring that it then has."""
    path = [*module.split(".")[1:], name]
    try:
        found = sources()[path]
    except KeyError:
        value = functools.reduce(getattr, path, fcbp)
        return f"## {name} {{#{module}.{name}}}\n\n{roles.linked(inspect.getdoc(value) or '', module)}\n"
    if found.is_module:  # a function in a module of its own name
        return f"[](){{#{module}.{name}}}\n\n::: {module}.{name}.{name}\n"
    return f"::: {module}.{name}\n"


def notebook_pages(path: Path) -> dict[str, str | bytes]:
    """A notebook as Markdown, with its outputs and pictures."""
    text: list[str] = []
    found: dict[str, str | bytes] = {}
    for cell in json.loads(path.read_text())["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            text.append(source)
            continue
        text.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                picture = f"{path.stem}-{len(found)}.png"
                found[f"notebooks/{picture}"] = base64.b64decode("".join(data["image/png"]))
                text.append(f"![Output of the code above]({picture})")
            elif shown := "".join(data.get("text/plain", output.get("text", ""))).rstrip():
                text.append(f"```text\n{shown}\n```")
    return {**found, f"notebooks/{path.stem}.md": "\n\n".join(text)}


FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_content(content: str, **_: Any) -> str:
    """Replace every formula by MathML."""

    def drawn(match: re.Match[str]) -> str:
        display = "block" if match[2] == "[" else "inline"
        drawn = latex2mathml.converter.convert(html.unescape(match[3]).strip(), display=display)
        return f'<div class="formula">{drawn}</div>' if display == "block" else drawn

    return FORMULA.sub(drawn, content)
