"""The line, or in a notebook the bar, that shows the progress of a sweep."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from fcbp.sweeps.store import Results, need

__all__ = ["Progress"]

SHOW_EVERY = 1.0
"""Seconds between two looks at the members."""


class Progress:
    """Member-steps per second, the time left, members with NaN and units replaced.

    Where stderr is closed, or becomes so, nothing more is shown and the sweep goes on.

    Args:
        members: of the sweep.
        steps: of each.
        done: member-steps that an earlier process did.
        show: ``False`` shows nothing.
    """

    def __init__(self, members: int, steps: int, done: int, show: bool) -> None:
        self._bar: Any = None
        if show and sys.stderr is not None:
            self._show(
                lambda: need("tqdm.auto").tqdm(
                    total=members * steps,
                    initial=done,
                    unit=" member-steps",
                    unit_scale=True,
                    desc=f"{members:,} members",
                    dynamic_ncols=True,
                )
            )
        self._shown = -SHOW_EVERY

    def _show(self, act: Callable[[], Any]) -> None:
        """Run an act that writes to stderr; the first one makes the bar."""
        try:
            made = act()
            self._bar = made if self._bar is None else self._bar
        except (OSError, ValueError):  # a pipe that nobody reads any more, a file that is closed
            if self._bar is not None:
                self._bar.disable = True
            self._bar = None

    def say(self, text: str) -> None:
        """Print a line of its own."""
        if self._bar is not None:
            self._show(lambda: self._bar.write(text, file=sys.stderr))

    def update(self, done: int, results: Results) -> None:
        """Show the number of member-steps done, and the state of the results."""
        if self._bar is None:
            return
        if time.monotonic() - self._shown >= SHOW_EVERY:
            self._shown = time.monotonic()
            self._bar.set_postfix_str(summary(results), refresh=False)
        # A chunk that goes on from its checkpoint has fewer steps than before.
        self._show(lambda: self._bar.update(max(0, done - self._bar.n)))

    def close(self, results: Results) -> None:
        if self._bar is not None:
            self._show(lambda: self._bar.set_postfix_str(summary(results)))
        if self._bar is not None:
            self._show(self._bar.close)


def summary(results: Results) -> str:
    """Count the members with NaN and the units replaced."""
    replaced = results.values.get("units_replaced")
    units = f", {np.nansum(replaced):,.0f} units replaced" if replaced is not None else ""
    return f"{results.failed().sum()} NaN{units}"
