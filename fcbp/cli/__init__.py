"""The ``fcbp`` command.

``fcbp run NAME`` runs an experiment or a program, named, in a YAML file, or of your own (``mine.py:experiment``).
Several values after a flag sweep it, several methods are compared. ``fcbp resume RUN`` goes on with a run, ``fcbp ls``
tells which there are, ``fcbp plot RUN`` draws its pictures again, ``fcbp compare RUN RUN`` tells how two differ, and
``fcbp export RUN --tensorboard DIR`` writes it for TensorBoard.
"""

from __future__ import annotations

import io
import sys

from fcbp.cli.flags import flags_of, run_arguments
from fcbp.cli.run import run
from fcbp.cli.runs import COMMANDS
from fcbp.cli.subject import Subject, subject_of
from fcbp.experiment import Experiment

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: by default those of the process.

    Returns:
        The exit status: 0; 2 where an argument was wrong; 130 where the run was interrupted.
    """
    try:
        import tyro
    except ImportError:
        print("fcbp: the command needs tyro; install it with: pip install 'fcbp[cli]'", file=sys.stderr)
        return 2
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without some sign loses no results
    words = sys.argv[1:] if arguments is None else arguments
    try:
        subject = (subject_of(words[1:]) if words[:1] == ["run"] else None) or Subject(Experiment(), {}, ())
        flags = flags_of(subject.given, subject.own)
        kinds = run_arguments(flags)
        positional = tyro.conf.configure(tyro.conf.PositionalRequiredArgs)
        command = tyro.extras.subcommand_cli_from_dict(
            {"run": kinds, **{name: positional(kind) for name, kind in COMMANDS.items()}},
            prog="fcbp",
            description="Continual Backpropagation, vmapped over seeds and settings.",
            args=words,
            sort_subcommands=False,
        )
        return run(command, flags) if isinstance(command, kinds) else command()
    except OSError as error:
        print(f"fcbp: {f'{error.filename}: {error.strerror}' if error.filename else error}", file=sys.stderr)
        return 2
    except (ValueError, ImportError) as error:
        print(f"fcbp: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        print(f"\nfcbp: {str(error) or 'interrupted before there was anything to keep'}", file=sys.stderr)
        return 130
