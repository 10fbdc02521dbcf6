"""Sweeps: an experiment for many seeds and settings side by side.

>>> import fcbp
>>> members = fcbp.grid(seed=range(3), replacement_rate=[0.0, 1e-2])
>>> len(members)
6
>>> results = fcbp.sweep("bit-flipping", members, steps=200, bin=100, progress=False)
>>> dict(results.sizes)
{'seed': 3, 'replacement_rate': 2, 'step': 2}

:func:`sweep` makes a plan (``plan.py``) and carries it out (``execution.py``). Members that run side by side are a
chunk (``chunk.py``), whose numbers are a population's (``population.py``), some steps further by one of several ways
(``advance.py``). Chunks run here, in worker processes (``workers.py``) or on Ray (``cluster.py``); this process alone
writes results (``store.py``), checkpoints (``checkpoint.py``) and the rest of the run directory (``folder.py``).
"""

from fcbp.sweeps.execution import Interrupted
from fcbp.sweeps.folder import state
from fcbp.sweeps.plan import COMPILE_FROM
from fcbp.sweeps.run import resume, sweep
from fcbp.sweeps.store import CONFIG, STORE, open

__all__ = ["COMPILE_FROM", "CONFIG", "STORE", "Interrupted", "open", "resume", "state", "sweep"]
