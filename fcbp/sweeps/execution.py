"""A sweep under way: chunks go out, and their results are kept."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from fcbp.sweeps import checkpoint, origins
from fcbp.sweeps import folder as folders
from fcbp.sweeps.advance import Backend
from fcbp.sweeps.chunk import (
    Advanced,
    Began,
    Event,
    Finished,
    Measured,
    Saved,
    Split,
    Stopped,
    Task,
    population_of,
    run_chunk,
)
from fcbp.sweeps.folder import Folder, State
from fcbp.sweeps.memory import members_that_fit
from fcbp.sweeps.places import Places
from fcbp.sweeps.plan import Chunk, Plan, compiling_for, divide, halves
from fcbp.sweeps.population import Population
from fcbp.sweeps.progress import Progress
from fcbp.sweeps.stopping import Stop
from fcbp.sweeps.store import Results, progress_attributes

if TYPE_CHECKING:
    import xarray

__all__ = ["Execution", "Interrupted"]


SLOW = {
    "scan": "the compiled scan runs, several times slower for small learners,",
    "eager": "steps run eagerly, 10 to 1,000 times slower,",
}
"""The words for the speed of the backend in place of lanes."""


class Interrupted(KeyboardInterrupt):
    """A sweep ended early, its state saved."""


class Execution:
    """A plan being carried out.

    Args:
        plan: the plan.
        places: the devices.
        folder: the run directory, new or of this plan; ``None`` keeps all in memory.
        show: whether there is a progress bar.
        checkpoint_every: seconds.
        members_at_once: the most members of a chunk; ``None`` is as many as fit.
        notes: the text of ``experiment.yaml``, which a new run directory gets.
        accept_changes: whether the steps may go on in another backend than those before.
    """

    def __init__(
        self,
        plan: Plan,
        places: Places,
        folder: Folder | None,
        show: bool,
        checkpoint_every: float,
        members_at_once: int | None,
        notes: str = "",
        accept_changes: bool = False,
    ) -> None:
        self.plan, self.places, self.folder, self.show = plan, places, folder, show
        self.checkpoint_every = checkpoint_every
        self.ran: dict[int, Backend] = {}
        """By group, the backend of the steps that are kept, where the rest is to run in the same."""
        self.digest = folders.digest(plan)
        self.checkpoints = checkpoint.InMemory() if folder is None else folder.checkpoints
        self.stop = Stop()
        self.began = time.monotonic()
        device = self.places.devices[0] if self.places.backend is None else "cpu"
        self.programs: dict[Any, Population] = {
            group: population_of(plan, group, device) for group in range(len(plan.groups))
        }
        store = None if folder is None else folder.store
        self.results = Results(plan, self._variables(), store, self.digest, self._batch_size())
        if folder is not None and folder.holds_run():
            self._take_up(folder)
            self.ran = {} if accept_changes else self._ran()
        else:
            self._begin(members_at_once, notes)

    def _variables(self) -> dict[str, tuple[str, str]]:
        """Return the long name and the unit of every variable that the programs measure."""
        found: dict[str, tuple[str, str]] = {}
        for side_by_side in self.programs.values():
            found = {**side_by_side.rehearsed.variables, **found}
        order = dict.fromkeys(name for one in self.programs.values() for name in one.rehearsed.variables)
        return {name: found[name] for name in order}

    def _batch_size(self) -> int | None:
        """Return examples of a step; ``None`` where programs differ in it, or have no examples."""
        sizes = {side_by_side.rehearsed.batch_size for side_by_side in self.programs.values()}
        return sizes.pop() if len(sizes) == 1 else None

    def _begin(self, members_at_once: int | None, notes: str) -> None:
        plan, places = self.plan, self.places
        most = [members_at_once or self._fit(group) for group in range(len(plan.groups))]
        self.chunks = {chunk.id: chunk for chunk in divide(plan, most, self._at_once())}
        self.done: set[int] = set()
        self.steps = dict.fromkeys(self.chunks, 0)
        self.config: dict[str, Any] = {
            **plan.maker.describe(),
            "steps": plan.steps,
            "bin": plan.bin,
            "sizes": {**{name: len(axis) for name, axis in plan.members.axes.items()}, plan.dimension: len(plan.ends)},
            "seeds": _ranges(set(plan.seeds)),
            "compiled": plan.compile if isinstance(plan.compile, str) else int(plan.compile),
            "threads": places.threads,
            "began": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            **folders.circumstances(places.devices[0]),
            "sources": self._sources(),
            "seconds": 0.0,
            "members_with_nan": 0,
            "programs": self._programs_told(),
        }
        if self.folder is not None:
            self.folder.keep(notes)
            self.results.create(self._attributes())
            self._write_plan()
            self._write_config("running")

    def _sources(self) -> dict[str, dict[str, str]]:
        """Return the file of each part that has an address, and its hash."""
        named = origins.addresses_in([self.plan.maker.describe(), [dict(row) for row in self.plan.members]])
        return origins.sources(list(dict.fromkeys(named)))

    def _programs_told(self) -> list[dict[str, Any]]:
        """Return the settings that set each program apart, and the time that it ran; later also its backend."""
        pairs = zip(self.plan.program_settings, self.plan.groups, strict=True)
        return [{"settings": settings, "members": len(group), "seconds": 0.0} for settings, group in pairs]

    def _at_once(self) -> int:
        """Return the number of chunks that run at a time."""
        if self.places.backend == "ray":
            from fcbp.sweeps import cluster  # most sweeps need it not, and importing fcbp is to be quick

            return cluster.room(self.places)
        return len(self.places.devices)

    def _fit(self, group: int) -> int:
        """Return the number of a group's members that are tried at once."""
        members = self.plan.groups[group]
        if self.places.backend is not None:
            return len(members)  # the memory is another machine's: a chunk that is too large will be halved
        some = [(self.plan.seeds[i], self.plan.numbers(i)) for i in members]
        return members_that_fit(self.programs[group], some, self.places.devices[0], len(self.places.devices))

    def _take_up(self, folder: Folder) -> None:
        """Read the progress of an earlier process."""
        # Sources that have changed are taken note of: going on with them was asked for.
        self.config = {"programs": self._programs_told(), **folder.read(), "sources": self._sources()}
        self.began -= self.config["seconds"]
        for name, now in folders.circumstances(self.places.devices[0]).items():
            if name in ("fcbp", "torch") and now != self.config[name]:
                warnings.warn(
                    f"the sweep began with {name} {self.config[name]} and goes on with {now}: the rest may differ in "
                    "rounding from what it would have been",
                    UserWarning,
                    stacklevel=4,
                )
        chunks, self.done = folders.read_chunks(folder)
        self.chunks = {chunk.id: chunk for chunk in chunks}
        self.steps = {chunk.id: self._saved_step(chunk) for chunk in chunks}
        bins = {
            member: sum(end <= self.steps[chunk.id] for end in self.plan.ends)
            for chunk in chunks
            for member in chunk.members
        }
        fixed, checksums = folders.read_fixed(folder)
        self.config.update(fixed)
        self.places = dataclasses.replace(self.places, threads=self.config["threads"])
        lost = self.results.load(bins, self._attributes(), checksums)
        again = [chunk for chunk in chunks if lost.intersection(chunk.members)]
        if again:
            members = sum(len(chunk.members) for chunk in again)
            warnings.warn(
                f"part of {folder.store} is damaged; {members} members are computed again from the start",
                UserWarning,
                stacklevel=4,
            )
        for chunk in again:
            self.checkpoints.drop(chunk.id)
            self.done.discard(chunk.id)
            self.steps[chunk.id] = 0
            self.results.forget(chunk.members)
        if again or checksums != self.results.checksums()["files"]:
            self._write_plan()

    def _ran(self) -> dict[int, Backend]:
        """Return the backend in which the steps kept by an earlier process ran, by group."""
        groups = {chunk.group for chunk in self.chunks.values() if self.steps[chunk.id]}
        told = {g: one for g, one in enumerate(self.config["programs"]) if g in groups and "backend" in one}
        return {group: Backend(one["backend"], one.get("unbuilt", "")) for group, one in told.items()}

    def _saved_step(self, chunk: Chunk) -> int:
        if chunk.id in self.done:
            return self.plan.steps
        owner = checkpoint.Owner(self.digest, chunk.members, self.plan.steps)
        data = self.checkpoints.read(chunk.id, owner)
        return checkpoint.restore(data, owner)[0] if data else 0

    def run(self) -> xarray.Dataset:
        """Carry the plan out.

        Raises:
            Interrupted: asked to stop, it has saved its state.
        """
        members = len(self.plan.members)
        progress = Progress(members, self.plan.steps, self._done_steps(), self.show)
        told: set[str] = set()
        self.pending = deque(chunk for chunk in self.chunks.values() if chunk.id not in self.done)
        try:
            with self.stop.on_signals(self.folder is not None, progress.say):
                for event in self._events():
                    self._handle(event)
                    if isinstance(event, Began):
                        self._tell(event.backend, progress.say, told)
                    progress.update(self._done_steps(), self.results)
            if len(self.done) < len(self.chunks):
                self._write_config("interrupted")
                done = self._done_steps() / (members * self.plan.steps)
                raise Interrupted(f"stopped at {done:.0%}; {self._how_to_go_on()}")
            self._write_config("finished")
        except Interrupted:
            raise
        except BaseException as error:
            state: State = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            with contextlib.suppress(OSError):  # the first error is the one to see
                self.results.flush(sync=True)
                self._write_config(state)
            raise
        finally:
            progress.close(self.results)
        if self.folder is not None:
            self.folder.finish()
        return self.results.dataset({**self._attributes(), **progress_attributes(self.config)})

    def _events(self) -> Iterator[Event]:
        places = self.places
        if places.backend == "ray":
            from fcbp.sweeps import cluster  # most sweeps need neither, and importing fcbp is to be quick

            return cluster.run(self.pending, self._task, self.stop, places)
        if len(places.devices) > 1:
            from fcbp.sweeps import workers

            return workers.run(self.pending, self._task, self.stop, places)
        return self._here()

    def _here(self) -> Iterator[Event]:
        while self.pending and not self.stop():
            yield from run_chunk(self._task(self.pending.popleft(), self.places.devices[0]), self.stop, self.programs)

    def _task(self, chunk: Chunk, device: str) -> Task:
        saved = self.checkpoints.read(chunk.id, checkpoint.Owner(self.digest, chunk.members, self.plan.steps))
        threads, every, ran = self.places.threads, self.checkpoint_every, self.ran.get(chunk.group)
        structure = self.programs[chunk.group].rehearsed.structure
        return Task(self.plan, chunk, saved, self.digest, device, threads, every, ran, structure)

    def _handle(self, event: Event) -> None:
        chunk = self.chunks[event.chunk]
        match event:
            case Began():
                self._note(chunk, event.backend)
            case Advanced():
                self._note(chunk, event.backend)
                self.steps[chunk.id] = event.step
                self.config["programs"][chunk.group]["seconds"] += event.seconds
            case Measured():
                self.results.put(chunk.members, event.bin, event.values)
            case Saved():
                # In this order: what a checkpoint goes on from must be there.
                self.results.flush(sync=True)
                self.checkpoints.write(chunk.id, event.data)
                self._write_config("running")
            case Split():
                self._split(chunk, event)
            case Finished():
                self.results.flush(sync=True)
                self.done.add(chunk.id)
                self._write_plan()
                self._write_config("running")
                self.checkpoints.drop(chunk.id)
            case Stopped():
                pass

    def _note(self, chunk: Chunk, backend: Backend) -> None:
        """Note the backend of a program, why, where a better one exists, and all by which its numbers were made."""
        program = self.config["programs"][chunk.group]
        program.pop("unbuilt", None)
        program.update({"backend": backend.name, **({"unbuilt": backend.unbuilt} if backend.unbuilt else {})})
        made_by = program.setdefault("made_by", [])
        if backend.made_by not in made_by:
            made_by.append(backend.made_by)

    def _split(self, chunk: Chunk, event: Split) -> None:
        """Put two chunks in the place of one, and smaller ones in the place of those that wait."""
        warnings.warn(
            f"{len(chunk.members)} members do not fit into memory ({event.reason[:200]}); going on with {event.size} "
            "at once",
            UserWarning,
            stacklevel=2,
        )
        step = self.steps[chunk.id]
        for members, saved in zip(halves(chunk.members), event.saved, strict=True):
            new = self._add(chunk._replace(members=members, size=event.size), step if saved else 0)
            if saved:
                self.checkpoints.write(new.id, saved)
        waiting = [
            other
            for other in self.pending
            if other.group == chunk.group and other.size > event.size and not self.steps[other.id]
        ]
        for other in waiting:
            self.pending.remove(other)
            del self.chunks[other.id]
            for i in range(0, len(other.members), event.size):
                self._add(other._replace(members=other.members[i : i + event.size], size=event.size), 0)
        del self.chunks[chunk.id]
        self._write_plan()
        self.checkpoints.drop(chunk.id)

    def _add(self, chunk: Chunk, step: int) -> Chunk:
        chunk = chunk._replace(id=max(self.steps) + 1)
        self.steps[chunk.id] = step
        self.chunks[chunk.id] = chunk
        self.pending.append(chunk)
        return chunk

    def _done_steps(self) -> int:
        return sum(self.steps[chunk.id] * len(chunk.members) for chunk in self.chunks.values())

    def _attributes(self) -> dict[str, Any]:
        """Return the dataset's attributes that never change."""
        names = ("steps", "bin", "compiled", "seeds", "began", "fcbp", "torch", "python", "device", "host", "git")
        about = {name: self.config[name] for name in names if name in self.config}
        what = {name: json.dumps(value) for name, value in self.plan.maker.describe().items()}
        return {**what, **about}

    def _write_plan(self) -> None:
        if self.folder is not None:
            chunks = list(self.chunks.values())
            folders.write_plan(self.folder, self.plan, chunks, self.done, self.config, self.results.checksums())

    def _write_config(self, state: State) -> None:
        self.config["state"] = state
        self.config["seconds"] = round(time.monotonic() - self.began, 1)
        self.config["members_with_nan"] = int(self.results.failed().sum())
        if self.folder is not None:
            self.folder.write(self.config)

    def _tell(self, backend: Backend, say: Callable[[str], None], told: set[str]) -> None:
        """Say before the first steps why they are slow, each reason once."""
        why = backend.unbuilt or (self._why_eager() if backend.name == "eager" else "")
        if backend.unbuilt and why not in told:
            warnings.warn(f"{SLOW[backend.name]} in place of lanes: {why}", RuntimeWarning, stacklevel=3)
        elif why and why not in told:
            say(why)
        told.add(why)

    def _why_eager(self) -> str:
        """Write the message to a person who waits."""
        steps = f"{self.plan.steps:,} steps"
        if self.plan.compile != compiling_for(self.plan.steps):
            return f"{steps}: running eagerly, as asked."
        if self.plan.compile:
            return f"{steps}: running eagerly what does not suit lanes; compiling it (15 to 60 s) would not pay back."
        return f"{steps}: running eagerly, compiling (2 s or more) would not pay back."

    def _how_to_go_on(self) -> str:
        assert self.folder is not None
        return f"to go on: fcbp resume {self.folder.path}, or fcbp.resume({str(self.folder.path)!r})"


def _ranges(seeds: Iterable[int]) -> str:
    """Return whole numbers, neighbours as a range: ``0-29, 40``."""
    parts: list[list[int]] = []
    for seed in sorted(seeds):
        if parts and seed == parts[-1][1] + 1:
            parts[-1][1] = seed
        else:
            parts.append([seed, seed])
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in parts)
