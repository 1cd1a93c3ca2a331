"""From rasters and labels to a model folder.

open rasters and labels ─ hold blocks of ground out ─ scale ─ train ─ write the folder
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg._version import __version__
from geoseg.core.classes import Class
from geoseg.errors import GeosegError
from geoseg.labels import Order, object_classes
from geoseg.models.card import Card, Task
from geoseg.models.classical.features import Features
from geoseg.models.extras import require
from geoseg.training.architectures import (
    CLASSICAL,
    family_of,
    framework_for,
    has_own_loss,
    network_card,
    task_of,
)
from geoseg.training.data import (
    Ground,
    Paths,
    hold_out,
    metres_of,
    open_pairs,
    open_sources,
)
from geoseg.training.saved_settings import WORK, begin, end, is_complete, plain
from geoseg.training.scenes import check_classes, scaled_bands

if TYPE_CHECKING:
    from torch import nn

    from geoseg.accuracy.accuracy import Accuracy
    from geoseg.models.networks.device import Precision

_LOSS = "ce+dice"
# What does not change the answer, or only where it is written.
_NOT_SETTINGS = frozenset(
    {"out", "overwrite", "progress", "device", "loaders", "name", "license"}
)


def train(
    rasters: Paths,
    *,
    labels: Paths,
    out: str | Path,
    arch: str | None = None,
    task: Task | None = None,
    encoder: str = "resnet18",
    arguments: Mapping[str, Any] | None = None,
    init: str | Path | None = None,
    column: str | None = None,
    layer: str | None = None,
    classes: Sequence[Class] = (),
    mapping: Mapping[str, str] | None = None,
    constant: str | None = None,
    background: str | None = None,
    boundary: float | None = None,
    order: Order = "last",
    strict: bool = False,
    bands: Sequence[str] | None = None,
    aoi: str | Path | None = None,
    nodata: float | None = None,
    resolution: float | None = None,
    validation: float = 0.2,
    block: int | None = None,
    gap: int | None = None,
    epochs: int = 40,
    windows: int | None = None,
    patch: int = 256,
    batch: int = 8,
    lr: float = 2e-3,
    weight_decay: float = 1e-2,
    loss: str = _LOSS,
    balance: str = "sqrt",
    brightness: float = 0.2,
    zoom: float = 1.3,
    patience: int = 12,
    trees: int = 100,
    leaf: int = 3,
    samples: int = 100_000,
    features: Features | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: Precision = "auto",
    loaders: int | None = None,
    name: str | None = None,
    license: str | None = None,  # noqa: A002 - what SPDX calls it
    overwrite: bool = False,
    progress: bool = False,
) -> Path:
    """Train a model on labelled rasters.

    Args:
        rasters: one or several rasters; each is whatever `open_source` takes.
        labels: points, polygons or class rasters: one file for all rasters, or one for
            each, in the same order.
        out: the model folder to write. Where it holds an interrupted training with the
            same settings, that goes on from its last epoch.
        arch: `unet` or any other network of segmentation_models_pytorch by its name,
            whatever the case; `deeplabv3_resnet50` or any other of torchvision;
            `transformers:segformer` or any other of transformers that answers scores,
            or masks; `maskrcnn` for objects; `forest`, `extra-trees`, `boosting` or
            `svm` on pixel features. None: that of `init`, or `unet`.
        task: `semantic`, classes; or `instance`, objects, one for each polygon. What no
            polygon covers is then no object: name the ground that was labelled as
            `aoi`. None: that of `init`, or what the network is for.
        encoder: of a network of segmentation_models_pytorch: any of its own, or `tu-`
            and any of timm.
        arguments: of a network's constructor, such as `{"encoder_depth": 4}`.
        init: a model folder to start from, or a folder of transformers; its bands and
            classes may be others.
        column: column with class names or values; found by its usual names where None.
        layer: of a labels file with several layers.
        classes: a class table, with colours; without one it is made from the labels.
        mapping: from a name or value of the labels to another, or to `ignore`.
        constant: all features are of this class.
        background: pixels without a label are of this class; else they are ignored.
        boundary: pixels of polygons so near to their outline, in pixels, are of a class
            `boundary`, by which the map becomes objects that touch but do not merge.
        order: which of overlapping polygons wins: the last, the first or the smallest.
        strict: refuse label rasters on another grid than their raster's.
        bands: bands to use, as in `open_source`.
        aoi: polygons outside of which nothing is seen.
        nodata: pixel value that means nodata too.
        resolution: pixel size to work at, in metres; None: the first raster's own, to
            which others are resampled where they differ by more than a quarter.
        validation: share of the labelled ground that is held out, below 1; 0 for none.
        block: side of the held-out blocks in pixels; see `split_blocks`.
        gap: what is left out around them, in pixels.
        epochs: at most (networks; the following too).
        windows: patches in an epoch; None: as many as twice cover the labelled ground.
        patch: side of the patches in pixels, a multiple of 32.
        batch: patches in a step.
        lr: highest learning rate of the one-cycle schedule.
        weight_decay: of AdamW.
        loss: `ce`, `dice`, `focal`, or a sum such as `ce+dice`. Networks that answer
            masks have a loss of their own.
        balance: how patches are spread over classes: `none`, `sqrt` or `equal`.
        brightness: how much gain and offset of bands vary, in standard deviations.
        zoom: how much the scale of the ground varies, as a factor.
        patience: epochs without a better mean IoU, or average precision of objects at
            an IoU of one half, after which training ends.
        trees: number of trees (forests; the following too).
        leaf: samples in a leaf, at least.
        samples: pixels to learn from, at most.
        features: what a pixel's features are.
        seed: of everything random: same seed, same machine, same model on a CPU.
        device: `auto`, `cpu`, `cuda` (all GPUs) or `cuda:N`.
        precision: `auto`, `fp32`, `bf16` or `fp16`; weights stay fp32.
        loaders: processes that cut patches; None: by device and cores.
        name: what the model is called; None: by its folder.
        license: SPDX identifier of the model's licence, for its card.
        overwrite: replace a model that is there.
        progress: show a bar.

    Returns:
        The model folder: card, weights, `curves.csv`, `curves.png`. The card tells
        where and how the model was trained, and its figures on the held-out blocks.

    Raises:
        LabelsError: labels do not overlap the rasters, hold one class only, or lie in
            too few places to hold any out.
        GeosegError: another training is there, or the numbers do not go together.
    """
    settings = {k: plain(v) for k, v in locals().items() if k not in _NOT_SETTINGS}
    classical = arch if arch in CLASSICAL else None
    framework = _framework(arch, encoder, init)
    task = task_of(framework, task or _task_of(arch, init))
    _check_task(task, background, boundary)
    _check(validation, patch, balance, zoom, loss)
    _check_positive(
        epochs=epochs, windows=windows, batch=batch, lr=lr, patience=patience,
        trees=trees, leaf=leaf, samples=samples, resolution=resolution,
        boundary=boundary,
    )  # fmt: skip
    folder = Path(out)
    if is_complete(folder, settings, overwrite=overwrite):
        return folder
    sources = open_sources(rasters, bands, aoi, nodata, resolution)
    how: dict[str, Any] = {
        "column": column,
        "layer": layer,
        "mapping": mapping,
        "constant": constant,
        "background": background,
        "boundary": boundary,
        "order": order,
        "strict": strict,
    }
    pairs, table = open_pairs(sources, labels, how, classes)
    wide = (features or Features()).reach if classical else None
    ground = hold_out(
        pairs, table, validation, block, wide if gap is None else gap, seed,
        objects=task == "instance",
    )  # fmt: skip
    card = _card(ground, name or folder.resolve().name, license, settings)
    if boundary is not None:
        card = replace(card, things=_things(ground))
    if classical is not None:
        begin(folder, settings, overwrite=overwrite)
        kind = {"kind": classical, "trees": trees, "leaf": leaf, "samples": samples}
        _train_forest(ground, card, folder, {**kind, "seed": seed}, features)
        return folder
    network = {
        "epochs": epochs,
        "windows": windows,
        "patch": patch,
        "batch": batch,
        "lr": lr,
        "weight_decay": weight_decay,
        "loss": loss,
        "balance": balance,
        "brightness": brightness,
        "zoom": zoom,
        "patience": patience,
        "seed": seed,
        "device": device,
        "precision": precision,
        "loaders": loaders,
    }
    if task == "instance" and init is None:
        framework |= _fitting_anchors(framework, ground)
    card = network_card(card, framework, patch, arguments or {}, task)
    if has_own_loss(card) and loss != _LOSS:
        raise GeosegError(
            f"leave out --loss: {framework['arch']} has a loss of its own"
        )
    module = _network(card, init, seed)
    begin(folder, settings, overwrite=overwrite)
    _train_network(ground, module, card, folder, network, progress=progress)
    return folder


def _framework(
    arch: str | None, encoder: str, init: str | Path | None
) -> dict[str, Any]:
    """Return how to build the network; nothing for trees."""
    if arch in CLASSICAL:
        if init is not None:
            raise GeosegError(f"{arch} starts from nothing: leave out --init")
        return {}
    require("lightning", what="training a network", extra="train")
    if arch is None and init is not None:
        from geoseg.training.transfer import framework_of

        return framework_of(init)
    return framework_for(arch or "unet", encoder)


def _task_of(arch: str | None, init: str | Path | None) -> Task | None:
    """Return the task of the model that is started from, where that says it all."""
    if arch is not None or init is None:
        return None
    from geoseg.training.transfer import card_of

    return card_of(init).task


def _check_task(task: Task, background: str | None, boundary: float | None) -> None:
    """Raise where what is asked of labels has no meaning for objects."""
    if task != "instance":
        return
    if background is not None:
        raise GeosegError(
            "leave out --background: where no polygon is, there is no object"
        )
    if boundary is not None:
        raise GeosegError(
            "leave out --boundary: a network that finds objects needs none between them"
        )


def _things(ground: Ground) -> tuple[str, ...]:
    """Return the names of the polygons' own classes."""
    found = {
        int(value)
        for s in ground.scenes
        for value in np.unique(object_classes(s.labels))
    }
    return tuple(c.name for c in ground.classes if c.value in found)


