# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Training from polygons
#
# A few drawn polygons are enough for a first land-cover model: trees on pixel features
# learn in seconds, and blocks of ground that were held out tell how good it is. For a
# network say `arch="unet"`, everything else is the same.
#
# Set `GEOSEG_SCENE` to a raster of yours and `GEOSEG_POLYGONS` to polygons whose class
# is in the column `GEOSEG_COLUMN`; without them the demo's scene is used, and polygons
# are cut out of its truth as someone would draw them in QGIS.
#
# The outputs of the `.ipynb` are of the Rachel Carson Reserve: Sentinel-2 in eight bands
# and 23 polygons, `GEOSEG_COLUMN=Classname` and `GEOSEG_NODATA=255`, from
# https://github.com/patrickcgray/open-geo-tutorial/tree/f5b699f/data (CC BY-SA; imagery
# of Copernicus).

# %%
import os
import tempfile
from pathlib import Path

import geopandas
import pandas as pd
import rasterio
import rasterio.features
import shapely

import geoseg

folder = Path(tempfile.mkdtemp(prefix="training-"))
scene = os.environ.get("GEOSEG_SCENE")
polygons = os.environ.get("GEOSEG_POLYGONS")
example = geoseg.example()
classes = geoseg.load_model(example.model).card.classes
nodata = float(os.environ["GEOSEG_NODATA"]) if "GEOSEG_NODATA" in os.environ else None


# %%
def draw(truth, path):
    """Polygons of some of the truth, drawn well inside of what they are of."""
    with rasterio.open(truth) as file:
        cover, transform, crs = file.read(1), file.transform, file.crs
    names = {c.value: c.name for c in classes}
    shapes = [
        (shapely.geometry.shape(geometry).buffer(-20), names[int(value)])
        for geometry, value in rasterio.features.shapes(
            cover, cover != 255, transform=transform
        )
    ]
    drawn = geopandas.GeoDataFrame(
        {"class_name": [name for _, name in shapes]},
        geometry=[geometry for geometry, _ in shapes],
        crs=crs,
    )
    drawn = drawn[drawn.area > 20_000].groupby("class_name").head(40)
    drawn.to_file(path, engine="pyogrio")
    return path


if not (scene and polygons):
    scene = example.scene
    polygons = draw(example.truth, folder / "drawn.gpkg")

# %% [markdown]
# ## Labels
#
# One row per polygon. Any vector file will do, in any CRS. What no polygon covers is
# unlabelled, not background.

# %%
drawn = geopandas.read_file(polygons)
column = os.environ.get("GEOSEG_COLUMN", "class_name")
drawn[column].value_counts()

# %% [markdown]
# ## Train
#
# The ground is cut into blocks, dealt out to five folds so that each gets its share of
# every class. Each fold is tested by trees that saw nothing of it, nor of what lies
# within reach of their features around it. The model itself learns from all. The result
# is a folder with a card: a model like any other.

# %%
model = geoseg.train(
    scene,
    labels=polygons,
    column=column,
    nodata=nodata,
    classes=[c for c in classes if c.name in set(drawn[column])],
    out=folder / "model",
    arch="forest",
    trees=30,
    leaf=1,
    samples=10_000,
)
card = geoseg.load_model(model).card
card

# %% [markdown]
# ## How good is it?
#
# Figures of held-out ground only. `producers_accuracy`: of what is there, how much the
# map finds; `users_accuracy`: of what the map says, how much is true. A class that was
# drawn in one place only cannot be tested, and the notes say so.

# %%
figures = card.facts["validation"]
print(f"{figures['how']}: {figures['overall_accuracy']:.1%} of pixels right")
print(*figures["notes"], sep="\n")
pd.DataFrame(figures["classes"]).T.round(3)

# %%
names = list(figures["classes"])
pd.DataFrame(figures["confusion_matrix"], index=names, columns=names)

# %% [markdown]
# These are figures of the drawn pixels. For the accuracy of the map and the areas of
# its classes draw a probability sample (`geoseg sample`), see *Accuracy and areas*.
#
# ## Use it
#
# ... on the scene, or on any other with the same bands.

# %%
masks = geoseg.segment(scene, model=model, out=folder / "masks.zarr", nodata=nodata)
masks.geoseg.areas()

# %%
axes = masks.geoseg.plot()
drawn.to_crs(masks.rio.crs).boundary.plot(ax=axes, color="black", linewidth=0.6)
axes
