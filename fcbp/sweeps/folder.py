"""A run directory: its owner, its content, and its progress."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from fcbp.designs import Members, plain
from fcbp.loop.nested import Compile
from fcbp.sweeps import checkpoint, files, origins
from fcbp.sweeps.files import PART, Directory
from fcbp.sweeps.plan import Chunk, Plan
from fcbp.sweeps.store import CHANGING, CONFIG, PLAN, STORE, run_directory
from fcbp.version import __version__

__all__ = [
    "Folder",
    "check_same",
    "circumstances",
    "compiling",
    "digest",
    "read_chunks",
    "read_config",
    "read_fixed",
    "read_plan",
    "sources",
    "state",
    "write_plan",
]

LOCK = "lock"
CHECKPOINTS = "checkpoints"
NOTES = "experiment.yaml"
"""The file that the command line keeps beside a run, for ``fcbp run``."""
State = Literal["running", "finished", "interrupted", "failed"]


class Folder:
    """A run directory, held for this process alone. No link in it is followed.

    Args:
        path: made where there is none.

    Raises:
        BlockingIOError: another process is at work in it.
        OSError: it cannot be written.
        ValueError: a link, or whatever else is no file, has the name of one of its files.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.directory = Directory(path, create=True)
            self._lock = files.Lock(self.directory, LOCK)
        except BlockingIOError:
            raise
        except OSError as error:
            raise files.explained(error, path) from error
        self.checkpoints = checkpoint.OnDisk(self.directory, CHECKPOINTS)

    @property
    def store(self) -> Path:
        return self.path / STORE

    def holds_run(self) -> bool:
        return self.directory.kind(CONFIG) == "file"

    def foreign(self) -> list[str]:
        """List the files that a sweep killed before its beginning would not have left."""
        ours = {LOCK, STORE, PLAN, NOTES, *(f"{name}{PART}" for name in (STORE, PLAN, CONFIG, NOTES))}
        return [name for name in self.directory.names() if name not in ours]

    def read(self) -> dict[str, Any]:
        """Read the configuration; only its entries on the run's progress are trusted."""
        config = files.read_json(self.directory, CONFIG)
        config.pop("sha256", None)
        if config.get("state") not in get_args(State) or not isinstance(config.get("seconds"), (int, float)):
            raise ValueError(f"{self.path / CONFIG} is damaged: it tells no state, or no seconds")
        return config

    def write(self, config: Mapping[str, Any]) -> None:
        files.write_sealed(self.directory, CONFIG, config, indent=2)

    def keep(self, notes: str) -> None:
        """Keep a text beside the run, where there is none."""
        if self.directory.kind(NOTES) is None:
            self.directory.write(NOTES, notes.encode())

    def finish(self) -> None:
        """Remove the files that only an unfinished run needs."""
        self.checkpoints.clear()

    def release(self) -> None:
        self._lock.release()


def state(run: Path | str) -> str:
    """Return ``"running"``, ``"finished"``, ``"interrupted"``, ``"failed"``, or ``"killed"``.

    Raises:
        ValueError: there is no run.
    """
    directory = run_directory(run)
    written: Any = files.read_json(directory, CONFIG).get("state")
    if written not in get_args(State):
        raise ValueError(
            f"{directory.path / CONFIG} is damaged: state is {written!r}; expected one of {get_args(State)}"
        )
    return "killed" if written == "running" and not files.is_locked(directory, LOCK) else written


