"""Fuzzers with seeds: a bounded number of cases in the tests, hours of them by hand.

``python -m tests.fuzz --minutes 60`` runs all of them in turn; each failure names its seed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class Fuzzer(Protocol):
    """Makes and checks a case from a seed."""

    def run(self, seed: int) -> None:
        """Raise if the case of this seed fails."""


def make_fuzzers(folder: Path) -> dict[str, Fuzzer]:
    """Return all fuzzers by name; they write to folders of their own."""
    from tests.fuzz.fits_files import FileFuzzer
    from tests.fuzz.journals import JournalFuzzer
    from tests.fuzz.kernels import KernelFuzzer

    return {
        "kernels": KernelFuzzer(),
        "files": FileFuzzer(folder / "files"),
        "journals": JournalFuzzer(folder / "journals"),
    }
