"""The parts of a large run that its page shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.synthetic_run import SyntheticRun, grid_graph
from zemosaic.observe.progress import FAILED_OUTCOMES
from zemosaic.report import selection, tables
from zemosaic.report.build import load_run
from zemosaic.report.charts import chart_data
from zemosaic.report.data import RunData
from zemosaic.report.page import PageImages, render_page

LIMITS = {"MAX_TILES": 30, "MAX_PAIRS": 12, "MAX_JOBS": 40, "MAX_VALUES": 50}


@pytest.fixture
def run(tmp_path: Path) -> RunData:
    SyntheticRun(tmp_path, grid_graph(60, 180)).write()
    return load_run(tmp_path)[0]


@pytest.fixture
def limited(monkeypatch: pytest.MonkeyPatch, run: RunData) -> dict[str, Any]:
    for name, value in LIMITS.items():
        monkeypatch.setattr(selection, name, value)
    return chart_data(run)


def test_a_large_run_shows_its_worst_pairs(run: RunData, limited: dict[str, Any]) -> None:
    """No pair that is left out disagrees more than one that is shown, unless it was measured."""
    shown = {pair["index"] for pair in limited["pairs"]}
    assert len(shown) == LIMITS["MAX_PAIRS"]
    keys = {
        pair.index: (pair.outcome in FAILED_OUTCOMES, np.nan_to_num(pair.max_chi, nan=-1.0))
        for pair in run.pairs
    }
    assert min(keys[index] for index in shown) >= max(keys[k] for k in keys.keys() - shown)


def test_shown_pairs_and_jobs_refer_to_shown_tiles(run: RunData, limited: dict[str, Any]) -> None:
    """By their places among them: names and numbers are those of the whole run."""
    tiles = {tile["index"]: tile["name"] for tile in limited["tiles"]}
    assert len(tiles) == LIMITS["MAX_TILES"]
    pairs = {pair.index: pair for pair in run.pairs}
    for shown in limited["pairs"]:
        pair = pairs[shown["index"]]
        for end, index in (("i", pair.i), ("j", pair.j)):
            assert limited["tiles"][shown[end]]["index"] == index
    assert len(limited["jobs"]) == LIMITS["MAX_JOBS"]
    kinds = {True: limited["pairs"], False: limited["tiles"]}
    for _, stage, index, *_, target in limited["jobs"]:
        is_pair = stage == limited["pairStage"]
        if target is not None:
            shown = kinds[is_pair][target]
            assert not is_pair or shown["index"] == index


def test_thinned_values_keep_their_distribution(
    run: RunData, limited: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their quartiles are those of all values, as far as so few values have them."""
    whole = sorted(run.finite_residuals("level_chi"))
    thin = limited["levelChi"]
    assert len(thin) == LIMITS["MAX_VALUES"] < len(whole)
    for share in (0.25, 0.5, 0.75):
        below = sum(value <= thin[int(share * len(thin))] for value in whole)
        assert abs(below / len(whole) - share) < 0.04


def test_a_large_run_names_what_it_leaves_out(
    run: RunData, limited: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page gives the numbers of all tiles and pairs; that of a small run has no such line."""
    monkeypatch.setattr(tables, "MAX_ROWS", 20)
    page = render_page(run, PageImages())
    assert "of 60 tiles, 180 pairs" in page
    assert "and 40 more, in corrections.ecsv" in page
    monkeypatch.undo()
    assert "and 40 more" not in render_page(run, PageImages())
    assert not selection.selection_sentence(run)
