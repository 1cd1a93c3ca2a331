"""Several cards: processes whose network takes a fixed time, against one such card.

    python tests/benchmarks/bench_cards.py [--cards 8] [--rate 1] [--side 8192]

A "card" sleeps as long as a GPU of so many Mpx/s would compute. Prints what share of
all cards' speed the run reaches, once every process has loaded its model, and what
share of the time cards are at work: they pass windows beyond the raster's edge, too.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scenes import write_repeated

from geoseg.core.classes import class_table
from geoseg.execution.clusters import local_cluster
from geoseg.inference.workflow import make_plan, run_plan
from geoseg.models.card import Band, Card

if TYPE_CHECKING:
    from numpy.typing import NDArray

WINDOW, OVERLAP = 256, 32


class SleepingCard:
    """Answers the same scores for every window, and takes its time."""

    batch = 4

    def __init__(self, rate: float) -> None:
        self.seconds = (WINDOW - OVERLAP) ** 2 / 1e6 / rate
        self.card = Card(
            name="sleeping",
            bands=(Band(name="1"),),
            classes=class_table("ab"),
            window=WINDOW,
            overlap=OVERLAP,
            multiple=32,
        )

    def predict(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        time.sleep(len(pixels) * self.seconds)
        return np.zeros((len(pixels), 2, *pixels.shape[2:]), np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cards", type=int, default=8)
    parser.add_argument("--rate", type=float, default=1.0)
    parser.add_argument("--side", type=int, default=8192)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scene = Path(folder) / "scene.tif"
        piece = np.ones((1, 512, 512), np.uint8)
        write_repeated(scene, piece, options.side, "zstd")
        model, mpx = SleepingCard(options.rate), options.side**2 / 1e6
        with local_cluster(options.cards, threads=2, dashboard=None) as client:
            plan = make_plan(str(scene), model=model, client=client)
            moments: list[float] = []
            for again in range(2):  # the first one loads the model everywhere
                moments.clear()
                _, info = run_plan(
                    plan,
                    out=f"{folder}/{again}.zarr",
                    client=client,
                    progress=lambda _: moments.append(time.perf_counter()),
                )
        seconds = moments[-1] - moments[0]
    facts = {"cards": options.cards, "block": plan.tiling.block, "seconds": seconds}
    facts["mpx_per_second"] = mpx / seconds
    facts["of all cards"] = mpx / seconds / (options.cards * options.rate)
    at_work = info.windows * model.seconds / options.cards
    facts["cards at work"] = at_work / seconds
    print(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
