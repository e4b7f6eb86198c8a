"""Names of output files: all different, and the same for the same inputs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zemosaic.files import output_names


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a/x.fits", "a/y.fits"], ["x.fits", "y.fits"]),
        (["a/x.fits", "b/x.fits", "b/y.fits"], ["a_x.fits", "b_x.fits", "y.fits"]),
        (["m31/1/lights/x.fits", "m31/2/lights/x.fits"], ["1_x.fits", "2_x.fits"]),
        (["x.fits", "sub/x.fits"], ["x.fits", "sub_x.fits"]),
        (["a/b/x.fits", "c/d/x.fits"], ["a_b_x.fits", "c_d_x.fits"]),
        (["a/x.fits", "b/X.FITS"], ["a_x.fits", "b_X.FITS"]),
        (["a/x.fits", "b/x.fits", "c/a_x.fits"], ["2_a_x.fits", "b_x.fits", "a_x.fits"]),
        (["a/x.fits", "b/../a/x.fits"], ["x.fits", "x.fits"]),
        (["a/x.fits.zip", "a/x.fits.gz"], ["x.fits", "x.fits.gz"]),
        (["a/x.fits.zip", "a/x.fits"], ["2_x.fits", "x.fits"]),
    ],
)
def test_namesakes_get_the_folders_that_differ(paths: list[str], names: list[str]) -> None:
    """Folders that all share are left out, and names that are unique stay."""
    found = output_names([Path(path) for path in paths])
    assert [found[Path(os.path.abspath(path))] for path in paths] == names


@given(st.lists(st.lists(st.sampled_from("abAB_2"), min_size=1, max_size=4), unique_by=tuple))
def test_no_two_files_get_one_name(parts: list[list[str]]) -> None:
    """Also on a disk that ignores case, and whatever the order of the files."""
    paths = [Path(*path) for path in parts]
    names = output_names(paths)
    assert len({name.casefold() for name in names.values()}) == len(paths)
    assert output_names(paths[::-1]) == names
    assert not any("/" in name or "\\" in name for name in names.values())
