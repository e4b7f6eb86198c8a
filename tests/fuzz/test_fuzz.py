"""A bounded number of cases of each fuzzer, with fixed seeds."""

from __future__ import annotations

import pytest

from tests.fuzz import Fuzzer, make_fuzzers


@pytest.fixture(scope="module")
def fuzzers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Fuzzer]:
    """Return all fuzzers."""
    return make_fuzzers(tmp_path_factory.mktemp("fuzz"))


@pytest.mark.parametrize("seed", range(0, 400, 40))
def test_both_implementations_of_the_kernels_agree(fuzzers: dict[str, Fuzzer], seed: int) -> None:
    """They reject the same pairs, and their gains differ by a fraction of the error."""
    for case in range(seed, seed + 40):
        fuzzers["kernels"].run(case)


@pytest.mark.parametrize("seed", range(0, 100, 10))
def test_a_damaged_file_costs_one_line(fuzzers: dict[str, Fuzzer], seed: int) -> None:
    """Whatever stands in one file, the others are calibrated."""
    for case in range(seed, seed + 10):
        fuzzers["files"].run(case)


@pytest.mark.parametrize("seed", range(0, 50, 10))
def test_a_damaged_journal_changes_no_result(fuzzers: dict[str, Fuzzer], seed: int) -> None:
    """Every command reads it, and the resumed run has the same bits as an undamaged one."""
    for case in range(seed, seed + 10):
        fuzzers["journals"].run(case)
