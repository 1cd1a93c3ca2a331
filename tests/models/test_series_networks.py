"""Prithvi and OlmoEarth on series: their own forward passes, and whole maps.

Their packages bring hundreds of others, so these run where somebody installed them.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import rioxarray  # noqa: F401 - gives arrays their .rio
import small
import torch
import xarray as xr
from pyproj import Transformer
from torch.nn import functional

from geoseg.core.grid import Window
from geoseg.inference.workflow import run_plan
from geoseg.models.load import model_recipe
from geoseg.models.pack import save_model
from geoseg.models.plain import card_from_dict
from geoseg.models.stac import write_card
from geoseg.rasters.open import for_model, open_source

CLASSES = ["bare", "crop", "water"]
WINDOW, CHUNK = 64, 64
run = partial(small.segment, chunk=CHUNK)


def series(names, steps, height, width, *, seed=0):
    """Return reflectances of some bands at some dates, with clouds."""
    rng = np.random.default_rng(seed)
    shape = (len(steps), len(names), height, width)
    pixels = rng.normal(0.2, 0.1, shape).astype(np.float32)
    pixels[1, :, : height // 3] = np.nan
    pixels[0, 1, :, : width // 4] = np.nan
    pixels[:, :, :2, :2] = np.nan
    coords = {
        "time": np.array(steps, "datetime64[ns]"),
        "band": list(names),
        "y": 5_300_000 - 10 * (np.arange(height) + 0.5),
        "x": 600_000 + 10 * (np.arange(width) + 0.5),
    }
    dims = ("time", "band", "y", "x")
    return xr.DataArray(pixels, dims=dims, coords=coords).rio.write_crs("EPSG:32633")


def scaled(given, card):
    """Return (step, band, y, x) as the card says, 0 where nothing is shown."""
    offset, scale = (
        np.array([getattr(b, k) for b in card.step_bands], np.float32)[:, None, None]
        for k in ("offset", "scale")
    )
    return torch.from_numpy(np.nan_to_num((given.values - offset) / scale))


def asked(spec, given):
    """Return the scores of the first window, asked as a run does."""
    recipe = model_recipe(str(spec), precision="fp32")
    source = for_model(open_source(given), recipe.card)
    model = recipe.given(source).load()
    window = Window(y=0, x=0, height=WINDOW, width=WINDOW)
    pixels, valid = source.read(window)
    filled = np.where(
        np.isnan(pixels), [[[b.offset]] for b in recipe.card.bands], pixels
    )
    stack = filled[None].astype(np.float32)
    if model.placed:
        return recipe, model.predict_at(stack, [window], valid[None])
    return recipe, model.predict(stack)


def check(spec, given, own, tmp_path):
    """Compare scores and map of one window with the library's own, then laws 3, 4."""
    first = given.isel(y=slice(0, WINDOW), x=slice(0, WINDOW))
    recipe, scores = asked(spec, first)
    with torch.no_grad():
        expected = own(scaled(first, recipe.card))
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)
    options = {"model": str(spec), "precision": "fp32", "probabilities": True}
    masks = run(first, out=tmp_path / "one.zarr", overlap=0, **options)
    shares = expected[0].softmax(0).numpy()
    seen = masks["classes"].values != 255
    assert seen.sum() == WINDOW**2 - 4
    found = masks["probabilities"].values
    assert np.abs(found - shares)[:, seen].max() < 1 / 254

    whole = run(given, out=tmp_path / "whole.zarr", block=192, **options)
    plan = small.make_plan(given, block=96, chunk=CHUNK, **options)

    class Interrupted(BaseException):
        pass

    def stop(now):
        if now.inferred >= 1:
            raise Interrupted

    with pytest.raises(Interrupted):
        run_plan(plan, out=tmp_path / "cut.zarr", progress=stop)
    cut, facts = run_plan(plan, out=tmp_path / "cut.zarr", progress=False)
    assert facts.windows < plan.tiling.windows
    for array in ("classes", "probabilities"):
        np.testing.assert_array_equal(cut.dataset()[array], whole[array])