def _fitting_anchors(
    framework: Mapping[str, Any], ground: Ground
) -> dict[str, list[int]]:
    """Return what a detector starts from, by the size of what it is to find."""
    from geoseg.training.objects import anchor_sides

    if framework["family"] != "torchvision":
        return {}
    return {"anchors": anchor_sides(ground.scenes)}


def _check(validation: float, patch: int, balance: str, zoom: float, loss: str) -> None:
    """Raise where numbers or names make no sense, before anything is read."""
    if not 0 <= validation < 1:
        raise GeosegError(f"validation {validation} must be at least 0 and below 1")
    if patch < 32 or patch % 32:
        raise GeosegError(f"patch {patch} px must be a multiple of 32 px")
    if balance not in ("none", "sqrt", "equal"):
        raise GeosegError(f"balance {balance!r} is none of none, sqrt, equal")
    if zoom < 1:
        raise GeosegError(f"zoom {zoom} must be a factor of at least 1")
    from geoseg.training.losses import make_loss

    make_loss(loss)


def _check_positive(**given: float | None) -> None:
    for name, value in given.items():
        if value is not None and not value > 0:
            raise GeosegError(f"{name} {value} must be above 0")


def _card(
    ground: Ground, name: str, license_: str | None, settings: Mapping[str, Any]
) -> Card:
    """Return the card, still without a framework and figures."""
    sources = [s.source for s in ground.scenes]
    metres = [m for m in map(metres_of, sources) if m is not None]
    names = [s.name for s in sources]
    shown = ", ".join(names[:3]) + (
        f" and {len(names) - 3} more" if len(names) > 3 else ""
    )
    counts = sum(c.sum(axis=(0, 1)) for c in ground.cells)
    labelled = zip(ground.classes, np.asarray(counts).tolist(), strict=True)
    return Card(
        name=name,
        bands=scaled_bands(ground.scenes, int(settings["seed"])),
        classes=ground.classes,
        resolution=float(np.round(np.mean(metres), 6)) if metres else None,
        dtypes=tuple(sorted({s.dtype.name for s in sources})),
        license=license_,
        description=f"{', '.join(c.name for c in ground.classes)}; trained on {shown}",
        facts={
            "training": {
                "geoseg": __version__,
                "finished": None,
                "rasters": names,
                "where": [list(s.grid.bounds) for s in ground.scenes],
                "crs": ground.scenes[0].grid.crs,
                "labelled_pixels": {c.name: n for c, n in labelled},
                "settings": dict(settings),
            }
        },
    )


