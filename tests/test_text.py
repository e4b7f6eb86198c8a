"""Numbers as people read them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zemosaic.text import two_digits, with_error


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (1.11196054, 0.00072919, "1.11196 ± 0.00073"),
        (202.784, 0.3641, "202.78 ± 0.36"),
        (-124.09, 15.307, "-124 ± 15"),
        (12345.6, 1234.5, "12300 ± 1200"),
        (1.0, 0.0996, "1.00 ± 0.10"),
        (3.1234e-18, 2.04e-19, "(3.12 ± 0.20)e-18"),
        (2.5e12, 3.1e10, "(2.500 ± 0.031)e+12"),
        (0.0, 3.1e-12, "(0.0 ± 3.1)e-12"),
        (1.25, math.nan, "1.25"),
        (1.0, 0.0, "1"),
        (math.nan, 1.0, "unknown"),
    ],
)
def test_an_error_has_two_digits_and_its_value_as_many_decimals(
    value: float, error: float, text: str
) -> None:
    """A value is written to the last digit of its error, with a power of ten only far from 1."""
    assert with_error(value, error) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(133.2, "130"), (67.4, "67"), (1.0, "1.0"), (0.0184, "0.018"), (0.0996, "0.10"), (0.0, "0"),
     (-2.35e9, "-2.4e+09"), (math.inf, "unknown")],
)  # fmt: skip
def test_a_number_in_two_digits(value: float, text: str) -> None:
    """Two digits count, also of hundreds."""
    assert two_digits(value) == text


@given(st.floats(1e-30, 1e30), st.floats(1e-30, 1e30))
def test_no_number_is_lost(value: float, error: float) -> None:
    """What is printed lies within a tenth of an error of the value, and the error within 5 %."""
    text = with_error(value, error)
    if "e" in text.partition(" ± ")[0]:
        assert value > 1e14 * error
        return
    power = float("1" + text.partition(")")[2]) if text.startswith("(") else 1.0
    shown, shown_error = (float(part) * power for part in text.strip("(").split(")")[0].split("±"))
    assert abs(shown - value) <= 0.06 * error + 1e-12 * abs(value)
    assert shown_error == pytest.approx(error, rel=0.06)