# --- terratorch ---

HLS = ["blue", "green", "red", "nir08", "swir16", "swir22"]
DATES = ("2024-04-03", "2024-05-11", "2024-06-20", "2024-08-02")


def prithvi(tmp_path, backbone, steps, **card):
    """Write a checkpoint as terratorch's trainer does; return it and its network."""
    tasks = pytest.importorskip("terratorch.tasks")
    arguments = {
        "backbone": backbone,
        "backbone_pretrained": False,
        "backbone_num_frames": steps,
        "backbone_bands": ["BLUE", "GREEN", "RED", "NIR_NARROW", "SWIR_1", "SWIR_2"],
        "necks": [
            {"name": "SelectIndices", "indices": [0, 1, 2, 3]},
            {"name": "ReshapeTokensToImage", "effective_time_dim": steps},
        ],
        "decoder": "FCNDecoder",
        "decoder_channels": 16,
        "num_classes": len(CLASSES),
    }
    torch.manual_seed(0)
    task = tasks.SemanticSegmentationTask(
        model_args=arguments, model_factory="EncoderDecoderFactory"
    )
    task.configure_models()
    network = task.model.eval()
    for part in network.modules():  # as if trained: else all pixels look alike
        if isinstance(part, torch.nn.BatchNorm2d):
            part.weight.data.fill_(3)
    kept = {
        "state_dict": {f"model.{k}": v for k, v in network.state_dict().items()},
        "hyper_parameters": {
            "model_args": arguments,
            "model_factory": "EncoderDecoderFactory",
        },
    }
    torch.save(kept, tmp_path / "prithvi.ckpt")
    plain = {
        "bands": HLS,
        "classes": CLASSES,
        "times": steps,
        "mean": [0.11, 0.13, 0.14, 0.27, 0.2, 0.14],
        "std": [0.22, 0.22, 0.22, 0.18, 0.12, 0.1],
        "window": WINDOW,
        "overlap": 16,
        "numbers": "reflectance",
        **card,
    }
    write_card(card_from_dict(plain, name="prithvi"), tmp_path / "prithvi.json")
    return tmp_path / "prithvi.ckpt", network


