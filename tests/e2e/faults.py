"""Real faults in the workers of real runs.

`inject` writes a ``sitecustomize.py``, which every process of the run imports at its start. A fault
hits a pair in its step ``fit``, a tile in its step ``preview`` or a block of the mosaic in its step
``coadd``, and is one of

- ``hang``: an endless loop in C that holds the GIL;
- ``raise``: an exception;
- ``crash``: a segmentation fault;
- ``sleep``: a delay of three seconds.
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
        raise RuntimeError("injected by a test")
    elif fault == "crash":
        ctypes.string_at(0)
    elif fault == "sleep":
        time.sleep(3)


def strike_in(module, task, name_of, inner):
    job, original = getattr(module, task), getattr(module, inner)

    @functools.wraps(job)
    def wrapper(*job_arguments):
        def faulty(*arguments):
            strike(FAULTS.get(name_of(*job_arguments)))
            return original(*arguments)

        setattr(module, inner, faulty)
        return job(*job_arguments)

    setattr(module, task, wrapper)


# Not in the auxiliary processes of multiprocessing, which stay light.
if any("zemosaic" in text or "multiprocessing" in text for text in sys.orig_argv):
    from zemosaic.pipeline import mosaic_tasks, tasks

    def pair(first, second, *_):
        return "pair_" + Path(first).stem + "_" + Path(second).stem

    def tile(tile, channels, grid, path, *_):
        return "tile_" + path.stem

    def block(plan, box, *_):
        return f"block_{{box.x0}}_{{box.y0}}"

    strike_in(tasks, "measure", pair, "measure_pair")
    strike_in(tasks, "prepare", tile, "make_preview")
    strike_in(mosaic_tasks, "coadd_to_file", block, "coadd_block")
"""


def inject(folder: Path, **faults: str) -> dict[str, str]:
    """Return the environment of a run with faults, e.g. ``pair_0_1="hang"``, ``tile_4="sleep"``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(SITE.format(faults=faults), encoding="utf-8")
    return {"PYTHONPATH": str(folder)}
