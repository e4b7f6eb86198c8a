"""Sums and maxima over square blocks of images."""

from __future__ import annotations

import numpy as np


def block_sum(images: np.ndarray, side: int) -> np.ndarray:
    """Sum ``(C, H, W)`` over its complete blocks of `side` x `side` elements."""
    c, h, w = images.shape
    images = images[:, : h - h % side, : w - w % side]
    rows = images.reshape(c, h // side, side, w - w % side).sum(axis=2)
    if side == 1:
        return rows
    total = rows[..., ::side] + rows[..., 1::side]
    for k in range(2, side):
        total += rows[..., k::side]
    return total


def block_highest(images: np.ndarray, side: int) -> np.ndarray:
    """Return the largest value of each block of ``(C, H, W)``; NaN if an element is NaN."""
    c, h, w = images.shape
    rows = images.reshape(c, h // side, side, w).max(axis=2)
    highest = rows[..., ::side]
    for k in range(1, side):
        highest = np.maximum(highest, rows[..., k::side])
    return highest
