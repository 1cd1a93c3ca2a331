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
# Here a model of classes is asked for the objects of one class: every lake gets a number
# of its own, however many blocks it spans.

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap

import geoseg
from geoseg.demo.scene import write_scene
from geoseg.demo.train import MODEL

folder = Path(tempfile.mkdtemp(prefix="objects-"))
scene = folder / "scene.tif"
write_scene(scene, folder / "truth.tif", 1024, 1280, seed=7)

# %% [markdown]
# `task="panoptic"` keeps all classes and adds `instances`: one number per object of the
# classes in `things`, 0 elsewhere. `components` takes what touches as one; `watershed:5`
# parts what only just touches.

# %%
masks = geoseg.segment(
    scene,
    model=MODEL,
    out=folder / "masks.zarr",
    task="panoptic",
    things=["town"],
    instances="components",
    scores=True,
)
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
print(f"{count} towns; the largest has {table['pixels'].max():,} pixels")

# %% [markdown]
# The proof: label all of it at once in memory, with no seams anywhere, and compare.

# %%
from scipy.ndimage import label

town = next(c.value for c in masks.geoseg.classes if c.name == "town")
at_once, number = label(masks["classes"].to_numpy() == town)
pairs = np.unique(np.stack([ids.ravel(), at_once.ravel()]), axis=1).T
pairs = pairs[(pairs > 0).any(axis=1)]
print(f"{number} objects at once, {count} across seams, {len(pairs)} pairs")

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
for border in range(448, 1280, 448):
    axes.axvline(border - 0.5, color="0.5", linewidth=0.6)
    axes.axhline(border - 0.5, color="0.5", linewidth=0.6)
axes.set_xlim(0, 1280)
axes.set_ylim(1024, 0)
axes.set_title(f"{count} towns")
figure
