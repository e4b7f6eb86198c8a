"""The summary of a pair's fit, one record per channel, shared by the kernels and the solver.

``python -m zemosaic.photometry._kernels.fit_summary`` writes the C header of the same record.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

#: Name and length of each field, all float64, in the order of the C struct.
FIELDS = (
    ("slope", 1),
    ("instrument_norm", 1),  # weighted sum of squares of the instrument, less its noise
    ("information", 1),  # weighted product of the instrument and the signal, less its noise
    ("patch_squares", 2),  # sums over patches, squared: slope and level
    ("weight", 1),  # of all blocks
    ("pivot", 4),  # weighted means of u, v, x and y
    ("moments", 3),  # weighted, about the pivot: xx xy yy
    ("rms", 1),  # robust scatter about the line
    ("shift", 2),  # of the scene along u and v in cells; NaN if the overlap is too small
    ("shift_variance", 2),  # in units of the squared scale
)

FIT_SUMMARY = np.dtype(
    [(name, np.float64) if length == 1 else (name, np.float64, length) for name, length in FIELDS]
)

#: The generated header.
HEADER = Path(__file__).with_name("fit_summary.h")


def c_header() -> str:
    """Return the text of the C header that declares a record of `FIT_SUMMARY`."""
    members = "".join(
        f"    double {name};\n" if length == 1 else f"    double {name}[{length}];\n"
        for name, length in FIELDS
    )
    return (
        "/* Generated from fit_summary.py, which describes the fields:\n"
        "python -m zemosaic.photometry._kernels.fit_summary */\n\n"
        "#ifndef ZEMOSAIC_FIT_SUMMARY_H\n#define ZEMOSAIC_FIT_SUMMARY_H\n\n"
        f"typedef struct {{\n{members}}} FitSummary;\n\n"
        f"enum {{ FIT_SUMMARY_LENGTH = {sum(length for _, length in FIELDS)} }}; /* doubles */\n\n"
        "#endif\n"
    )


if __name__ == "__main__":
    HEADER.write_text(c_header(), encoding="utf-8", newline="\n")
