"""Water from Sentinel-1: train on all chips but one, test on that one, each in turn.

    python pipelines/train_water_sar.py --data sen1floods11 --out water

The data are chips of Sen1Floods11 (Bonafilia et al. 2020, CVPR workshops): VV and VH in
dB in `S1/*_S1Hand.tif`, and -1 unknown, 0 land, 1 water in `Labels/*_LabelHand.tif`.
Two minutes on two cores.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import geoseg

CLASSES = (
    geoseg.Class(value=0, name="land", color="#C2B280"),
    geoseg.Class(value=1, name="water", color="#0072B2"),
)
NAMES = {"0": "land", "1": "water"}


def main() -> None:
    """Print the held-out figures of each chip and of all together."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--arch", default="forest")
    arguments = parser.parse_args()
    chips = sorted((arguments.data / "S1").glob("*_S1Hand.tif"))
    labels = [
        arguments.data / "Labels" / c.name.replace("_S1Hand", "_LabelHand")
        for c in chips
    ]
    counts = 0
    for left_out, chip in enumerate(chips):
        others = [i for i in range(len(chips)) if i != left_out]
        name = chip.name.removesuffix("_S1Hand.tif")
        model = geoseg.train(
            [chips[i] for i in others],
            labels=[labels[i] for i in others],
            out=arguments.out / f"without_{name}",
            arch=arguments.arch,
            classes=CLASSES,
            mapping=NAMES,
            trees=60,
            samples=40_000,
        )
        masks = arguments.out / f"{name}.zarr"
        geoseg.segment(
            chip, model=str(model), out=str(masks), scores=True, overwrite=True
        )
        try:
            got = geoseg.evaluate(masks, labels[left_out], mapping=NAMES).accuracy
        except geoseg.GeosegError as error:
            print(f"{name}: {error}", flush=True)
            continue
        counts = counts + got.counts
        report(name, got)
    report(
        "together", geoseg.estimate(counts, names=["land", "water"], estimator="census")
    )


def report(name: str, accuracy: geoseg.Accuracy) -> None:
    """Print one line."""
    land, water = accuracy.counts.sum(axis=0).tolist()
    line = f"{name}: {water:,} of {land + water:,} px are water, "
    if water:
        line += f"IoU of water {accuracy.per_class[1].iou.value:.3f}, "
    else:
        line += f"{accuracy.counts[1, 0]:,} px of land are mapped so, "
    print(line + f"overall accuracy {accuracy.overall.value:.3f}", flush=True)


if __name__ == "__main__":
    main()
