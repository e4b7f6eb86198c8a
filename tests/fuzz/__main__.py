"""``python -m tests.fuzz --minutes 60 --seed 0``: fuzz until the time is over, and count."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from collections import Counter
from itertools import count
from pathlib import Path

from tests.fuzz import make_fuzzers


def main() -> int:
    """Run all fuzzers in turn; return 1 if a case failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0, help="first seed")
    parser.add_argument("--only", choices=["kernels", "files", "journals"])
    options = parser.parse_args()
    end, cases, failed = time.monotonic() + 60 * options.minutes, Counter[str](), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        fuzzers = make_fuzzers(Path(folder))
        if options.only:
            fuzzers = {options.only: fuzzers[options.only]}
        for seed in count(options.seed):
            if time.monotonic() >= end:
                break
            for name, fuzzer in fuzzers.items():
                cases[name] += 1
                try:
                    fuzzer.run(seed)
                except Exception:  # noqa: BLE001 - each is a finding
                    failed[name] += 1
                    print(f"{name}, seed {seed}:", file=sys.stderr)
                    traceback.print_exc()
    print({name: f"{cases[name]} cases, {failed[name]} failed" for name in fuzzers})
    return int(failed.total() > 0)


if __name__ == "__main__":
    sys.exit(main())
