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
# A few drawn polygons are enough for a first model. Here they are cut out of the truth
# of a generated scene, as someone would draw them in QGIS: some fields, some forest, a
# lake. Trees on pixel features learn in seconds; for a network say
# `arch="unet"`, everything else is the same.

# %%
import tempfile
from pathlib import Path

import geopandas
import numpy as np
import rasterio
import rasterio.features
import shapely

import geoseg
from geoseg.demo.scene import CLASSES, write_scene
from geoseg.train import train

folder = Path(tempfile.mkdtemp(prefix="training-"))
scene, truth = folder / "scene.tif", folder / "truth.tif"
write_scene(scene, truth, 1024, 1024, seed=7)

# %% [markdown]
# ## Labels
#
# One row per polygon, with a column that names its class. Any vector file will do, in
# any CRS.

# %%
with rasterio.open(truth) as file:
    cover, transform, crs = file.read(1), file.transform, file.crs
names = {c.value: c.name for c in CLASSES}
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
drawn = drawn[drawn.area > 20_000]
drawn = drawn.groupby("class_name").head(40).reset_index(drop=True)
drawn.to_file(folder / "drawn.gpkg", engine="pyogrio")
drawn["class_name"].value_counts()

# %% [markdown]
# ## Train
#
# A fifth of the ground is held out, in blocks, so that the accuracy on the card is of
# places the model has not seen. The result is a folder with a card: a model like any
# other.

# %%
colors = {c.name: c for c in CLASSES}
model = train(
    scene,
    labels=folder / "drawn.gpkg",
    classes=[colors[name] for name in colors if name in set(drawn["class_name"])],
    out=folder / "model",
    arch="forest",
    trees=30,
    samples=20_000,
)
geoseg.load_model(model).card

# %% [markdown]
# ## Use it
#
# ... on the scene, or on any other with the same bands.

# %%
masks = geoseg.segment(scene, model=model, out=folder / "masks.zarr")
mapped = masks["classes"].to_numpy()
valid = (mapped != 255) & (cover != 255)
by_name = {c.value: c.name for c in masks.geoseg.classes}
right = np.vectorize(by_name.get)(mapped[valid]) == np.vectorize(names.get)(
    cover[valid]
)
print(f"{right.mean():.1%} of all pixels right")

# %%
axes = masks.geoseg.plot()
drawn.boundary.plot(ax=axes, color="black", linewidth=0.6)
axes
