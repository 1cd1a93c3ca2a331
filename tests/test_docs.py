"""The documentation builds, names messages that exist, and its commands run."""

import ast
import inspect
import os
import pkgutil
import re
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import geoseg
from geoseg.cli import run

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


def test_pages_speak_of_public_names_only():
    """Modules are named only to mkdocs, which builds the reference of them."""
    for page in (TOP / "README.md", *PAGES.rglob("*.md"), *PAGES.glob("*.py")):
        for line in page.read_text(encoding="utf-8").splitlines():
            if not line.strip().startswith(":"):
                names = re.findall(r"(?<![\w./@-])geoseg\.(\w+(?:\.[a-z]\w*)?)", line)
                assert {*names} <= {*geoseg.__all__}, f"{page.name}: {line}"


@pytest.mark.parametrize(
    "page", ["ARCHITECTURE.md", "CONTRIBUTING.md", "geoseg/vector/TOPOLOGY.md"]
)
def test_documents_name_files_that_exist(page):
    """A path counts from the top, the package, or the folder last named in its line."""
    public = {name for n in geoseg.__all__ for name in (n, f"geoseg.{n}")}
    for line in (TOP / page).read_text(encoding="utf-8").splitlines():
        homes = [TOP, PACKAGE, (TOP / page).parent]
        is_row = line.startswith("| ")  # where bare words are modules, too
        for name in re.findall(r"`([\w./-]+)`", line):
            tries = [h / f"{name}{end}" for h in homes for end in ("", ".py")]
            found = next((t for t in tries if t.exists()), None)
            if found is not None:
                homes.append(found.parent)
            elif is_row or "/" in name or name.endswith((".py", ".md", ".toml")):
                assert name in public, f"{page} names {name}, which is not there"


def test_the_table_of_new_names_names_what_is_there():
    text = (TOP / "CHANGELOG.md").read_text(encoding="utf-8")
    moved = re.findall(
        r"^\| `geoseg[\w.]*` \| `(geoseg[\w.]*)` \|$", text, re.MULTILINE
    )
    assert len(moved) > 100
    for name in {*moved}:
        assert pkgutil.resolve_name(name) is not None


def members():
    """Yield public functions, and the methods and properties of public classes."""
    for name in sorted({*geoseg.__all__} - {"__version__", "errors", "example"}):
        whole = getattr(geoseg, name)
        if not isinstance(whole, type):
            yield name, whole, True
        for key, held in vars(whole).items() if isinstance(whole, type) else ():
            part = getattr(held, "fget", getattr(held, "__func__", held))
            if inspect.isfunction(part) and not key.startswith("_"):
                yield f"{name}.{key}", part, False


@pytest.mark.parametrize(("name", "part", "alone"), [*members()])
def test_what_is_public_says_what_it_takes_and_raises(name, part, alone):
    text = inspect.getdoc(part) or ""
    parameters = [p for p in inspect.signature(part).parameters if p != "self"]
    assert text
    assert {*parameters, "return"} <= part.__annotations__.keys() | {"cls"}
    if alone:
        told = {*re.findall(r"^ +(\w+): ", text, re.MULTILINE)}
        if "Arguments as `segment`" in text:
            told |= {"workers", *inspect.signature(geoseg.segment).parameters}
        assert {*parameters} <= told, f"{name} tells nothing of them"
        assert "Raises:" in text


_CURL = """#!{python}
import shutil, sys, urllib.parse
name = urllib.parse.unquote(sys.argv[-3].rsplit("/", 1)[-1])
shutil.copy("{data}/" + name, sys.argv[-1])
"""


def test_the_tutorial_can_be_followed(shared, tmp_path, monkeypatch, capsys):
    """Word for word, with files that are here in place of those of the network."""
    curl = tmp_path / "bin" / "curl"
    curl.parent.mkdir()
    data = shared / "s2_rachel_carson"
    curl.write_text(_CURL.format(python=sys.executable, data=data), encoding="utf-8")
    curl.chmod(0o755)
    monkeypatch.setenv("PATH", str(curl.parent), prepend=os.pathsep)
    monkeypatch.chdir(tmp_path)
    text = (PAGES / "tutorial.md").read_text(encoding="utf-8")
    for mark, block in re.findall(
        r"(<!-- not run: [^\n]*-->\n)?```sh\n(.*?)```", text, re.DOTALL
    ):
        if "curl" in block:
            subprocess.run(["bash", "-e"], input=block, text=True, check=True)
        for line in block.splitlines():
            if line.startswith("geoseg ") and not mark:
                status = run(shlex.split(line)[1:])
                assert status == 0, f"{line}\n{capsys.readouterr().err}"
    assert {p.name for p in tmp_path.iterdir()} >= {
        "first", "landcover", "map.tif", "masks.zarr", "points.gpkg", "regions.gpkg",
        "report.html", "water.zarr",
    }  # fmt: skip
    found = geoseg.load_model("landcover").card.facts["validation"]
    low, high = found["interval"]
    assert 0.85 <= low < found["overall_accuracy"] < high < 1
    locked = (TOP / "tests/requirements.lock").read_text(encoding="utf-8")
    if f"scikit-learn=={version('scikit-learn')} " in locked:  # others grow other trees
        assert f"{low:.3f}" in text
