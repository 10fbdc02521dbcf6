"""Errors of the command line in one line each, in place of the parser's boxes."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Iterator

__all__ = ["in_one_line", "one_line_errors"]


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Write errors of the parser in one line each; the exit status stays.

    Raises:
        SystemExit: the parser ends the program.
    """
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            yield
    except SystemExit as stop:
        if stop.code in (0, None):
            sys.stderr.write(told.getvalue())
        else:
            print(f"fcbp: {in_one_line(told.getvalue())}", file=sys.stderr)
        raise
    sys.stderr.write(told.getvalue())


def in_one_line(box: str) -> str:
    """Return the first words of a box, the flags that may have been meant, and where help is.

    Example:
        >>> in_one_line(\"\"\"
        ... ╭─ Unrecognized options ──────────────╮
        ... │ Unrecognized options: --stepp-size  │
        ... │ ─────────────────────────────────── │
        ... │ Perhaps you meant:                  │
        ... │     --step-size FLOAT               │
        ... │ ─────────────────────────────────── │
        ... │ For full helptext, run fcbp --help  │
        ... ╰─────────────────────────────────────╯
        ... \"\"\")
        'unrecognized options: --stepp-size; did you mean --step-size? See fcbp --help'
    """
    lines = [line.strip().strip("│").strip() for line in box.splitlines() if not line.strip().startswith(("╭", "╰"))]
    sections: list[list[str]] = [[]]
    for line in lines:
        if line and not line.strip("─"):
            sections.append([])
        elif line:
            sections[-1].append(line)
    words = [" ".join(section) for section in sections]
    meant = [found for text in words[1:] if text.startswith("Perhaps") for found in re.findall(r" (--[\w.-]+) ", text)]
    first = f"{words[0][:1].lower()}{words[0][1:]}".rstrip(".")
    near = [name for name in dict.fromkeys(meant) if name not in ("--help", first)]
    hint = f"; did you mean {' or '.join(near[:3])}?" if near else ""
    help_at = re.findall(r"fcbp[\w -]*? --help", words[-1])
    return f"{first}{hint}{' See' if hint else '; see'} {help_at[0]}" if help_at else f"{first}{hint}"
