"""What the user names may hold a password: no message and no product repeats it."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from declared import DECLARED

import geoseg
from geoseg import location
from geoseg.cli import run
from geoseg.cli.quality import FigureOptions
from geoseg.core.options import cli_of, flag_of
from geoseg.errors import GeosegError
from geoseg.execution.options import ClusterOptions

SECRET = "hunter2hunter"
NAMED = [
    f"https://me:{SECRET}@127.0.0.1:9/x.tif?sig={SECRET}#{SECRET}",
    f"https://me:a/{SECRET}@127.0.0.1:9/x.gpkg",
    f"PG:host=127.0.0.1 port=9 user=me password='{SECRET} too'",
]
IN_BUCKETS = [f"s3://key:{SECRET}@bucket/m.zarr", f"gs://me:{SECRET}@bucket/m.zarr"]
# Each command with all that it needs, by flag; one value at a time becomes a secret.
COMMANDS = {
    "plan": (["{scene}"], {"--model": "threshold:nir>99"}),
    "segment": (["{scene}"], {"--model": "threshold:nir>99", "--out": "{new}.zarr"}),
    "vectorize": (["{masks}"], {"--out": "{new}.gpkg"}),
    "export": (["{masks}"], {"--out": "{new}.tif"}),
    "verify": (["{masks}"], {}),
    "report": (["{masks}"], {"--out": "{new}.html"}),
    "evaluate": (["{masks}"], {"--reference": "{masks}"}),
    "sample": (["{masks}"], {"--out": "{new}.gpkg", "--n": "9"}),
    "train": (
        ["{scene}"],
        {"--labels": "{labels}", "--out": "{new}", "--arch": "forest"},
    ),
}


def places():
    """Yield each command with each option that takes a path or URL, or its argument."""
    for model, (_, name) in DECLARED.items():
        if name not in COMMANDS:
            continue
        yield name, None
        for each in (model, ClusterOptions, FigureOptions):
            if each is ClusterOptions and name not in {"segment", "vectorize"}:
                continue
            if each is FigureOptions and name != "evaluate":
                continue
            for field in each.model_fields:
                if cli_of(each, field).location:
                    yield name, flag_of(each, field)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    with rasterio.open(
        folder / "scene.tif", "w", driver="GTiff", count=1, height=64, width=64,
        dtype="uint8", crs="EPSG:32633", transform=Affine(10, 0, 5e5, 0, -10, 5e6),
    ) as file:  # fmt: skip
        file.descriptions = ("nir",)
        file.write(np.arange(4096, dtype=np.uint8).reshape(1, 64, 64))
    with rasterio.open(folder / "scene.tif") as scene:
        profile, pixels = scene.profile, scene.read()
    with rasterio.open(folder / "labels.tif", "w", **profile) as file:
        file.write(pixels // 64)
    scene, masks = str(folder / "scene.tif"), str(folder / "m.zarr")
    assert run(["segment", scene, "--model", "threshold:nir>99", "--out", masks]) == 0
    labels = str(folder / "labels.tif")
    return {"scene": scene, "masks": masks, "labels": labels}


# GDAL and OGR warn of what they cannot reach; the program does not show that.
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(("command", "flag"), [*places()])
def test_a_secret_is_nowhere(made, tmp_path, capfd, monkeypatch, command, flag):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(location, "_KEPT", set())
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
    ["compare", "{named}", "{masks}"],
    ["compare", "{masks}", "{named}"],
    ["compare", "{masks}", "{masks}", "--csv", "{named}"],
    ["view", "{named}", "--no-browser"],
    ["view", "{masks}", "--no-browser", "--raster", "{named}"],
    ["view", "{masks}", "--no-browser", "--regions", "{named}"],
    ["demo", "--scene", "{named}", "--out", "{new}"],
    ["model", "show", "{named}"],
    ["model", "check", "{named}", "{scene}"],
    ["model", "check", "threshold:nir>9", "{named}"],
    ["model", "check", "threshold:nir>9", "{scene}", "--aoi", "{named}"],
    ["model", "pack", "{named}", "--out", "{new}"],
    ["model", "import", "dynamicworld", "{named}", "--out", "{new}"],
    ["run", "{named}"],
    ["run", "{toml}", "--scenes", "{named}"],
    ["run", "{toml}", "--set", "segment.raster={named}"],
    ["run", "{toml}", "--set", "segment.model={named}"],
    ["run", "{toml}", "--set", "cluster={named}"],
    ["status", "{named}"],
]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("line", LINES, ids=" ".join)
def test_a_secret_is_nowhere_in_other_commands(
    made, tmp_path, capfd, monkeypatch, line
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(location, "_KEPT", set())
    toml = tmp_path / "p.toml"
    toml.write_text(
        f"out = 'job'\n[segment]\nraster = {made['scene']!r}\nmodel = 'otsu:nir'\n"
    )
    for named in NAMED:
        values = {**made, "named": named, "new": str(tmp_path / "new"), "toml": toml}
        status = run([word.format(**values) for word in line])
        said = capfd.readouterr()
        assert SECRET not in said.out + said.err
        assert status in {2, 3} or "--csv" in line
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
    ],
)
def test_secrets_of_other_spellings_are_learned(monkeypatch, named):
    monkeypatch.setattr(location, "_KEPT", set())
    location.keep_secrets([named])
    assert SECRET not in str(GeosegError(f"it said: no, not {SECRET!r}"))


def test_mistakes_of_ours_tell_none_either(monkeypatch, capfd):
    def broken(*_, **__):
        raise ZeroDivisionError(f"with {SECRET}")

    monkeypatch.setattr("geoseg.models.describe.describe", broken)
    monkeypatch.setattr("geoseg.models.load._open_path", broken)
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
    error = refused.value
    while error is not None:
        assert SECRET not in str(error) + repr(error)
        error = error.__cause__ or error.__context__


def test_what_is_written_says_nothing_of_the_machine(made, tmp_path):
    """Where the raster was named by a relative path, or by its place."""
    regions = geoseg.vectorize(made["masks"], out=tmp_path / "r.gpkg")
    page = geoseg.report(made["masks"], tmp_path / "p.html")
    folder = str(Path(made["masks"]).parent).encode()
    for path in (regions, page, Path(made["masks"]) / ".zattrs"):
        assert folder not in path.read_bytes()
