"""A run as one HTML page, which holds its pictures itself."""

from __future__ import annotations

import base64
import contextlib
import html
import io
import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcbp import analysis
from fcbp.cli.run import duration, print_tables

if TYPE_CHECKING:
    import xarray

__all__ = ["page"]

VERSIONS = ("fcbp", "torch", "python", "device", "host", "git", "made_by", "same_bits")
"""Attributes of results that say with what they were made."""
CAPTIONS = {
    "learning_curves": "Each variable over the run, mean and standard error over seeds.",
    "methods": "The methods, each at its best.",
    "sensitivity": "The end of the run over each number that was swept.",
    "replaced": "Units or weights that were reset so far.",
    "units": "How utilities and ages of units are spread.",
}
STYLE = """
:root { color-scheme: light dark; --line: #8884; --faint: #777; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0; } h1 + p { color: var(--faint); margin-top: .25rem; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .25rem .75rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
.pairs th, .pairs td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
.pairs th { font-weight: normal; color: var(--faint); }
figure { margin: 1.5rem 0; } img { max-width: 100%; background: white; } figcaption { color: var(--faint); }
"""


def page(results: xarray.Dataset, name: str) -> str:
    """Write the page, complete in itself: it needs no other file and no network.

    Args:
        results: of a run, as :func:`fcbp.open` gives them.
        name: the heading.
    """
    attributes = results.attrs
    problem = json.loads(attributes.get("experiment") or attributes.get("program") or "{}")
    versions = {key: attributes[key] for key in VERSIONS if key in attributes}
    parts = [
        f"<h1>{html.escape(name)}</h1>",
        f"<p>{html.escape(_state(results))}</p>",
        "<h2>Results</h2>",
        _tables(results),
        "<h2>Pictures</h2>",
        _pictures(results),
        "<h2>Swept</h2>",
        _pairs({key: _values(results, key) for key in _swept(results)}),
        "<h2>Settings of all members</h2>",
        _pairs(problem),
        "<h2>Made with</h2>",
        _pairs(versions),
    ]
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{html.escape(name)}</title><style>{STYLE}</style>'
    )
    body = "\n".join(parts)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def _state(results: xarray.Dataset) -> str:
    values = results[analysis.main_variable(results)]
    members = values.size // values.sizes[analysis.bins_of(values)]
    steps, seconds = results.attrs["steps"], duration(results.attrs["seconds"])
    return f"{results.attrs.get('state', 'finished')}: {members:,} members, {steps:,} steps each, {seconds}"


def _swept(results: xarray.Dataset) -> list[str]:
    along = (*analysis.BINS, "examples")
    return [str(key) for key in results.coords if key not in along and results[key].size > 1]


def _values(results: xarray.Dataset, key: str) -> str:
    values = [analysis.show(value) for value in results[key].values.tolist()]
    shown = values if len(values) <= 12 else [*values[:6], "...", *values[-2:]]
    return f"{', '.join(shown)} ({len(values)})"


def _tables(results: xarray.Dataset) -> str:
    """Return the tables that the command prints, each as a table of the page."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        print_tables(results)
    return "\n".join(map(_block, printed.getvalue().strip().split("\n\n")))


def _block(text: str) -> str:
    """Return a paragraph of printed text; lines around a row of dashes are a table."""
    lines = text.splitlines()
    rule = next((i for i, line in enumerate(lines) if i and re.fullmatch(r"-*( +-+)+|-+", line.rstrip())), None)
    if rule is None:
        return f"<p>{html.escape(text)}</p>"
    title = "".join(f"<p>{html.escape(line)}</p>" for line in lines[: rule - 1])
    spans = _spans(lines[rule], max(map(len, lines)))
    rows = [[line[a:b].strip() for a, b in spans] for line in (lines[rule - 1], *lines[rule + 1 :])]
    head = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in rows[0])
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows[1:])
    return f'{title}<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _spans(rule: str, length: int) -> list[tuple[int, int]]:
    """Find the columns by the dashes under their headings; a last column without a heading may have more."""
    spans = [found.span() for found in re.finditer("-+", rule)]
    return [*spans[:-1], (spans[-1][0], max(length, spans[-1][1]))]


def _pictures(results: xarray.Dataset) -> str:
    try:
        import matplotlib
    except ImportError:
        return "<p>No pictures: matplotlib is not installed.</p>"
    matplotlib.use("Agg")
    from fcbp import plots

    with tempfile.TemporaryDirectory() as folder:
        return "\n".join(map(_figure, plots.save(results, Path(folder))))


def _figure(picture: Path) -> str:
    data = base64.b64encode(picture.read_bytes()).decode()
    words = html.escape(CAPTIONS.get(picture.stem, picture.stem.replace("_", " ")))
    return f'<figure><img src="data:image/png;base64,{data}" alt="{words}"><figcaption>{words}</figcaption></figure>'


def _pairs(values: Mapping[str, Any]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{html.escape(str(key))}</th><td>{html.escape(_text(value))}</td></tr>'
        for key, value in values.items()
    )
    return f'<table class="pairs">{rows}</table>' if rows else "<p>none</p>"


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value))
    return "none" if value is None else analysis.show(value)
