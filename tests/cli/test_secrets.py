"""What the user names may hold a password: no message and no product repeats it."""

import inspect
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
from declared import DECLARED
from tifs import write_tif

import geoseg
from geoseg import location
from geoseg.cli import run
from geoseg.cli.accuracy import FigureOptions, PairsOptions
from geoseg.cli.demo import DemoOptions
from geoseg.core.options import Options, cli_of, flag_of
from geoseg.errors import GeosegError
from geoseg.execution.options import ClusterOptions
from geoseg.pipeline.settings import Export, Pipeline, Report, Segment, Vectorize

SECRET = "hunter2hunter"
NAMED = [
    f"https://me:{SECRET}@127.0.0.1:9/x.tif?sig={SECRET}#{SECRET}",
    f"https://me:a/{SECRET}@127.0.0.1:9/x.gpkg",
    f"PG:host=127.0.0.1 port=9 user=me password='{SECRET} too'",
]
TOML = "out = 'job'\n[segment]\nraster = {scene!r}\nmodel = 'otsu:nir'\n"
DEMO = DemoOptions, "demo"
IN_BUCKETS = [f"s3://key:{SECRET}@bucket/m.zarr", f"gs://me:{SECRET}@bucket/m.zarr"]
# Each command with all that it needs, by flag; one value at a time becomes a secret.
COMMANDS = {
    "plan": (["{scene}"], {"--model": "threshold:nir>99"}),
    "segment": (["{scene}"], {"--model": "threshold:nir>99", "--out": "{new}.zarr"}),
    "vectorize": (["{masks}"], {"--out": "{new}.gpkg"}),
    "classes": (["{masks}"], {"--names": "b,a"}),
    "export": (["{masks}"], {"--out": "{new}.tif"}),
    "verify": (["{masks}"], {}),
    "report": (["{masks}"], {"--out": "{new}.html"}),
    "view": (["{masks}"], {}),
    "evaluate": (["{masks}"], {"--reference": "{masks}"}),
    "sample": (["{masks}"], {"--out": "{new}.gpkg", "--n": "9"}),
    "compare": (["{masks}", "{masks}"], {}),
    "compose": (["{dated}"], {"--dates": "2025", "--out": "{new}.tif"}),
    "train": (
        ["{scene}"],
        {"--labels": "{labels}", "--out": "{new}", "--arch": "forest"},
    ),
    "run": (["{toml}"], {}),
    "search": (["{dated}"], {"--dates": "2025", "--out": "{new}.json"}),
    "demo": ([], {"--out": "{new}", "--scene": "{scene}"}),
}
BESIDE = {"segment": ClusterOptions, "vectorize": ClusterOptions,
          "evaluate": FigureOptions, "compare": PairsOptions}  # fmt: skip
"""Commands take these too; of clusters others take what these two do."""
TABLES = {"segment": Segment, "vectorize": Vectorize, "export": Export,
          "report": Report, "": Pipeline}  # fmt: skip


def locations(model):
    """Return an option's name and flag, of each that names a path or URL."""
    fields = [f for f in model.model_fields if cli_of(model, f).location]
    return [(field, flag_of(model, field)) for field in fields]


def places():
    """Yield each command with each option that takes a path or URL, or its argument."""
    for model, name in [DEMO, *((m, n) for m, (_, n) in DECLARED.items())]:
        if COMMANDS[name][0]:
            yield name, None
        for each in filter(None, (model, BESIDE.get(name))):
            yield from ((name, flag) for _, flag in locations(each))


def in_python():
    for model, (function, name) in DECLARED.items():
        yield from ((function, name, field) for field, _ in locations(model))


def in_toml():
    for table, model in TABLES.items():
        yield from ((table, field) for field, _ in locations(model))


def test_every_option_that_names_something_is_walked():
    """Of all options that are declared anywhere; a new class of them is put above."""
    walked = {*DECLARED, DEMO[0], *BESIDE.values(), *TABLES.values()}
    known = {(base, field) for model in walked for base in model.__mro__
             for field, _ in locations(model)}  # fmt: skip
    for model in subclasses(Options):
        for field, _ in locations(model):
            assert (model, field) in known


def test_what_names_something_says_so():
    """By what the help calls its value."""
    for model in subclasses(Options):
        for field in model.model_fields:
            cli = cli_of(model, field)
            if re.search(r"FILE|PATH|URL|HOST|FOLDER|MASKS|RASTER", cli.metavar or ""):
                assert cli.location, f"{model.__name__}.{field}"


