"""Land cover from a few polygons: a random forest, cross-validated by blocks of ground.

    python pipelines/train_landcover_forest.py --data s2_rachel_carson --out landcover

The data are eight bands of Sentinel-2 (`s2_stack_8band.vrt`, blank pixels 255) and 23
polygons of six classes (`rcr_landcover.shp`) in another CRS. Seconds on two cores.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import geoseg


def main() -> None:
    """Train, print the cross-validated figures, and map the whole scene."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    raster = arguments.data / "s2_stack_8band.vrt"
    model = geoseg.train(
        raster,
        labels=arguments.data / "rcr_landcover.shp",
        column="Classname",
        nodata=255,
        out=arguments.out / "model",
        arch="forest",
        leaf=1,
    )
    card = json.loads((model / "card.json").read_text(encoding="utf-8"))
    print(json.dumps(_found(card, "validation"), indent=1))
    masks = arguments.out / "landcover.zarr"
    geoseg.segment(raster, model=str(model), out=str(masks), nodata=255, scores=True)


def _found(tree: object, key: str) -> object:
    """Return what lies under a key, wherever it is in the card."""
    if isinstance(tree, dict):
        if key in tree:
            return tree[key]
        hits = (_found(value, key) for value in tree.values())
        return next((hit for hit in hits if hit is not None), None)
    return None


if __name__ == "__main__":
    main()
