"""Buildings from drone images: train on the west of a town, test on its east.

    python pipelines/train_buildings.py --data banepa_buildings --out buildings

The data are an orthophoto (`banepa_train_rgb.tif`, 0.13 m) and building labels on its
grid (`banepa_train_labels.tif`, 0 background, 1 building). Columns 0 ... 2047 are
learned from, 2112 ... 3071 tested on; the 64 between them are a gap. Prints the figures
on the tested columns of a U-Net, a random forest and Otsu's threshold; the model is in
`buildings/unet`. Ten minutes on two cores; with `--arch unet` only the U-Net.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import geopandas
import shapely

import geoseg

CLASSES = (
    geoseg.Class(value=0, name="background", color="#D9D9D9"),
    geoseg.Class(value=1, name="building", color="#D55E00"),
)
LEARNED, TESTED = (0, 2048), (2112, 3072)
RESOLUTION = 0.264  # metres: twice the pixels' own size, a quarter of the work
NETWORK: dict[str, Any] = {
    "epochs": 10,
    "windows": 144,
    "validation": 0.1,
    "gap": 32,
    "patience": 20,
}
FOREST: dict[str, Any] = {"trees": 60, "leaf": 5}
# The brighter side in blue: of all bands and sides the best on the learned columns.
OTSU = {"0": "below", "1": "above"}


def main() -> None:
    """Train, map the tested columns, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--arch", choices=["unet", "forest", "otsu"], action="append")
    arguments = parser.parse_args()
    raster = arguments.data / "banepa_train_rgb.tif"
    labels = arguments.data / "banepa_train_labels.tif"
    arguments.out.mkdir(parents=True, exist_ok=True)
    learned = write_columns(raster, LEARNED, arguments.out / "learned.gpkg")
    tested = write_columns(raster, TESTED, arguments.out / "tested.gpkg")
    for arch in arguments.arch or ("unet", "forest", "otsu"):
        model, names = "otsu:blue", OTSU
        if arch != "otsu":
            names = {"0": "background", "1": "building"}
            model = str(
                geoseg.train(
                    raster,
                    labels=labels,
                    out=arguments.out / arch,
                    arch=arch,
                    classes=CLASSES,
                    aoi=learned,
                    resolution=RESOLUTION,
                    license="CC-BY-4.0",
                    **(NETWORK if arch == "unet" else FOREST),
                )
            )
        masks = arguments.out / f"{arch}.zarr"
        scores = arch != "otsu"
        geoseg.segment(
            raster, model=model, out=str(masks), aoi=tested, scores=scores,
            overwrite=True,
        )  # fmt: skip
        report(arch, masks, labels, names, arguments.out / f"{arch}_figures")


def write_columns(raster: Path, columns: tuple[int, int], path: Path) -> Path:
    """Write the ground of some columns as a polygon."""
    grid = geoseg.open_source(raster).grid
    corners = [
        grid.transform @ (x, y)
        for x, y in (
            (columns[0], 0),
            (columns[1], 0),
            (columns[1], grid.height),
            (columns[0], grid.height),
        )
    ]
    area = [shapely.Polygon(corners)]
    geopandas.GeoDataFrame(geometry=area, crs=grid.crs).to_file(path)
    return path


def report(
    arch: str, masks: Path, labels: Path, names: dict[str, str], figures: Path
) -> None:
    """Print one line, and draw the figures."""
    got = geoseg.evaluate(masks, labels, mapping=names)
    geoseg.draw_evaluation(got, figures)
    place = got.accuracy.names.index(names["1"])
    line = f"{arch}: IoU of buildings {got.accuracy.per_class[place].iou.value:.3f}"
    line += f", overall accuracy {got.accuracy.overall.value:.3f}"
    if got.calibration is not None:
        line += f", expected calibration error {got.calibration.ece:.3f}"
    print(line, flush=True)


if __name__ == "__main__":
    main()
