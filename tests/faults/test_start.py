"""The start of a run: the order of imports, and processes that do not outlive the run."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.faults.command import Start

#: The first of them that takes long; they are imported while workers start and read headers.
NUMERICS = {"astropy", "scipy", "reproject"}


def test_numerics_are_imported_after_the_workers_have_started() -> None:
    """All that precedes the jobs of the scan imports neither astropy nor scipy."""
    program = (
        "import sys, json, zemosaic.cli.session, zemosaic.pipeline.prepare_stage; "
        "print(json.dumps([m.partition('.')[0] for m in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert not NUMERICS & set(json.loads(done.stdout))


def test_python_does_not_collect_the_imported_modules_at_exit() -> None:
    """When Python ends, most objects are frozen, so its last collection has little to look at."""
    program = (
        "import atexit, gc, sys; "
        "atexit.register(lambda: print(gc.get_freeze_count(), len(gc.get_objects()))); "
        "from zemosaic.cli import main; main()"
    )
    command = [sys.executable, "-c", program, "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    frozen, others = done.stdout.split()[-2:]
    assert int(frozen) > 10 * int(others)


def test_a_picture_imports_no_other_format() -> None:
    """WebP files are written without the plugins of all other formats."""
    program = (
        "import sys, numpy as np; from zemosaic.pictures import encode_webp; "
        "assert encode_webp(np.zeros((2, 2, 4), np.uint8), 2).startswith(b'RIFF'); "
        "assert 'PIL.WebPImagePlugin' in sys.modules; "
        "assert 'PIL.TiffImagePlugin' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@pytest.mark.skipif(os.name == "nt", reason="process groups as POSIX has them")
def test_no_process_outlives_a_run(start: Start) -> None:
    """When the command has ended, its process group is empty."""
    run = start()
    out, err = run.process.communicate(timeout=180)
    assert run.process.returncode == 0, out + err
    with pytest.raises(ProcessLookupError):
        os.killpg(run.process.pid, 0)
