"""Notebooks run from top to bottom on generated scenes, and end with a picture."""

import ast
import contextlib
import os
import re
from functools import partial
from pathlib import Path

import distributed
import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest
from execute_notebooks import SHOWN
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import geoseg

jupytext = pytest.importorskip("jupytext")
new_code_cell = pytest.importorskip("nbformat").v4.new_code_cell
mpl.use("Agg")

FOLDER = Path(__file__).parents[1] / "notebooks"
PAGES = sorted(
    {
        p
        for where in ("*.md", "*/*.md", "notebooks/*/*.md")
        for p in FOLDER.parent.glob(where)
    }
)
NOTEBOOKS = sorted(FOLDER.glob("[0-9]*.py"))
FIRST = NOTEBOOKS[0]


def run_cells(notebook, space=None):
    """Run the code cells in one namespace, as a kernel does; return the last value."""
    space, value = {} if space is None else space, None
    space["__name__"] = "__main__"
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        tree = ast.parse(cell.source)
        value = None
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, "cell", "exec"), space)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), "cell", "eval"), space)
            getattr(value, "_repr_html_", lambda: None)()
    return value


@pytest.fixture(autouse=True)
def no_clients():
    """Close what a notebook that broke off leaves: Dask would go on computing there."""
    yield
    with contextlib.suppress(ValueError):  # no clients found
        while True:
            distributed.default_client().shutdown()


def in_threads(tmp_path, monkeypatch):
    """Let files go to a test's folder, and workers be threads of this process.

    Processes would each spend seconds on imports.
    """
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name in [n for n in os.environ if n.startswith("GEOSEG_")]:
        monkeypatch.delenv(name)
    threads = partial(distributed.LocalCluster, processes=False)
    monkeypatch.setattr("distributed.LocalCluster", threads)


def check_picture(value):
    assert isinstance(value, Axes | Figure)
    figure = value.figure if isinstance(value, Axes) else value
    assert any(ax.has_data() for ax in figure.axes)
    plt.close("all")


@pytest.mark.parametrize("path", NOTEBOOKS[1:], ids=lambda p: p.stem)
def test_it_runs_and_ends_with_a_picture(path, tmp_path, monkeypatch):
    in_threads(tmp_path, monkeypatch)
    before = {p.name for p in FOLDER.iterdir()}
    check_picture(run_cells(jupytext.read(path)))
    assert {p.name for p in FOLDER.iterdir()} == before, "nothing is left beside it"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_it_reads_well(path):
    notebook = jupytext.read(path)
    words = [c.source for c in notebook.cells if c.cell_type == "markdown"]
    assert words[0].startswith("# ")
    assert len(" ".join(words).split()) < 700, "ten minutes"
    assert all(len(c.source.splitlines()) <= 40 for c in notebook.cells)


