"""Networks that look at several dates, and are told dates and places."""

from __future__ import annotations

import inspect
import json
import textwrap
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import rioxarray  # noqa: F401 - gives arrays their .rio
import small
import torch
import xarray as xr
from pyproj import Transformer
from torch import nn

from geoseg.cli import main
from geoseg.cli.segment import plan_lines, plan_summary
from geoseg.core.grid import Window
from geoseg.errors import GeosegError, ModelError
from geoseg.inference.workflow import run_plan
from geoseg.models.card import Band, Card
from geoseg.models.context import context_of
from geoseg.models.describe import describe
from geoseg.models.layout import shaped
from geoseg.models.load import model_recipe
from geoseg.models.plain import card_from_dict, card_to_dict
from geoseg.models.stac import card_to_item, read_card, write_card
from geoseg.rasters.open import for_model, open_source

STEPS = ("2024-04-01", "2024-05-01", "2024-06-01")
DAYS = ((2024, 92), (2024, 122), (2024, 153))
CHUNK, WINDOW = 64, 32
CARD = {
    "name": "in time",
    "bands": ["red", "nir"],
    "classes": ["bare", "crop", "water"],
    "times": {"count": 3, "every": "month"},
    "layout": "ctyx",
    "offset": [100.0, 200.0],
    "scale": [50.0, 80.0],
    "window": WINDOW,
    "overlap": 8,
    "inputs": ["dates", "location"],
}


