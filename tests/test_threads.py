"""Parts of a computation in several threads."""

from __future__ import annotations

import threading

import pytest

from zemosaic.photometry._kernels import threads


@pytest.mark.parametrize("processors", [1, 2, 3, 50])
@pytest.mark.parametrize("parts", [0, 1, 2, 7])
def test_results_are_in_the_order_of_the_parts(
    processors: int, parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many threads there are."""
    monkeypatch.setattr(threads.os, "cpu_count", lambda: processors)
    assert threads.at_once(lambda part: part**2, range(parts)) == [k**2 for k in range(parts)]


def test_parts_are_computed_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each waits for the other."""
    monkeypatch.setattr(threads.os, "cpu_count", lambda: 2)
    both = threading.Barrier(2, timeout=30)
    assert sorted(threads.at_once(lambda _: both.wait(), range(2))) == [0, 1]


@pytest.mark.parametrize("wrong", [0, 1, 5])
def test_an_exception_in_any_thread_is_raised(wrong: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """After all threads have ended."""
    monkeypatch.setattr(threads.os, "cpu_count", lambda: 3)
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError):
        threads.at_once(lambda part: 1 / (part - wrong), range(6))
    assert threading.active_count() == before
