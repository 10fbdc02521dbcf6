"""Chunks as Ray tasks: Ray chooses their places, moves them there, and replaces workers that die."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fcbp.sweeps.chunk import ENDINGS, Event, Saved, Task, run_chunk
from fcbp.sweeps.places import RETRIES, Places
from fcbp.sweeps.plan import Chunk

__all__ = ["room", "run"]

POST_EVERY = 0.5
"""Seconds between two messages of a task, and between two looks at them."""

_programs: dict[str, dict[Any, Any]] = {}
"""Programs of a worker's last sweep: it compiles once for all chunks that it is given."""


class Mailbox:
    """An actor that holds the events of the tasks, and the latest checkpoint of each."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._saved: dict[int, bytes] = {}
        self._stopping = False

    def post(self, events: list[Event]) -> bool:
        """Take a task's events; the answer is whether it is to stop."""
        self._events += events
        for event in events:
            if isinstance(event, Saved):
                self._saved[event.chunk] = event.data
            elif isinstance(event, ENDINGS):
                self._saved.pop(event.chunk, None)
        return self._stopping

    def take(self) -> list[Event]:
        """Return the events since the last call."""
        events, self._events = self._events, []
        return events

    def saved(self, chunk: int) -> bytes | None:
        return self._saved.get(chunk)

    def stop(self) -> None:
        self._stopping = True


def work(task: Task, mailbox: Any) -> None:
    """Run a chunk from its latest checkpoint to its end, as a task of Ray's."""
    import ray

    if task.digest not in _programs:
        _programs.clear()
    programs = _programs.setdefault(task.digest, {})
    latest = ray.get(mailbox.saved.remote(task.chunk.id))
    stopping = threading.Event()
    unsent: list[Event] = []
    sent = time.monotonic()
    for event in run_chunk(task._replace(saved=latest or task.saved), stopping.is_set, programs):
        unsent.append(event)
        if isinstance(event, (Saved, *ENDINGS)) or time.monotonic() - sent >= POST_EVERY:
            if ray.get(mailbox.post.remote(unsent)):
                stopping.set()
            unsent, sent = [], time.monotonic()


def room(places: Places) -> int:
    """Count the chunks that run at a time: on a cluster that runs already as many as it has room for.

    Raises:
        ImportError: Ray is not installed here.
        ConnectionError: no cluster answers at the address.
    """
    if not places.elastic or _is_own(_ray(), places):
        return len(places.devices)
    with _connected(places) as ray:
        resources = ray.cluster_resources()
        device = places.devices[0].split(":")[0]
        free = resources.get("GPU", 0) if device == "cuda" else resources.get("CPU", 0) // places.threads
    return max(1, int(free))


def run(
    pending: deque[Chunk], task_of: Callable[[Chunk, str], Task], stop: Callable[[], bool], places: Places
) -> Iterator[Event]:
    """Run all that is pending on a Ray cluster.

    Args:
        pending: chunks to run; more may come while it runs.
        task_of: the task of a chunk on a device, with its latest checkpoint.
        stop: whether to save and end.
        places: the kind of device, the cluster's address, and how many workers a local Ray has.

    Raises:
        ImportError: Ray is not installed here, or fcbp on a worker.
        ConnectionError: no cluster answers at the address.
        RuntimeError: a worker died again and again.
    """
    with _connected(places) as ray:
        device = places.devices[0].split(":")[0]  # Ray shows a task its own GPU alone
        resources = {"num_gpus": 1} if device == "cuda" else {"num_cpus": places.threads}
        remote = ray.remote(max_retries=RETRIES, **resources)(work)
        mailbox = ray.remote(num_cpus=0)(Mailbox).remote()
        running: dict[Any, Chunk] = {}
        asked = False
        try:
            while running or (pending and not asked):
                if stop() and not asked:
                    asked = True
                    mailbox.stop.remote()
                while pending and not asked:
                    chunk = pending.popleft()
                    running[remote.remote(task_of(chunk, device), mailbox)] = chunk
                over, _ = ray.wait(list(running), num_returns=len(running), timeout=POST_EVERY)
                yield from ray.get(mailbox.take.remote())
                for reference in over:
                    ray.get(reference)  # raises what the task raised
                    del running[reference]
        except ray.exceptions.RayError as error:
            raise _explained(error, ray) from error


def _explained(error: Exception, ray: Any) -> Exception:
    """Give advice on an error of Ray's."""
    if "No module named 'fcbp'" in str(error):
        return ImportError("a Ray worker cannot import fcbp; install it on every node of the cluster")
    if isinstance(error, ray.exceptions.RayTaskError) and isinstance(error.cause, Exception):
        return error.cause
    if isinstance(error, ray.exceptions.WorkerCrashedError):
        return RuntimeError(
            f"a Ray worker died, and so did {RETRIES} before it with the same members; if the machine was out of "
            "memory, use a smaller members_at_once"
        )
    return RuntimeError(f"Ray failed: {error}")


@contextmanager
def _connected(places: Places) -> Iterator[Any]:
    """Return Ray, connected to a cluster: the one that is, the one at the address, or one of its own on this
    machine."""
    ray = _ray()
    if ray.is_initialized():
        yield ray
        return
    address = places.address
    options: dict[str, Any] = {"logging_level": "warning", "log_to_driver": False}
    if _is_own(ray, places):
        # Without an address Ray would join a cluster that it finds on this machine.
        address = "local"
        options |= {"num_cpus": max(len(places.devices), 1) * places.threads, "include_dashboard": False}
    try:
        _check_answers(address)
        ray.init(address=address, **options)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise ConnectionError(
            f"address is {places.address!r}, where no Ray cluster answers ({str(error).splitlines()[0]}); start one "
            "with `ray start --head`, or leave the address out to use this machine"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise ImportError("backend='ray' needs ray; install it with: pip install 'fcbp[ray]'") from None
    return ray


def _is_own(ray: Any, places: Places) -> bool:
    """Tell whether a Ray is to be started for this sweep alone."""
    return places.address is None and not os.environ.get("RAY_ADDRESS") and not ray.is_initialized()


def _check_answers(address: str | None) -> None:
    """Check that the cluster answers; Ray itself tries for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=5).close()