class TimeNet(nn.Module):
    """A convolution over time, a little different by date and place."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.time = nn.Conv3d(2, 6, 3, padding=(0, 1, 1))
        self.scores = nn.Conv2d(6, 3, 3, padding=1)

    def forward(
        self, x: torch.Tensor, dates: torch.Tensor, location: torch.Tensor
    ) -> torch.Tensor:
        """Take (n, band, step, y, x), (n, step, 2), (n, 2)."""
        seen = torch.relu(self.time(x)[:, :, 0])
        phase = torch.sin(dates[:, :, 1] / 58).mean(1) + torch.cos(location).sum(1)
        return self.scores(seen * (1 + phase[:, None, None, None] / 10))


def series(height=150, width=170, seed=0, gaps=True):
    """Return three dates of red and nir, with clouds and a frame that none shows."""
    rng = np.random.default_rng(seed)
    pixels = rng.normal(180, 60, (3, 2, height, width)).astype(np.float32)
    if gaps:
        pixels[0, :, 20:70, 30:90] = np.nan
        pixels[2, 1, :40] = np.nan
        pixels[:, :, 100:120, 80:140] = np.nan
    y = 5_300_000 - 10 * (np.arange(height) + 0.5)
    x = 600_000 + 10 * (np.arange(width) + 0.5)
    coords = {
        "time": np.array(STEPS, "datetime64[ns]"),
        "band": ["red", "nir"],
        "y": y,
        "x": x,
    }
    dims = ("time", "band", "y", "x")
    return xr.DataArray(pixels, dims=dims, coords=coords).rio.write_crs("EPSG:32633")


def written(folder: Path, **fields) -> Path:
    """Write a module whose factory makes the network."""
    card = {**CARD, **fields}
    (folder / "in_time.py").write_text(
        f"import torch\nfrom torch import nn\n\n\n{inspect.getsource(TimeNet)}\n\n"
        f"def model():\n    return {card!r}, TimeNet()\n"
    )
    return folder / "in_time.py"


chunks_of = ("classes", "confidence")


def chunks(store: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(store)): path.read_bytes()
        for array in chunks_of
        for path in (store / array).iterdir()
        if not path.name.startswith(".")
    }


run = partial(small.segment, chunk=CHUNK, scores=True, precision="fp32")


@cache
def network() -> TimeNet:
    return TimeNet().eval()


def own_scores(pixels: np.ndarray, y: float, x: float) -> torch.Tensor:
    """Pass a window (time, band, y, x) as a user of the network would."""
    offset, scale = (np.array(CARD[k])[:, None, None] for k in ("offset", "scale"))
    scaled = np.nan_to_num((pixels - offset) / scale, nan=0.0).astype(np.float32)
    degrees = Transformer.from_crs(32633, 4326).transform(x, y)
    with torch.no_grad():
        return network()(
            torch.from_numpy(scaled.swapaxes(0, 1)[None].copy()),
            torch.tensor([DAYS], dtype=torch.float32),
            torch.tensor([degrees], dtype=torch.float32),
        )


# --- whole maps ---


def test_one_window_is_the_networks_own_forward_pass(tmp_path):
    given = series(WINDOW, WINDOW)
    given[:, :, :3] = np.nan
    spec = f"{written(tmp_path, overlap=0)}:model"
    masks = run(given, out=tmp_path / "m.zarr", model=spec)
    expected = own_scores(given.values, 5_300_000 - 160, 600_000 + 160)[0].argmax(0)
    classes = masks["classes"].values
    assert (classes[:3] == 255).all()
    np.testing.assert_array_equal(classes[3:], expected.numpy()[3:])
    assert len(np.unique(classes)) == 4


def test_blocks_kills_and_backends_change_nothing(tmp_path):
    """Laws 3 to 5: also of a series, whose pixels under a cloud are anything."""
    given = series()
    spec = f"{written(tmp_path)}:model"
    masks = run(given, out=tmp_path / "whole.zarr", model=spec, block=216)
    whole = chunks(tmp_path / "whole.zarr")
    assert len(whole) > 10
    run(given.chunk(50), out=tmp_path / "dask.zarr", model=spec, block=72)
    assert chunks(tmp_path / "dask.zarr") == whole

    class Interrupted(BaseException):
        pass

    def stop(now):
        if now.inferred >= 1:
            raise Interrupted

    plan = small.make_plan(
        given, model=spec, block=72, scores=True, chunk=CHUNK, precision="fp32"
    )
    out = tmp_path / "cut.zarr"
    with pytest.raises(Interrupted):
        run_plan(plan, out=out, progress=stop)
    _, facts = run_plan(plan, out=out, progress=False)
    assert facts.windows < plan.tiling.windows
    assert chunks(out) == whole
    seen = np.isfinite(given.values).all(axis=1).any(axis=0)
    np.testing.assert_array_equal(masks["classes"] == 255, ~seen)


def test_a_card_for_all_bands_takes_those_of_each_date(tmp_path):
    fields = {"bands": ["*"], "offset": 0.0, "scale": 1.0}
    recipe = model_recipe(f"{written(tmp_path, **fields)}:model")
    source = open_source(series(40, 40))
    card = recipe.bound(source).card
    assert [(b.time, b.name) for b in card.bands] == [
        (k, n) for k in range(3) for n in ("red", "nir")
    ]
    assert len(for_model(source, card).bands) == 6


@pytest.mark.filterwarnings("ignore")
def test_onnx_takes_time_too(tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    example = (
        torch.zeros(1, 2, 3, WINDOW, WINDOW), torch.zeros(1, 3, 2), torch.zeros(1, 2)
    )  # fmt: skip
    file = tmp_path / "net.onnx"
    torch.onnx.export(network(), example, str(file), dynamo=False)
    file.with_suffix(".json").write_text(json.dumps(CARD))
    given = series(WINDOW, WINDOW, gaps=False)
    recipe = model_recipe(str(file))
    source = for_model(open_source(given), recipe.card)
    window = source.grid.window
    pixels, valid = source.read(window)
    model = recipe.given(source).load()
    found = model.predict_at(pixels[None], [window], valid[None])
    expected = own_scores(given.values, 5_300_000 - 160, 600_000 + 160)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_exported_programs_take_time_too(tmp_path):
    given = series(96, 80)
    expected = run(given, out=tmp_path / "own.zarr", model=f"{written(tmp_path)}:model")
    net = network()
    example = (
        torch.zeros(2, 2, 3, WINDOW, WINDOW),
        torch.zeros(2, 3, 2),
        torch.zeros(2, 2),
    )
    torch.jit.script(net).save(str(tmp_path / "script.pt"))
    free = torch.export.Dim("n", min=1, max=64)
    program = torch.export.export(net, example, dynamic_shapes=[{0: free}] * 3)
    torch.export.save(program, tmp_path / "program.pt2")
    for name in ("script", "program"):
        (tmp_path / f"{name}.json").write_text(json.dumps(CARD))
    for file in ("script.pt", "program.pt2"):
        found = run(given, out=tmp_path / f"{file}.zarr", model=tmp_path / file)
        for array in chunks_of:
            ours, theirs = found[array].values, expected[array].values
            np.testing.assert_allclose(ours.astype(int), theirs.astype(int), atol=1)
    wrong = {**CARD, "times": 4}
    (tmp_path / "program.json").write_text(json.dumps(wrong))
    with pytest.raises(ModelError, match="takes 0 bands, its card names 8"):
        model_recipe(str(tmp_path / "program.pt2")).load()
    (tmp_path / "program.json").write_text(json.dumps({**CARD, "inputs": ["dates"]}))
    with pytest.raises(ModelError, match=r"five \(ctyx\) dimensions, then dates"):
        model_recipe(str(tmp_path / "program.pt2")).load()


def test_several_looks_know_where_they_are(tmp_path):
    given = series(WINDOW, WINDOW, gaps=False)
    spec = f"{written(tmp_path)}:model"
    once = run(given, out=tmp_path / "1.zarr", model=spec, probabilities=True)
    twice = run(given, out=tmp_path / "2.zarr", model=[spec, spec], probabilities=True)
    np.testing.assert_array_equal(once["probabilities"], twice["probabilities"])
    turned = run(given, out=tmp_path / "3.zarr", model=spec, tta="flips")
    assert set(np.unique(turned["classes"])) <= {0, 1, 2}


def test_a_plain_function_gets_kinds_of_data_and_all_there_is_to_know(tmp_path):
    (tmp_path / "plain.py").write_text(
        textwrap.dedent("""
        import numpy as np

        CARD = {
            "modalities": {
                "S2": ["nir", {"name": "red", "wavelength": 0.66}],
                "DEM": [{"name": "elevation", "static": True, "wavelength": 1}],
            },
            "classes": ["low", "high"],
            "times": 3,
            "layout": "tcyx",
            "output": "labels",
            "window": 32,
            "overlap": 0,
            "inputs": ["resolution", "wavelengths", "location", "dates"],
        }

        def predict(pixels, resolution, wavelengths, location, dates):
            n = len(dates)
            assert list(pixels) == ["S2", "DEM"]
            assert pixels["S2"].shape == (n, 3, 2, 32, 32), pixels["S2"].shape
            assert pixels["DEM"].shape == (n, 1, 32, 32)
            assert resolution.shape == (n, 1) and (resolution == 10).all()
            assert np.allclose(wavelengths, [[0.842, 0.66, 1]])
            assert location.shape == (n, 2) and (abs(location - [47.8, 16.3]) < 1).all()
            assert dates[0].tolist() == [[2024, 92], [2024, 122], [2024, 153]]
            nir = pixels["S2"][:, :, 0].mean(axis=1)
            return (nir > pixels["DEM"][:, 0]).astype(np.uint8)

        def model():
            return CARD, predict
    """)
    )
    given = series(40, 50, gaps=False)
    relief = given.isel(time=0, band=[0], drop=True) * 0 + 180
    relief = relief.assign_coords(band=["elevation"]).expand_dims(time=given.time)
    both = xr.concat([given, relief], "band").rio.write_crs("EPSG:32633")
    masks = small.segment(
        both,
        out=tmp_path / "m.zarr",
        model=f"{tmp_path / 'plain.py'}:model",
        chunk=CHUNK,
    )
    nir = given.sel(band="nir").values.mean(axis=0)
    np.testing.assert_array_equal(masks["classes"], nir > 180)


# --- the card ---


def test_a_card_holds_its_bands_once_for_each_step():
    card = card_from_dict(CARD)
    assert [(b.time, b.name, b.offset) for b in card.bands] == [
        (k, n, o) for k in range(3) for n, o in (("red", 100.0), ("nir", 200.0))
    ]
    assert [b.name for b in card.step_bands] == ["red", "nir"]
    assert "3 steps, every month" in describe(card)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"times": {"count": 2, "days": (100, 200), "within": 20}},
        {
            "modalities": {"a": ["nir"], "b": ["red"]},
            "inputs": ["wavelengths", "dates"],
        },
        {
            "bands": ["red", "nir", {"name": "dem", "static": True, "wavelength": 1}],
            "modalities": {"S2": ["nir", "red"], "DEM": ["dem"]},
            "offset": 3.0,
            "scale": 2.0,
        },
    ],
)
def test_a_card_comes_back_from_its_file(tmp_path, fields):
    card = card_from_dict({**CARD, **fields})
    assert card_from_dict(card_to_dict(card)) == card
    write_card(card, tmp_path / "card.json")
    assert read_card(tmp_path / "card.json") == card
    item = card_to_item(card)
    assert item["properties"]["mlm:input"][0]["bands"] == [
        b.name for b in card.step_bands
    ]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"times": {"count": 0}}, "'times.count': .* greater than or equal to 1"),
        ({"times": {"count": 3, "every": "fortnight"}}, "every 'fortnight': write day"),
        ({"times": {"count": 3, "days": (1, 2)}}, "2 days for 3 steps"),
        ({"times": None}, "layout 'ctyx' .* needs .times."),
        ({"layout": "tyxc"}, "'layout'"),
        ({"inputs": ["weather"]}, "'inputs"),
        ({"inputs": ["dates", "dates"]}, "name one twice"),
        ({"modalities": {"a": ["red"]}}, "each of its bands once: look at nir"),
        ({"bands": ["red", {"name": "dem", "static": True}]}, "no place in the layout"),
        ({"times": None, "layout": "flat", "bands": ["b", {"name": "c", "time": 1}]},
         'no "times"'),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_card_is_said(fields, message):
    with pytest.raises(ModelError, match=message):
        card_from_dict({**CARD, **fields})


def test_layouts_are_the_channels_in_another_order():
    pixels = np.arange(2 * 6 * 2 * 2).reshape(2, 6, 2, 2)
    steps = pixels.reshape(2, 3, 2, 2, 2)
    for layout, expected in (
        ("flat", pixels),
        ("tcyx", steps),
        ("ctyx", steps.swapaxes(1, 2)),
    ):
        card = card_from_dict({**CARD, "layout": layout})
        np.testing.assert_array_equal(shaped(pixels, card), expected)
        np.testing.assert_array_equal(shaped(torch.from_numpy(pixels), card), expected)


def test_python_makes_cards_too():
    card = Card(
        name="a",
        bands=(Band(name="red"),),
        classes=card_from_dict(CARD).classes,
        times=card_from_dict(CARD).times,
    )
    assert [b.time for b in card.bands] == [0, 1, 2]


# --- what a raster lacks ---


@pytest.mark.filterwarnings("ignore:.*no coordinate reference")
def test_what_the_raster_cannot_tell_is_refused(tmp_path):
    spec = f"{written(tmp_path)}:model"
    recipe = model_recipe(spec)
    nowhere = for_model(
        open_source(series(40, 40).drop_vars("spatial_ref").assign_attrs({})),
        recipe.card,
    )
    with pytest.raises(ModelError, match="asks for the place of its windows"):
        recipe.given(nowhere)
    with pytest.raises(ModelError, match="asks for dates, location beside the pixels"):
        recipe.load().predict(np.zeros((1, 6, WINDOW, WINDOW), np.float32))
    with pytest.raises(GeosegError, match="lacks the date 2024-05"):
        run(series(40, 40).isel(time=[0, 2]), out=tmp_path / "m.zarr", model=spec)


def test_dates_are_part_of_what_a_map_is_made_of(tmp_path):
    recipe = model_recipe(f"{written(tmp_path)}:model")
    given = series(40, 40)
    source = for_model(open_source(given), recipe.card)
    told = recipe.given(source)
    assert told.hash != recipe.hash
    assert told.hash == recipe.given(source).hash
    context = context_of(recipe.card, source)
    assert context.dates == STEPS
    window = Window(y=0, x=0, height=40, width=40)
    degrees = Transformer.from_crs(32633, 4326).transform(600_200, 5_299_800)
    np.testing.assert_allclose(context.locations([window])[0], degrees, rtol=1e-6)


def test_a_plan_says_bands_once_and_dates(tmp_path):
    plan = small.make_plan(
        series(40, 40), model=f"{written(tmp_path)}:model", chunk=CHUNK
    )
    found = plan_summary(plan, 1)
    assert "red, nir of 3 dates, 2024-04-01 … 2024-06-01" in plan_lines(plan, found)[1]
    assert found["steps"] == [*STEPS]
    assert "red, nir of 3 dates" in plan._repr_html_()


def test_check_says_which_band_is_which_at_each_step(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("geoseg.rasters.open.open_source", lambda *_, **__: SERIES)
    with pytest.raises(SystemExit) as ended:
        main(["model", "check", f"{written(tmp_path)}:model", "series.zarr"])
    assert not ended.value.code
    text = capsys.readouterr().out
    assert "step 1 <- 2024-04-01: red <- 1 (red), nir <- 2 (nir); step 2 <- " in text


SERIES = open_source(series(40, 40))
