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
# # A first map
#
# From a scene to a map, polygons and numbers, in ten lines. The scene ships with geoseg, so
# nothing has to be downloaded; name your own in `SCENE` and a model that fits it in
# `MODEL` (`geoseg models` lists what can be used), and nothing else changes.
#
# The pictures of the `.ipynb` are of Sentinel-2 over fields in Austria, with
# `GEOSEG_MODEL=kmeans:5` and `GEOSEG_SCENE` this file of 3.5 MB (MIT licence):
# https://github.com/fieldsoftheworld/ftw-baselines/raw/0bc7a85/tests/data-files/inference-img.tif

# %%
import os
import tempfile
from pathlib import Path

import geoseg

folder = Path(tempfile.mkdtemp(prefix="first-map-"))
SCENE = os.environ.get("GEOSEG_SCENE")
MODEL = os.environ.get("GEOSEG_MODEL")

if SCENE is None:
    SCENE, MODEL = geoseg.example().scene, geoseg.example().model

# %% [markdown]
# First ask what would happen. A plan reads headers only; it says how many windows the
# model will see, and how much memory a process needs at most.

# %%
geoseg.make_plan(SCENE, model=MODEL)

# %% [markdown]
# Then segment. The result is an `xarray.Dataset` that lies in a Zarr store: lazy, so it
# may be larger than memory. Interrupt it and run the cell again: it goes on where it
# stopped.

# %%
masks = geoseg.segment(SCENE, model=MODEL, out=folder / "masks.zarr")
masks

# %% [markdown]
# `masks.geoseg` knows the class table: areas by name, in true square metres.

# %%
masks.geoseg.areas()

# %% [markdown]
# Polygons share their borders, so that simplifying leaves neither gaps nor overlaps.
# QGIS opens the file in class colours.

# %%
regions = geoseg.read_regions(
    masks.geoseg.vectorize(folder / "regions.gpkg", simplify=20)
)
regions.groupby("class_name")["area_m2"].describe()[["count", "mean", "max"]]

# %% [markdown]
# Cutting is xarray's own: what is measured and drawn is what was cut.

# %%
part = masks.isel(y=slice(200, 600), x=slice(200, 700))
part.geoseg.areas().round(3)

# %% [markdown]
# And the picture. For a page to hand over, `masks.geoseg.report("page.html")`; for a map
# to click in, `geoseg.explore(SCENE, masks, folder / "regions.gpkg")`, or `geoseg view`
# on the command line.

# %%
masks.geoseg.overlay(SCENE, opacity=0.6)
