"""Imports point one way, and importing geoseg is light."""

import ast
import subprocess
import sys
from pathlib import Path

import geoseg

ROOT = Path(geoseg.__file__).parent

# Lowest first. A room may import rooms of its own line or of lines above it.
ORDER = (
    ("_version", "cores", "errors"),
    ("classes", "grid"),
    ("plan", "device", "blend"),
    ("sources", "raster", "store", "masks", "models"),
)
LOW = {room: level for level, rooms in enumerate(ORDER) for room in rooms}
# What only the shells may know of.
SHELLS = {"cli", "workflow", "distribute", "clusters", "run"}


def rooms():
    """Yield (room, module file) for all of the package."""
    for path in sorted(ROOT.rglob("*.py")):
        yield path.relative_to(ROOT).parts[0].removesuffix(".py"), path


def imported(path):
    """Return the rooms that a module imports when it is imported."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        node
        for guard in ast.walk(tree)
        if (isinstance(guard, ast.If) and "TYPE_CHECKING" in ast.unparse(guard.test))
        or isinstance(guard, (ast.FunctionDef, ast.AsyncFunctionDef))
        for node in ast.walk(guard)
    }
    for node in ast.walk(tree):
        if node in skipped:
            continue
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "geoseg" and len(parts) > 1:
                yield parts[1]


def test_imports_point_one_way():
    wrong = [
        f"{path.relative_to(ROOT)} imports {other}"
        for room, path in rooms()
        if room in LOW
        for other in imported(path)
        if other not in LOW or LOW[other] > LOW[room]
    ]
    assert not wrong


def test_only_shells_know_the_scheduler():
    wrong = []
    for room, path in rooms():
        if room in SHELLS:
            continue
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        for node in tree.body:  # imports at the top; types and doors may look later
            if isinstance(node, ast.ImportFrom | ast.Import):
                name = ast.unparse(node)
                if "distributed" in name or name.startswith(
                    ("import dask", "from dask")
                ):
                    wrong.append(f"{path.relative_to(ROOT)}: {name}")
    assert not wrong


def test_no_import_cycles():
    graph = {}
    for path in ROOT.rglob("*.py"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        graph[module] = {
            node.module.removeprefix("geoseg.")
            for node in tree.body
            if isinstance(node, ast.ImportFrom)
            and (node.module or "").startswith("geoseg.")
        }
    done, open_ = set(), []

    def visit(module):
        assert module not in open_, f"cycle: {[*open_, module]}"
        if module in done or module not in graph:
            return
        open_.append(module)
        for other in sorted(graph[module]):
            visit(other)
        open_.remove(module)
        done.add(module)

    for module in sorted(graph):
        visit(module)


def run(code):
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return answer.stdout.split()


def test_importing_geoseg_is_light():
    code = "import sys, geoseg; print(*{m.split('.')[0] for m in sys.modules})"
    heavy = {"torch", "dask", "distributed", "numba", "rasterio", "xarray", "zarr"}
    assert not heavy & set(run(code))


def test_segmenting_does_not_import_the_vector_packages():
    code = (
        "import sys, geoseg.workflow, geoseg.blocks, geoseg.run, geoseg.distribute\n"
        "import geoseg.models.load, geoseg.models.torch_adapter, geoseg.raster\n"
        "print(*{m.split('.')[0] for m in sys.modules})"
    )
    assert not {"geopandas", "shapely", "pyogrio", "pandas"} & set(run(code))


def test_every_public_name_is_there():
    for name in geoseg.__all__:
        assert getattr(geoseg, name) is not None
