"""Worker processes on this machine: chunks go out, events come back.

They are started as plain commands and not by ``multiprocessing``, which would run a user's script once more in each.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any, NamedTuple

from fcbp.sweeps.chunk import ENDINGS, Event, Task, run_chunk
from fcbp.sweeps.places import RETRIES, Places
from fcbp.sweeps.plan import Chunk

__all__ = ["run", "serve"]

SECONDS_TO_END = 10
"""Seconds that a process has to end by itself."""
COMMAND = "import sys; from fcbp.sweeps.workers import serve; serve(int(sys.argv[1]))"


class _Failed(NamedTuple):
    """An error in a worker."""

    error: Exception
    report: str


class _Worker:
    """A process that waits for chunks."""

    def __init__(self, device: str, threads: int, failed: int = 0) -> None:
        self.device = device
        self.failed = failed
        """Processes in this one's place that ended before they began."""
        self.chunk: Chunk | None = None
        self.ready = False
        self.connection, theirs = Pipe()
        path = os.pathsep.join(filter(None, sys.path))
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(threads)}
        with theirs, _held_back():
            self.process = subprocess.Popen(
                [sys.executable, "-c", COMMAND, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=environment,
            )

    def end(self, at_once: bool = False) -> int:
        """End a process that is over or no longer needed, and return its exit status."""
        self.connection.close()
        if at_once:
            self.process.kill()
        try:
            return self.process.wait(timeout=SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def run(
    pending: deque[Chunk], task_of: Callable[[Chunk, str], Task], stop: Callable[[], bool], places: Places
) -> Iterator[Event]:
    """Run all that is pending, one process a device.

    Args:
        pending: chunks to run; more may come while it runs.
        task_of: the task of a chunk on a device, with its latest checkpoint.
        stop: whether to save and end.
        places: the devices and the threads of each process.

    Raises:
        RuntimeError: a process could not start, or died again and again with the same chunk.
    """
    number = min(len(places.devices), len(pending))
    workers: list[_Worker] = []
    deaths: Counter[int] = Counter()
    asked = False
    try:
        workers += (_Worker(device, places.threads) for device in places.devices[:number])
        while (pending and not asked) or any(worker.chunk for worker in workers):
            if stop() and not asked:
                asked = True
                for worker in workers:
                    _tell(worker, None)
            for worker in workers:
                if worker.ready and worker.chunk is None and pending and not asked:
                    worker.chunk = pending.popleft()
                    _tell(worker, task_of(worker.chunk, worker.device))
            for connection in wait([worker.connection for worker in workers], timeout=0.5):
                worker = next(w for w in workers if w.connection is connection)
                try:
                    message = worker.connection.recv()
                except (EOFError, OSError):
                    workers[workers.index(worker)] = _replaced(worker, pending, deaths, places.threads)
                    continue
                if message is None:
                    worker.ready = True
                elif isinstance(message, _Failed):
                    with contextlib.suppress(AttributeError, OSError, ValueError):  # there may be no stderr
                        sys.stderr.write(message.report)
                    raise message.error
                else:
                    if isinstance(message, ENDINGS):
                        worker.chunk = None
                    yield message
    finally:
        for worker in workers:
            worker.connection.close()
        for worker in workers:
            worker.end(at_once=not worker.ready)  # it imports, and has nothing to lose


def _tell(worker: _Worker, message: Task | None) -> None:
    with contextlib.suppress(OSError):  # it has died, which its connection will say
        worker.connection.send(message)


def _replaced(worker: _Worker, pending: deque[Chunk], deaths: Counter[int], threads: int) -> _Worker:
    """Return a new process for one that died; its chunk goes on from its checkpoint."""
    status = worker.end()
    how = f"by signal {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
    failed = 0 if worker.ready else worker.failed + 1
    if failed > RETRIES:
        raise RuntimeError(
            f"a worker process ended {how} before it began, and so did {RETRIES} before it; what they said is above. "
            f"They run {sys.executable}, which must be able to import fcbp"
        )
    if worker.chunk is not None:
        deaths[worker.chunk.id] += 1
        if deaths[worker.chunk.id] > RETRIES:
            raise RuntimeError(
                f"a worker process ended {how}, and so did {RETRIES} before it with the same {worker.chunk.size} "
                "members; if the machine was out of memory, use fewer devices or a smaller members_at_once"
            )
        pending.appendleft(worker.chunk)
    return _Worker(worker.device, threads, failed)


SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""Signals that the parent handles; it then asks its workers to stop."""


@contextlib.contextmanager
def _held_back() -> Iterator[None]:
    """Hold signals back from a process that starts here until it has begun: Ctrl-C goes to all, and imports cannot take
    it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def serve(descriptor: int) -> None:
    """Run chunks in a worker process until the other end of the connection is closed."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    connection = Connection(descriptor)
    programs: dict[Any, Any] = {}
    try:
        connection.send(None)
        while True:
            task = connection.recv()
            if task is not None:
                # Whatever comes while a chunk runs asks to stop it: a message, or the end of the parent.
                for message in _messages(task, connection.poll, programs):
                    connection.send(message)
    except (EOFError, OSError):
        pass


def _messages(task: Task, stop: Callable[[], bool], programs: dict[Any, Any]) -> Iterator[Event | _Failed]:
    try:
        yield from run_chunk(task, stop, programs)
    except Exception as error:
        yield _Failed(_portable(error), traceback.format_exc())


def _portable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
