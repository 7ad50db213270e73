"""What GDAL, as rasterio brings it along, makes of an archive's own Zarr arrays."""

import warnings
from pathlib import Path

import rasterio
from rasterio.errors import RasterioError

from tilevault.archive.formats.geotiff_gdal import gdal_env
from tilevault.codecs.errors import UnsupportedSyntax

__all__ = ["gdal_version", "open_zarr_array"]


def gdal_version() -> str:
    """Version of GDAL."""
    return str(rasterio.__gdal_version__)


def open_zarr_array(group: Path, array: str) -> tuple[int, int, int]:
    """Bands, rows and columns that GDAL sees of ``array`` in the Zarr group at ``group``.

    Raises `UnsupportedSyntax` where GDAL cannot open it, with what it said.
    """
    try:
        with gdal_env(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with rasterio.open(f'ZARR:"{group}":/{array}') as dataset:
                return dataset.count, dataset.height, dataset.width
    except (RasterioError, ValueError) as error:
        raise UnsupportedSyntax(" ".join(str(error).split())) from error
