"""A bounded number of cases of each fuzzer, with fixed seeds."""

from __future__ import annotations

import pytest

from tests.fuzz.journals import JournalFuzzer


@pytest.fixture(scope="module")
def journals(tmp_path_factory: pytest.TempPathFactory) -> JournalFuzzer:
    """Return the fuzzer of journals."""
    return JournalFuzzer(tmp_path_factory.mktemp("journals"))


@pytest.mark.parametrize("seed", range(30))
def test_a_damaged_journal_changes_no_result(journals: JournalFuzzer, seed: int) -> None:
    """Every command reads it, and the resumed run has the same bits as an undamaged one."""
    journals.run(seed)
