"""Imports point one way, and importing geoseg is light."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import geoseg

ROOT = Path(geoseg.__file__).parent

# Lowest first. A folder may import those of its own line and of the lines above it;
# every import counts, also inside functions, for types, and of a module that a string
# names. ARCHITECTURE.md draws it.
ORDER = (
    ("_version", "location"),
    ("errors",),
    ("core",),
    ("execution",),
    ("rasters",),
    ("maps",),
    ("models", "vector", "labels"),
    ("inference", "accuracy"),
    ("viz",),
    ("training", "pipeline", "demo", "accessor", "testing"),
    ("cli",),
    ("__init__", "__main__"),
)
LEVEL = {name: level for level, names in enumerate(ORDER) for name in names}
# What only the shells may know of.
SHELLS = {"cli", "execution"}


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in ROOT.rglob("*.py")}


def is_module(node):
    """Whether a string names a module of ours, which is imported when it is needed."""
    name = getattr(node, "value", None)
    path = MODULES.get(name.removeprefix("geoseg.")) if isinstance(name, str) else None
    return path is not None and name.startswith("geoseg.") and path.stem != "__init__"


def imported(path):
    """Yield the modules of geoseg that a module imports, wherever it does."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path} imports relatively"
            names = [f"{node.module}.{a.name}" for a in node.names]
            names = [
                n if n.removeprefix("geoseg.") in MODULES else node.module
                for n in names
            ]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif path.stem != "__init__" and is_module(node):
            names = [node.value]
        else:
            continue
        for name in names:
            if name == "geoseg":
                yield "__init__"
            elif name.startswith("geoseg."):
                yield name.removeprefix("geoseg.")


GRAPH = {module: {*imported(path)} - {module} for module, path in MODULES.items()}


def test_every_folder_has_its_place_in_the_order():
    assert {module.split(".")[0] for module in MODULES} == set(LEVEL)
    folders = [p for p in ROOT.iterdir() if p.is_dir() and p.name != "__pycache__"]
    assert len(folders) == 14


def test_imports_point_one_way():
    level = {module: LEVEL[module.split(".")[0]] for module in MODULES}
    wrong = [
        f"{module} imports {other}"
        for module, others in GRAPH.items()
        for other in others
        if level[other] > level[module]
    ]
    assert not wrong


def test_no_import_cycles():
    done, open_ = set(), []

    def visit(module):
        assert module not in open_, f"cycle: {[*open_, module]}"
        if module in done:
            return
        open_.append(module)
        for other in sorted(GRAPH[module]):
            visit(other)
        open_.remove(module)
        done.add(module)

    for module in sorted(GRAPH):
        visit(module)


def test_only_shells_know_the_scheduler():
    wrong = []
    for module, path in MODULES.items():
        if module.split(".")[0] in SHELLS:
            continue
        # At the top of a module: types, and doors for users' clients, may look later.
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom | ast.Import):
                name = ast.unparse(node)
                if re.match(r"(import|from) (dask|distributed)\b", name):
                    wrong.append(f"{module}: {name}")
    assert not wrong


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
        "import sys, geoseg.inference.workflow, geoseg.execution.engine\n"
        "import geoseg.models.load, geoseg.rasters.open\n"
        "import geoseg.models.networks.torch_adapter\n"
        "print(*{m.split('.')[0] for m in sys.modules})"
    )
    assert not {"geopandas", "shapely", "pyogrio", "pandas"} & set(run(code))


def test_every_public_name_is_there():
    for name in geoseg.__all__:
        assert getattr(geoseg, name) is not None
        if name in geoseg._MODULES and callable(getattr(geoseg, name)):
            assert getattr(geoseg, name).__name__ == name
    assert dir(geoseg) == sorted(geoseg.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        geoseg.nonsense  # noqa: B018 - looking it up is what is tested


def test_public_names_are_the_same_for_type_checkers():
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    shown = {
        alias.name: node.module
        for block in tree.body
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in block.body
        for alias in node.names
    }
    assert shown == geoseg._MODULES


def test_users_see_types(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import geoseg\nreveal_type(geoseg.segment)\nreveal_type(geoseg.Card)\n"
        "geoseg.segmnt\n"
    )
    line = [sys.executable, "-m", "mypy", str(script)]
    # With what `make lint` has found out before, which saves half a minute.
    cache = f".mypy_cache/{sys.platform}"
    settings = ["--config-file", "pyproject.toml", "--cache-dir", cache]
    settings += ["--platform", sys.platform]
    answer = subprocess.run(
        [*line, *settings], capture_output=True, text=True, check=False, cwd=ROOT.parent
    )
    assert "overwrite: bool =" in answer.stdout
    assert 'has no attribute "segmnt"' in answer.stdout


@pytest.mark.parametrize(("old", "new"), geoseg._DEPRECATED.items())
def test_old_names_stay_for_a_version(old, new):
    with pytest.deprecated_call(match=f"geoseg.{old} is called geoseg.{new} now"):
        assert getattr(geoseg, old) is getattr(geoseg, new)


def test_modules_and_functions_are_small():
    lengths = []
    for path in MODULES.values():
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= 510, f"{path} is long: split it"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                first = node.body[
                    min(ast.get_docstring(node) is not None, len(node.body) - 1)
                ]
                lengths.append(node.body[-1].end_lineno - first.lineno + 1)
    nine_tenths = sorted(lengths)[len(lengths) * 9 // 10]
    assert nine_tenths <= 20
    assert max(lengths) <= 85


# What every family of models offers under the same name, and what a command is called
# after: the function of the package that it runs.
FAMILY = {
    "build", "implied", "load_folder", "open_file", "open_folder", "open_spec",
    "save_model",
}  # fmt: skip
SAME = FAMILY | {"dask_setup", "lines_of"}


def test_public_functions_and_classes_have_a_name_of_their_own():
    homes = {}
    for module, path in MODULES.items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            kinds = ast.FunctionDef | ast.ClassDef
            if isinstance(node, kinds) and not node.name.startswith("_"):
                homes.setdefault(node.name, set()).add(module)
    twice = {
        name: modules
        for name, modules in homes.items()
        if len({m for m in modules if m.split(".")[0] != "cli"}) > 1
    }
    assert {name: twice[name] for name in twice.keys() - SAME} == {}


def test_no_function_inside_takes_more_than_twelve_parameters():
    """Public ones keep typed keywords; what runs behind them takes one object."""
    long = []
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef):
                continue
            count = len(node.args.posonlyargs + node.args.args + node.args.kwonlyargs)
            face = any("keywords(" in ast.unparse(d) for d in node.decorator_list)
            if count > 12 and not face:
                long.append(f"{module}.{node.name}: {count}")
    assert not long
