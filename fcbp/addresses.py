"""Addresses at which an object can be found again: ``"package.module:name"`` or ``"path/to/file.py:name"``.

A worker process, a resumed run and the command line find a user's own functions by such an address.

>>> import fcbp
>>> address_of(fcbp.nets.mlp)
'fcbp.nets.mlp:mlp'
>>> load("fcbp.nets.mlp:mlp") is fcbp.nets.mlp
True
"""

from __future__ import annotations

import contextlib
import contextvars
import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, TypeGuard

from fcbp.names import unknown
from fcbp.paths import expanded

__all__ = [
    "Source",
    "address_of",
    "check_allowed",
    "check_not_importing",
    "is_address",
    "load",
    "looked_up_once",
    "name_of",
    "source_of",
]


class Source(NamedTuple):
    """The file that an address leads to, in its present state."""

    address: str
    file: str
    """Absolute path; empty where there is none."""
    sha256: str
    """SHA-256 of the file's bytes, in hexadecimal digits."""


def is_address(text: object) -> TypeGuard[str]:
    """Tell whether a text has the form of an address: a module or a file, a colon, a name.

    Example:
        >>> is_address("mine.py:stream"), is_address("package.mine:stream"), is_address("mlp")
        (True, True, False)
    """
    if not isinstance(text, str):
        return False
    place, colon, name = text.rpartition(":")
    return bool(colon and place and name) and all(part.isidentifier() for part in name.split("."))


def load(address: str) -> object:
    """Load the object at an address; its module is imported if need be.

    A module is looked for where Python looks, and in the current directory. A file is imported once, under the name of
    the module that was made of it before, if there is one.

    Raises:
        ValueError: there is no such file, module or name, or importing it fails; the message says which of them.
    """
    if not is_address(address):
        raise ValueError(f"address is {address!r}; expected 'package.module:name' or 'path/to/file.py:name'")
    place, _, name = address.rpartition(":")
    found: Any = _module(address, place)
    for part in name.split("."):
        if not hasattr(found, part):
            names = [n for n in vars(found) if not n.startswith("_")] if hasattr(found, "__dict__") else []
            raise unknown(f"the name in {address!r}", part, names)
        found = getattr(found, part)
    return found


def address_of(value: object) -> str | None:
    """Return the address at which :func:`load` finds this very object; ``None`` where there is none.

    Functions and classes know their module; other objects are looked for among the names of the modules that are
    imported. Objects of a script that is being run are found in its file.
    """
    known = _known.get()
    if known is None:
        return _searched(value)
    if id(value) not in known:
        known[id(value)] = value, _searched(value)
    return known[id(value)][1]


_known: contextvars.ContextVar[dict[int, tuple[object, str | None]] | None] = contextvars.ContextVar(
    "known", default=None
)
"""Objects by identity, which are held so that no other takes it, and their addresses; nothing outside of a context."""


@contextlib.contextmanager
def looked_up_once() -> Iterator[None]:
    """Look each object up once within the context.

    A search among all names takes tens of milliseconds. The start of a sweep asks hundreds of times, and gives no
    object a new name.
    """
    token = _known.set({} if _known.get() is None else _known.get())
    try:
        yield
    finally:
        _known.reset(token)


def _searched(value: object) -> str | None:
    """Search for an object's address."""
    module_name, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if isinstance(module_name, str) and isinstance(name, str) and (address := _checked(module_name, name, value)):
        return address
    for module_name, module in list(sys.modules.items()):
        if not isinstance(module, ModuleType) or module_name.partition(".")[0] in _FOREIGN:
            continue
        for name, held in list(vars(module).items()):
            if held is value and (address := _checked(module_name, name, value)):
                return address
    return None


def name_of(value: object) -> str:
    """Name an object: the text itself, an address, or the object's own name.

    Example:
        >>> name_of("mlp"), name_of(lambda: None)
        ('mlp', '<lambda>')
    """
    if isinstance(value, str):
        return value
    own = (getattr(holder, "__name__", None) for holder in (value, getattr(value, "build", None)))
    return address_of(value) or next(filter(None, own), type(value).__name__)


_FOREIGN = {"torch", "numpy", "optree", *sys.stdlib_module_names} - {"__main__"}
"""Packages without any part of a user's: they are not searched."""


def source_of(address: str) -> Source:
    """Return the file of an address, which must be imported already, and its hash."""
    file = getattr(_module(address, address.rpartition(":")[0]), "__file__", None)
    if file is None or not Path(file).is_file():
        return Source(address, "", "")
    path = Path(file).resolve()
    return Source(address, str(path), hashlib.sha256(path.read_bytes()).hexdigest())


