"""Cards: JSON and back, STAC's own schema, hand-written ones, safe model folders."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geoseg.core.classes import Class, class_table
from geoseg.errors import ModelError
from geoseg.models.card import Band, Card
from geoseg.models.describe import describe
from geoseg.models.folder import inside, open_folder, write_folder
from geoseg.models.plain import card_from_dict, card_to_dict
from geoseg.models.stac import card_to_item, read_card, write_card

SCHEMAS = Path(__file__).parent / "schemas"
DATA_TYPES = ["uint8", "uint16", "int16", "float32"]

numbers = st.floats(-1e6, 1e6) | st.integers(-1000, 1000).map(float)
names = st.text(
    st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12
).filter(lambda s: s.strip() == s)
bands = st.builds(
    Band,
    name=names,
    common_name=st.none() | st.sampled_from(["red", "nir", "swir16"]),
    offset=numbers,
    scale=numbers.filter(lambda v: v != 0),
    clip=st.none() | st.tuples(numbers, st.sampled_from([math.inf, 1e7])),
)
tables = st.lists(names, min_size=2, max_size=5, unique=True).map(class_table)
cards = st.builds(
    Card,
    name=names,
    bands=st.lists(bands, min_size=1, max_size=5, unique_by=lambda b: b.name).map(
        tuple
    ),
    classes=tables,
    task=st.sampled_from(["semantic", "instance", "panoptic"]),
    things=st.none() | st.just(()),
    output=st.sampled_from(["logits", "probabilities", "labels"]),
    activation=st.sampled_from(["softmax", "sigmoid"]),
    window=st.integers(64, 4096),
    overlap=st.integers(0, 16).map(lambda v: 2 * v),
    multiple=st.none() | st.integers(1, 64),
    resolution=st.none() | st.floats(0.01, 1000),
    dtypes=st.none() | st.lists(st.sampled_from(DATA_TYPES), min_size=1).map(tuple),
    value_range=st.none() | st.tuples(numbers, numbers).map(lambda v: (min(v), max(v))),
    fill=st.none() | numbers,
    nodata=st.none() | numbers | st.just(math.inf),
    description=st.text(max_size=20),
    license=st.none() | st.just("Apache-2.0"),
    framework=st.just({}) | st.just({"family": "smp", "arch": "Unet", "depth": 5}),
    facts=st.just({}) | st.just({"iou": 0.5, "by": ["x", "y"]}),
)


@given(cards)
def test_a_card_survives_json(tmp_path_factory, card):
    path = tmp_path_factory.mktemp("card") / "card.json"
    write_card(card, path)
    assert read_card(path) == card


@given(cards)
def test_a_card_survives_a_plain_dictionary(card):
    assert card_from_dict(json.loads(json.dumps(card_to_dict(card)))) == card


@pytest.fixture(scope="module")
def validator():
    jsonschema = pytest.importorskip("jsonschema")
    referencing = pytest.importorskip("referencing")
    data_type = {"type": "string", "enum": DATA_TYPES}
    bands_schema = {"items": {"properties": {"data_type": data_type}}}
    raster = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "definitions": {"bands": bands_schema},
    }
    base = "https://stac-extensions.github.io"
    registry = referencing.Registry().with_contents(
        [
            (f"{base}/{name}/v{version}/schema.json", json.loads(path.read_text()))
            for name, version, path in (
                ("classification", "1.1.0", SCHEMAS / "classification-1.1.0.json"),
                ("processing", "1.1.0", SCHEMAS / "processing-1.1.0.json"),
            )
        ]
        + [(f"{base}/raster/v1.1.0/schema.json", raster)]
    )
    schema = json.loads((SCHEMAS / "mlm-1.5.2.json").read_text())
    return jsonschema.Draft7Validator(schema, registry=registry)


@given(card=cards)
def test_a_card_is_a_valid_mlm_item(tmp_path_factory, validator, card):
    path = tmp_path_factory.mktemp("card") / "card.json"
    write_card(card, path)
    validator.validate(json.loads(path.read_text()))


@given(cards)
@settings(max_examples=20)
def test_stac_model_takes_it(card):
    schema = pytest.importorskip("stac_model.schema")
    properties = card_to_item(card)["properties"]
    told = {k: v for k, v in properties.items() if k.startswith("mlm:")}
    assert schema.MLModelProperties.model_validate(told).name == told["mlm:name"]


def test_the_schema_test_can_fail(validator):
    item = card_to_item(a_card())
    del item["properties"]["mlm:architecture"]
    assert not validator.is_valid(item)
    item = card_to_item(a_card())
    item["properties"]["mlm:name"] = "ü"
    assert not validator.is_valid(item)


def a_card(**changes):
    card = Card(
        name="landcover",
        bands=(Band(name="red", offset=1.0, scale=2.0), Band(name="nir")),
        classes=class_table(["field", "forest"]),
    )
    return replace(card, **changes)


def test_a_foreign_mlm_item_is_read(tmp_path):
    """As another tool would write it: no fields of ours."""
    item = card_to_item(a_card(window=256))
    properties = item["properties"]
    for key in [k for k in properties if k.startswith("geoseg:")]:
        del properties[key]
    properties["bands"] = [{"name": "red"}, {"name": "nir"}]
    properties["mlm:input"][0]["value_scaling"] = [
        {"type": "min-max", "minimum": 10, "maximum": 30},
        {"type": "z-score", "mean": 5, "stddev": 7},
    ]
    path = tmp_path / "card.json"
    path.write_text(json.dumps(item))
    card = read_card(path)
    assert card.window == 256
    assert [(b.offset, b.scale) for b in card.bands] == [(10, 20), (5, 7)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bands": 3}, 'write bands: \\["red"'),
        ({"classes": "a,b"}, 'write classes: \\["background"'),
        ({"classes": {"0": "a", "1": "b"}}, 'classes: \\["a", "b"\\]'),
        ({"framework": "smp"}, 'write framework: {"family"'),
        ({"std": 2, "scale": 3}, "'std' and 'scale' are one number"),
        ({"dtypes": ["byte"]}, "did you mean 'uint8'"),
        ({"value_range": [255, 0]}, "255 … 0: the lower comes first"),
        ({"clip": [5, 1]}, "clip of band .* the lower comes first"),
        ({"bands": None}, "lacks the field 'bands'"),
        ({"classes": []}, "lacks the field 'classes'"),
        ({"widnow": 256}, "'widnow': did you mean 'window'"),
        ({"overlap": 3}, "overlap 3 px"),
        ({"output": "heat"}, "'output': input should be 'logits', 'probabilities'"),
        ({"mean": [1, 2, 3], "std": 1}, "mean has 3 values for 2 bands"),
        ({"classes": [{"value": 1}, "b"]}, "'classes.0.name': field required"),
        ({"bands": [{"name": "red", "sclae": 2}]}, "'bands.0.sclae': did you mean 'sc"),
        ({"classes": ["building"]}, "class of .* is 'building', .* 'sigmoid|sigmoid"),
        ({"window": 1 << 40}, "'window': input should be less than"),
        ({"resolution": -1}, "'resolution': input should be greater than 0"),
        ({"scale": "2"}, "'bands.0.scale': input should be a valid number"),
        ({"facts": {"a": [[]] * 3, "b": json.loads("[" * 40 + "]" * 40)}}, "nested"),
        ({"classes": {"a": "red", "b": "red"}}, "not #RRGGBB"),
        ({"scale": 0}, "scale 0"),
        (
            {"window": "big"},
            "card.json is wrong: 'window': input should be a valid int",
        ),
    ],
)
def test_a_wrong_card_is_named_by_its_field(tmp_path, change, message):
    plain = {"bands": ["red", "nir"], "classes": ["a", "b"]} | change
    path = tmp_path / "card.json"
    path.write_text(json.dumps({k: v for k, v in plain.items() if v is not None}))
    with pytest.raises(ModelError, match=message):
        read_card(path)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (("properties", "mlm:input"), "lacks the field 'mlm:input'"),
        (("assets",), "lacks the field 'assets'"),
        (("properties", "mlm:output", 0, "classification:classes"), "classes"),
    ],
)
def test_a_wrong_item_is_named_by_its_field(tmp_path, keys, message):
    item = card_to_item(a_card())
    inner = item
    for key in keys[:-1]:
        inner = inner[key]
    del inner[keys[-1]]
    path = tmp_path / "card.json"
    path.write_text(json.dumps(item))
    with pytest.raises(ModelError, match=message):
        read_card(path)


@pytest.mark.parametrize("text", ["", "[1]", "{", "nonsense", "[" * 100_000])
def test_what_is_no_card_is_refused(tmp_path, text):
    path = tmp_path / "card.json"
    path.write_text(text)
    with pytest.raises(ModelError, match="card"):
        read_card(path)


def test_one_sigmoid_gets_a_background():
    plain = {"bands": ["red"], "classes": {"roof": "#AA0000"}}
    card = card_from_dict(plain | {"activation": "sigmoid"})
    assert [(c.value, c.name) for c in card.classes] == [(0, "background"), (1, "roof")]
    assert card.classes[1].color == "#AA0000"
    card = card_from_dict(plain | {"output": "probabilities"})
    assert len(card.classes) == 2
    assert len(card_from_dict(plain | {"task": "instance"}).classes) == 1


def test_keys_with_a_hash_are_comments():
    plain = {"# bands": "what it reads", "bands": ["red"], "classes": ["a", "b"]}
    assert card_from_dict(plain).bands == (Band(name="red"),)


def test_plain_cards_may_be_short():
    card = card_from_dict(
        {
            "bands": "red, nir",
            "classes": {"dry": "#AABBCC", "wet": "#000000"},
            "scale": 10000,
            "clip": [0, 9000],
        }
    )
    assert [b.name for b in card.bands] == ["red", "nir"]
    assert all(b.scale == 10000 and b.clip == (0, 9000) for b in card.bands)
    assert card.classes[1] == Class(value=1, name="wet", color="#000000")


class TestFolder:
    def folder(self, tmp_path):
        weights = tmp_path / "w.safetensors"
        weights.write_bytes(b"weights")
        return write_folder(a_card(), tmp_path / "model", weights)

    def test_round_trip(self, tmp_path):
        folder = open_folder(self.folder(tmp_path))
        assert folder.card == a_card()
        assert folder.weights_file.read_bytes() == b"weights"

    def test_weights_of_another_card_are_refused(self, tmp_path):
        folder = self.folder(tmp_path)
        (folder / "w.safetensors").write_bytes(b"weightz")
        with pytest.raises(ModelError, match="SHA-256"):
            open_folder(folder)

    def test_missing_weights(self, tmp_path):
        folder = self.folder(tmp_path)
        (folder / "w.safetensors").unlink()
        with pytest.raises(ModelError, match="lacks the file"):
            open_folder(folder)

    @pytest.mark.parametrize(
        "href",
        [
            "../x", "a/../../x", "/etc/passwd", "file:///etc/passwd", "%2e%2e/x",
            "https://host/x", "//host/x", "..\\x", "~/x\0",
        ],
    )  # fmt: skip
    def test_nothing_outside_is_read(self, tmp_path, href):
        with pytest.raises(ModelError, match="outside"):
            inside(tmp_path, href)

    def test_links_out_are_refused(self, tmp_path):
        (tmp_path / "secret").write_text("s")
        inner = tmp_path / "inner"
        inner.mkdir()
        (inner / "link").symlink_to(tmp_path / "secret")
        (inner / "dir").symlink_to(tmp_path)
        for href in ("link", "dir/secret"):
            with pytest.raises(ModelError, match="link out"):
                inside(inner, href)


def test_describe_tells_everything():
    card = a_card(
        resolution=10.0,
        dtypes=("uint16",),
        value_range=(0.0, 10000.0),
        license="MIT",
        facts={"accuracy": "0.9"},
    )
    text = describe(card)
    for part in ("landcover", "10 m", "uint16", "10000", "(x - 1) / 2", "nir, unscaled",
                 "field", "#E69F00", "512 px", "MIT", "accuracy"):  # fmt: skip
        assert part in text, part


def test_float32_scaling_is_not_double(tmp_path):
    """What is written is what is read, to the last bit."""
    value = float(np.float32(0.1))
    card = a_card(bands=(Band(name="red", offset=value, scale=1 / 3),))
    write_card(card, tmp_path / "card.json")
    assert read_card(tmp_path / "card.json") == card
