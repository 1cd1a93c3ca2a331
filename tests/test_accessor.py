"""`masks.geoseg`: what is shown, measured and compared is what the dataset holds."""

import re
import subprocess
import sys

import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401 - the accessor
import xarray as xr
from affine import Affine
from tifs import write_tif

import geoseg
import geoseg.accessor
from geoseg.errors import GeosegError, MasksError, RasterError
from geoseg.inference.scheduler import RunInfo
from geoseg.maps.open import open_classes
from geoseg.testing import IdentityModel, identity_card
from geoseg.viz.html import card_html, facts_html, map_html, plan_html, run_html

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")

NODATA = 255
NAMES = ["lake", "wood", "<i>field</i>"]


@pytest.fixture(scope="module")
def labels():
    rows, columns = np.mgrid[:500, :700]
    values = ((rows // 50 + columns // 70) % 3).astype(np.uint8)
    values[:40, :40] = NODATA
    return values


@pytest.fixture(scope="module")
def masks(labels, make_store, tmp_path_factory):
    sure = np.full(labels.shape, 200, np.uint8)
    path = tmp_path_factory.mktemp("accessor") / "m.zarr"
    return make_store(path, labels, sure, names=NAMES)


@pytest.fixture
def data(masks):
    return masks.dataset()


def test_areas_are_counts_times_ground(data, labels):
    table = data.geoseg.areas()
    assert table.index.tolist() == NAMES
    assert table["pixels"].tolist() == [(labels == v).sum() for v in range(3)]
    assert table["share"].sum() == pytest.approx(1)
    np.testing.assert_allclose(table["area_m2"], table["pixels"] * 100, rtol=2e-3)
    hectares = data.geoseg.areas(unit="ha")
    np.testing.assert_allclose(hectares["area_ha"], table["area_m2"] / 1e4)


def test_text_is_one_line(data, masks, tmp_path):
    said = repr(data.geoseg)
    assert said.startswith("<map of ")
    assert said.endswith("px: lake, wood, <i>field</i>>")
    assert repr(masks).startswith("<Masks m.zarr: ")
    assert "3 classes; classes, confidence>" in repr(masks)
    model = geoseg.load_model("otsu:ndwi")
    truth = geoseg.export(masks, tmp_path / "truth.tif")
    found = geoseg.evaluate(masks, reference=truth)
    for value in (
        model,
        model.card,
        found,
        found.accuracy,
        geoseg.compare(masks, masks),
    ):
        assert "\n" not in repr(value)
        assert len(repr(value)) < 250, repr(value)


def test_a_part_is_that_part(data, labels):
    """Cut, changed or computed: what the dataset holds now counts, not its store."""
    part = data.isel(y=slice(100, 300), x=slice(50, 400))
    here = labels[100:300, 50:400]
    expected = [(here == v).sum() for v in range(3)]
    assert part.geoseg.areas()["pixels"].tolist() == expected
    assert part.geoseg.grid.bounds == (480_500.0, 5_457_000.0, 484_000.0, 5_459_000.0)
    other = data.assign(classes=data["classes"] * 0)
    assert other.geoseg.areas()["pixels"].tolist() == [labels.size, 0, 0]
    assert part["classes"].geoseg.grid == part.geoseg.grid
    flipped = data.isel(y=slice(None, None, -1))
    assert flipped.geoseg.grid.transform.e > 0
    assert flipped.geoseg.areas()["pixels"].tolist() == data.geoseg.areas()[
        "pixels"
    ].tolist()  # fmt: skip


def test_classes_by_name(data, labels):
    woods = data.geoseg.sel("wood", "lake")
    values = woods["classes"].to_numpy()
    kept = np.isin(labels, [0, 1])
    np.testing.assert_array_equal(values[kept], labels[kept])
    assert (values[~kept] == NODATA).all()
    assert values.dtype == np.uint8
    counts = woods.geoseg.areas()["pixels"]
    assert counts["<i>field</i>"] == 0
    assert counts["wood"] == (labels == 1).sum()
    same = data.geoseg.sel(["wood", "lake"])
    assert same.geoseg.areas()["pixels"].tolist() == counts.tolist()
    assert (
        data["classes"].geoseg.sel("wood").geoseg.areas()["pixels"].sum()
        == (labels == 1).sum()
    )
    with pytest.raises(GeosegError, match="no class 'town'; there are: lake, wood"):
        data.geoseg.sel("town")


def test_compare_is_a_cross_table(data, labels, masks, make_store, tmp_path):
    changed = labels.copy()
    changed[200:300, 200:300] = 1
    changed[-30:] = NODATA
    other = make_store(tmp_path / "o.zarr", changed, names=NAMES)
    table = data.geoseg.compare(other.path)
    assert table.index.tolist() == table.columns.tolist() == NAMES
    for i, j in np.ndindex(3, 3):
        assert table.iloc[i, j] == ((labels == i) & (changed == j)).sum()
    valid = (labels != NODATA) & (changed != NODATA)
    agreement = (labels == changed)[valid].mean()
    assert table.attrs["agreement"] == pytest.approx(agreement, rel=1e-3)
    assert data.geoseg.compare(masks).attrs["agreement"] == 1
    shifted = data.geoseg.compare(data.isel(x=slice(1, None)))
    assert shifted.attrs["agreement"] == 1
    assert shifted.to_numpy().sum() == (labels[:, 1:] != NODATA).sum()


def test_plot_has_the_classes_in_their_colours(data, labels, masks):
    axes = data.geoseg.plot()
    (image,) = axes.get_images()
    picture = np.asarray(image.get_array())
    for c in masks.classes:
        np.testing.assert_array_equal(picture[labels == c.value][0], [*c.rgb, 255])
    assert (picture[labels == NODATA][:, 3] == 0).all()
    assert image.get_extent() == [480_000.0, 487_000.0, 5_455_000.0, 5_460_000.0]
    assert [t.get_text() for t in axes.get_legend().get_texts()] == NAMES
    assert axes.get_xlabel() == "x [m]"
    part = data.isel(y=slice(0, 40), x=slice(40, 80)).geoseg.plot()
    assert len(part.get_legend().get_texts()) == 2, "what is in sight"
    matplotlib.pyplot.close("all")


def test_a_long_legend_names_the_first_classes(make_store, tmp_path):
    pytest.importorskip("matplotlib").use("Agg")
    values = np.arange(20, dtype=np.uint8)[None].repeat(20, 0)
    masks = make_store(
        tmp_path / "many.zarr", values, names=[f"c{i}" for i in range(20)]
    )
    axes = masks.dataset().geoseg.plot()
    assert [t.get_text() for t in axes.get_legend().get_texts()][15:] == [
        "c15",
        "and 4 more",
    ]


def test_plot_reads_a_pictures_worth(make_store, tmp_path, monkeypatch):
    from geoseg.maps.overviews import build_overviews

    big = make_store(tmp_path / "b.zarr", np.ones((5000, 5000), np.uint8), chunk=1024)
    build_overviews(big)
    areas = []
    read = type(big).read
    monkeypatch.setattr(
        type(big), "read",
        lambda self, name, w: areas.append(w.area) or read(self, name, w),
    )  # fmt: skip
    axes = big.dataset().geoseg.plot()
    assert 0 < sum(areas) <= 2500**2
    assert np.asarray(axes.get_images()[0].get_array()).shape[0] <= 1200
    matplotlib.pyplot.close("all")


def test_overlay_puts_the_map_on_the_image(data, labels, tmp_path):
    path = tmp_path / "scene.tif"
    write_tif(
        path,
        labels[::2, ::2].astype(np.uint16) * 10,
        transform=Affine(20, 0, 480_000, 0, -20, 5_460_000),
    )
    axes = data.geoseg.overlay(path, opacity=0.3)
    image, classes = axes.get_images()
    assert image.get_extent() == classes.get_extent()
    alpha = np.asarray(classes.get_array())[..., 3]
    assert set(np.unique(alpha)) == {0, 76}
    grey = np.asarray(image.get_array())[..., 0]
    assert len({int(np.median(grey[labels == v])) for v in range(3)}) == 3
    matplotlib.pyplot.close("all")


def test_handing_on(data, labels, tmp_path):
    regions = geoseg.read_regions(data.geoseg.vectorize(tmp_path / "r.gpkg"))
    assert regions["pixels"].sum() == (labels != NODATA).sum()
    part = data.isel(y=slice(0, 100), x=slice(100, 300))
    regions = geoseg.read_regions(part.geoseg.vectorize(tmp_path / "p.gpkg"))
    assert regions["pixels"].sum() == 100 * 200
    with rasterio.open(part.geoseg.to_cog(tmp_path / "p.tif")) as cog:
        np.testing.assert_array_equal(cog.read(1), labels[:100, 100:300])
        assert cog.transform.c == 481_000
    page = part.geoseg.report(tmp_path / "p.html")
    assert "200 × 100 pixels" in page.read_text()


def test_stores_of_other_tools(labels, tmp_path):
    """Any Zarr with one class array on a grid, with or without CF flags."""
    array = xr.DataArray(
        labels.astype(np.int16),
        dims=("lat", "lon"),
        coords={
            "lat": 50 - 0.01 * (np.arange(500) + 0.5),
            "lon": 10 + 0.01 * (np.arange(700) + 0.5),
        },
        name="landcover",
    ).rio.write_crs("EPSG:4326")  # fmt: skip
    array.attrs["_FillValue"] = NODATA
    path = tmp_path / "theirs.zarr"
    array.to_dataset().to_zarr(path, zarr_format=2)
    opened = open_classes(path)
    assert [c.name for c in opened.classes] == ["class_0", "class_1", "class_2"]
    assert opened.grid.transform.almost_equals(Affine(0.01, 0, 10, 0, -0.01, 50), 1e-9)
    page = geoseg.report(path)
    assert "4326" in page.read_text()
    flags = array.assign_attrs(
        flag_values=[0, 1, 2],
        flag_meanings="a b c",
        flag_colors="#FF0000 #00FF00 #0000FF",
    )  # fmt: skip
    table = flags.geoseg.classes
    assert [(c.name, c.color) for c in table][1] == ("b", "#00FF00")
    two = xr.Dataset({"a": array, "b": array})
    with pytest.raises(MasksError, match=r"there is: a .lat 500, lon 700, int16.*b "):
        two.geoseg.areas()
    uneven = array.assign_coords(lat=np.geomspace(1, 2, 500))
    with pytest.raises(RasterError, match="evenly spaced"):
        uneven.geoseg.areas()


def test_html_says_the_few_facts_that_matter(data, masks, tmp_path):
    html = data.geoseg._repr_html_()
    assert html == masks._repr_html_() == map_html(masks)
    assert "700 × 500" in html
    assert "EPSG:32633" in html
    assert "&lt;i&gt;field" in html
    assert "<i>field" not in html
    assert html.count("data:image/png") == 1
    card = identity_card(2, description="a <b>test</b>")
    assert "a &lt;b&gt;test" in card._repr_html_() == card_html(card)
    source = geoseg.testing.MemorySource(values=np.zeros((2, 100, 120), np.float32))
    plan = geoseg.make_plan(source, model=IdentityModel(card=card))
    assert "overlap" in plan._repr_html_() == plan_html(plan)
    run = RunInfo(windows=1234, forward_seconds=1.5, pixels=10)
    assert "1,234" in run._repr_html_() == run_html(run)
    assert re.search(r"<th[^>]*>a &amp; b</th>", facts_html("t", [("a & b", "c")]))


def test_it_is_there_when_geoseg_is_used_and_costs_nothing_before(masks):
    """Importing geoseg is fast; a dataset that it opens has the accessor."""
    code = (
        "import sys, geoseg; assert 'xarray' not in sys.modules;"
        f"print(geoseg.open_masks({masks.path!r}).dataset().geoseg.grid.width)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "700"
    code = "import xarray, geoseg; assert hasattr(xarray.Dataset, 'geoseg')"
    subprocess.run([sys.executable, "-c", code], check=True)
