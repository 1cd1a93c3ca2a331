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
# # Accuracy and areas
#
# Counting the pixels of a map gives areas with the map's errors in them. A sample of
# points, looked at by someone who knows, corrects that and says how sure one can be
# (Olofsson et al. 2014, *Good practices for estimating area and assessing accuracy of
# land change*). Name your own scene and model, and a raster of what is true.
#
# The outputs of the `.ipynb` are of a flood in Spain as Sentinel-1 saw it, mapped by
# `GEOSEG_MODEL="threshold:VV<-15"`, and labels drawn by hand: `Spain_7370579` of
# https://github.com/cloudtostreet/Sen1Floods11/tree/b9e460d/sample

# %%
import os
import tempfile
from pathlib import Path

import geopandas
import matplotlib.pyplot as plt
import numpy as np
import rasterio

import geoseg

SCENE = os.environ.get("GEOSEG_SCENE", geoseg.example().scene)
MODEL = os.environ.get("GEOSEG_MODEL", geoseg.example().model)
TRUTH = os.environ.get("GEOSEG_TRUTH", geoseg.example().truth)

folder = Path(tempfile.mkdtemp(prefix="accuracy-"))
masks = geoseg.segment(SCENE, model=MODEL, out=folder / "masks.zarr")
CLASSES = masks.geoseg.classes

# %% [markdown]
# ## Draw points
#
# At random in each class of the map, so that small classes get their share. In real life
# the points go to someone with better images; here the raster of what is true fills in
# the column.

# %%
points = geoseg.sample(folder / "masks.zarr", folder / "points.gpkg", n=300, seed=1)
frame = geopandas.read_file(points, layer="samples", engine="pyogrio")
names = {c.value: c.name for c in CLASSES}
with rasterio.open(TRUTH) as file:
    here = zip(frame.geometry.x, frame.geometry.y, strict=True)
    values = [int(v[0]) for v in file.sample(here)]
frame["class"] = [names.get(v) for v in values]
frame = frame[frame["class"].notna()]
frame.to_file(folder / "labelled.gpkg", engine="pyogrio")
frame["class"].value_counts()

# %% [markdown]
# ## Evaluate

# %%
found = geoseg.evaluate(folder / "masks.zarr", folder / "labelled.gpkg")
overall = found.accuracy.overall
print(f"overall accuracy {overall.value:.1%} ± {overall.margin:.1%}")

# %% [markdown]
# The report has these figures and the areas, with the places where the map is most wrong
# beside the image: `geoseg report masks.zarr --reference labelled.gpkg`.

# %%
geoseg.report(
    masks, folder / "report.html", reference=folder / "labelled.gpkg", raster=SCENE
)

# %% [markdown]
# ## Areas, with intervals
#
# Bars are what the map counts; dots what the points say, with 95 % intervals; crosses
# what is true, which one knows only where every pixel was looked at.

# %%
with rasterio.open(TRUTH) as file:
    cover = file.read(1)
pixel = (
    masks.geoseg.areas()["area_m2"].sum() / (masks["classes"].to_numpy() != 255).sum()
)
true = [(cover == c.value).sum() * pixel / 1e6 for c in CLASSES]
by_name = dict(zip([c.name for c in found.classes], found.areas_m2(), strict=True))
mapped = masks.geoseg.areas()["area_m2"] / 1e6

figure, axes = plt.subplots(figsize=(7.5, 4), layout="constrained")
at = np.arange(len(CLASSES))
axes.bar(at, [mapped[c.name] for c in CLASSES], color=[c.color for c in CLASSES])
estimates = [by_name[c.name].scaled(1e-6) for c in CLASSES]
axes.errorbar(
    at,
    [e.value for e in estimates],
    yerr=[np.nan_to_num(e.margin) for e in estimates],
    fmt="o",
    color="black",
    capsize=4,
    label="estimated from points",
)
axes.plot(at, true, "x", color="black", markersize=9, label="true")
axes.set_xticks(at, [c.name for c in CLASSES])
axes.set_ylabel("km²")
axes.legend(frameon=False)
plt.close(figure)  # or Jupyter shows it twice
figure