def _with_figures(
    card: Card,
    ground: Ground,
    accuracy: Accuracy | None,
    facts: Mapping[str, Any],
    objects: Mapping[str, Any] | None = None,
) -> Card:
    """Return the card with how training went, and its figures on held-out ground."""
    training = {**card.facts["training"], **facts}
    training["finished"] = datetime.now(UTC).isoformat(timespec="seconds")
    out: dict[str, Any] = {**card.facts, "training": training}
    how = ""
    if ground.split is not None:
        how = f"blocks of {ground.split.side} px held out, with a gap of "
        how += f"{ground.split.gap} px"
    if objects is not None and how:
        cut = f"{how}; objects are cut at windows of {card.window * 3 // 4} px"
        out["validation"] = {"how": cut, "notes": [], "objects": dict(objects)}
    if accuracy is not None and how:
        out["validation"] = {
            "how": how,
            "notes": list(accuracy.notes[1:]),
            "pixels": accuracy.n,
            "overall_accuracy": accuracy.overall.value,
            "mean_iou": accuracy.mean_iou,
            "classes": {
                name: {
                    "users_accuracy": figures.users.to_dict()["value"],
                    "producers_accuracy": figures.producers.to_dict()["value"],
                    "iou": figures.iou.to_dict()["value"],
                }
                for name, figures in zip(
                    accuracy.names, accuracy.per_class, strict=True
                )
            },
            "confusion_matrix": accuracy.counts.tolist(),
        }
    return replace(card, facts=out)


