"""The number of answers is raised whenever any label could change."""

from zlib import crc32

import numpy as np

from geoseg._version import ANSWERS
from geoseg.inference.workflow import make_plan, run_plan
from geoseg.testing import LocalModel, MemorySource, identity_card

KNOWN = {1: (303401647, 324572235)}
"""CRC-32 of `classes` and `confidence` by the number of answers."""


def test_labels_change_only_with_the_number_of_answers(tmp_path):
    """Where this fails and the labels are meant to change, raise ANSWERS and note them.

    Stores that were begun with other answers are then not resumed.
    """
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (3, 300, 280)).astype(np.float32) / 256
    model = LocalModel(card=identity_card(3, window=96, overlap=32))
    plan = make_plan(MemorySource(values=pixels), model=model, scores=True)
    masks, _ = run_plan(plan, out=tmp_path / "m.zarr", progress=False)
    found = tuple(
        crc32(np.ascontiguousarray(masks.read(name, masks.grid.window)).data)
        for name in ("classes", "confidence")
    )
    assert found == KNOWN[ANSWERS]
