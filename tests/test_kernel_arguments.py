"""The compiled kernels check their arguments and name the one that is wrong."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

from zemosaic.photometry._kernels.fit_summary import FIELDS, FIT_SUMMARY, HEADER, c_header

kernels: Any = pytest.importorskip(
    "zemosaic.photometry._kernels._fused", reason="the kernels were not compiled"
)

#: Without aliases, which have no signature.
NAMES = [
    name for name, kernel in vars(kernels).items() if getattr(kernel, "__text_signature__", "")
]
BLOCKS = 8


def plane_arguments() -> dict[str, Any]:
    """Return valid arguments of `sky_planes`, the kernel with the fewest."""
    x = np.arange(BLOCKS, dtype=float)[np.newaxis]
    return {
        "x": x,
        "y": 2 * x,
        "u": x[0],
        "v": x[0] ** 2,
        "bright": np.zeros(BLOCKS, dtype=np.intp),
        "planes": np.empty((3, 2, 1, 1)),
        "index_work": np.empty(BLOCKS),
    }


def weight_arguments() -> dict[str, Any]:
    """Return valid arguments of `block_weights`, which has numbers among them."""
    return {
        "means": np.ones((5, 2, 1, BLOCKS)),
        "highest": np.ones((2, 1, BLOCKS)),
        "cell_count": np.ones(BLOCKS),
        "typical_variance": np.empty((2, 1, 1)),
        "prominence": np.empty(BLOCKS),
        "index_work": np.empty(BLOCKS),
        "shared_noise": 1.0,
        "block_cells": 4,
    }


def read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


def summary_arguments(channels: int) -> dict[str, Any]:
    """Return arguments of `summarize_fit` for a fit without nuisance terms."""
    rng = np.random.default_rng(1)
    x, rows = rng.normal(10, 3, (channels, BLOCKS)), BLOCKS
    design = np.stack([x, 1.5 * x + rng.normal(0, 0.1, x.shape), x], axis=1)
    return {
        "x": x,
        "y": design[:, 1].copy(),
        "u": rng.normal(size=BLOCKS),
        "v": rng.normal(size=BLOCKS),
        "patch": np.arange(rows) // 2,
        "columns": design,
        "weights": np.ones((channels, rows)),
        "gram": design @ design.swapaxes(1, 2),
        "line": np.tile([[-1.5, 1.0, 0.0], [0.0, 0.0, 1.0]], (channels, 1, 1)),
        "instrument_noise": np.zeros(channels),
        "patch_sum_work": np.empty((2, rows // 2)),
        "patch_share_work": np.empty((2, rows // 2)),
        "residual_work": np.empty((2, rows)),
        "summary": np.empty((channels, 18)),
    }


@pytest.mark.parametrize("name", NAMES)
def test_each_kernel_has_a_signature(name: str) -> None:
    """`inspect.signature` lists the names of the arguments."""
    parameters = inspect.signature(getattr(kernels, name)).parameters
    assert len(parameters) >= 5
    assert all(len(parameter) > 2 or parameter in "xyuv" for parameter in parameters)


def test_names_and_positions_mean_the_same() -> None:
    """Arguments by position, by name in any order, and mixed give the same bits."""
    arguments = plane_arguments()
    assert list(inspect.signature(kernels.sky_planes).parameters) == list(arguments)
    kernels.sky_planes(*arguments.values())
    expected = arguments["planes"].copy()
    for positional in (0, 3):
        names = list(arguments)
        arguments["planes"].fill(np.nan)
        kernels.sky_planes(
            *(arguments[name] for name in names[:positional]),
            **{name: arguments[name] for name in reversed(names[positional:])},
        )
        assert np.array_equal(arguments["planes"], expected)


def test_the_names_of_arguments_must_match() -> None:
    """TypeError names an argument that is missing, unknown or given twice."""
    arguments = plane_arguments()
    for name in arguments:
        others = {key: value for key, value in arguments.items() if key != name}
        with pytest.raises(TypeError, match=rf"sky_planes\(\) is missing the argument '{name}'"):
            kernels.sky_planes(**others)
    with pytest.raises(TypeError, match=r"sky_planes\(\) got an unknown argument 'colour'"):
        kernels.sky_planes(**arguments, colour=1)
    with pytest.raises(TypeError, match=r"sky_planes\(\) got two values for the argument 'x'"):
        kernels.sky_planes(arguments["x"], **arguments)
    with pytest.raises(TypeError, match=r"sky_planes\(\) takes 7 arguments, but 8 were given"):
        kernels.sky_planes(*arguments.values(), 1)


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("x", np.ones((1, BLOCKS), np.float32), r"float64 of shape \(channels, blocks\), got .* f"),
        ("x", np.ones((1, 2 * BLOCKS))[:, ::2], r"shape \(1, 8\), not C-contiguous"),
        ("x", np.ones(BLOCKS), r"shape \(channels, blocks\), got .* \(8\)"),
        ("y", np.ones((1, 7)), r"shape \(channels=1, blocks=8\), got .* \(1, 7\)"),
        ("u", np.ones((1, BLOCKS)), r"shape \(blocks=8\), got .* \(1, 8\)"),
        ("u", np.ones(BLOCKS, dtype=">f8"), "float64"),
        ("bright", np.zeros(BLOCKS, dtype=bool), r"intp of shape \(blocks=8\), got format \?"),
        ("bright", np.zeros(BLOCKS), "intp"),
        ("planes", np.empty((2, 2, 1, 1)), r"shape \(3, 2, channels=1, 1\), writable, got"),
        ("planes", read_only(np.empty((3, 2, 1, 1))), "read-only"),
        ("index_work", np.empty(BLOCKS + 1), r"\(blocks=8\)"),
    ],
)
def test_an_array_that_does_not_fit_is_named(name: str, wrong: np.ndarray, message: str) -> None:
    """ValueError has the kernel, the argument, the expected and the actual type and shape."""
    arguments = plane_arguments() | {name: wrong}
    with pytest.raises(ValueError, match=rf"^sky_planes: {name}: expected .*{message}"):
        kernels.sky_planes(**arguments)


def test_other_objects_are_named() -> None:
    """TypeError for an array that is none, and for a number that is none."""
    with pytest.raises(TypeError, match=r"^sky_planes: u: expected float64, got <class 'float'>"):
        kernels.sky_planes(**plane_arguments() | {"u": 3.0})
    wrong = weight_arguments() | {"block_cells": "four"}
    with pytest.raises(TypeError, match=r"^block_weights: block_cells: expected a number, got <cl"):
        kernels.block_weights(**wrong)


@pytest.mark.parametrize("patch", [-1, 4])
def test_indices_out_of_range_are_refused(patch: int) -> None:
    """ValueError instead of an access outside the arrays."""
    wrong = summary_arguments(1)
    wrong["patch"][3] = patch
    with pytest.raises(ValueError, match=r"^summarize_fit: the arrays do not fit together"):
        kernels.summarize_fit(**wrong)


def test_the_committed_header_is_up_to_date() -> None:
    """`fit_summary.h` declares the fields of FIT_SUMMARY."""
    assert HEADER.read_text(encoding="utf-8") == c_header()


def test_a_summary_is_written_field_by_field() -> None:
    """The kernel's struct is a record of FIT_SUMMARY."""
    plain, arguments = summary_arguments(2), summary_arguments(2)
    kernels.summarize_fit(**plain)
    summary = np.empty(2, FIT_SUMMARY)
    arguments["summary"] = summary.view(np.float64).reshape(2, -1)
    kernels.summarize_fit(**arguments)
    assert np.array_equal(arguments["summary"], plain["summary"], equal_nan=True)
    assert [name for name, _ in FIELDS] == list(FIT_SUMMARY.names or ())
    np.testing.assert_allclose(summary["slope"], 1.5, rtol=0.1)
    np.testing.assert_allclose(summary["weight"], BLOCKS)
    x, y = arguments["x"].mean(axis=1), arguments["y"].mean(axis=1)
    np.testing.assert_allclose(summary["pivot"][:, 2:], np.stack([x, y], axis=1))
    assert np.isnan(summary["shift"]).all()
    assert (summary["rms"] > 0).all()
