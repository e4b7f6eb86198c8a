"""The samples of a pair: common fit blocks, and single cells around bright stars."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from .. import _kernels
from .._kernels.layout import SampleArrays

CHANNEL_AXIS = {"x": 0, "y": 0, "variance": 1, "typical_variance": 1, "derivatives": 2,
                "star_cells": 2}  # fmt: skip
OF_BLOCKS = ("x", "y", "derivatives", "u", "v", "bright", "cell_count", "block_index")
OF_CELLS = ("star_cells", "cell_position")
OF_SAMPLES = ("variance", "patch")


@dataclass(eq=False)
class PairSamples(SampleArrays):
    """The samples of a pair in channels that are valid in the same cells."""

    @cached_property
    def planes(self) -> np.ndarray:
        """``(3, 2, C, 1)`` coefficients of 1, u and v in planes through x and through y."""
        return _kernels.sky_planes(self)

    def select_channels(self, channels: np.ndarray) -> PairSamples:
        """Return the samples of some channels, by their indices."""
        arrays = {
            name: getattr(self, name).take(channels, axis) for name, axis in CHANNEL_AXIS.items()
        }
        return replace(self, **arrays)

    def select_blocks(self, selected: np.ndarray) -> PairSamples:
        """Return some of the blocks, by a mask ``(B,)``, with the star cells in them."""
        blocks, cells = np.flatnonzero(selected), np.flatnonzero(selected[self.cell_block])
        index = {
            **dict.fromkeys(OF_BLOCKS, blocks),
            **dict.fromkeys(OF_CELLS, cells),
            **dict.fromkeys(OF_SAMPLES, np.concatenate([blocks, len(selected) + cells])),
        }
        arrays = {name: getattr(self, name).take(k, axis=-1) for name, k in index.items()}
        new_index = np.cumsum(selected) - 1
        return replace(self, **arrays, cell_block=new_index[self.cell_block[cells]])