def _network(card: Card, init: str | Path | None, seed: int) -> nn.Module:
    """Return the network to train: at random by the seed, or as another was."""
    import torch

    from geoseg.training.transfer import start_from

    torch.manual_seed(seed)
    module: nn.Module = family_of(card).build(card)
    if init is not None:
        start_from(module, card, init)
    return module


def _train_network(
    ground: Ground,
    module: nn.Module,
    card: Card,
    folder: Path,
    settings: dict[str, Any],
    *,
    progress: bool,
) -> None:
    from geoseg.training.curves import write_curves
    from geoseg.training.network import NetworkSettings, train_network
    from geoseg.training.patches import training_index

    index = training_index(ground.cells, ground.split)
    least = 1 if card.task == "instance" else 2
    check_classes(index.counts.sum(axis=0), ground.classes, least=least)
    if settings["windows"] is None:
        patches = 2 * int(index.counts.sum()) / settings["patch"] ** 2
        settings["windows"] = max(8 * settings["batch"], round(patches))
    trained = train_network(
        module,
        card,
        ground,
        index,
        NetworkSettings(**settings),
        folder / WORK,
        progress=progress,
    )
    facts = {"best_epoch": trained.best, "epochs_run": len(trained.rows)}
    write_curves(trained.rows, folder, best=trained.best)
    card = _with_figures(card, ground, trained.accuracy, facts, trained.objects)
    family_of(card).save_model(module, card, folder)
    end(folder)


def _train_forest(
    ground: Ground,
    card: Card,
    folder: Path,
    settings: dict[str, Any],
    features: Features | None,
) -> None:
    from geoseg.models.classical.pixelwise import save
    from geoseg.training.trees import ForestSettings, collect, cross_validate, fit

    features = features or Features()
    how = ForestSettings(**settings)
    # Trees do not care for scale: pixels stay as they are, but what lies under nodata.
    bands = tuple(replace(b, offset=0.0, scale=1.0, clip=None) for b in card.bands)
    fill = float(np.mean([b.offset for b in card.bands]))
    overlap = -(-features.reach // 2) * 4
    card = replace(
        card, bands=bands, fill=fill, window=max(256, 2 * overlap), overlap=overlap,
        multiple=1, framework={"arch": how.kind},
    )  # fmt: skip
    found = collect(
        ground.scenes, ground.cells, ground.split, card, features, how, ground.folds
    )
    names = [c.name for c in ground.classes]
    accuracy = cross_validate(found, how, names) if ground.split else None
    facts = {"samples": len(found.targets), "folds": ground.folds}
    card = _with_figures(card, ground, accuracy, facts)
    save(
        fit(found, how, len(names)),
        features,
        card,
        folder,
        family="svm" if how.kind == "svm" else "forest",
        output="logits" if how.kind in {"svm", "boosting"} else "probabilities",
    )