SCRIPTS = [
    *NOTEBOOKS,
    *sorted((FOLDER.parent / "pipelines").glob("*.py")),
    *sorted((FOLDER.parent / "cluster").glob("*.py")),
]
PUBLIC = {"geoseg.testing"}  # modules that are named in the documentation


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.stem)
def test_it_needs_public_names_only(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            inner = [a.name for a in node.names if a.name.startswith("geoseg.")]
            assert not inner, "geoseg itself has all that is needed"
        if isinstance(node, ast.ImportFrom):
            inner = (node.module or "").split(".")[0] == "geoseg"
            assert not inner or node.module in PUBLIC
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert node.value.id != "geoseg" or node.attr in geoseg.__all__


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_and_pictures_of_pages_are_there(page):
    for text, target in re.findall(r"\[([^\]]*)\]\(([^)\s]+)\)", page.read_text()):
        assert text, "a picture says what it shows"
        if "://" not in target and not target.startswith("#"):
            assert (page.parent / target.partition("#")[0]).exists(), target


def test_the_first_map_in_a_real_kernel(tmp_path, monkeypatch):
    """Executed by Jupyter it shows progress, cards, tables, and ends with a picture."""
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("GEOSEG_SCENE", raising=False)
    notebook = jupytext.read(FIRST)
    last = len(notebook.cells)
    notebook.cells += [new_code_cell("geoseg.load_model(MODEL)")]
    nbclient.NotebookClient(notebook, timeout=120).execute()
    shown = [
        [output.data for output in cell.get("outputs", []) if "data" in output]
        for cell in notebook.cells
    ]
    assert any("image/png" in data for data in shown[last - 1])
    html = [d["text/html"] for cell in shown for d in cell if "text/html" in d]
    assert sum("<table" in h for h in html) >= 4
    (bar,) = (h for h in html if "<progress" in h)
    assert re.search(r"(\d+) of \1 blocks?( · [0-9.]+ Mpx/s)?", bar)
    assert "Model: " in shown[last][0]["text/html"], "a model is shown by its card"
    said = [o.text for c in notebook.cells for o in c.get("outputs", []) if "text" in o]
    assert [t for t in said if "TqdmWarning" not in t] == [], "nothing is warned of"


def test_training_from_polygons_of_a_real_scene(shared, tmp_path, monkeypatch):
    """Sentinel-2 and 23 polygons in another CRS, with blocked cross-validation."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    data = shared / "s2_rachel_carson"
    for name, value in (
        ("SCENE", data / "s2_stack_8band.vrt"),
        ("POLYGONS", data / "rcr_landcover.shp"),
        ("COLUMN", "Classname"),
        ("NODATA", 255),
    ):
        monkeypatch.setenv(f"GEOSEG_{name}", str(value))
    space = {}
    notebook = jupytext.read(FOLDER / "03_training_from_polygons.py")
    end = next(i for i, c in enumerate(notebook.cells) if "## Use it" in c.source)
    notebook.cells = notebook.cells[:end]  # the map of 6 Mpx has tests of its own
    table = run_cells(notebook, space)
    figures = space["figures"]
    assert figures["overall_accuracy"] > 0.8
    assert table.to_numpy().sum() == figures["pixels"]
    assert space["card"].facts["training"]["folds"] == 5


# Of each notebook: what it is given of real data, as variables of the environment.
REAL = {
    "01_first_map": {
        "SCENE": "ftw_austria/inference-img.tif",
        "MODEL": "kmeans:5",
    },
    "02_your_own_model": {
        "SCENE": "drone_aerial_rgb/naip_nd_wetlands_5m_rgbn.tif",
        "BANDS": "red,green,blue,nir",
    },
    "04_objects_across_seams": {
        "SCENE": "drone_aerial_rgb/naip_nd_wetlands_5m_rgbn.tif",
        "BANDS": "red,green,blue,nir",
        "MODEL": "threshold:ndwi",
        "THING": "water",
    },
    "05_accuracy_and_areas": {
        "SCENE": "sen1floods11/S1/Spain_7370579_S1Hand.tif",
        "TRUTH": "sen1floods11/Labels/Spain_7370579_LabelHand.tif",
        "MODEL": "threshold:VV<-15",
    },
    "06_cluster": {
        "SCENE": "s2_rachel_carson/s2_stack_8band.vrt",
        "MODEL": "threshold:B04>60",
    },
}


@pytest.mark.parametrize("name", REAL)
def test_on_real_data(name, shared, tmp_path, monkeypatch):
    in_threads(tmp_path, monkeypatch)
    for key, value in REAL[name].items():
        path = shared / value
        if key in {"SCENE", "TRUTH"} and not path.exists():
            pytest.skip(f"{value} is not beside this checkout")
        given = os.fspath(path) if path.exists() else value
        monkeypatch.setenv(f"GEOSEG_{key}", given)
    notebook = jupytext.read(FOLDER / f"{name}.py")
    check_picture(run_cells(notebook))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_it_is_paired_with_what_code_hosts_show(path):
    """`python tests/execute_notebooks.py` writes them; here nothing is executed."""
    paired = path.with_suffix(".ipynb")
    text = paired.read_text(encoding="utf-8")
    shown, source = jupytext.read(paired), jupytext.read(path)
    assert [(c.cell_type, c.source) for c in shown.cells] == [
        (c.cell_type, c.source) for c in source.cells
    ], "execute it again"
    outputs = [o for c in shown.cells for o in c.get("outputs", [])]
    assert any("image/png" in o.get("data", {}) for o in outputs)
    assert not any(o.output_type == "error" for o in outputs)
    assert not [o for o in outputs if o.get("name") == "stderr"], "noise"
    assert len(text) < 1_500_000
    assert not re.search(r"/(work|home|root|Users)/", text), "folders of a machine"
    if path.stem in SHOWN:
        assert re.search(r"https://\S+", source.cells[0].source), "where its data is"
    assert len(SHOWN) >= 3
