"""The ``fcbp`` command.

``fcbp run NAME`` runs an experiment or a program, named, in a YAML file, or of your own (``mine.py:experiment``).
Several values after a flag sweep it, several methods are compared. ``fcbp resume RUN`` goes on with a run, ``fcbp ls``
tells which there are, ``fcbp show RUN`` prints its tables, ``fcbp plot RUN`` draws its pictures again,
``fcbp report RUN`` writes one HTML page, ``fcbp compare RUN RUN`` tells how two differ, ``fcbp export RUN --tensorboard
DIR`` writes it for TensorBoard, and ``fcbp info`` tells what is installed. ``fcbp`` alone lists all of them.
"""

from __future__ import annotations

import importlib.util
import io
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fcbp.cli.about import Completion
from fcbp.cli.data import DATA_COMMANDS
from fcbp.cli.errors import one_line_errors
from fcbp.cli.flags import flags_of, run_arguments
from fcbp.cli.run import run
from fcbp.cli.runs import COMMANDS
from fcbp.cli.subject import Subject, subject_of
from fcbp.cli.words import list_of_experiments, overview
from fcbp.experiment import Experiment
from fcbp.names import lookup
from fcbp.version import __version__

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: by default those of the process.

    Returns:
        The exit status: 0; 2 where an argument was wrong; 130 where the run was interrupted.
    """
    if importlib.util.find_spec("tyro") is None:
        print("fcbp: the command needs tyro; install it with: pip install 'fcbp[cli]'", file=sys.stderr)
        return 2
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without some sign loses no results
    words = sys.argv[1:] if arguments is None else arguments
    if words in ([], ["run"]):
        print(list_of_experiments() if words else overview({**COMMANDS, "data": Data}))
        return 0
    if words in (["--version"], ["-V"]):
        print(f"fcbp {__version__}")
        return 0
    return _ended(lambda: _command_of(words)())


def _command_of(words: Sequence[str]) -> Callable[[], int]:
    first = words[0]
    _check_not_empty(words)
    if not first.startswith("-"):
        lookup("command", first, {"run": run, **COMMANDS, "data": Data})
    if first == "data":
        if words[1:] and not words[1].startswith("-"):
            lookup("data command", words[1], DATA_COMMANDS)
        with one_line_errors():
            return _data(words[1:])
    if first in ("ls", "list") and len(words) > 1 and not words[1].startswith("-"):
        words = [first, "--no-named", "--runs", *words[1:]]
    return _command(words)


def _check_not_empty(words: Sequence[str]) -> None:
    """Check that no value is an empty text, which as a path would mean the current directory."""
    for i, word in enumerate(words):
        flag = word.removesuffix("=") if word.startswith("--") and word.endswith("=") else None
        if word == "":
            before = [one for one in words[:i] if one.startswith("--")]
            flag = before[-1] if before else words[0]
        if flag is not None:
            raise ValueError(f"{flag or 'command'} is ''; expected a value that is not empty")


def _data(words: Sequence[str]) -> Callable[[], int]:
    import tyro

    positional = tyro.conf.configure(tyro.conf.PositionalRequiredArgs)
    command: Callable[[], int] = tyro.extras.subcommand_cli_from_dict(
        {name: positional(kind) for name, kind in DATA_COMMANDS.items()},
        prog="fcbp data",
        description="Data sets: which there are, downloads, checks.",
        args=list(words),
        sort_subcommands=False,
    )
    return command


@dataclass
class Data:
    """List, fetch and check data sets: `fcbp data ls`, `fcbp data fetch NAME`, `fcbp data check`."""


def _command(words: Sequence[str]) -> Callable[[], int]:
    import tyro

    subject = (subject_of(words[1:]) if words[:1] == ["run"] else None) or Subject(Experiment(), {}, ())
    flags = flags_of(subject.given, subject.own)
    kinds: Any = run_arguments(flags)
    positional = tyro.conf.configure(tyro.conf.PositionalRequiredArgs)
    with one_line_errors():
        command: Any = tyro.extras.subcommand_cli_from_dict(
            {
                "run": kinds,
                **{name: positional(kind) for name, kind in COMMANDS.items()},
                "data": Data,
            },
            prog="fcbp",
            description="Continual Backpropagation, vmapped over seeds and settings.",
            args=list(words),
            sort_subcommands=False,
        )
    if isinstance(command, Completion):
        return lambda: main(["--tyro-print-completion", command.shell])
    return (lambda: run(command, flags)) if isinstance(command, kinds) else command


def _ended(command: Callable[[], int]) -> int:
    """Return the exit status of a command, whose errors are a line each."""
    try:
        return command()
    except OSError as error:
        print(f"fcbp: {f'{error.filename}: {error.strerror}' if error.filename else error}", file=sys.stderr)
        return 2
    except (ValueError, ImportError) as error:
        print(f"fcbp: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        print(f"\nfcbp: {str(error) or 'interrupted before there was anything to keep'}", file=sys.stderr)
        return 130
