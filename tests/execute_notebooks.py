"""Write the notebooks with their outputs: `python tests/execute_notebooks.py [NAMES]`.

Code hosts show an `.ipynb` and not the `.py` that it is paired with. Those of which
real data is known are executed on it, where `../shared/data` is beside the checkout.
"""

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import jupytext
import nbclient
import nbformat

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "notebooks"
SHARED = ROOT.parent / "shared" / "data"

# What the outputs are of, as variables of the environment; each notebook names its URL.
SHOWN = {
    "01_first_map": {
        "SCENE": "data/ftw_austria/inference-img.tif",
        "MODEL": "kmeans:5",
    },
    "03_training_from_polygons": {
        "SCENE": "data/s2_rachel_carson/s2_stack_8band.vrt",
        "POLYGONS": "data/s2_rachel_carson/rcr_landcover.shp",
        "COLUMN": "Classname",
        "NODATA": "255",
    },
    "05_accuracy_and_areas": {
        "SCENE": "data/sen1floods11/S1/Spain_7370579_S1Hand.tif",
        "TRUTH": "data/sen1floods11/Labels/Spain_7370579_LabelHand.tif",
        "MODEL": "threshold:VV<-15",
    },
    "08_a_summer": {"TWO_DATES": "data/ftw_austria/inference-img.tif"},
}


def is_noise(output):
    """Whether a library says what no reader needs: no bar, or a worker that is slow."""
    return "TqdmWarning" in output or "distributed.nanny - WARNING" in output


def execute(path):
    """Return a notebook with its outputs, which name no folder of this machine."""
    notebook = jupytext.read(path)
    notebook.metadata["kernelspec"] = {
        "display_name": "Python 3", "language": "python", "name": "python3",
    }  # fmt: skip
    notebook.metadata["jupytext"] = {"formats": "ipynb,py:percent"}
    with TemporaryDirectory() as folder:
        (Path(folder) / "data").symlink_to(SHARED)
        resources = {"metadata": {"path": folder}}
        nbclient.NotebookClient(notebook, timeout=1800, resources=resources).execute()
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"  # the same each time
        cell.metadata.pop("execution", None)
        if "outputs" in cell:
            cell.outputs = [o for o in cell.outputs if not is_noise(str(o))]
    return notebook


def main(names):
    """Execute notebooks by the beginnings of their names; all where none are given."""
    for path in sorted(FOLDER.glob("[0-9]*.py")):
        if names and not path.name.startswith(tuple(names)):
            continue
        for name in [n for n in os.environ if n.startswith("GEOSEG_")]:
            del os.environ[name]
        given = SHOWN.get(path.stem, {}) if SHARED.exists() else {}
        os.environ |= {f"GEOSEG_{name}": value for name, value in given.items()}
        nbformat.write(execute(path), path.with_suffix(".ipynb"))
        print(path.with_suffix(".ipynb"))


if __name__ == "__main__":
    main(sys.argv[1:])
