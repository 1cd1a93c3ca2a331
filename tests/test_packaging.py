"""Lock files, workflows, recipe and citation agree with pyproject.toml."""

import hashlib
import re
import runpy
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import geoseg

TOP = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCKS = {
    "requirements.lock": ("train", "view"),
    "tests/requirements.lock": ("test",),
    "cluster/requirements.lock": ("container",),
}
MAKEFILE = (TOP / "Makefile").read_text(encoding="utf-8")
WORKFLOWS = sorted((TOP / ".github" / "workflows").glob("*.yml"))


def pins(lock):
    """Return the version, and the number of hashes, of each package of a lock file."""
    found = {}
    for entry in re.split(r"\n(?=\S)", (TOP / lock).read_text(encoding="utf-8")):
        if entry.startswith("#"):
            continue
        name, version = re.match(r"([\w.-]+)==([\w.+!-]+)", entry).groups()
        found[canonicalize_name(name)] = version, entry.count("--hash=sha256:")
    return found


def wanted(extras):
    """Yield what the package, and some of its extras, need directly."""
    for text in PROJECT["dependencies"]:
        yield Requirement(text)
    for extra in extras:
        for text in PROJECT["optional-dependencies"][extra]:
            requirement = Requirement(text)
            if requirement.name == "geoseg":
                yield from wanted(requirement.extras)
            else:
                yield requirement


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_has_all_that_is_needed_and_hashes(lock):
    """When this fails: `make lock`, and commit what it writes."""
    locked = pins(lock)
    for requirement in wanted(LOCKS[lock]):
        version, _ = locked[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version, prereleases=True), requirement
    assert all(hashes for _, hashes in locked.values())
    assert "setuptools" in locked  # which builds geoseg itself
    assert "://" not in (TOP / lock).read_text(encoding="utf-8")


def test_the_locks_agree():
    tested = pins("tests/requirements.lock")
    for lock in LOCKS:
        assert pins(lock).items() <= tested.items()


def test_all_is_what_the_extras_are():
    """Save those that bring much or are young, and those for who changes geoseg."""
    extras = PROJECT["optional-dependencies"]
    (everything,) = extras["all"]
    few = {"torchgeo", "terratorch", "olmoearth", "docs", "test", "container", "all"}
    assert Requirement(everything).extras == set(extras) - few


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_run_targets_of_make(path):
    text = path.read_text(encoding="utf-8")
    assert yaml.safe_load(text)["jobs"]
    targets = re.findall(r"run: make ([\w-]+)", text)
    missing = [t for t in targets if not re.search(rf"^{t}:", MAKEFILE, re.MULTILINE)]
    assert not missing
    for script in re.findall(r"python3 (\S+\.py)", text):
        assert (TOP / script).exists()


def test_the_recipe_needs_what_the_package_needs(tmp_path):
    recipe = runpy.run_path(str(TOP / ".github" / "conda" / "recipe.py"))["recipe"]
    sdist = tmp_path / "geoseg-1.2.3.tar.gz"
    sdist.write_bytes(b"x")
    text = recipe(sdist).replace("{{ PYTHON }}", "python")
    made = yaml.safe_load(text)
    assert made["package"]["version"] == "1.2.3"
    assert made["source"]["sha256"] == hashlib.sha256(b"x").hexdigest()
    assert len(made["requirements"]["run"]) == len(PROJECT["dependencies"]) + 1
    assert "- pytorch >=" in text
    assert made["build"]["entry_points"] == ["geoseg = geoseg.__main__:main"]


def test_the_citation_is_of_this_version():
    text = (TOP / "CITATION.cff").read_text(encoding="utf-8")
    cited = yaml.safe_load(text)
    assert str(cited["version"]) == geoseg.__version__
    assert cited["license"] == PROJECT["license"]
    assert cited["repository-code"] == PROJECT["urls"]["Source"]
