"""A stand-in for ZeMosaic: an application with a folder called zemosaic and a daemonic worker.

Run as a program it starts the worker, and prints what its queue receives, one JSON line each.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
from typing import Any

#: Levels that the queue of ZeMosaic's worker passes on.
SHOWN = {"INFO", "WARN", "ERROR", "SUCCESS", "ETA_LEVEL", "CHRONO_LEVEL"}


def queue_callback(queue: Any) -> Any:
    """Return a callback that passes on what ZeMosaic's worker does."""

    def callback(message: Any, current: Any = None, level: Any = "INFO", **details: Any) -> None:
        if isinstance(current, int) and isinstance(level, int):
            queue.put(("STAGE_PROGRESS", message, current, {"total": level}))
        elif str(level).upper() in SHOWN:
            queue.put((message, current, level, details))

    return callback


def worker(queue: Any, path: list[str], package: str, options: dict[str, Any]) -> None:
    """Run the calibration as ZeMosaic's worker does, with the files in `options`."""
    sys.path[:] = path
    from importlib import import_module

    from astropy.io import fits
    from astropy.wcs import WCS

    module = import_module(f"{package}.zemosaic_utils")
    tiles = []
    for name in options.pop("files"):
        with fits.open(name) as hdus:
            tiles.append((hdus[0].data.astype("float32"), WCS(hdus[0].header)))
    corrections = module.compute_intertile_affine_calibration(
        tiles, None, (100, 100), progress_callback=queue_callback(queue), **options
    )
    queue.put(("RESULT", module.__file__, sorted(corrections.items()), {}))
    queue.put(("PROCESS_DONE", None, "INFO", {}))


def main() -> None:
    """Start the worker with the arguments in JSON: package and options."""
    package, options = json.loads(sys.argv[1])
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(
        target=worker, args=(queue, sys.path, package, options), daemon=True, name="ZeMosaicWorker"
    )
    process.start()
    print(json.dumps(["PID", process.pid]), flush=True)
    while True:
        message = queue.get(timeout=120)
        print(json.dumps(message), flush=True)
        if message[0] == "PROCESS_DONE":
            break
    process.join()


if __name__ == "__main__":
    main()
