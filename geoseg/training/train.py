"""From rasters and labels to a model folder.

open rasters and labels ─ hold blocks of ground out ─ scale ─ train ─ write the folder
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.core.classes import Class
from geoseg.core.extras import require
from geoseg.core.label_options import Order
from geoseg.core.options import keywords
from geoseg.core.raster_options import NodataRule, Units
from geoseg.core.series_options import DatesFrom, Resampling
from geoseg.core.text import plain
from geoseg.errors import GeosegError
from geoseg.execution.progress import steps
from geoseg.models.card import Card, Task
from geoseg.models.networks.device import Precision
from geoseg.training.architectures import (
    CLASSICAL,
    family_of,
    framework_for,
    has_own_loss,
    network_card,
    task_of,
)
from geoseg.training.data import TrainingData, open_training_data
from geoseg.training.model_card import untrained_card, with_figures
from geoseg.training.options import LOSS, Balance, Learned, Paths, TrainOptions
from geoseg.training.saved_settings import WORK, begin, end, is_complete
from geoseg.training.scenes import check_classes

if TYPE_CHECKING:
    from torch import nn

# What does not change the answer, or only where it is written.
_NOT_SETTINGS = {"out", "overwrite", "device", "loaders", "name", "license"}


def train_model(
    rasters: Paths, options: TrainOptions, *, progress: bool = False
) -> Path:
    """Train a model; as `train`, with options as one object."""
    saved = {"rasters": rasters, **options.model_dump(exclude=_NOT_SETTINGS)}
    settings = plain(saved)
    framework = _framework(options)
    task = _task(framework, options)
    options = options.model_copy(update={"task": task})
    _check(options)
    folder = Path(options.out)
    if is_complete(folder, settings, overwrite=options.overwrite):
        return folder
    data = open_training_data(rasters, options)
    card = untrained_card(data, options, settings)
    if options.arch in CLASSICAL:
        begin(folder, settings, overwrite=options.overwrite)
        _train_classical(data, card, folder, options, progress=progress)
        return folder
    if task == "instance" and options.init is None:
        framework |= _fitting_anchors(framework, data)
    card = network_card(card, framework, options.patch, options.arguments or {}, task)
    if has_own_loss(card) and options.loss != LOSS:
        raise GeosegError(
            f"leave out --loss: {framework['arch']} has a loss of its own"
        )
    module = _network(card, options)
    begin(folder, settings, overwrite=options.overwrite)
    _train_network(data, module, card, folder, options, progress=progress)
    return folder


@keywords(TrainOptions, train_model)
def train(
    rasters: Paths,
    *,
    labels: Paths,
    out: str | os.PathLike[str],
    arch: str | None = None,
    task: Learned | None = None,
    encoder: str = "resnet18",
    arguments: Mapping[str, Any] | None = None,
    init: str | os.PathLike[str] | None = None,
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
    aoi: str | os.PathLike[str] | None = None,
    nodata: float | None = None,
    nodata_rule: NodataRule = "auto",
    units: Units = "file",
    trust: Sequence[str] | None = None,
    dates: str | Sequence[Any] | None = None,
    cloud: float | None = None,
    endpoint: str | None = None,
    dates_from: DatesFrom = "items",
    reduce: str | None = None,
    every: str | None = None,
    mask: Sequence[str] | None = None,
    mask_buffer: float = 0.0,
    like: str | os.PathLike[str] | None = None,
    crs: str | None = None,
    resampling: Resampling = "auto",
    skip_missing: bool = False,
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
    loss: str = LOSS,
    balance: Balance = "sqrt",
    brightness: float = 0.2,
    zoom: float = 1.3,
    patience: int = 12,
    trees: int = 100,
    leaf: int = 3,
    samples: int = 100_000,
    scales: Sequence[float] = (1.0, 2.0, 4.0),
    differences: bool = False,
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
        nodata: pixel value that is nodata, whatever the raster says of it.
        nodata_rule: whether a pixel is nodata where `any` band is, or where `all` are;
            `auto`: all for pictures of bytes, any for all others.
        units: numbers as stored, `file`, or as `reflectance`.
        trust: paths and hosts that a VRT, tile index or STAC item may name beside its
            own folder and host.
        dates: of scenes of many dates, a year, month or day, or two of them; see
            `compose` for this and the following.
        cloud: most clouds of a scene, in percent.
        endpoint: archive that is searched.
        dates_from: where scenes have their dates: in `items`, or in `names` of files,
            which all together are one raster then.
        reduce: how dates become one pixel.
        every: keep steps in time: the model looks at all of them at once.
        mask: what is masked by the scenes' quality band, or by a model.
        mask_buffer: metres around what is masked that are masked too.
        like: raster whose grid scenes are put on.
        crs: coordinate reference system of that grid.
        resampling: how scenes come onto other pixels.
        skip_missing: go on without files of scenes that cannot be had.
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
        scales: of a pixel's features, in pixels: Gaussian mean, gradient and spread of
            every band; none for bands on their own.
        differences: normalised differences of all pairs of bands are features too.
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
    raise NotImplementedError  # `train_model` is what runs


def _framework(options: TrainOptions) -> dict[str, Any]:
    """Return how to build the network; nothing for trees."""
    if options.arch in CLASSICAL:
        if options.init is not None:
            raise GeosegError(
                f"{options.arch} is always trained from scratch: leave out --init"
            )
        return {}
    require("lightning", what="training a network", extra="train")
    if options.arch is None and options.init is not None:
        from geoseg.training.transfer import framework_of

        return framework_of(options.init)
    return framework_for(options.arch or "unet", options.encoder)


def _task(framework: Mapping[str, Any], options: TrainOptions) -> Task:
    """Return what to learn: as asked, as the model started from, as the network."""
    asked: Task | None = options.task
    if asked is None and options.arch is None and options.init is not None:
        from geoseg.training.transfer import card_of_folder

        asked = card_of_folder(options.init).task
    return task_of(framework, asked)


def _check(options: TrainOptions) -> None:
    """Raise where what is asked makes no sense, before anything is read."""
    from geoseg.training.losses import make_loss

    make_loss(options.loss)
    if options.task != "instance":
        return
    if options.background is not None:
        raise GeosegError(
            "leave out --background: where no polygon is, there is no object"
        )
    if options.boundary is not None:
        raise GeosegError(
            "leave out --boundary: a network that finds objects needs none between them"
        )


def _fitting_anchors(
    framework: Mapping[str, Any], data: TrainingData
) -> dict[str, list[int]]:
    """Return what a detector starts from, by the size of what it is to find."""
    from geoseg.training.objects import anchor_sides

    if framework["family"] != "torchvision":
        return {}
    return {"anchors": anchor_sides(data.scenes)}


def _network(card: Card, options: TrainOptions) -> nn.Module:
    """Return the network to train: at random by the seed, or as another was."""
    import torch

    from geoseg.training.transfer import start_from

    torch.manual_seed(options.seed)
    module: nn.Module = family_of(card).build(card)
    if options.init is not None:
        start_from(module, card, options.init)
    return module


def _train_network(
    data: TrainingData,
    module: nn.Module,
    card: Card,
    folder: Path,
    options: TrainOptions,
    *,
    progress: bool,
) -> None:
    from geoseg.training.curves import write_curves
    from geoseg.training.network import train_network
    from geoseg.training.patches import training_index

    index = training_index(data.cells, data.split)
    least = 1 if card.task == "instance" else 2
    check_classes(index.counts.sum(axis=0), data.classes, least=least)
    if options.windows is None:
        patches = 2 * int(index.counts.sum()) / options.patch**2
        windows = max(8 * options.batch, round(patches))
        options = options.model_copy(update={"windows": windows})
    trained = train_network(
        module, card, data, index, options, folder / WORK, progress=progress
    )
    facts = {"best_epoch": trained.best, "epochs_run": len(trained.rows)}
    write_curves(trained.rows, folder, best=trained.best)
    card = with_figures(card, data, trained.accuracy, facts, trained.objects)
    family_of(card).save_model(module, card, folder)
    end(folder)


def _train_classical(
    data: TrainingData,
    card: Card,
    folder: Path,
    options: TrainOptions,
    *,
    progress: bool,
) -> None:
    from geoseg.models.classical.pixelwise import save
    from geoseg.training.trees import collect, cross_validate, fit

    features, kind = options.features, str(options.arch)
    # Trees do not care for scale: pixels stay as they are, but what lies under nodata.
    bands = tuple(replace(b, offset=0.0, scale=1.0, clip=None) for b in card.bands)
    fill = float(np.mean([b.offset for b in card.bands]))
    overlap = -(-features.reach // 2) * 4
    card = replace(
        card, bands=bands, fill=fill, window=max(256, 2 * overlap), overlap=overlap,
        multiple=1, framework={"arch": kind},
    )  # fmt: skip
    with steps("reading labelled ground", quiet=not progress) as show:
        found = collect(data, card, features, options, show)
    names = [c.name for c in data.classes]
    accuracy = None
    if data.split is not None:
        with steps("testing on held-out ground", quiet=not progress) as show:
            accuracy = cross_validate(found, options, names, show)
    facts = {"samples": len(found.targets), "folds": data.folds}
    save(
        fit(found, options, len(names)),
        features,
        with_figures(card, data, accuracy, facts),
        folder,
        family="svm" if kind == "svm" else "forest",
        output="logits" if kind in {"svm", "boosting"} else "probabilities",
    )
