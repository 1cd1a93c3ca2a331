"""Options are declared once: the command line, TOML and Python have the same ones."""

import inspect
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import click
import pytest
from click.testing import CliRunner
from declared import DECLARED, TYPED

import geoseg
from geoseg.cli import COMMANDS, program
from geoseg.cli.accuracy import FigureOptions, PairsOptions
from geoseg.cli.options import _mapping
from geoseg.core.options import checked, cli_of, flag_of
from geoseg.core.toml_settings import tables_in
from geoseg.errors import GeosegError
from geoseg.execution.options import ClusterOptions
from geoseg.inference.options import MasksOptions, PlanOptions, SegmentOptions
from geoseg.maps.options import ClassesOptions, ExportOptions
from geoseg.pipeline import settings as pipeline
from geoseg.vector.options import RegionsOptions
from geoseg.viz.options import PageOptions

# Options → the table of a pipeline, and what it calls the product.
TABLES = {
    MasksOptions: (pipeline.Segment, {"raster", "masks", *ClassesOptions.model_fields}),
    RegionsOptions: (pipeline.Vectorize, {"file"}),
    PageOptions: (pipeline.Report, {"file"}),
}
# What has no counterpart: what is worked on, where, and what is said meanwhile.
PYTHON_ONLY = {"client", "progress", "threads"}
CLI_ONLY = {
    "quiet",
    "as_json",
    "no_browser",
    "check",
    "timed",
    *ClusterOptions.model_fields,
}
# Commands that show something, and have no public function with options of its own.
SHOWS = {"status", "info", "models", "model", "demo", "cache", "completion"}
CLI_ONLY |= {*FigureOptions.model_fields, *PairsOptions.model_fields}
WHAT = {"what", "source", "raster", "rasters", "masks", "path", "one", "other"}
WHAT |= {"help", "workers", "pipeline"}


def command_of(name):
    return program.get_command(click.Context(program), name)


@pytest.mark.parametrize(
    ("options", "function"), [(o, f) for o, (f, _) in DECLARED.items()]
)
def test_python_has_the_declared_options(options, function):
    """Names, types and defaults of the keywords are those of the settings object."""
    parameters = inspect.signature(function).parameters
    fields = options.model_fields
    named = {*parameters} - PYTHON_ONLY - (WHAT - {*fields})
    assert named - {*ClusterOptions.model_fields} == {*fields}
    places = vars(sys.modules[function.__module__])
    hints = get_type_hints(options)
    for name, field in fields.items():
        parameter = parameters[name]
        required = parameter.default is inspect.Parameter.empty
        assert required == field.is_required(), name
        assert required or parameter.default == field.default, name
        assert eval(parameter.annotation, places) == hints[name], name


@pytest.mark.parametrize("function", [f for f, _ in DECLARED.values()])
def test_python_describes_its_keywords(function):
    text = inspect.getdoc(function)
    if "Arguments as" in text:
        return
    for name in inspect.signature(function).parameters:
        assert f"\n    {name}: " in text, name


@pytest.mark.parametrize(("options", "name"), TYPED.items())
def test_the_command_line_has_the_declared_options(options, name):
    found = {p.name: p for p in command_of(name).params}
    fields = {*options.model_fields}
    assert {*found} - CLI_ONLY - (WHAT - fields) == fields
    for field in options.model_fields:
        assert flag_of(options, field) in found[field].opts
        assert found[field].help, f"{name} does not explain {field}"
        assert found[field].section == cli_of(options, field).section


@pytest.mark.parametrize("options", TABLES)
def test_pipelines_have_the_declared_options(options):
    table, own = TABLES[options]
    assert {*table.model_fields} == {*options.model_fields} | own
    commands = {o for o in DECLARED if issubclass(o, options)}
    assert commands
    # A product is named by the table; `run` overwrites, and completes what it uses.
    for command in commands - {PlanOptions}:
        rest = {*command.model_fields} - {*options.model_fields}
        assert rest - {"partial"} == {"out", "overwrite"}


def test_every_command_and_stage_is_declared():
    """So that none stays outside of the tests above."""
    assert {name for _, name in DECLARED.values()} == {*COMMANDS} - SHOWS
    assert {table for table, _ in TABLES.values()} | {pipeline.Export} == {
        table
        for field in pipeline.Pipeline.model_fields.values()
        for table in tables_in(field.annotation)
        if table.__module__ == pipeline.__name__
    }
    # An export has no option but where, how often and of what: none in a pipeline.
    assert {*ExportOptions.model_fields} == {"out", "overwrite", "partial"}
    assert {*pipeline.Export.model_fields} == {"file"}


