"""Class tables: colours that anyone can tell apart, for any number of classes."""

from itertools import combinations

import numpy as np
import pytest
from landscape.scene import CLASSES

from geoseg.core.classes import class_table, color_of, default_color

skcolor = pytest.importorskip("skimage.color")

# Machado, Oliveira & Fernandes (2009), "A Physiologically-based Model for Simulation of
# Color Vision Deficiency", severity 1; on linear RGB.
EYES = {
    "usual": np.eye(3),
    "without red cones": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "without green cones": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "without blue cones": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


def seen(colors, eyes):
    """Return how colours look to eyes, as CIELAB (n, 3)."""
    rgb = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in colors]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ np.array(eyes).T, 0, 1)
    back = np.where(
        linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055
    )
    return skcolor.rgb2lab(back)


def nearest(colors, eyes):
    """Return the smallest distance (CIEDE2000) between two colours, and which."""
    lab = seen(colors, eyes)
    pairs = list(combinations(range(len(colors)), 2))
    one, other = (np.array(p) for p in zip(*pairs, strict=True))
    distances = skcolor.deltaE_ciede2000(lab[one], lab[other])
    least = int(distances.argmin())
    return float(distances[least]), [colors[i] for i in pairs[least]]


@pytest.mark.parametrize("eyes", EYES)
def test_default_colours_can_be_told_apart_by_any_eyes(eyes):
    """Sixteen classes, and white, which nodata is on paper; 2 is just noticeable."""
    colors = [*(default_color(i) for i in range(16)), "#FFFFFF"]
    distance, pair = nearest(colors, EYES[eyes])
    assert distance > 10, pair


USUAL = [
    "Open water", "Forest", "Emergent wetland", "Grassland", "Shrubs", "Cropland",
    "Bare soil", "Built-up", "Roads", "Snow and ice", "Shadow", "Orchard",
]  # fmt: skip


@pytest.mark.parametrize("eyes", EYES)
def test_colours_by_meaning_can_be_told_apart_by_any_eyes(eyes):
    """Twelve classes of a land cover map, in any order, two of them of one meaning."""
    for names in (USUAL, USUAL[::-1], ["trees", "Deciduous forest", *USUAL[:10]]):
        colors = [c.color for c in class_table(names)]
        assert len({*colors}) == 12
        distance, pair = nearest([*colors, "#FFFFFF"], EYES[eyes])
        assert distance > 10, pair


def test_colours_follow_meaning():
    table = {c.name: c.color for c in class_table(["cluster 1", *USUAL, "Sea"])}
    assert table["Open water"] == "#0072B2"
    assert table["Forest"] == "#009E73"
    assert table["Bare soil"] == "#F0E442"
    assert table["Built-up"] == "#D55E00"
    assert table["Sea"] == "#142864", "a second water is another blue"
    assert table["cluster 1"] not in {table["Open water"], table["Forest"]}
    plain = [c.color for c in class_table(f"cluster {i}" for i in range(16))]
    assert plain == [default_color(i) for i in range(16)]


@pytest.mark.parametrize("eyes", EYES)
def test_the_demos_colours_too(eyes):
    distance, pair = nearest([c.color for c in CLASSES], EYES[eyes])
    assert distance > 9, pair


def test_the_measure_finds_red_and_green_alike():
    """Colours that the usual eye tells apart at once, and others do not."""
    assert nearest(["#B03A2E", "#5E6B1E"], EYES["usual"])[0] > 30
    assert nearest(["#B03A2E", "#5E6B1E"], EYES["without red cones"])[0] < 12


def test_many_classes_have_colours_all_the_same():
    table = class_table([f"c{i}" for i in range(300)])
    assert [c.value for c in table] == list(range(300))
    assert len({c.color for c in table[:96]}) > 64


def test_very_many_classes_have_colours_too():
    table = []
    for i in range(400):
        table.append(color_of(f"class {i}", set(table)))
    assert len(class_table(f"class {i}" for i in range(400))) == len(table)
