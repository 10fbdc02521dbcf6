"""Streams over data sets by name, as experiments and the command know them."""

from __future__ import annotations

import functools
import inspect
import re
import textwrap
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from fcbp import data, streams
from fcbp.experiment.border import with_border
from fcbp.streams import Border, Stream

__all__ = ["OVER_DATA"]

BETWEEN = tuple(field.name for field in fields(Border))


@functools.lru_cache(maxsize=8)
def _loaded(dataset: str, root: str | None) -> data.Dataset:
    try:
        return data.load(dataset, root)
    except ValueError as error:
        raise ValueError(re.sub("^name is ", "dataset is ", str(error))) from error


def _over(build: Callable[..., Stream]) -> Callable[..., Stream]:
    """Return the function of a data set as one of its name and of the folder where it lies."""

    @functools.wraps(build)
    def by_name(dataset: str = "digits", root: str | None = None, **options: Any) -> Stream:
        asked = {name: options.pop(name) for name in BETWEEN if name in options}
        return with_border(build(_loaded(dataset, root), **options), Border(**asked))

    own = [p for name, p in inspect.signature(build).parameters.items() if name != "data"]
    keyword = inspect.Parameter.KEYWORD_ONLY
    named = [
        inspect.Parameter("dataset", keyword, default="digits"),
        inspect.Parameter("root", keyword, default=None),
    ]
    between = [
        inspect.Parameter(field.name, keyword, default=field.default, annotation=field.type) for field in fields(Border)
    ]
    by_name.__signature__ = inspect.Signature([*named, *own, *between])  # type: ignore[attr-defined]
    settings = "Args:\n        dataset: a name of fcbp.data.names()\n        root: folder of the data set's files\n"
    settings += textwrap.indent((inspect.getdoc(Border) or "").partition("Args:\n")[2].rstrip(), "    ") + "\n"
    by_name.__doc__ = (build.__doc__ or "").replace("Args:\n", settings, 1)
    return by_name


OVER_DATA: dict[str, Callable[..., Stream]] = {
    "permuted-inputs": _over(streams.permuted_inputs),
    "permuted-labels": _over(streams.permuted_labels),
    "random-labels": _over(streams.random_labels),
    "class-pairs": _over(streams.class_pairs),
    "growing-classes": _over(streams.growing_classes),
    "growing-data": _over(streams.growing_data),
    "hard-and-easy": _over(streams.hard_and_easy),
}
"""Functions ``(dataset="digits", root=None, **options) -> Stream`` by name."""
