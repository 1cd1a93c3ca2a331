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
# # A place, a summer, a map
#
# One date is what the sky allowed on one day. Several dates show what a field does: it
# is bare in spring, green in June, stubble in August. Here scenes of some dates become
# one image without clouds, images of each date, and a map.
#
# Set `GEOSEG_TWO_DATES` to a raster that holds red, green, blue and near infrared of two
# dates, one after the other; without it, scenes of five dates are made from the demo's,
# each with clouds in another place.
#
# The outputs of the `.ipynb` are of fields in Austria: Sentinel-2 at planting and at
# harvest, from
# https://github.com/fieldsoftheworld/ftw-baselines/blob/0bc7a85/tests/data-files/inference-img.tif
# (MIT; imagery of Copernicus). The file does not tell its dates: they are called April
# and September here.

# %%
import os
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import rasterio

import geoseg

folder = Path(tempfile.mkdtemp(prefix="summer-"))
COLOURS = ["red", "green", "blue", "nir"]


def write(date, pixels, like):
    """Write a scene of reflectance with its date in its name, as on many disks."""
    path = folder / f"valley_{date}.tif"
    how = {k: like[k] for k in ("height", "width", "crs", "transform")}
    how |= {"driver": "GTiff", "count": 4, "dtype": "float32", "nodata": 0}
    with rasterio.open(path, "w", **how) as out:
        out.write(np.float32(pixels) / 10_000)
        out.descriptions = COLOURS
    return path


def cloudy(pixels, seed):
    """Put round clouds over a tenth of a scene, as bright as clouds are."""
    random, (_, height, width) = np.random.default_rng(seed), pixels.shape
    y, x = np.mgrid[:height, :width]
    covered = np.zeros((height, width), bool)
    while covered.mean() < 0.1:
        at = random.uniform(0, (height, width))
        covered |= np.hypot(y - at[0], x - at[1]) < random.uniform(20, 60)
    return np.where(covered, 9000, pixels).astype(pixels.dtype)


# %%
if two := os.environ.get("GEOSEG_TWO_DATES"):
    with rasterio.open(two) as file:
        first, second = np.split(file.read(), 2)
        scenes = [write("20210401", first, file.profile)]
        scenes += [write("20210901", second, file.profile)]
else:
    with rasterio.open(geoseg.example().scene) as file:
        order = [file.descriptions.index(name) + 1 for name in COLOURS]
        pixels, profile = file.read(order), file.profile
    months = range(5, 10)
    scenes = [write(f"2025{m:02}15", cloudy(pixels, m), profile) for m in months]

# %% [markdown]
# ## What there is
#
# The same function searches archives: `geoseg.search("sentinel-2-l2a", aoi="valley.gpkg",
# dates="2025-05/2025-09", cloud=40)`. Nothing is downloaded by it; it tells what there
# is, and what follows reads only what it needs.

# %%
found = geoseg.search(scenes, dates_from="names")
found

# %% [markdown]
# ## One image
#
# Each pixel is reduced on its own: to the median of its dates, which a cloud on one date
# of five does not move, or to that of the date on which it was greenest. What is lazy
# here is written by `out=`, with the list of its scenes beside it. Scenes of archives
# have a band that tells of clouds, and are masked by it; these files have none.

# %%
files = {"dates_from": "names", "mask": ["none"]}
median = geoseg.compose(scenes, reduce="median", **files)
greenest = geoseg.compose(
    scenes,
    **files,
    reduce="best:ndvi",
    out=folder / "greenest.tif",
    progress=False,
)


def bright(image):
    """Return red, green, blue between 0 and 1, as bright as the image allows."""
    colours = image.sel(band=["red", "green", "blue"]).transpose("y", "x", "band")
    low, high = np.nanpercentile(colours, [2, 98])
    return np.clip((colours.to_numpy() - low) / (high - low), 0, 1)


figure, axes = plt.subplots(1, 3, figsize=(9, 3), layout="constrained")
dates = geoseg.compose(scenes, every="date", **files)
titles = (f"first date, {np.datetime_as_string(dates.time[0], 'D')}", "median")
for axis, image, title in zip(
    axes, (dates[0], median, greenest), (*titles, "greenest"), strict=True
):
    axis.imshow(bright(image))
    axis.set_title(title)
    axis.set_axis_off()

# %% [markdown]
# ## What changed
#
# Steps in time keep what one image loses. `every="month"` would make one of each month;
# a month without a scene is nodata, never another month's pixels.

# %%
near, red = dates.sel(band="nir"), dates.sel(band="red")
ndvi = (near - red) / (near + red)
change = (ndvi[-1] - ndvi[0]).drop_vars("spatial_ref")
drawn = change.plot(
    size=3, cmap="BrBG", vmin=-0.8, vmax=0.8, cbar_kwargs={"label": "ΔNDVI"}
)

# %% [markdown]
# ## A map
#
# The scenes go straight into a model, block by block, without an image in between: here
# into clusters of like pixels, in one that learned from your polygons otherwise. A
# network that takes time is given the steps themselves.

# %%
masks = geoseg.segment(
    scenes,
    **files,
    reduce="best:ndvi",
    model="kmeans:4",
    out=folder / "masks.zarr",
    progress=False,
)
masks.geoseg.areas("ha")

# %%
masks.geoseg.plot()
