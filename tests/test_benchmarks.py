"""The programs in `benchmarks/` run; what they measure is asserted nowhere."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
QUICKEST = {
    "accuracy": ["--sets", "9 tiles, flat residual 1 %, shared"],
    "large_report": ["--tiles", "200", "--pairs", "700", "--unit", "64"],
    "scale": ["--only", "solver, planes", "overlaps, mixed", "--sizes", "400"],
}


@pytest.mark.parametrize("program", QUICKEST)
def test_benchmarks_run(program, tmp_path):
    """Each writes its figures, from the smallest input."""
    if not BENCHMARKS.is_dir():
        pytest.skip("the benchmarks are not part of this installation")
    options = [*QUICKEST[program], "--json", "figures.json"]
    command = [sys.executable, BENCHMARKS / f"{program}.py", *options]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=600)
    assert json.loads((tmp_path / "figures.json").read_text())