def test_what_is_wrong_is_said_in_the_users_spelling():
    with pytest.raises(GeosegError) as error:
        checked(SegmentOptions, {"model": "m", "block": "x", "tta": "d5"})
    said = str(error.value)
    assert "out is missing" in said
    assert "block 'x': input should be a valid integer" in said
    assert "tta 'd5': input should be 'd4' or 'flips'" in said
    with pytest.raises(GeosegError, match=r"things 'car': a list is needed, \['car'\]"):
        checked(PlanOptions, {"model": "m", "things": "car"})
    with pytest.raises(GeosegError, match=r"^--zarr-format 5: .* 2 or 3"):
        checked(
            SegmentOptions,
            {"model": "m", "out": "o", "zarr_format": 5},
            lambda name: flag_of(SegmentOptions, name),
        )


def commands(group):
    """Return every command, those of groups too."""
    context = click.Context(group)
    found = [group.get_command(context, name) for name in group.list_commands(context)]
    return [c for f in found for c in (commands(f) if hasattr(f, "commands") else [f])]


def test_no_value_gives_way_to_another_in_silence():
    singles = pairs = 0
    for command in commands(program):
        for option in filter(lambda p: isinstance(p, click.Option), command.params):
            flag = option.opts[0]
            if option.callback is _mapping:
                pairs += 1
                words, said = (
                    [flag, "1=2", flag, "1=3"],
                    f"{flag} 1=… is given with two",
                )
            elif option.multiple or (option.is_flag and not option.secondary_opts):
                continue
            else:
                singles += 1
                words, said = [flag] if option.is_flag else [flag, "1"], f"{flag}.* 2 t"
                words *= 2
            with pytest.raises(click.UsageError, match=said):
                command.make_context("it", words)
    assert singles > 100
    assert pairs > 3


def test_sizes_are_read_everywhere():
    assert PlanOptions(model="m", memory="8GB").memory_bytes == 8e9
    assert PlanOptions(model="m", memory=1e6).memory_bytes == 1e6
    with pytest.raises(GeosegError, match="'x' is not a size such as 8GB"):
        checked(PlanOptions, {"model": "m", "memory": "x"})


@pytest.mark.parametrize("words", ["--help", "plan {scene} --model threshold:nir>9"])
def test_no_command_imports_what_it_does_not_need(words):
    """Help imports nothing heavy, of all commands together; a plan reads headers."""
    scene = Path(geoseg.__file__).parent / "demo" / "scene.tif"
    code = (
        "import sys\nfrom geoseg.cli import run\nassert run(sys.argv[1:]) == 0\n"
        "print(*{m.split('.')[0] for m in sys.modules})"
    )
    arguments = [word.format(scene=scene) for word in words.split()]
    answer = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    heavy = {"torch", "dask", "distributed", "numba", "xarray", "scipy", "zarr"}
    heavy |= {"shapely", "pandas", "sklearn", *(["rasterio"] * (words == "--help"))}
    assert not heavy & {*answer.stdout.splitlines()[-1].split()}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("geoseg seg", "plain,segment"),
        ("geoseg segment --sca", "plain,--scales"),
        ("geoseg segment --engine op", "plain,openvino"),
        ("geoseg segment sc", "file,sc"),
        ("geoseg view masks.zarr --regions re", "file,re"),
        ("geoseg segment scene.tif --model mo", "file,mo"),
        ("geoseg segment scene.tif --overlap 1", ""),
        ("geoseg run pipe", "file,pipe"),
        ("geoseg segmnt --sca", ""),
        ("geoseg segment a --block 1 --block 2 --sca", "plain,--scales"),
    ],
)
def test_shells_complete(shell, words, offered, monkeypatch, capsys):
    """Commands, options, choices and files; numbers are nobody's guess."""
    monkeypatch.setenv("COMP_WORDS", words)
    last, index = words.split()[-1], str(len(words.split()) - 1)
    monkeypatch.setenv("COMP_CWORD", last if shell == "fish" else index)
    monkeypatch.setenv("_GEOSEG_COMPLETE", f"{shell}_complete")
    with pytest.raises(SystemExit):
        program.main(prog_name="geoseg", complete_var="_GEOSEG_COMPLETE")
    printed, said = capsys.readouterr()
    assert said == "", "on the line that is being written"
    answers = {line.partition("\t")[0] for line in printed.split("\n") if line}
    if shell == "zsh":
        lines = printed.strip("\n").split("\n")
        answers = {f"{a},{b}" for a, b in zip(lines[::3], lines[1::3], strict=False)}
    assert answers == ({offered} if offered else set())


def test_the_script_for_zsh_loads_what_it_needs():
    """In a fresh ~/.zshrc nothing has; then `compdef` is an unknown command."""
    shell = shutil.which("zsh")
    if shell is None:
        pytest.skip("zsh is not installed")
    script = CliRunner().invoke(program, ["completion", "zsh"]).output
    done = subprocess.run(
        [shell, "-f", "-c", f"{script}\nprint $_comps[geoseg]"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("_geoseg_completion\n", "")
