"""Print the recipe for conda-forge's feedstock, from pyproject.toml and the sdist.

python .github/conda/recipe.py dist/geoseg-1.2.3.tar.gz > meta.yaml
"""

import hashlib
import re
import sys
import tomllib
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
# Packages that conda-forge calls otherwise.
NAMES = {"torch": "pytorch", "dask": "dask-core"}
RECIPE = """\
package:
  name: geoseg
  version: "{version}"
source:
  url: {source}/releases/download/v{version}/geoseg-{version}.tar.gz
  sha256: {sha256}
build:
  number: 0
  noarch: python
  script: {{{{ PYTHON }}}} -m pip install . --no-deps --no-build-isolation -vv
  entry_points:
    - geoseg = {entry}
requirements:
  host:
    - python {python}
    - pip
{host}
  run:
    - python {python}
{run}
test:
  imports:
    - geoseg
  commands:
    - geoseg --help
    - geoseg models
about:
  home: {source}
  summary: {summary}
  license: {license}
  license_file: LICENSE
extra:
  recipe-maintainers:
    - {owner}
"""


def conda_name(requirement: str) -> str:
    """Return a requirement as conda writes it.

    >>> conda_name("torch>=2.4")
    'pytorch >=2.4'
    """
    match = re.match(r"([A-Za-z0-9_.-]+)(.*)", requirement)
    assert match is not None
    name, bound = match.groups()
    return f"{NAMES.get(name, name)} {bound}".strip()


def recipe(sdist: Path) -> str:
    """Return the recipe of a release."""
    about = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))
    project = about["project"]
    line = "    - {}".format
    return RECIPE.format(
        version=sdist.name.removeprefix("geoseg-").removesuffix(".tar.gz"),
        source=project["urls"]["Source"],
        sha256=hashlib.sha256(sdist.read_bytes()).hexdigest(),
        entry=project["scripts"]["geoseg"],
        python=project["requires-python"],
        host="\n".join(line(conda_name(r)) for r in about["build-system"]["requires"]),
        run="\n".join(line(conda_name(r)) for r in project["dependencies"]),
        summary=project["description"],
        license=project["license"],
        owner=project["urls"]["Source"].split("/")[-2],
    )


if __name__ == "__main__":
    sys.stdout.write(recipe(Path(sys.argv[1])))
