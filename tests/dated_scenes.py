"""Small scenes of known pixels as STAC items, and composites of them by NumPy."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from rasterio.warp import transform_bounds
from tifs import write_tif

CRS = "EPSG:32632"
AT = (400_000, 5_200_000)


def write_raster(path, pixels, *, res=10, at=AT, crs=CRS, **told):
    """Write a GeoTIFF of one or more bands whose upper left corner is `at`."""
    pixels = np.atleast_3d(pixels) if pixels.ndim < 3 else pixels
    pixels = (
        pixels if pixels.ndim == 3 and pixels.shape[-1] != 1 else pixels[None, ..., 0]
    )
    return write_tif(
        path, pixels, crs=crs, transform=Affine(res, 0, at[0], 0, -res, at[1]), **told
    )


@dataclass
class Scenes:
    """Items that lie in one folder."""

    folder: Path
    items: list = field(default_factory=list)

    def add(self, name, when, bands, *, quality=None, collection="scenes", **told):
        """Add an item.

        Args:
            name: Its id.
            when: Its date; or properties.
            bands: Pixels (y, x) by the asset's key.
            quality: Key, pixels and pixel size of its quality band.
            collection: What it is of.
            told: `properties`, `asset` (what each asset tells), and what a raster is.
        """
        properties = when if isinstance(when, dict) else {"datetime": when}
        properties = {**properties, **told.pop("properties", {})}
        about = told.pop("asset", {})
        assets, box = {}, None
        for key, pixels in bands.items():
            path = write_raster(self.folder / f"{name}-{key}.tif", pixels, **told)
            assets[key] = {"href": f"./{path.name}", "type": "image/tiff", **about}
            with rasterio.open(path) as file:
                box = transform_bounds(file.crs, "OGC:CRS84", *file.bounds)
        if quality is not None:
            key, pixels, res = quality
            place = {k: told[k] for k in ("at", "crs") if k in told}
            path = write_raster(
                self.folder / f"{name}-{key}.tif", pixels, res=res, **place
            )
            assets[key] = {"href": f"./{path.name}", "type": "image/tiff"}
        west, south, east, north = box
        ring = [
            [west, south],
            [east, south],
            [east, north],
            [west, north],
            [west, south],
        ]
        self.items.append({
            "type": "Feature", "stac_version": "1.0.0", "id": name, "bbox": list(box),
            "collection": collection, "links": [], "properties": properties,
            "geometry": {"type": "Polygon", "coordinates": [ring]}, "assets": assets,
        })  # fmt: skip
        return self.items[-1]

    def save(self, name="scenes.json"):
        """Write the items as a collection; return its path."""
        path = self.folder / name
        path.write_text(
            json.dumps({"type": "FeatureCollection", "features": self.items})
        )
        return str(path)

    def like(self, height=16, width=16, **place):
        """Write a raster whose grid is asked for; return its path."""
        blank = np.zeros((height, width), np.uint8)
        return str(write_raster(self.folder / "like.tif", blank, **place))


def whole(rng, shape=(16, 16), low=100, high=900):
    """Return random pixels in multiples of 4."""
    return (rng.integers(low, high, shape) * 4).astype(np.uint16)
