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
# # Objects across seams
#
# Objects are counted, so none may be cut, doubled or lost where windows and blocks meet.
# Here a model of classes is asked for the objects of one class: every town gets a number
# of its own, however many blocks it spans. Name your own scene, model and class in the
# first three lines.

# %%
import os
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap

import geoseg

SCENE = os.environ.get("GEOSEG_SCENE", geoseg.example().scene)
MODEL = os.environ.get("GEOSEG_MODEL", geoseg.example().model)
THING = os.environ.get("GEOSEG_THING", "town")
BANDS = os.environ.get("GEOSEG_BANDS")

folder = Path(tempfile.mkdtemp(prefix="objects-"))

# %% [markdown]
# `task="panoptic"` keeps all classes and adds `instances`: one number per object of the
# classes in `things`, 0 elsewhere. `components` takes what touches as one; `watershed:5`
# parts what only just touches.

# %%
plan = geoseg.make_plan(
    SCENE,
    model=MODEL,
    bands=BANDS and BANDS.split(","),
    task="panoptic",
    things=[THING],
    instances="components",
)
masks = geoseg.run_plan(plan, out=folder / "masks.zarr")[0].dataset()
masks["instances"]

# %% [markdown]
# ## One object, one number
#
# The numbers are 1 … N without holes, and the same for any blocks and any workers. The
# store keeps a table of the objects.

# %%
ids = masks["instances"].to_numpy()
table = geoseg.open_masks(str(folder / "masks.zarr")).objects()
count = int(ids.max())
assert set(np.unique(ids)) == set(range(count + 1))
assert (table["pixels"] == np.bincount(ids.ravel())[1:]).all()
print(f"{count} objects; the largest has {table['pixels'].max():,} pixels")

# %% [markdown]
# The proof: label all of it at once in memory, with no seams anywhere, and compare.

# %%
from scipy.ndimage import label

thing = next(c.value for c in masks.geoseg.classes if c.name == THING)
at_once, number = label(masks["classes"].to_numpy() == thing)
pairs = np.unique(np.stack([ids.ravel(), at_once.ravel()]), axis=1).T
pairs = pairs[(pairs > 0).any(axis=1)]
print(f"{number} objects at once, {count} across seams, {len(pairs)} pairs")
assert number == count == len(pairs)

# %% [markdown]
# ## The picture
#
# Every object in a colour of its own; lines show where windows met.

# %%
random = np.random.default_rng(0)
colours = np.vstack(
    [[0.93, 0.94, 0.93], random.uniform(0.15, 0.85, (max(count, 1), 3))]
)
figure, axes = plt.subplots(figsize=(8, 6.4), layout="constrained")
axes.imshow(ids, cmap=ListedColormap(colours), interpolation="nearest")
stride = plan.tiling.window - plan.tiling.overlap
for border in range(stride, max(ids.shape), stride):
    axes.axvline(border - 0.5, color="0.5", linewidth=0.6)
    axes.axhline(border - 0.5, color="0.5", linewidth=0.6)
axes.set_xlim(0, ids.shape[1])
axes.set_ylim(ids.shape[0], 0)
axes.set_title(f"{THING}: {count} objects")
plt.close(figure)  # or Jupyter shows it twice
figure
