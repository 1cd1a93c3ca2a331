"""The commands of README and guide run, word for word, on a piece of the demo's scene.

Blocks that need a network, a GPU or minutes are marked in the Markdown, by a comment
before them that begins with `not run:`. Their commands are only parsed.
"""

import re
import shlex
import shutil
from pathlib import Path

import click
import geopandas
import pytest
import rasterio
from rasterio.windows import Window

import geoseg
from geoseg.cli import program, run

TOP = Path(__file__).resolve().parents[1]
SIDE = 128
PAGES = [
    TOP / "README.md",
    *sorted(TOP.glob("notebooks/**/*.md")),
    *sorted(TOP.glob("*/README.md")),
]
_BLOCK = re.compile(r"(<!-- not run: [^\n]*-->\n+)?```sh\n(.*?)```", re.DOTALL)


def blocks(page):
    """Yield whether a shell block is run, and its geoseg commands as words."""
    for mark, text in _BLOCK.findall(page.read_text(encoding="utf-8")):
        whole = text.replace("\\\n", " ")
        words = [shlex.split(line, comments=True) for line in whole.splitlines()]
        yield not mark, [line[1:] for line in words if line[:1] == ["geoseg"]]


def commands(page, *, run_only):
    return [
        c for is_run, found in blocks(page) if is_run or not run_only for c in found
    ]


# The tutorial has a test of its own, on the whole scene.
RUN = [p for p in PAGES if commands(p, run_only=True) and p.stem != "tutorial"]


@pytest.mark.parametrize(
    "page", [p for p in PAGES if commands(p, run_only=False)], ids=lambda p: p.stem
)
def test_commands_are_spelled_right(page):
    for words in commands(page, run_only=False):
        rest, command, context = [*words], program, click.Context(program)
        while isinstance(command, click.Group):
            command = command.get_command(context, rest.pop(0))
        assert command is not None, words
        command.make_context(words[0], rest)  # raises what is wrong with options


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with what pages take for granted: a scene, polygons, masks."""
    folder, example = tmp_path_factory.mktemp("guide"), geoseg.example()
    for source, name, side in (
        (example.scene, "scene.tif", SIDE),
        (example.truth, "truth.tif", 3 * SIDE // 4),  # little to learn from is quick
    ):
        with rasterio.open(source) as file:
            window = Window(100, 100, side, side)
            profile = file.profile | {
                "height": side, "width": side, "driver": "GTiff",
                "transform": file.window_transform(window),
            }  # fmt: skip
            with rasterio.open(folder / name, "w", **profile) as out:
                out.write(file.read(window=window))
                out.descriptions = file.descriptions
    (folder / "demo").mkdir()  # as README has them, after `make demo`
    for name in ("scene.tif", "truth.tif"):
        shutil.copy(folder / name, folder / "demo" / name)
    geoseg.vectorize(folder / "truth.tif", folder / "polygons.gpkg")
    geoseg.segment(
        folder / "scene.tif", model="kmeans:6", out=folder / "masks.zarr",
        progress=False,
    )  # fmt: skip
    shutil.copytree(TOP / "pipelines", folder / "pipelines")
    return folder


def label(path):
    """Say of every sampled point what it is, as somebody would in QGIS."""
    points = geopandas.read_file(path, layer="samples")
    points["class"] = points["stratum"]
    points.to_file(path, layer="samples")


@pytest.mark.parametrize("page", RUN, ids=lambda p: p.stem)
def test_commands_run(page, prepared, tmp_path, monkeypatch, capsys):
    wanted = commands(page, run_only=True)
    made = {w for words in wanted for w in words if words[0] in {"segment", "train"}}
    here = tmp_path / "here"
    left_out = {"masks.zarr", "models"} & made
    shutil.copytree(prepared, here, ignore=lambda *_: left_out)
    monkeypatch.chdir(here)
    monkeypatch.setattr("click.launch", lambda _: 0)
    monkeypatch.setattr("geoseg.viz.view.server.MapServer.wait", lambda _: None)
    for words in wanted:
        status = run([*words])
        said = capsys.readouterr()
        assert status == 0, f"geoseg {shlex.join(words)}\n{said.err}"
        if words[0] == "sample":
            label(here / "points.gpkg")
