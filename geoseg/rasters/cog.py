"""A raster as a cloud-optimised GeoTIFF, made by a process of its own.

Where a disk fills, GDAL's COG driver reads overviews that it could not write, and may
end the process with a segmentation fault (seen with GDAL 3.11); libtiff writes lines of
its own on stderr. Here neither reaches whoever asked.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from geoseg.errors import FULL, first_line
from geoseg.rasters.gdal import CACHE_BYTES, read_again


def copy_as_cog(tiles: Path, cog: Path, **options: str | int) -> None:
    """Copy a raster into a cloud-optimised GeoTIFF, and read that once more.

    Args:
        tiles: A raster on this machine.
        cog: The file to write.
        options: Of GDAL's COG driver.

    Raises:
        RasterioIOError: It could not be written to its end.
    """
    from rasterio.errors import RasterioIOError

    if not Path(sys.executable or "").name.startswith("python"):
        _copy(tiles, cog, options)  # inside another program, such as QGIS
        return
    asked = json.dumps([str(tiles), str(cog), options])
    done = subprocess.run(  # noqa: S603 - this very program
        [sys.executable, "-m", __name__, asked],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise RasterioIOError(_reason(done))


def _reason(done: subprocess.CompletedProcess[bytes]) -> str:
    """Return why a copy failed; libtiff says it first, and GDAL what came of it."""
    said = done.stderr.decode(errors="replace")
    if full := next((words for words in FULL if words in said), None):
        return full
    told = done.stdout.decode(errors="replace").strip()
    return told or f"GDAL ended with status {done.returncode}"


def _copy(tiles: Path, cog: Path, options: dict[str, str | int]) -> None:
    import rasterio
    import rasterio.shutil

    # GDAL's messages go to logging while there is an environment, closing too.
    with rasterio.Env(GDAL_NUM_THREADS="ALL_CPUS", GDAL_CACHEMAX=CACHE_BYTES):
        rasterio.shutil.copy(tiles, cog, driver="COG", bigtiff="if_safer", **options)
        read_again(cog)


def _main(asked: str) -> int:
    tiles, cog, options = json.loads(asked)
    try:
        _copy(Path(tiles), Path(cog), options)
    except Exception as error:  # noqa: BLE001 - told to the process that asked
        sys.stdout.write(first_line(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1]))
