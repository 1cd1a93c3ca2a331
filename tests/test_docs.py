"""The documentation builds, names messages that exist, and its commands run."""

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import geoseg

TOP = Path(__file__).resolve().parents[1]
PAGES = TOP / "notebooks"
PACKAGE = Path(geoseg.__file__).parent


def texts():
    """Return every string of the package, what is put into it as `…`."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (getattr(v, "value", None) for v in node.values)
                yield "".join(p if isinstance(p, str) else "…" for p in parts)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_messages_that_are_explained_exist():
    page = (PAGES / "faq.md").read_text(encoding="utf-8")
    said = "\n".join(texts())
    messages = re.findall(r'^### "(.+)"$', page, re.MULTILINE)
    assert len(messages) > 10
    lost = [m for m in messages if m.strip("… ") not in said]
    assert not lost


def test_pages_build_strictly(tmp_path):
    """Every link, every anchor, every name of the Python reference is there."""
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    line = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    done = subprocess.run(
        [*line, "--site-dir", str(tmp_path / "site")],
        cwd=TOP, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "site" / "reference" / "api.html").read_text(encoding="utf-8")
    names = [n for n in geoseg.__all__ if not n.startswith("_")]
    missing = [n for n in names if f"geoseg.{n}" not in page]
    assert not missing, "public names that the reference lacks"
    commands = (tmp_path / "site/reference/commands.html").read_text(encoding="utf-8")
    assert "--min-area" in commands


def commands_of(page):
    """Return the geoseg commands of a page's shell blocks, in their order."""
    text = page.read_text(encoding="utf-8")
    for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
        for line in block.splitlines():
            if line.startswith("geoseg "):
                yield shlex.split(line, comments=True)[1:]


def test_the_tutorial_can_be_followed(tmp_path):
    """Word for word."""
    lines = list(commands_of(PAGES / "tutorial.md"))
    assert len(lines) >= 10
    for words in lines:
        done = subprocess.run(
            [sys.executable, "-m", "geoseg", *words],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"geoseg {shlex.join(words)}\n{done.stderr}"
    assert {p.name for p in tmp_path.iterdir()} >= {
        "landcover", "map.tif", "masks.zarr", "points.gpkg", "regions.gpkg",
        "report.html", "water.zarr",
    }  # fmt: skip