@pytest.mark.filterwarnings("ignore")
def test_prithvi_on_four_dates(tmp_path):
    spec, network = prithvi(tmp_path, "prithvi_eo_tiny", 4)
    given = series(HLS, DATES, 110, 200)

    def own(steps):
        return network(steps.swapaxes(0, 1)[None]).output

    check(spec, given, own, tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_prithvi_tl_is_told_dates_and_places(tmp_path):
    inputs = ["dates", "location"]
    spec, network = prithvi(tmp_path, "prithvi_eo_v2_tiny_tl", 3, inputs=inputs)
    given = series(HLS, DATES[:3], 110, 200)
    x, y = 600_000 + 5 * WINDOW, 5_300_000 - 5 * WINDOW
    place = Transformer.from_crs(32633, 4326).transform(x, y)
    days = [[2024, 94], [2024, 132], [2024, 172]]

    def own(steps, days=days, place=place):
        return network(
            steps.swapaxes(0, 1)[None],
            temporal_coords=torch.tensor([days], dtype=torch.float32),
            location_coords=torch.tensor([place], dtype=torch.float32),
        ).output

    check(spec, given, own, tmp_path)
    card = model_recipe(str(spec)).card
    steps = scaled(given.isel(y=slice(WINDOW), x=slice(WINDOW)), card)
    with torch.no_grad():
        for other in (own(steps, place=(0, 0)), own(steps, days=[[2023, 1]] * 3)):
            assert (other - own(steps)).abs().max() > 1e-4


# --- OlmoEarth ---

S2 = [
    "B02",
    "B03",
    "B04",
    "B08",
    "B05",
    "B06",
    "B07",
    "B8A",
    "B11",
    "B12",
    "B01",
    "B09",
]
MONTHS = tuple(f"2024-{m:02}-01" for m in range(1, 13))


@pytest.mark.parametrize("version", ["v1", "v1.2"])
def test_olmoearth_on_twelve_months(tmp_path, version):
    package = pytest.importorskip("olmoearth_pretrain_minimal")
    from olmoearth_pretrain_minimal.olmoearth_pretrain_v1.utils.datatypes import (
        MaskedOlmoEarthSample,
        MaskValue,
    )

    from geoseg import build_network

    card = card_from_dict({
        "name": "months",
        "modalities": {"sentinel2_l2a": S2},
        "classes": CLASSES,
        "times": {"count": 12, "every": "month"},
        "layout": "tcyx",
        "inputs": ["dates"],
        "offset": 0.0,
        "scale": 0.5,
        "window": WINDOW,
        "overlap": 16,
        "resolution": 10,
        "framework": {
            "family": "olmoearth", "version": version, "size": "nano", "patch": 8
        },
    })  # fmt: skip
    torch.manual_seed(0)
    network = build_network(card).eval()
    assert isinstance(network.decoder, package.UNetDecoder)
    for part in network.decoder.modules():  # as if trained: else all look alike
        if isinstance(part, torch.nn.Conv2d):
            part.weight.data.mul_(3)
    spec = save_model(network, card, tmp_path / "olmoearth")
    days = torch.tensor([[1, month, 2024] for month in range(12)])

    given = series(S2, MONTHS, 80, 200)
    told = network.encoder.patch_embeddings.tokenization_config

    def own(steps):
        """Tokens without any pixel are MISSING, and no part of the mean of a patch."""
        shown = torch.from_numpy(given[..., :WINDOW, :WINDOW].notnull().values).float()
        patches = functional.interpolate(
            functional.max_pool2d(shown, 8), scale_factor=8
        )
        groups = told.get_bandset_indices("sentinel2_l2a")
        shows = torch.stack([patches[:, g].amax(1) for g in groups], -1)
        mask = torch.where(shows > 0, 0, MaskValue.MISSING.value)
        assert (mask > 0).any()
        sample = MaskedOlmoEarthSample(
            timestamps=days[None],
            sentinel2_l2a=steps.permute(2, 3, 0, 1)[None],
            sentinel2_l2a_mask=mask.permute(1, 2, 0, 3)[None],
        )
        found = network.encoder(sample, patch_size=8, input_res=10)
        tokens = found["tokens_and_masks"]
        there = (tokens.sentinel2_l2a_mask == 0)[..., None].float()
        summed = (tokens.sentinel2_l2a * there).sum(dim=(3, 4))
        return network.decoder(summed / there.sum(dim=(3, 4)))

    clear = torch.rand(1, 12, 12, WINDOW, WINDOW)
    cloudy = clear.clone()
    cloudy[:, 3] = 0
    batch = torch.cat([clear, cloudy, 0 * clear])
    when = torch.tensor([[2024, 31 * m + 1] for m in range(12)]).expand(3, -1, -1)
    with torch.no_grad():
        together = network({"sentinel2_l2a": batch}, when)
        for i, answer in enumerate(together):
            alone = network({"sentinel2_l2a": batch[i : i + 1]}, when[:1])
            torch.testing.assert_close(answer, alone[0], rtol=1e-4, atol=1e-5)
    check(spec, given, own, tmp_path)


def test_dates_are_as_olmoearth_has_them():
    pytest.importorskip("olmoearth_pretrain_minimal")
    from geoseg.models.networks.olmoearth import timestamps

    days = np.arange("2023-01-01", "2025-01-01", dtype="datetime64[D]").tolist()
    told = torch.tensor([[[d.year, d.timetuple().tm_yday] for d in days]]).float()
    expected = [[d.day, d.month - 1, d.year] for d in days]
    assert timestamps(told)[0].tolist() == expected