def subclasses(model):
    for each in model.__subclasses__():
        if each.__module__.startswith("geoseg."):
            yield each
            yield from subclasses(each)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    write_tif(
        folder / "scene.tif",
        np.arange(4096, dtype=np.uint8).reshape(1, 64, 64),
        names=("nir",),
    )
    with rasterio.open(folder / "scene.tif") as scene:
        profile, pixels = scene.profile, scene.read()
    with rasterio.open(folder / "labels.tif", "w", **profile) as file:
        file.write(pixels // 64)
    scene, masks = str(folder / "scene.tif"), str(folder / "m.zarr")
    assert run(["segment", scene, "--model", "threshold:nir>99", "--out", masks]) == 0
    labels = str(folder / "labels.tif")
    dated = folder / "dated"
    dated.mkdir()
    shutil.copy(scene, dated / "scene_20250601.tif")
    toml = folder / "p.toml"
    toml.write_text(TOML.format(scene=scene))
    return {"scene": scene, "masks": masks, "labels": labels, "dated": str(dated),
            "toml": str(toml)}  # fmt: skip


# GDAL and OGR warn of what they cannot reach; the program does not show that.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("command", "flag"), [*places()])
def test_a_secret_is_nowhere(made, tmp_path, capfd, monkeypatch, command, flag):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(location, "_KEPT", set())
    monkeypatch.setattr("geoseg.viz.view.server.MapServer.wait", lambda _: None)
    monkeypatch.setattr("click.launch", lambda _: None)
    positional, options = COMMANDS[command]
    values = {**made, "new": str(tmp_path / "new")}
    for named in NAMED:
        if flag == "--scheduler":
            named = f"tcp://me:{SECRET}@127.0.0.1:9"  # noqa: PLW2901
        first = [named] if flag is None else [p.format(**values) for p in positional]
        rest = {k: v.format(**values) for k, v in options.items()}
        rest |= {flag: named} if flag else {}
        status = run([command, *first, *(t for pair in rest.items() for t in pair)])
        said = capfd.readouterr()
        assert SECRET not in said.out + said.err
        assert status in {0, 2, 3}
        for path in tmp_path.rglob("*"):
            assert SECRET not in path.name.replace(named, "")  # what was asked for
            if path.is_file():
                assert SECRET.encode() not in path.read_bytes()


LINES = [
    ["compare", "{masks}", "{named}"],
    ["model", "show", "{named}"],
    ["model", "check", "{named}", "{scene}"],
    ["model", "check", "threshold:nir>9", "{named}"],
    ["model", "check", "threshold:nir>9", "{scene}", "--aoi", "{named}"],
    ["model", "pack", "{named}", "--out", "{new}"],
    ["model", "import", "dynamicworld", "{named}", "--out", "{new}"],
    ["run", "{toml}", "--set", "segment.raster={named}"],
    ["run", "{toml}", "--set", "segment.model={named}"],
    ["run", "{toml}", "--set", "cluster={named}"],
    ["status", "{named}"],
]


def nothing_of_it(folder, capfd):
    said = capfd.readouterr()
    assert SECRET not in said.out + said.err
    for path in folder.rglob("*"):
        assert SECRET not in path.name
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("function", "name", "field"), [*in_python()])
def test_a_secret_is_nowhere_in_python(
    made, tmp_path, capfd, monkeypatch, function, name, field
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(location, "_KEPT", set())
    values = {**made, "new": str(tmp_path / "new")}
    positional, options = COMMANDS[name]
    rest = {k[2:].replace("-", "_"): v.format(**values) for k, v in options.items()}
    rest |= {"n": 9} if name == "sample" else {}
    rest |= {"names": ["b", "a"]} if name == "classes" else {}
    try:
        answer = function(
            *(p.format(**values) for p in positional), **{**rest, field: NAMED[0]}
        )
    except GeosegError as error:
        told(error)
    else:
        assert SECRET not in repr(answer)
        getattr(answer, "close", bool)()  # a server
    nothing_of_it(tmp_path, capfd)


def told(error):
    """Look through an error and what it came of, which a traceback prints."""
    while error is not None:
        assert SECRET not in str(error) + repr(error)
        hidden = error.__suppress_context__
        error = error.__cause__ or (None if hidden else error.__context__)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("table", "field"), [*in_toml()])
def test_a_secret_is_nowhere_in_toml(made, tmp_path, capfd, monkeypatch, table, field):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(location, "_KEPT", set())
    segment = {"raster": made["scene"], "model": "otsu:nir"}
    tables = {"": {"out": "job"}, "segment": segment, "vectorize": {}, "export": {},
              "report": {}}  # fmt: skip
    tables[table][field] = NAMED[0]
    file = tmp_path / "with.toml"
    lines = [f"{k} = {json.dumps(v)}" for k, v in tables.pop("").items()]
    for each, values in tables.items():
        lines += [f"[{each}]", *(f"{k} = {json.dumps(v)}" for k, v in values.items())]
    file.write_text("\n".join(lines))
    assert run(["run", str(file)]) in {0, 2, 3}
    file.unlink()
    nothing_of_it(tmp_path, capfd)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("line", LINES, ids=" ".join)
