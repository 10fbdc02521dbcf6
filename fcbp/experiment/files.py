"""Experiments as YAML: one setting a line, and the swept settings under ``sweep``.

>>> import fcbp
>>> text = fcbp.experiment.to_yaml(fcbp.Experiment(step_size=0.1, steps=1000), sweep={"replacement_rate": [0.0, 1e-4]})
>>> experiment, swept = fcbp.experiment.from_yaml(text)
>>> experiment, swept
(Experiment(step_size=0.1, steps=1000), {'replacement_rate': (0.0, 0.0001)})
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from fcbp.checks import arguments, shown
from fcbp.designs import plain
from fcbp.experiment.settings import Experiment
from fcbp.paths import expanded

__all__ = ["from_yaml", "lines", "load", "read", "to_yaml"]

T = TypeVar("T")


@arguments
def to_yaml(experiment: Experiment, sweep: Mapping[str, Sequence[Any]] | None = None) -> str:
    """Write an experiment as YAML; defaults are written too, those of the parts as comments.

    Args:
        experiment: whose method has a name.
        sweep: for each swept setting its values.

    Raises:
        ImportError: the extra ``fcbp[sweep]`` is not installed.
    """
    written = experiment.to_dict()
    rest = {name: value for name, value in experiment.with_defaults().items() if name not in written}
    return lines(written, rest, sweep)


@arguments
def lines(
    settings: Mapping[str, Any],
    defaults: Mapping[str, Any] | None = None,
    sweep: Mapping[str, Sequence[Any]] | None = None,
) -> str:
    """Write settings as YAML, a line each; ``defaults`` as comments."""
    found = [_line(name, value) for name, value in settings.items()]
    if defaults:
        found += ["# Defaults:\n", *(f"# {_line(name, value)}" for name, value in defaults.items())]
    if sweep:
        found += ["sweep:\n", *(f"  {_line(name, list(values))}" for name, values in sweep.items())]
    return "".join(found)


@arguments
def from_yaml(text: str) -> tuple[Experiment, dict[str, tuple[Any, ...]]]:
    """Return the experiment, and for each setting under ``sweep`` its values.

    Raises:
        ValueError: it is no YAML, has a key twice or one that is no setting; near misses are offered.
        ImportError: the extra ``fcbp[sweep]`` is not installed.
    """
    settings, swept = _parse(text)
    experiment = Experiment(**settings)
    for name, values in swept.items():
        experiment.replace(**{name: values[0]})  # says so where there is no such setting
    return experiment, swept


def _parse(text: str) -> tuple[dict[str, Any], dict[str, tuple[Any, ...]]]:
    """Return the settings of a file, and its sweep."""
    yaml = _yaml()
    try:
        settings = yaml.load(text, Loader=_loader())
    except yaml.YAMLError as error:
        raise ValueError(f"the text is no YAML: {error}") from None
    if not isinstance(settings, dict):
        raise ValueError(f"the text is {settings!r}; expected settings, such as step_size: 0.1")
    settings = _by_name(settings)
    if "settings" in settings:
        raise ValueError(f"settings is {shown(settings['settings'])}; expected each setting on a line of its own")
    swept = settings.pop("sweep", {}) or {}
    if not isinstance(swept, dict):
        raise ValueError(f"sweep is {swept!r}; expected settings with their values, such as seed: [0, 1, 2]")
    for name, values in swept.items():
        if not isinstance(values, list) or not values:
            raise ValueError(f"sweep has {name}: {values!r}; expected a list of values, such as [0.1, 0.01]")
    return settings, {str(name): plain(values) for name, values in swept.items()}


@arguments
def read(path: Path | str) -> tuple[dict[str, Any], dict[str, tuple[Any, ...]]]:
    """Read the settings of a YAML file, of an experiment or of a program, and its sweep.

    Raises:
        ValueError: as for :func:`from_yaml`, with the file's name.
        OSError: the file cannot be read.
    """
    return _of_file(_parse, path)


@arguments
def load(path: Path | str) -> tuple[Experiment, dict[str, tuple[Any, ...]]]:
    """Read the experiment of a YAML file, and its sweep.

    Raises:
        ValueError: as for :func:`from_yaml`, with the file's name.
        OSError: the file cannot be read.
    """
    return _of_file(from_yaml, path)


def _of_file(parse: Callable[[str], T], path: Path | str) -> T:
    """Return a file's text, parsed, with the file's name in errors."""
    file = expanded("path", path)
    if file.is_dir():
        raise ValueError(f"path is {str(path)!r}, which is a directory; expected a YAML file")
    try:
        return parse(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _by_name(settings: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(name): value for name, value in settings.items()}


def _line(name: str, value: Any) -> str:
    def listed(value: Any) -> Any:
        return [listed(v) for v in value] if isinstance(value, (tuple, list)) else value

    text = _yaml().safe_dump([listed(value)], default_flow_style=True, width=math.inf)
    return f"{name}: {text.strip()[1:-1]}\n"


DEPTH = 50
"""Levels of lists and mappings in a file."""
REPEATED = 10_000
"""Values that aliases may add to those that are written."""


@functools.cache
def _loader() -> Any:
    """Return YAML's safe loader, which reads 1e-4 as a number, as YAML 1.2 does, takes no key twice, and refuses a text
    that a few aliases make large, or that is nested deeply."""
    yaml = _yaml()

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        def __init__(self, stream: Any) -> None:
            super().__init__(stream)
            self.level = self.written = 0
            self.sizes: dict[int, tuple[int, int]] = {}  # by node: values with all that aliases repeat, and the depth

        def compose_node(self, parent: Any, index: Any) -> Any:
            anew = not self.check_event(yaml.AliasEvent)
            self.level += 1
            if self.level > DEPTH:
                raise ValueError(f"the text is nested more than {DEPTH} deep; expected settings and lists")
            node = super().compose_node(parent, index)
            self.level -= 1
            if anew:
                self.written += 1
                self.sizes[id(node)] = self.measured(node)
            return node

        def measured(self, node: Any) -> tuple[int, int]:
            parts = [] if isinstance(node, yaml.ScalarNode) else node.value
            nodes = [part for pair in parts for part in (pair if isinstance(pair, tuple) else (pair,))]
            if any(id(part) not in self.sizes for part in nodes):
                raise ValueError("an alias stands within what it repeats; expected settings and lists")
            size = 1 + sum(self.sizes[id(part)][0] for part in nodes)
            depth = 1 + max((self.sizes[id(part)][1] for part in nodes), default=0)
            if size - self.written > REPEATED or depth > DEPTH:
                raise ValueError(f"aliases repeat more than {REPEATED:,} values; expected these written out")
            return size, depth

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            for key in keys:
                if keys.count(key) > 1:
                    raise ValueError(f"{key} is set twice; expected it once")
            return super().construct_mapping(node, deep)

    number = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
    return Loader


def _yaml() -> Any:
    try:
        import yaml
    except ImportError:
        raise ImportError("experiments in files need PyYAML; install it with: pip install 'fcbp[sweep]'") from None
    return yaml
