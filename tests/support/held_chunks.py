"""For the tests of workers: chunks that wait half-way until they are let go or told to stop, in worker processes and in
Ray's. So what is done to a sweep finds all of it at work, however fast or busy the machine is."""

import functools
import os
import time
from pathlib import Path

from fcbp.sweeps import chunk, cluster, workers

GATE = "FCBP_TESTS_GATE"
"""The variable with the path of a file that lets the chunks go."""
COMMAND = "import sys, held_chunks; held_chunks.serve(int(sys.argv[1]))"
HALF_WAY = 50


def run_chunk(task, stop, programs=None, told=None):
    for event in chunk.run_chunk(task, stop, programs):
        yield event
        if getattr(event, "step", 0) >= HALF_WAY:
            while not (Path(os.environ[GATE]).exists() or (told or stop)()):
                time.sleep(0.02)


def serve(descriptor):
    """What a worker process does."""
    workers.run_chunk = run_chunk
    workers.serve(descriptor)


def work(task, mailbox):
    """A Ray task. It is told to stop when it posts."""
    import ray

    def told():
        return ray.get(mailbox.post.remote([]))

    cluster.run_chunk = functools.partial(run_chunk, told=told)
    cluster.work(task, mailbox)
