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
# # Your own model
#
# A model is an object with a **card** and a method **predict**. The card says what the
# model reads and what it tells apart; `predict` gets a batch of windows and returns
# scores. geoseg does the rest: reading, scaling, nodata, overlaps, blending, workers.
# The scene ships with geoseg; name your own, and what its bands are.

# %%
import os
import tempfile
from pathlib import Path

import numpy as np

import geoseg

folder = Path(tempfile.mkdtemp(prefix="own-model-"))
SCENE = os.environ.get("GEOSEG_SCENE", geoseg.example().scene)
BANDS = os.environ.get("GEOSEG_BANDS")


# %% [markdown]
# ## The card
#
# Bands are matched by name (or by what STAC calls them), never by luck of their order: a
# raster without one of them is refused. `window` is what the model sees at once;
# `overlap` is what neighbouring windows share, and what is blended away.

# %%
card = geoseg.Card(
    name="vegetation by two indices",
    bands=tuple(geoseg.Band(name=n, common_name=n) for n in ("green", "red", "nir")),
    classes=(
        geoseg.Class(value=0, name="water", color="#0072B2"),
        geoseg.Class(value=1, name="bare or built", color="#E69F00"),
        geoseg.Class(value=2, name="vegetation", color="#009E73"),
    ),
    output="probabilities",
    window=256,
    overlap=32,
    description="A smooth rule on NDWI and NDVI, averaged over 5 x 5 pixels.",
)
card

# %% [markdown]
# ## predict
#
# Windows come as float32 (n, band, y, x), scaled as the card says. Scores go back as
# (n, class, y, x). This model looks around a pixel, as networks do: that is why windows
# overlap. A torch module works the same way (`geoseg.load_model` takes it as it is), and
# so do ONNX, TorchScript and `torch.export` files with a card beside them.


# %%
class Indices:
    """Scores by two indices of smoothed bands."""

    card = card

    def predict(self, windows):
        """Return scores (n, class, y, x) of windows (n, band, y, x)."""
        green, red, nir = np.moveaxis(smoothed(windows), 1, 0)
        water = (green - nir) / (green + nir + 1)
        green_cover = (nir - red) / (nir + red + 1)
        scores = np.stack([8 * water, 1 - 4 * green_cover, 4 * green_cover - 1], axis=1)
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        return scores / scores.sum(axis=1, keepdims=True)


def smoothed(windows, side=5):
    """Return the mean of side x side pixels around each."""
    pad = side // 2
    padded = np.pad(windows, ((0, 0), (0, 0), (pad, pad), (pad, pad)), mode="reflect")
    views = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(2, 3))
    return views.mean(axis=(-1, -2), dtype=np.float32)


# %% [markdown]
# ## Run it
#
# An object is fine on this machine. For workers elsewhere put the class into a file and
# say `model="mine.py:Indices"`: then each worker makes its own.

# %%
bands = BANDS and BANDS.split(",")
masks = geoseg.segment(
    SCENE, model=Indices(), bands=bands, out=folder / "masks.zarr", scores=True
)
masks.geoseg.areas()

# %% [markdown]
# How the raster is cut into blocks never changes the answer. Check it:

# %%
again = geoseg.segment(
    SCENE, model=Indices(), bands=bands, out=folder / "again.zarr", block=2240
)
assert (again["classes"].to_numpy() == masks["classes"].to_numpy()).all()

# %%
masks.geoseg.plot()
