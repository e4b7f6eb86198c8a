"""Real faults in real runs: what the workers of a run execute is made to go wrong.

`inject` writes a ``sitecustomize.py``, which Python imports at the start of every process of the
run. A fault strikes a pair in its step ``fit`` or a tile in its step ``preview``, and is one of

- ``hang``: an endless loop in C that holds the GIL;
- ``raise``: an exception;
- ``crash``: a segmentation fault;
- ``sleep``: three seconds, and then as if nothing had been.
"""

from __future__ import annotations

from pathlib import Path

SITE = """
import ctypes
import functools
import re
import sys
import time
from pathlib import Path

FAULTS = {faults!r}


def strike(fault):
    if fault == "hang":
        re.fullmatch("(a|a)*b", "a" * 99)
    elif fault == "raise":
        raise RuntimeError("as the test has it")
    elif fault == "crash":
        ctypes.string_at(0)
    elif fault == "sleep":
        time.sleep(3)


def struck(job, name_of, inner):
    whole = getattr(tasks, inner)

    @functools.wraps(job)
    def wrapper(*given):
        def faulty(*arguments):
            strike(FAULTS.get(name_of(*given)))
            return whole(*arguments)

        setattr(tasks, inner, faulty)
        return job(*given)

    return wrapper


# Not in the processes that only serve the others, so that these stay as light as they are.
if any("zemosaic" in text or "multiprocessing" in text for text in sys.orig_argv):
    from zemosaic.pipeline import tasks

    def pair(first, second, *_):
        return "pair_" + Path(first).stem + "_" + Path(second).stem

    def tile(tile, channels, grid, path, *_):
        return "tile_" + path.stem

    tasks.measure = struck(tasks.measure, pair, "measure_pair")
    tasks.prepare = struck(tasks.prepare, tile, "make_preview")
"""


def inject(folder: Path, **faults: str) -> dict[str, str]:
    """Environment of a run with faults, e.g. ``pair_0_1="hang"`` (tiles) or ``tile_4="sleep"``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(SITE.format(faults=faults), encoding="utf-8")
    return {"PYTHONPATH": str(folder)}
