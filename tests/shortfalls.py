"""Promises that are not kept yet in all cases, with the reason."""

from __future__ import annotations

_SMALL = "overlaps of few cells measure gains about 1.6 times less precisely than they could"
_ABSORBED = "surfaces of third order take up part of the fault of a bad tile"
_PRIOR = "the sizes of the terms, and so their shrinkage, depend on all tiles"

#: Reasons by file and name of a test function.
SHORTFALLS = {
    "test_chips.py::test_every_chip_is_calibrated": "the last bits depend on the instruments",
    "test_hierarchy.py::test_an_illumination_is_found": "errors of F leave out its bias in part",
    "test_hierarchy.py::test_an_anchor_keeps_its_values": _PRIOR,
    "test_hierarchy.py::test_equal_gains_stay_equal_in_poor_overlaps": _PRIOR,
    "test_hierarchy.py::test_the_sizes_of_a_sample_of_tiles_serve_all": _PRIOR,
    "test_mutations.py::test_a_byte_too_many_is_named": _SMALL,
    "test_mutations.py::test_a_damaged_file_affects_its_tile_alone": _SMALL,
    "test_outliers.py::test_a_cloud_stays_with_its_tile": _ABSORBED,
    "test_outliers.py::test_a_wrong_wcs_does_not_bend_the_planes_of_others": _ABSORBED,
    "test_outliers.py::test_a_wrong_wcs_stays_with_its_tile": _ABSORBED,
    "test_outliers.py::test_session_gains_of_m94_are_those_of_its_stars": "blue is 5 % off",
    "test_outliers.py::test_with_all_faults_only_the_cloudy_tile_is_suspect": _ABSORBED,
    "test_outliers.py::test_with_few_stars_errors_cover_the_truth": "errors 1.8 times too small",
    "test_properties.py::test_corrected_tiles_need_no_correction": _PRIOR,
    "test_properties.py::test_the_anchor_sets_the_units_only": _PRIOR,
    "test_quality.py::test_an_inverted_mask_is_reported": "the few pixels left count as clipped",
    "test_real_frames.py::test_gains_of_calibrated_frames_stay_near_one": (
        "gains are expected to scatter by 8 %, and shrink less than those of the frames"
    ),
    "test_real_frames.py::test_gains_of_nights_are_those_of_the_stars": "blue is 5 % off",
    "test_real_frames.py::test_two_nights_agree_with_their_nebula": "the gain is that of the stars",
    "test_real_frames.py::test_unseen_squares_match_no_worse_than_with_offsets_alone": _SMALL,
    "test_seestar.py::test_gains_of_nights_agree_with_star_photometry": "blue is 5 % off",
    "test_solve.py::test_another_unit_of_a_tile_is_undone": _PRIOR,
    "test_solve.py::test_errors_are_honest": "errors of single patches are 1.5 times too large",
    "test_solve.py::test_the_anchor_sets_only_the_gauge": _PRIOR,
}