def read_config(run: Path | str) -> dict[str, Any]:
    """Return the configuration of a run.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    return files.read_sealed(run_directory(run), CONFIG)


def describe(plan: Plan) -> dict[str, Any]:
    """Return a plan as plain data; :func:`read_plan` is the inverse."""
    described = {
        **plan.maker.describe(),
        "dimension": plan.dimension,
        "steps": plan.steps,
        "bin": plan.bin,
        "axes": dict(plan.members.axes),
        "settings": [dict(settings) for settings in plan.members],
    }
    plain: dict[str, Any] = json.loads(
        json.dumps(described, default=str)
    )  # tuples as lists, as they come back from a file
    return plain


def read_plan(folder: Folder, say: Callable[[str], object] = str) -> Plan:
    """Return the plan of a run directory; the parts that it names by address are imported.

    Args:
        folder: the run directory.
        say: told of every import before it happens.

    Raises:
        ValueError: a file is damaged, a part may not be imported, or the experiment is one that this version of the
            library does not know.
    """
    stored = files.read_sealed(folder.directory, PLAN)
    axes = {name: plain(values) for name, values in stored["axes"].items()}
    members = Members(axes, tuple({k: plain(v) for k, v in settings.items()} for settings in stored["settings"]))
    origins.check_imports([stored.get("experiment"), stored.get("program"), stored["settings"]], folder.path, say)
    maker = origins.maker_from(stored)
    return Plan(maker, members, stored["steps"], stored["bin"], stored["compile"], stored["dimension"])


def compiling(folder: Folder) -> Compile:
    """Return :attr:`Plan.compile` of a run."""
    compiled: Compile = files.read_sealed(folder.directory, PLAN)["compile"]
    return compiled


def sources(folder: Folder) -> dict[str, dict[str, str]]:
    """Return the file and its hash of each part that a run names by address, as they were when it began."""
    hashes: dict[str, dict[str, str]] = read_fixed(folder)[0].get("sources", {})
    return hashes


def check_same(folder: Folder, plan: Plan) -> None:
    """Check that a run directory is of this sweep.

    Raises:
        ValueError: it is of another; the message names the first difference.
    """
    stored, ours = files.read_sealed(folder.directory, PLAN), describe(plan)
    pairs = [(name, stored[name], ours[name]) for name in ("steps", "bin")]
    pairs += [("dimension", stored["dimension"], ours["dimension"])]
    for what in ("experiment", "program"):
        theirs_of, ours_of = stored.get(what, {}), ours.get(what, {})
        names = sorted({*theirs_of, *ours_of} - {"steps", "bin"})
        pairs += [(name, theirs_of.get(name), ours_of.get(name)) for name in names]
    pairs += [(f"axis {name}", stored["axes"].get(name), ours["axes"].get(name)) for name in stored["axes"]]
    pairs += [("members", stored["settings"], ours["settings"])]
    for name, theirs, mine in pairs:
        if theirs != mine:
            raise ValueError(
                f"out is {str(folder.path)!r}, which holds a run of another experiment: {name} is {_short(theirs)} "
                f"there and {_short(mine)} here"
            )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 80 else f"{text[:77]}..."


def write_plan(
    folder: Folder,
    plan: Plan,
    chunks: Sequence[Chunk],
    done: Collection[int],
    config: Mapping[str, Any],
    store: Mapping[str, Any],
) -> None:
    """Keep the plan, and all facts that do not change from now on.

    Args:
        folder: the run directory.
        plan: the sweep.
        chunks: its chunks.
        done: those that are done.
        config: the configuration; what tells how far the run has come is left out.
        store: the checksums of the store.
    """
    fixed = {name: value for name, value in config.items() if name not in (*CHANGING, "programs")}
    table = [{**chunk._asdict(), "done": chunk.id in done} for chunk in chunks]
    kept = {"compile": plan.compile, "digest": digest(plan), "config": fixed, "store": store, "chunks": table}
    files.write_sealed(folder.directory, PLAN, {**describe(plan), **kept})


def read_fixed(folder: Folder) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the parts of a run's configuration that do not change, and the checksums of its store's files."""
    stored = files.read_sealed(folder.directory, PLAN)
    return stored["config"], stored["store"]["files"]


def read_chunks(folder: Folder) -> tuple[list[Chunk], set[int]]:
    """Read the chunks of a run, and the numbers of those that are done."""
    table = files.read_sealed(folder.directory, PLAN)["chunks"]
    done = {row["id"] for row in table if row.pop("done")}
    return [Chunk(**{**row, "members": tuple(row["members"])}) for row in table], done


def digest(plan: Plan) -> str:
    """Return the mark of a sweep's checkpoints."""
    return hashlib.sha256(json.dumps([describe(plan), plan.compile]).encode()).hexdigest()[:16]


def circumstances(device: str) -> dict[str, str]:
    """Return the circumstances of a sweep: versions, device, and the revision of the working directory."""
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.processor() or "cpu"
    about = {
        "fcbp": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": device if name == device else f"{device} ({name})",
        "host": platform.node(),
    }
    return {**about, **_revision()}


def _revision() -> dict[str, str]:
    """Return the git revision of the working directory, marked where files differ from it."""
    try:
        head, changed = (
            subprocess.run(["git", *words], capture_output=True, text=True, check=True, timeout=10).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"git": f"{head} with changes" if changed else head}