def check_allowed(address: str, run: Path | None = None) -> None:
    """Check, before anything is imported, that a run or a file of settings may have this address imported.

    A file must lie under the current directory, and nothing may lie in a run's directory, for both may be a stranger's.

    Args:
        address: the address of a part.
        run: the directory of the run that names it, which may be damaged; other runs are told by their files.

    Raises:
        ValueError: it may not.
    """
    place, _, _ = address.rpartition(":")
    who = "the file" if run is None else "the run"
    if place.endswith(".py"):
        paths = [expanded("address", place).resolve()]
        if not paths[0].is_relative_to(Path.cwd()):
            raise ValueError(
                f"{who} names {address!r}, a file outside of the current directory, which is not imported; go to "
                f"{paths[0].parent} if you trust it, and start there"
            )
    else:
        paths = _files_of_module(place)
    for path in paths:
        of_this = run is not None and path.is_relative_to(run.resolve())
        if of_this or any((folder / _OF_A_RUN).exists() for folder in path.parents):
            raise ValueError(f"{who} names {address!r}, which lies in a run's own directory; it is not imported")


_OF_A_RUN = "plan.json"
"""A file that every run directory holds."""


def _files_of_module(name: str) -> list[Path]:
    """Return the files that importing a module would run, as far as they are found without importing anything."""
    package, *rest = name.split(".")
    with _current_directory_on_path():
        try:
            # Of a package's module the package is found alone: finding more would import the package.
            spec = importlib.util.find_spec(package)
        except (ImportError, ValueError, AttributeError):
            return []
    if spec is None:
        return []
    # A folder without an __init__.py is a package too, and a run's directory is such a folder.
    found = [Path(folder, *rest).resolve() for folder in spec.submodule_search_locations or ()]
    return [*found, Path(spec.origin).resolve()] if spec.origin and spec.has_location else found


def _checked(module: str, name: str, value: Any) -> str | None:
    """Return the address of a name in a module, if it leads to ``value``."""
    holder: Any = sys.modules.get(module)
    file = getattr(holder, "__file__", None)
    for part in name.split("."):
        holder = getattr(holder, part, None)
    if holder is not value or not all(part.isidentifier() for part in name.split(".")):
        return None
    alone = "." not in module and file is not None and not _is_installed(file)
    if module not in ("__main__", "__mp_main__") and not module.startswith(_PREFIX) and not alone:
        return f"{module}:{name}"
    # Of a notebook and of `python -c` there is no file.
    return f"{_short(Path(file))}:{name}" if file and file.endswith(".py") else None


def _is_installed(file: str) -> bool:
    """Tell whether a module that is in no package lies where every process looks for modules."""
    return bool({"site-packages", "dist-packages"} & set(Path(file).parts))


def _short(file: Path) -> str:
    """Return a file's path from the current directory, where it lies under it."""
    path = file.resolve()
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


_PREFIX = "fcbp_file_"


def _module(address: str, place: str) -> ModuleType:
    try:
        return _of_file(address, expanded("address", place)) if place.endswith(".py") else _of_name(address, place)
    except ValueError:
        raise
    except (Exception, SystemExit) as error:
        raise ValueError(f"importing {place!r} for {address!r} fails: {type(error).__name__}: {error}") from error


def _of_name(address: str, name: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise ValueError(f"address is {address!r}; expected 'package.module:name' or 'path/to/file.py:name'")
    with _current_directory_on_path():
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
                raise
            raise ValueError(f"{address!r} names the module {name!r}, which cannot be found: {error}") from None


def _of_file(address: str, file: Path) -> ModuleType:
    path = file.resolve()
    if not path.is_file():
        raise ValueError(f"{address!r} names the file {str(file)!r}, which is not there")
    if (found := _imported(path)) is not None:
        return found
    name = f"{_PREFIX}{hashlib.sha256(str(path).encode()).hexdigest()[:12]}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    _importing.append(str(file))
    try:
        # A file may import its neighbours, as a script may.
        with _on_path(str(path.parent)):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        _importing.pop()
    return module


def _imported(path: Path) -> ModuleType | None:
    """Return the first module that was made of a file; ``None`` where there is none."""
    name, module = _of_path.get(path, ("", None))
    if module is not None and sys.modules.get(name) is module:
        return module
    for name, module in list(sys.modules.items()):
        known = getattr(module, "__file__", None)
        if isinstance(module, ModuleType) and known and known.endswith(path.name) and Path(known).resolve() == path:
            _of_path[path] = name, module
            return module
    return None


_of_path: dict[Path, tuple[str, ModuleType | None]] = {}
"""Modules found before by their files: to look through all that are imported takes a millisecond or more."""
_importing: list[str] = []


def check_not_importing() -> None:
    """Check that no file is being imported because an address names it: it must not start a sweep of its own.

    Raises:
        ValueError: one is.
    """
    if _importing:
        raise ValueError(
            f"{_importing[-1]} starts a sweep while it is imported for one of its names; put the sweep under "
            "if __name__ == '__main__':"
        )


@contextlib.contextmanager
def _on_path(folder: str) -> Iterator[None]:
    added = folder not in sys.path
    if added:
        sys.path.append(folder)
    try:
        yield
    finally:
        if added and folder in sys.path:
            sys.path.remove(folder)


def _current_directory_on_path() -> contextlib.AbstractContextManager[None]:
    return _on_path(os.getcwd())
