"""A tile: one image with its position on the sky; made from arrays here.

`zemosaic.photometry.tiles.tile_files` makes tiles from FITS files. The process of a run starts its
workers before it imports astropy, which takes longer than reading many headers. It needs this
module to start them, so the functions import what they use.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import TileError
from .axes import channels_first_shape
from .file_options import FileOptions

if TYPE_CHECKING:
    from astropy.wcs import WCS

    from .strips import PixelPlane, Quality

#: Points along each side of a tile at which a WCS rebuilt from its parameters is compared.
POINTS_PER_SIDE = 8
#: Degrees along a side of a tile; its corners do not describe a larger one.
LARGEST_EXTENT = 180.0
#: Name of the frame of all tiles with convertible coordinates.
ICRS = "ICRS"


@dataclass(frozen=True, eq=False)
class Tile:
    """One image of the mosaic, with pixels that are read on demand.

    Construct it with `zemosaic.open_tile` or `tile_from_array`.

    Parameters
    ----------
    name : str
        Base name of the file, with the HDU if it holds several tiles (``a.fits[SCI,2]``), or a
        name given to an array.
    shape : tuple of int
        Height and width in pixels.
    channels : int
        Number of colour channels, 1 for a monochrome tile.
    corners : ndarray
        ``(4, 2)`` float64: right ascension and declination in degrees of the outer corners, in
        order around the tile.
    scale : float
        Side of a pixel at the tile's centre in degrees.
    path : pathlib.Path or None
        The FITS file, or None for a tile held in `data`.
    data : ndarray or None
        ``(H, W)``, ``(C, H, W)`` or ``(H, W, C)`` in ADU; NaN marks missing values.
    mask : ndarray or None
        ``(H, W)`` or the shape of `data`; true where a pixel is bad.
    weight : ndarray or None
        ``(H, W)`` relative weights, 0 where a pixel is bad.
    options : FileOptions
        How the file is read; its HDUs are numbers.
    unit : str
        Unit of the pixels (BUNIT), empty if the file does not give it.
    bayer : str
        Colour filter pattern of an undebayered image, else empty.
    asinh : bool
        Whether the file holds asinh-compressed pixels, which are linearized on reading.
    wcs_parameters : dict or None
        The WCS as returned by `wcs_parameters`; None if its parameters do not suffice.
    array_wcs : astropy.wcs.WCS or None
        The WCS of an array, if its parameters do not suffice.
    wcs_path : pathlib.Path or None
        The file of the WCS, if it is not in the file of the image.
    groups : tuple of str
        Groups of the tile by each rule of `FileOptions.group`.
    instrument : tuple of str
        Values of the keywords by `FileOptions.instrument`, empty without any.
    frame : str
        Frame of `corners`: ICRS, to which the WCS is converted, or the name of an unknown one.
    mask_path, weight_path : pathlib.Path or None
        The files of mask and weights, if they are not in the file of the image.
    ignored_flags : int
        Bits of the mask that leave a pixel good.
    alpha : bool
        Whether the last plane of the image is no channel but a mask, 0 where pixels are bad.
    saturation : float
        Saturation level in ADU as in the header, inf if it gives none.
    """

    name: str
    shape: tuple[int, int]
    channels: int
    corners: np.ndarray
    scale: float
    path: Path | None = None
    data: np.ndarray | None = None
    mask: np.ndarray | None = None
    weight: np.ndarray | None = None
    options: FileOptions = field(default_factory=FileOptions)
    unit: str = ""
    bayer: str = ""
    asinh: bool = False
    wcs_parameters: dict[str, Any] | None = None
    array_wcs: WCS | None = None
    wcs_path: Path | None = None
    groups: tuple[str, ...] = ()
    instrument: tuple[str, ...] = ()
    frame: str = ICRS
    mask_path: Path | None = None
    weight_path: Path | None = None
    ignored_flags: int = 0
    alpha: bool = False
    saturation: float = np.inf

    @cached_property
    def wcs(self) -> WCS:
        """Celestial WCS with two axes; pixel (0, 0) is the centre of the first pixel.

        It is rebuilt from its parameters, or read from the file again if these do not suffice,
        so that every process gets the same bits.
        """
        from .fits_files import find_image_hdu, open_fits
        from .sidecars import read_sidecar
        from .wcs import read_wcs, wcs_from_parameters

        if self.wcs_parameters is not None:
            return wcs_from_parameters(self.wcs_parameters)
        if self.path is None:
            return self.array_wcs
        if self.wcs_path is not None:
            return read_wcs(self.wcs_path, read_sidecar(self.wcs_path), None)
        with open_fits(self.path) as hdus:
            image = find_image_hdu(hdus, self.path, self.options.hdu)
            return read_wcs(self.path, image.header, hdus)

    @property
    def place(self) -> str:
        """Path of the file and name of the image in it, or the name of an array."""
        return self.name if self.path is None else str(self.path.with_name(self.name))

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state.pop("wcs", None)
        return state

    def pixels(self) -> np.ndarray:
        """Read the whole tile.

        Returns
        -------
        ndarray
            ``(C, H, W)`` float32 in ADU, owned by the caller; NaN where a pixel is not finite
            or bad.

        Raises
        ------
        TileError
            The file cannot be read to its end.
        """
        (image,) = self.strips(self.shape[0])
        image[~np.isfinite(image)] = np.nan
        return image

    @property
    def has_weights(self) -> bool:
        """Whether its pixels have weights."""
        return self.weight is not None or self.options.weight_hdu is not None

    @property
    def has_mask(self) -> bool:
        """Whether a mask, weights or an alpha channel mark bad pixels."""
        masked = self.mask is not None or self.options.mask_hdu is not None
        return masked or self.has_weights or self.alpha

    def strips(self, rows: int, weights: bool = False) -> Iterator[np.ndarray]:
        """Read the tile from top to bottom; an uncompressed file is never in memory as a whole.

        Parameters
        ----------
        rows : int
            Height of a strip; the last may be lower.
        weights : bool
            Add the weights, if the tile has any, as one more channel.

        Yields
        ------
        ndarray
            ``(C, rows, W)`` float32 in ADU, owned by the caller; not finite where a value is
            missing or bad.

        Raises
        ------
        TileError
            The file cannot be read to its end, or the mask has another shape.
        """
        from .strips import read_strips

        with self.open() as (image, quality):
            yield from read_strips(image, quality, rows, weights)

    @contextmanager
    def open(self) -> Iterator[tuple[PixelPlane, Quality]]:
        """Open the image and the planes of its bad pixels, to be read by rows."""
        from .fits_files import find_image_hdu, get_hdu, open_fits, pixel_reader
        from .strips import PixelPlane, Quality

        if self.path is None:
            data = np.asarray(self.data)
            image = PixelPlane(data.__getitem__, data.shape)
            mask, weight = (
                None if plane is None else PixelPlane(plane.__getitem__, plane.shape)
                for plane in (self.mask, self.weight)
            )
            quality = Quality(mask, self.ignored_flags, weight, self.alpha)
            quality.check(self.name, channels_first_shape(data.shape))
            yield image, quality
            return
        with ExitStack() as files, open_fits(self.path) as hdus:
            hdu = find_image_hdu(hdus, self.path, self.options.hdu)
            image = PixelPlane(pixel_reader(hdu, self.path), hdu.shape)

            places = (
                (self.mask_path, self.options.mask_hdu),
                (self.weight_path, self.options.weight_hdu),
            )
            planes: list[PixelPlane | None] = []
            for path, key in places:
                own = hdus if path is None else files.enter_context(open_fits(path))
                plane = None if key is None else get_hdu(own, path or self.path, key)
                planes.append(
                    None
                    if plane is None
                    else PixelPlane(pixel_reader(plane, path or self.path), plane.shape)
                )
            yield image, Quality(planes[0], self.ignored_flags, planes[1], self.alpha)


def tile_from_array(
    data: Any,
    wcs: WCS,
    mask: Any = None,
    weight: Any = None,
    name: str = "array",
    options: FileOptions | None = None,
) -> Tile:
    """Make a tile from an array and its WCS; the parameters are described in `Tile`.

    A `Quantity` gives its unit, and a masked array its mask.

    Raises
    ------
    TileError
        The array is not an image, the WCS is not celestial, or the weights have another shape.
    """
    from .frames import frame_name
    from .sky import edge_points
    from .strips import PixelPlane, has_alpha
    from .wcs import require_celestial, wcs_parameters

    array = np.asarray(data)
    if np.ma.isMaskedArray(data) and data.mask is not np.ma.nomask:
        mask = data.mask if mask is None else data.mask | np.asarray(mask, dtype=bool)
    try:
        channels_first = channels_first_shape(array.shape)
    except ValueError as error:
        raise TileError(f"{name}: {error}") from None
    alpha = has_alpha(PixelPlane(array.__getitem__, array.shape))
    channels, shape = require_pixels(name, channels_first)
    wcs = require_celestial(name, wcs)
    parameters = wcs_parameters(wcs, edge_points(shape, POINTS_PER_SIDE))
    if parameters is None:
        # Pickling rounds it; do so now, so that this process has the same bits as its workers.
        wcs = pickle.loads(pickle.dumps(wcs))
    weight = None if weight is None else np.asarray(weight)
    if weight is not None and weight.shape != shape:
        raise TileError(f"{name}: its weights have the shape {weight.shape}, the image {shape}")
    corners, scale = footprint(name, wcs, shape)
    return Tile(
        name=name,
        shape=shape,
        channels=channels - alpha,
        corners=corners,
        scale=scale,
        data=array,
        mask=None if mask is None else np.asarray(mask),
        weight=weight,
        options=options or FileOptions(),
        unit=unit_text(getattr(data, "unit", None)),
        wcs_parameters=parameters,
        array_wcs=wcs if parameters is None else None,
        frame=frame_name(wcs),
        alpha=alpha,
    )


def unit_text(unit: Any) -> str:
    """Return a unit of astropy as in a FITS header, empty for none."""
    if unit is None:
        return ""
    try:
        return str(unit.to_string("fits"))
    except ValueError:  # the FITS standard has no such unit
        return str(unit)


def require_pixels(name: str, shape: tuple[int, int, int]) -> tuple[int, tuple[int, int]]:
    """Split ``(C, H, W)`` into channels and shape; raise `TileError` if one of them is 0."""
    channels, height, width = shape
    if min(shape) < 1:
        raise TileError(f"{name}: has no pixels (shape {shape}); leave it out")
    return channels, (height, width)


def footprint(name: str, wcs: WCS, shape: tuple[int, int]) -> tuple[np.ndarray, float]:
    """Return the corners of a tile and its pixel scale, both in degrees."""
    from .sky import edge_points, pixel_scale, pixel_to_sky

    corners, scale = pixel_to_sky(wcs, edge_points(shape, 1)), pixel_scale(wcs, shape)
    if scale == 0:
        raise TileError(f"{name}: its pixels have no area on the sky; solve the plate again")
    extent = scale * max(shape)
    if extent > LARGEST_EXTENT:
        raise TileError(
            f"{name}: spans {extent:.0f} degrees of the sky; give regions cut out of an all-sky "
            "map, or solve the plate again if its scale is wrong"
        )
    if not (np.isfinite(corners).all() and scale > 0):
        raise TileError(f"{name}: part of it lies off the sky; crop it, or solve the plate again")
    return corners, scale
