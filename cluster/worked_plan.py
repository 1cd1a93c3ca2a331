"""Work out two large jobs on paper: a country at 0.5 m and the world's land at 10 m.

    python cluster/worked_plan.py [--mpx 50]

The rasters are VRTs without pixels: the plan is arithmetic. Windows, blocks, files and
memory are what `geoseg plan` says; the rest follows from the assumptions printed.
"""

import argparse
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import geoseg
from geoseg.testing import LocalModel, identity_card

VRT = """<VRTDataset rasterXSize="{width}" rasterYSize="{height}">
  <SRS>{crs}</SRS>
  <GeoTransform>{left}, {size}, 0, {top}, 0, -{size}</GeoTransform>
{bands}
</VRTDataset>"""
BAND = """  <VRTRasterBand dataType="{dtype}" band="{i}">
    <NoDataValue>0</NoDataValue>
  </VRTRasterBand>"""

JOBS = {
    # name: width, height, pixel, crs, left, top, bands, dtype, share with data, classes
    "country, 0.5 m": (
        700_000, 440_000, 0.5, "EPSG:2056", 2_480_000, 1_300_000, 4, "Byte", 0.55, 8,
    ),
    "world's land, 10 m": (
        4_007_502, 1_600_000, 10, "EPSG:6933", -17_367_530, 7_300_000, 4, "UInt16",
        0.24, 11,
    ),
}  # fmt: skip


def plan(job: tuple[Any, ...]) -> geoseg.Plan:
    """Return the plan of a job, for a network with windows of 512 and overlap 64."""
    width, height, size, crs, left, top, count, dtype, _, classes = job
    bands = "\n".join(BAND.format(dtype=dtype, i=i + 1) for i in range(count))
    text = VRT.format(
        width=width, height=height, size=size, crs=crs, left=left, top=top, bands=bands
    )
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "job.vrt"
        path.write_text(text)
        card = identity_card(classes, window=512, overlap=64)
        names = [b.name for b in card.bands][:count]
        card = replace(card, bands=card.bands[:count])
        return geoseg.make_plan(str(path), model=LocalModel(card=card), bands=names)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--mpx", type=float, default=50, help="Mpx/s of one GPU; measure yours"
    )
    speed = parser.parse_args().mpx
    rows = {}
    for name, job in JOBS.items():
        made, share = plan(job), job[8]
        tiling, grid = made.tiling, made.source.grid
        pixel = len(made.source.bands) * made.source.dtype.itemsize
        chunks = -(-grid.height // tiling.chunk) * -(-grid.width // tiling.chunk)
        pixels = grid.height * grid.width * share
        rows[name] = {
            "raster": f"{grid.height:,} x {grid.width:,} px, {share:.0%} with data",
            "windows": f"{tiling.windows * share:,.0f}",
            "blocks (Dask tasks: twice)": f"{tiling.blocks * share:,.0f} of "
            f"{tiling.block} px",
            "GPU hours": f"{pixels / speed / 1e6 / 3600:,.1f}",
            "on 16 GPUs": f"{pixels / speed / 1e6 / 3600 / 16:,.1f} h",
            "read, uncompressed": f"{pixels * pixel / 1e12:,.1f} TB",
            "read per GPU": f"{speed * pixel:,.0f} MB/s",
            "write, about (labels compress 10 : 1)": f"{pixels / 10 / 1e9:,.0f} GB",
            "files (chunks and done marks)": f"{(chunks + tiling.blocks) * share:,.0f}",
            "memory per worker": f"{made.memory.total / 1e9:,.1f} GB",
        }
    print(f"| | {' | '.join(rows)} |\n|---|{'---|' * len(rows)}")
    for key in next(iter(rows.values())):
        print(f"| {key} | {' | '.join(row[key] for row in rows.values())} |")


if __name__ == "__main__":
    main()
