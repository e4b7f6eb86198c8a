"""Data layouts that the kernels share with the fit of a pair.

In shapes, C are the channels, B the fit blocks, F the cells around bright stars, R = B + F the
samples, and K the columns of the design matrix. The first of an axis of 2 is tile i, the second
tile j. Arrays are C-contiguous.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple, Protocol

import numpy as np

from .lattice import Lattice


class Column(IntEnum):
    """Columns of the design matrix, which ends after INSTRUMENT for a line without an intercept."""

    X = 0
    Y = 1
    INSTRUMENT = 2  # for the noisy x
    LEVEL = 3  # the first nuisance term
    GRADIENT_U = 4  # of the scene; its coefficient is a shift between the tiles
    GRADIENT_V = 5
    LAPLACIAN = 6  # of the scene; its coefficient is a difference in seeing
    U = 7  # the second-order surface
    V = 8
    UU = 9
    UV = 10
    VV = 11


class BlockStatistic(IntEnum):
    """First axis of a `block_summary`. Only `COUNT` is known of blocks with an invalid cell."""

    MEAN = 0  # value
    VARIANCE = 1  # mean variance of a cell, including BORDER_ERROR
    HIGHEST = 2  # value
    GRADIENT_U = 3  # mean change per cell along u, the column; 0 beside a missing block
    GRADIENT_V = 4  # the same along v, the row
    LAPLACIAN = 5  # mean; the part of an axis is 0 beside a missing block
    COUNT = 6  # valid cells


class Kind(IntEnum):
    """Numbers of a block or a cell."""

    VALUE = 0
    VARIANCE = 1
    GRADIENT_U = 2
    GRADIENT_V = 3
    LAPLACIAN = 4


class PreviewArrays(Protocol):
    """The part of a `Preview` that the kernels read."""

    @property
    def x0(self) -> int:
        """Column of the first cell on the grid."""

    @property
    def y0(self) -> int:
        """Row of the first cell on the grid."""

    @property
    def values(self) -> np.ndarray:
        """``(C, h, w)`` float32 in ADU; NaN if invalid."""

    @property
    def variance(self) -> np.ndarray:
        """``(C, h, w)`` float32 in ADU²."""

    @property
    def blocks(self) -> np.ndarray:
        """``(7, C, H, W)`` float32; see `block_summary`."""


PreviewPair = tuple[PreviewArrays, PreviewArrays]


class OverlapFrame(NamedTuple):
    """The overlap of two previews, and the fit blocks that cover it with a margin of one block.

    Parameters
    ----------
    x0, y0, x1, y1 : int
        The overlap in cells of the grid; x1 and y1 are exclusive.
    side : int
        Cells along a fit block.
    left, top : int
        Column and row of the first fit block, counted from the origin of the grid.
    width, height : int
        Of the frame, in fit blocks.
    """

    x0: int
    y0: int
    x1: int
    y1: int
    side: int
    left: int
    top: int
    width: int
    height: int


class OverlapBlocks(NamedTuple):
    """Common cells of two previews by fit block, N blocks in the order of the frame.

    Parameters
    ----------
    means : ndarray
        ``(5, 2, C, N)`` float64 mean of each `Kind` in both tiles; 0 for empty blocks.
    position : ndarray
        ``(2, N)`` float64 mean u and v of the cells, from the corner of the frame.
    highest : ndarray
        ``(2, C, N)`` float64 largest value; -inf for empty blocks.
    cell_count : ndarray
        ``(N,)`` float64 number of common cells.
    cells : int
        Common cells of the overlap.
    few : bool
        Whether the overlap has so few cells that each should be a block of its own; the arrays
        are undefined then.
    """

    means: np.ndarray
    position: np.ndarray
    highest: np.ndarray
    cell_count: np.ndarray
    cells: int
    few: bool


class BlockNoise(NamedTuple):
    """Typical noise of fit blocks, and how far stars stand out of it.

    Parameters
    ----------
    typical_variance : ndarray
        ``(2, C, 1)`` median variance of the means of complete blocks, in ADU².
    prominence : ndarray
        ``(N,)`` height of the brightest cell of each block above its mean, in standard deviations,
        summed over both tiles; in the best channel.
    """

    typical_variance: np.ndarray
    prominence: np.ndarray


@dataclass(eq=False)
class SampleArrays:
    """Samples of an overlap: B fit blocks, and F cells around bright stars.

    Parameters
    ----------
    x, y : ndarray
        ``(C, B)`` float64 mean values of tile i and tile j, in ADU.
    derivatives : ndarray
        ``(3, 2, C, B)`` float64 gradient along u and v, and Laplacian, in ADU per cell and
        per cell².
    variance : ndarray
        ``(2, C, R)`` float64 of the values of blocks and cells, in ADU².
    u, v : ndarray
        ``(B,)`` float64 mean position in cells, from the corner of the overlap.
    bright : ndarray
        ``(B,)`` intp: 1 for a block with a star, else 0.
    cell_count : ndarray
        ``(B,)`` float64 number of common cells.
    block_index : ndarray
        ``(B,)`` intp flat index in the frame.
    star_cells : ndarray
        ``(4, 2, C, F)`` float64 value, gradient and Laplacian of single cells.
    cell_position : ndarray
        ``(2, F)`` float64 their u and v.
    cell_block : ndarray
        ``(F,)`` intp the block of each cell.
    patch : ndarray
        ``(R,)`` intp patch of the overlap; errors of different patches are independent.
    frame_shape : tuple of int
        Height and width of the frame in fit blocks.
    lattice : Lattice
        Units and areas over the frame.
    typical_variance : ndarray
        ``(2, C, 1)`` float64 median variance of blocks, in ADU².
    side : int
        Cells along a fit block.
    cells : int
        Common valid cells; an upper limit if some were left out.
    """

    x: np.ndarray
    y: np.ndarray
    derivatives: np.ndarray
    variance: np.ndarray
    u: np.ndarray
    v: np.ndarray
    bright: np.ndarray
    cell_count: np.ndarray
    block_index: np.ndarray
    star_cells: np.ndarray
    cell_position: np.ndarray
    cell_block: np.ndarray
    patch: np.ndarray
    frame_shape: tuple[int, int]
    lattice: Lattice
    typical_variance: np.ndarray
    side: int
    cells: int

    @property
    def block_variance(self) -> np.ndarray:
        """``(2, C, B)`` variances of the blocks alone."""
        return np.ascontiguousarray(self.variance[..., : len(self.u)])

    @property
    def cell_details(self) -> np.ndarray:
        """``(4, 2, C, F)`` values and derivatives of cells minus those of their blocks."""
        blocks = np.concatenate([[[self.x, self.y]], self.derivatives])
        return self.star_cells - blocks.take(self.cell_block, axis=-1)


class LineFit(NamedTuple):
    """The line of each channel, and the weighted samples of its fit.

    Parameters
    ----------
    design : ndarray
        ``(C, K, R)`` design matrix; without terms of the scene, its instrument holds the adjusted
        points of York.
    slope : ndarray
        ``(C,)``; NaN if the fit failed.
    weights : ndarray
        ``(C, R)`` in ADU⁻².
    gram : ndarray
        ``(C, K, K)`` weighted products of the columns.
    line : ndarray
        ``(C, 2, K)`` coefficients with all terms; see `fit_line`.
    scale : ndarray
        ``(C,)`` robust standard deviation of the residuals in units of the expected one.
    bread : ndarray
        ``(C,)`` factor by which the biweight enlarges standard errors, at least 1.
    instrument_noise : ndarray
        ``(C,)`` part of the instrument's weighted sum of squares due to noise.
    """

    design: np.ndarray
    slope: np.ndarray
    weights: np.ndarray
    gram: np.ndarray
    line: np.ndarray
    scale: np.ndarray
    bread: np.ndarray
    instrument_noise: np.ndarray


def has_scene(design: np.ndarray) -> bool:
    """Return whether a design matrix ``(C, K, R)`` has terms of the scene."""
    return design.shape[1] > Column.GRADIENT_U