def test_a_secret_is_nowhere_in_other_commands(
    made, tmp_path, capfd, monkeypatch, line
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(location, "_KEPT", set())
    for named in NAMED:
        values = {**made, "named": named, "new": str(tmp_path / "new")}
        status = run([word.format(**values) for word in line])
        said = capfd.readouterr()
        assert SECRET not in said.out + said.err
        assert status in {2, 3}
        for path in tmp_path.rglob("*"):
            if path.is_file():
                assert SECRET.encode() not in path.read_bytes()


@pytest.mark.parametrize("url", IN_BUCKETS)
def test_keys_in_the_url_of_a_bucket_are_refused(made, capfd, url):
    line = ["segment", made["scene"], "--model", "otsu:nir", "--out", url]
    assert run(line) == 2
    said = capfd.readouterr().err
    assert "AWS_SECRET_ACCESS_KEY" in said
    assert SECRET not in said


@pytest.mark.parametrize(
    "named",
    [
        f"hf:user:{SECRET}@x/y",
        f"<GDAL_WMS><UserPwd>u:{SECRET}</UserPwd></GDAL_WMS>",
        f"https://host/a.tif?X-Amz-Signature={SECRET}",
        f"https://host/a;jsessionid={SECRET}/b.tif",
        f"/vsicurl/https://host/b.tif;v=1;sid={SECRET}",
    ],
)
def test_secrets_of_other_spellings_are_learned(monkeypatch, named):
    monkeypatch.setattr(location, "_KEPT", set())
    location.keep_secrets([named])
    assert SECRET not in str(GeosegError(f"it said: no, not {SECRET!r}"))


def test_parameters_in_the_paths_of_others_are_cut_out():
    said = location.redact(f"https://host/a;jsessionid={SECRET}/b.tif: refused")
    assert said == "https://host/a;jsessionid=…/b.tif: refused"


def test_what_curl_sends_is_not_printed(monkeypatch, capfd, tmp_path):
    monkeypatch.setenv("CPL_CURL_VERBOSE", "YES")
    monkeypatch.setenv("GDAL_HTTP_HEADERS", f"Authorization: Bearer {SECRET}")
    assert run(["info", "https://127.0.0.1:9/x.tif"]) == 2
    assert run(["info", "/vsicurl/http://127.0.0.1:9/x.gpkg"]) == 2
    said = "".join(capfd.readouterr())
    assert SECRET not in said
    assert "Trying" not in said


def test_mistakes_of_ours_tell_none_either(monkeypatch, capfd):
    def broken(*_, **__):
        raise ZeroDivisionError(f"with {SECRET}")

    monkeypatch.setattr("geoseg.models.describe.describe", broken)
    monkeypatch.setattr("geoseg.models.opening._open_path", broken)
    assert run(["model", "show", "otsu:nir", f"--pass=password='{SECRET}'"]) == 2
    monkeypatch.setattr(location, "_KEPT", {SECRET})
    assert run(["model", "show", "otsu:nir"]) == 1
    said = capfd.readouterr().err
    assert "ZeroDivisionError" in said
    assert SECRET not in said


ASKED = {
    geoseg.open_source: {},
    geoseg.open_masks: {},
    geoseg.load_model: {},
    geoseg.read_regions: {},
    geoseg.verify: {},
    geoseg.segment: {"model": "otsu:nir", "out": "m.zarr"},
    geoseg.vectorize: {"out": "r.gpkg"},
    geoseg.view: {},
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("function", ASKED, ids=lambda f: f.__name__)
@pytest.mark.parametrize("named", NAMED)
def test_python_tells_none_either(tmp_path, monkeypatch, function, named):
    """Neither the error nor what it came of, which a traceback prints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(location, "_KEPT", set())
    with pytest.raises(GeosegError) as refused:
        function(named, **ASKED[function])
    told(refused.value)


def test_every_public_function_that_is_given_places_is_discreet():
    for name in geoseg.__all__:
        function = getattr(geoseg, name)
        if inspect.isfunction(function) and "Path" in str(inspect.signature(function)):
            assert hasattr(function, "__wrapped__"), name


def test_what_is_written_says_nothing_of_the_machine(made, tmp_path):
    """Where the raster was named by a relative path, or by its place."""
    regions = geoseg.vectorize(made["masks"], out=tmp_path / "r.gpkg")
    page = geoseg.report(made["masks"], tmp_path / "p.html")
    folder = str(Path(made["masks"]).parent).encode()
    for path in (regions, page, Path(made["masks"]) / ".zattrs"):
        assert folder not in path.read_bytes()
