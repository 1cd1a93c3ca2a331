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
# # Choosing window, overlap and resolution
#
# A network sees a raster through windows. Near a window's edge it sees less around a
# pixel and is less right, so two windows disagree where they meet: a seam. geoseg lets
# windows overlap and blends them, each weighing less towards its edge. How much overlap
# is enough? This notebook measures it; [the page](choosing.md) says what follows.

# %%
import os
import tempfile
from pathlib import Path
from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np
import rasterio

import geoseg

folder = Path(tempfile.mkdtemp(prefix="seams-"))
pictures = Path(os.environ.get("GEOSEG_PICTURES", folder))
scene, MODEL = geoseg.example().scene, geoseg.example().model

# %% [markdown]
# ## The same scene at several overlaps
#
# `check_seams` counts how often the class changes between neighbouring pixels on the
# borders of windows, and on lines a few pixels beside them. On land both happen equally
# often.

# %%
checks, maps, seconds = {}, {}, {}
for overlap in (0, 16, 64, 128):
    begun = perf_counter()
    masks = geoseg.segment(
        scene,
        model=MODEL,
        out=folder / f"{overlap}.zarr",
        overlap=overlap,
        progress=False,
    )
    seconds[overlap] = perf_counter() - begun
    maps[overlap] = masks["classes"].to_numpy()
    found = geoseg.check_seams(folder / f"{overlap}.zarr")
    check = checks[overlap] = next(c for c in found if c.name == "windows")
    print(
        f"overlap {overlap:>3} px: {check.rate:.2%} on borders, {check.elsewhere:.2%} "
        f"beside them; seams {'SHOW' if check.stands_out else 'do not show'}"
    )

# %% [markdown]
# ## Seen
#
# At overlap 0 the border stands out. At the model's own overlap it is a line like any.

# %%
figure, axes = plt.subplots(1, 4, figsize=(11, 2.8), sharey=True, layout="constrained")
for ax, (overlap, check) in zip(axes, checks.items(), strict=True):
    reach = len(check.profile) // 2  # lines on either side of a border
    colours = ["#AAB8B3"] * (2 * reach + 1)
    colours[reach] = "#B5420A" if check.stands_out else "#0B6B58"
    ax.bar(np.arange(-reach, reach + 1), 100 * np.array(check.profile), color=colours)
    ax.set_title(f"overlap {overlap} px")
    ax.set_xlabel("px from a border")
axes[0].set_ylabel("class changes, % of pixel pairs")
figure.savefig(pictures / "seams-profile.png", dpi=110)

# %%
table = np.full((256, 3), 255, np.uint8)
for c in masks.geoseg.classes:
    table[c.value] = c.rgb
with rasterio.open(scene) as file:
    image = file.read([3, 2, 1])
width = image.shape[2]
high = 80  # rows and columns shown, around a border where two windows met


def worst(border):
    """Return on how many rows a border changes class that should not, and where."""
    changes = (maps[0][:, border - 1] != maps[0][:, border]).astype(int)
    changes -= maps[64][:, border - 1] != maps[64][:, border]
    counts = np.convolve(changes, np.ones(high, int), mode="valid")
    return int(counts.max()), int(counts.argmax()), border


_, row, border = max(worst(border) for border in range(512, width - high, 512))
window = np.s_[row : row + high, border - high // 2 : border + high // 2]

figure, axes = plt.subplots(1, 3, figsize=(11, 4), layout="constrained")
pixels = image[:, *window]
low, top = np.percentile(pixels, [1, 99], axis=(1, 2), keepdims=True)
views = [np.moveaxis(np.clip((pixels - low) / (top - low), 0, 1), 0, -1)]
views += [table[maps[overlap][window]] for overlap in (0, 64)]
titles = ["image", "overlap 0", "overlap 64, the model's own"]
for ax, view, title in zip(axes, views, titles, strict=True):
    ax.imshow(view, interpolation="nearest")
    ax.set_title(title)
    ax.set_xticks([high / 2 - 0.5], ["border"])
    ax.set_yticks([])
figure.savefig(pictures / "seams-map.png", dpi=110)

# %% [markdown]
# ## What it costs
#
# Windows of side *w* that overlap by *o* cover `(w - o)²` new pixels each. A larger
# window makes the same overlap cheaper.

# %%
figure, ax = plt.subplots(figsize=(7, 3.6), layout="constrained")
overlaps = np.arange(0, 257, 2)
for window_side, style in ((256, "-"), (512, "--"), (1024, ":")):
    usable = overlaps[overlaps <= window_side // 2]
    ax.plot(
        usable,
        (window_side / (window_side - usable)) ** 2,
        style,
        color="#0B6B58",
        label=f"window {window_side} px",
    )
ax.set_xlabel("overlap, px")
ax.set_ylabel("work of the model, times")
ax.set_ylim(1, 4)
ax.legend(frameon=False)
figure.savefig(pictures / "overlap-cost.png", dpi=110)
plt.close(figure)  # or Jupyter shows it twice
figure
