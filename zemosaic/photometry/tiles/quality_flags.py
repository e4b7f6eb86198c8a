"""Masks of quality flags: the bits that make a pixel bad.

The names of flags come from the mask itself (``MP_*`` of the Rubin pipelines) or from the data
quality of JWST.
"""

from __future__ import annotations

import numpy as np
from astropy.io import fits

from ...errors import TileError

#: Flags of the pixel data quality of JWST and Roman, in the order of their bits; see the
#: documentation of the jwst package, "Data Quality Flags".
JWST_FLAGS = (
    "DO_NOT_USE", "SATURATED", "JUMP_DET", "DROPOUT", "OUTLIER", "PERSISTENCE", "AD_FLOOR",
    "CHARGELOSS", "UNRELIABLE_ERROR", "NON_SCIENCE", "DEAD", "HOT", "WARM", "LOW_QE", "RC",
    "TELEGRAPH", "NONLINEAR", "BAD_REF_PIXEL", "NO_FLAT_FIELD", "NO_GAIN_VALUE", "NO_LIN_CORR",
    "NO_SAT_CHECK", "UNRELIABLE_BIAS", "UNRELIABLE_DARK", "UNRELIABLE_SLOPE", "UNRELIABLE_FLAT",
    "OPEN", "ADJ_OPEN", "FLUX_ESTIMATED", "MSA_FAILED_OPEN", "OTHER_BAD_PIXEL", "REFERENCE_PIXEL",
)  # fmt: skip
#: Masks of this type belong to JWST or Roman, even if a file does not name its telescope.
JWST_TYPE = {"EXTNAME": "DQ", "BITPIX": 32, "BZERO": 1 << 31}
#: The bad flags; all others inform.
JWST_BAD = ("DO_NOT_USE", "NON_SCIENCE")
#: Bad planes of Rubin masks; others, such as DETECTED, mark sources.
RUBIN_BAD = (
    "BAD", "SAT", "INTRP", "CR", "EDGE", "NO_DATA", "SUSPECT", "UNMASKEDNAN", "CROSSTALK",
    "STREAK", "VIGNETTED", "SENSOR_EDGE",
)  # fmt: skip
#: Flags of HST that leave a pixel good: hot, unstable and warm pixels with a dark subtracted, and
#: uncertain ones of the reference files.
HST_GOOD = 16 | 32 | 64 | 512
#: Prefix of the keywords of the Rubin pipelines that give the bit of each plane.
PLANE = "MP_"


def is_bad(mask: np.ndarray, ignored: int) -> np.ndarray:
    """Return the pixels of a mask with flags besides the ignored ones, as bool; NaN is bad."""
    if ignored == 0 or mask.dtype.kind not in "iu":
        return np.asarray(mask != 0)
    from astropy.nddata.bitmask import bitfield_to_boolean_mask

    bad = bitfield_to_boolean_mask(mask, ignore_flags=ignored, good_mask_value=False)
    return np.asarray(bad, dtype=bool)


def ignored_flags(
    name: str, mask: fits.Header, primary: fits.Header, bits: int | str | None, is_dq: bool
) -> int:
    """Return the flags of a mask that leave a pixel good; negative if all but some do.

    Parameters
    ----------
    name : str
        Name of the tile, for the error.
    mask : astropy.io.fits.Header
        Header of the mask.
    primary : astropy.io.fits.Header
        Primary header of its file.
    bits : int, str or None
        Flags to ignore in the convention of `astropy.nddata.bitmask.interpret_bit_flags`; after a
        ``~`` the only ones not to ignore. None takes the bad flags of the observatory, or all.
    is_dq : bool
        Whether the mask holds data quality, and is not a mask of the user.

    Raises
    ------
    TileError
        There is no such flag, or the mask holds no integers.
    """
    flags = _named_flags(mask, primary)
    if bits is None:
        return _default_ignored(flags, primary, is_dq)
    from astropy.nddata.bitmask import extend_bit_flag_map, interpret_bit_flags

    try:
        names = extend_bit_flag_map("TileFlags", **flags) if flags else None
        ignored = interpret_bit_flags(bits, flag_name_map=names)
    except (ValueError, TypeError, AttributeError) as error:
        known = ", ".join(flags) or "none, so give numbers"
        raise TileError(f"{name}: --mask-bits {bits}: {error}; its flags are {known}") from None
    if mask["BITPIX"] < 0:
        raise TileError(f"{name}: its mask holds no flags but real numbers; omit --mask-bits")
    return 0 if ignored is None else int(ignored)


def _named_flags(mask: fits.Header, primary: fits.Header) -> dict[str, int]:
    """Return the flags of a mask by name."""
    planes = {key[len(PLANE) :]: mask[key] for key in mask if key.startswith(PLANE)}
    if planes:
        return {plane: 1 << int(bit) for plane, bit in planes.items()}
    if is_of_jwst(mask, primary):
        return {flag: 1 << bit for bit, flag in enumerate(JWST_FLAGS)}
    return {}


def is_of_jwst(mask: fits.Header, primary: fits.Header) -> bool:
    """Return whether a mask holds the data quality of JWST or Roman."""
    by_type = all(mask.get(key) == value for key, value in JWST_TYPE.items())
    return by_type or primary.get("TELESCOP") in ("JWST", "ROMAN")


def _default_ignored(flags: dict[str, int], primary: fits.Header, is_dq: bool) -> int:
    """Return the bits that leave a pixel good if the user names none."""
    if flags and (is_dq or "DO_NOT_USE" not in flags):
        bad = RUBIN_BAD if "DO_NOT_USE" not in flags else JWST_BAD
        return ~sum(bit for flag, bit in flags.items() if flag in bad)
    return HST_GOOD if is_dq and primary.get("TELESCOP") == "HST" else 0
