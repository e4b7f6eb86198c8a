"""Promises that are not kept yet, with the reason: these cases must fail.

A case that passes is to be taken off this list.
"""

from __future__ import annotations

_SMALL = "corners hardly know gains apart from surfaces, so that solutions hang on fewer pairs"
_PRIOR = "the sizes of the terms, and so their shrinkage, depend on all tiles"
_BLUE = (
    "blue is 3 to 13 % off: stars between the pixels of its colour gain or lose 5.5 % a frame, so "
    "that three frames of a night measure it to 3.6 %, and sparse parts of them not at all"
)

#: Reasons by file, name of a test function, and cases; without cases, for all of them.
SHORTFALLS = {
    "test_chips.py::test_every_chip_is_calibrated": ("the last bits depend on the instruments", ()),
    "test_hierarchy.py::test_equal_gains_stay_equal_in_poor_overlaps": (_PRIOR, ()),
    "test_hierarchy.py::test_the_sizes_of_a_sample_of_tiles_serve_all": (_PRIOR, ()),
    "test_mutations.py::test_a_damaged_file_affects_its_tile_alone": (
        _SMALL, ("float64",)
    ),
    "test_outliers.py::test_session_gains_of_m94_are_those_of_its_stars": (_BLUE, ("auto-blue",)),
    "test_outliers.py::test_a_wrong_wcs_does_not_bend_the_planes_of_others": (_SMALL, ("3",)),
    "test_outliers.py::test_a_wrong_wcs_stays_with_its_tile": (
        _SMALL, ("gain+offset-1", "auto-1")
    ),
    "test_real_frames.py::test_gains_of_nights_are_those_of_the_stars": (_BLUE, ()),
    "test_real_frames.py::test_two_nights_agree_with_their_nebula": (
        "the ratio of the nebula holds a sky gradient: without it red is 2.7, as of stars", ()
    ),
    "test_seestar.py::test_gains_of_nights_agree_with_star_photometry": (_BLUE, ()),
    "test_solve.py::test_another_unit_of_a_tile_is_undone": (_PRIOR, ()),
}  # fmt: skip
