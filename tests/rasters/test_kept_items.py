"""What a search has found lies beside the product, and answers the same question."""

import json

import pytest

from geoseg.errors import ChangedError, RasterError
from geoseg.rasters.kept_items import kept_items, list_of
from geoseg.rasters.search import Found

QUESTION = {
    "what": {"collection": "scenes", "archive": "https://api.example"},
    "dates": "a",
}


def item(name, href):
    return {
        "type": "Feature",
        "id": name,
        "properties": {"datetime": "2025-05-01T00:00:00Z"},
        "assets": {"red": {"href": href, "type": "image/tiff"}},
    }


class Archive:
    """An archive that changes with each search."""

    def __init__(self, *hrefs):
        self.hrefs, self.count = hrefs, 0

    def __call__(self):
        self.count += 1
        return Found([item(f"{self.count}-{n}", h) for n, h in enumerate(self.hrefs)])


def ids(found):
    return [one["id"] for one in found.items]


def test_the_same_question_is_answered_by_the_list(tmp_path):
    local = tmp_path / "scenes" / "a.tif"
    local.parent.mkdir()
    local.touch()
    archive = Archive("https://api.example/a.tif?sig=secret", str(local))
    product = tmp_path / "out" / "masks.zarr"
    product.parent.mkdir()
    first = kept_items(product, QUESTION, archive, sources=[local.parent])
    product.mkdir()
    again = kept_items(product, QUESTION, archive, sources=[local.parent])
    assert archive.count == 1
    assert ids(again) == ids(first) == ["1-0", "1-1"]
    assert again.notes == (f"scenes are those of {list_of(product)}, found before",)
    written = json.loads((product.parent / "masks.items.json").read_text())
    hrefs = [f["assets"]["red"]["href"] for f in written["features"]]
    assert hrefs == ["https://api.example/a.tif", "../scenes/a.tif"]
    place = again.items[1]["assets"]["red"]["href"]
    assert (product.parent / place).resolve() == local


def test_another_question_is_searched_for_anew_but_never_under_a_product(tmp_path):
    archive = Archive("https://api.example/a.tif")
    product = tmp_path / "masks.zarr"
    kept_items(product, QUESTION, archive)
    other = {**QUESTION, "dates": "b"}
    assert ids(kept_items(product, other, archive)) == ["2-0"]  # nothing was made yet
    product.mkdir()
    with pytest.raises(ChangedError, match="begun with other dates than is asked for"):
        kept_items(product, QUESTION, archive)
    assert archive.count == 2
    assert ids(kept_items(product, other, archive)) == ["2-0"]
    assert ids(kept_items(product, QUESTION, archive, overwrite=True)) == ["3-0"]


def test_nothing_else_is_written_over(tmp_path):
    archive = Archive("https://api.example/a.tif")
    path = tmp_path / "masks.items.json"
    path.write_text('{"type": "FeatureCollection", "features": []}')
    with pytest.raises(RasterError, match="no list of items that geoseg kept"):
        kept_items(tmp_path / "masks.zarr", QUESTION, archive)
    assert archive.count == 0
    before = path.read_text()
    kept_items(tmp_path / "masks.zarr", QUESTION, archive, sources=[path])
    assert archive.count == 1
    assert path.read_text() == before


def test_a_list_names_only_what_the_search_can_find(tmp_path):
    """Whoever gives away a product with a list makes nobody read other files."""
    product = tmp_path / "masks.zarr"
    kept_items(product, QUESTION, Archive("/etc/secret.tif"))
    with pytest.raises(RasterError, match=r"names .*etc/secret\.tif"):
        kept_items(product, QUESTION, Archive())


def test_beside_a_product_in_a_bucket(monkeypatch):
    import fsspec

    files = fsspec.filesystem("memory")
    archive = Archive("https://api.example/a.tif")
    for _ in range(2):
        found = kept_items("memory://place/masks.zarr", QUESTION, archive)
        assert ids(found) == ["1-0"]
    files.rm("/place", recursive=True)
