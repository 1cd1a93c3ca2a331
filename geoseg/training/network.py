"""Training of torch networks, by Lightning."""

from __future__ import annotations

import atexit
import logging
import sys
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import lightning as L  # noqa: N812 - as its documentation calls it
import numpy as np
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy
from torch import distributed, nn

from geoseg.accuracy.accuracy import Accuracy, estimate
from geoseg.accuracy.interval import share_of_blocks
from geoseg.core.files import replacing
from geoseg.models.networks.device import choose_precision, measured_device
from geoseg.training.architectures import has_own_loss
from geoseg.training.curves import write_curves
from geoseg.training.epochs import EpochBar
from geoseg.training.lightning_modules import (
    ClassNetwork,
    ObjectNetwork,
    TrainedNetwork,
)
from geoseg.training.patches import Index

if TYPE_CHECKING:
    from geoseg.models.card import Card
    from geoseg.training.data import TrainingData
    from geoseg.training.options import TrainOptions

_LAST, _BEST = "last.ckpt", "best.ckpt"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trained:
    """What came out."""

    accuracy: Accuracy | None
    """Of classes on the held-out blocks, at the best epoch."""
    objects: dict[str, Any] | None
    """Likewise, figures of objects."""
    best: int
    """The epoch that was kept."""
    rows: list[dict[str, Any]]
    """What was measured at each epoch."""


def train_network(
    module: nn.Module,
    card: Card,
    data: TrainingData,
    index: Index,
    options: TrainOptions,
    folder: Path,
    *,
    progress: bool,
) -> Trained:
    """Train a network; what is left in it are the weights of the best epoch.

    Args:
        module: the network, trained in place.
        card: its card, with bands and scaling.
        data: what to learn from.
        index: where the labelled pixels are that may be learned from.
        options: how.
        folder: where checkpoints and curves go. Where it holds the checkpoint of an
            interrupted training, it is resumed.
        progress: show a bar.
    """
    kind = ObjectNetwork if card.task == "instance" else ClassNetwork
    task = kind(module, card, data, index, options)
    curves = _Curves(folder)
    last = folder / _LAST
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as meeting:
        warnings.simplefilter("ignore")  # of Lightning, on loaders and sanity checks
        trainer = _trainer(
            task, card, options, folder, curves, Path(meeting), progress=progress
        )
        try:
            resumed = str(last) if last.is_file() else None
            trainer.fit(task, ckpt_path=resumed, weights_only=True)
        except SystemExit as error:
            # Lightning turns Ctrl-C into an exit; what is done stays done.
            raise KeyboardInterrupt from error
    best = folder / _BEST
    kept = best if best.is_file() else last
    state = torch.load(kept, map_location="cpu", weights_only=True)
    task.load_state_dict(state["state_dict"])
    module.to("cpu").eval()
    # Of several processes each had curves of its own; the checkpoint has the first's.
    ended = torch.load(last, map_location="cpu", weights_only=True)
    rows = ended["callbacks"][curves.state_key]["rows"]
    epoch = int(state["epoch"])
    found = rows[epoch] if rows else {}
    accuracy = None
    if "confusion" in found:
        names = [c.name for c in card.classes]
        accuracy = estimate(found["confusion"], names=names, estimator="census")
        accuracy = replace(accuracy, overall=share_of_blocks(found["moments"]))
    objects = found.get("objects")
    return Trained(accuracy=accuracy, objects=objects, best=epoch, rows=rows)


def _checkpoints(task: TrainedNetwork, folder: Path, patience: int) -> list[Callback]:
    """Return what keeps the best and the last epoch, and when it is enough."""
    kept: list[Callback] = []
    if task.is_validated:
        kept = [
            ModelCheckpoint(
                folder, "best", monitor=task.monitor, mode="max", save_top_k=1,
                enable_version_counter=False,
            ),
            EarlyStopping(
                task.monitor, mode="max", patience=patience,
                check_on_train_epoch_end=False,
            ),
        ]  # fmt: skip
    # At the very end of an epoch: what resumes from it begins the next one.
    last = ModelCheckpoint(
        folder, "last", save_on_train_epoch_end=True, enable_version_counter=False
    )
    return [*kept, last]


class _OneMachine(DDPStrategy):  # type: ignore[misc]
    """Processes that meet in a file, and not at a port.

    A port that was free when the training began may have been taken by the time that
    its processes have started, and it would be listened at beyond this machine.
    """

    def __init__(self, meeting: Path, *, find_unused_parameters: bool) -> None:
        # Started anew, and not by running the user's command again in every process.
        super().__init__(
            start_method="spawn", find_unused_parameters=find_unused_parameters
        )
        self._meeting = meeting

    def setup_distributed(self) -> None:
        """Join the group, which Lightning then finds made."""
        self.set_world_ranks()
        if not distributed.is_initialized():
            from torch.distributed import FileStore  # type: ignore[attr-defined]

            store = FileStore(str(self._meeting), self.world_size)
            distributed.init_process_group(
                self._get_process_group_backend(), store=store, timeout=self._timeout,
                rank=self.global_rank, world_size=self.world_size,
                device_id=None if self.root_device.type == "cpu" else self.root_device,
            )  # fmt: skip
            atexit.register(_leave)  # or NCCL complains
        super().setup_distributed()


def _leave() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _trainer(
    task: TrainedNetwork,
    card: Card,
    options: TrainOptions,
    folder: Path,
    curves: Callback,
    meeting: Path,
    *,
    progress: bool,
) -> L.Trainer:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    device = measured_device(options.device, "training")
    # Masks are matched to objects by their losses: lower precision would move them.
    exact = options.precision == "auto" and has_own_loss(card)
    precision = choose_precision(device, "fp32" if exact else options.precision)
    devices = devices_of(options)
    count = devices if isinstance(devices, int) else len(devices)
    strategy: Any = "auto"
    if count > 1:
        # Networks with a loss of their own leave some weights without a gradient.
        strategy = _OneMachine(
            meeting / "group", find_unused_parameters=has_own_loss(card)
        )
    return L.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=devices,
        strategy=strategy,
        precision={"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}[
            precision
        ],
        max_epochs=options.epochs,
        callbacks=[
            curves,
            *([EpochBar()] if progress else []),
            *_checkpoints(task, folder, options.patience),
        ],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        # Networks of transformers keep tensors that they made while they were looked
        # at; made in inference mode, those could not be trained with.
        inference_mode=False,
        use_distributed_sampler=False,  # ours share among processes themselves
        deterministic=True if device.type == "cpu" else None,
        default_root_dir=folder,
        plugins=[_WholeFiles()],
    )


def devices_of(options: TrainOptions) -> int | list[int]:
    """Return the GPUs that train together, or how many processes of a CPU do.

    `auto` and `cuda` are all there are; in a notebook, whose cells other processes
    cannot run, the first.
    """
    device = measured_device(options.device, "training")
    if device.type == "cpu":
        return 1
    if options.device not in ("auto", "cuda"):
        return [device.index or 0]
    found = list(range(torch.cuda.device_count()))
    if len(found) > 1 and hasattr(sys, "ps1"):
        warnings.warn(
            f"of {len(found)} GPUs a notebook uses one: geoseg train uses all",
            stacklevel=2,
        )
        return found[:1]
    return found


class _WholeFiles(TorchCheckpointIO):  # type: ignore[misc]
    """Checkpoints that are whole or not there, whenever the process is killed."""

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | Path,
        storage_options: Any = None,  # noqa: ANN401, ARG002 - Lightning's signature
    ) -> None:
        """Write beside the place, then put it there at once."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        # Into an open file: by its name PyTorch does not say that a disk is full.
        with replacing(target) as part, part.open("wb") as file:
            torch.save(checkpoint, file)


class _Curves(Callback):  # type: ignore[misc]
    """What was measured at each epoch; it survives an interruption."""

    def __init__(self, folder: Path) -> None:
        self.rows: list[dict[str, Any]] = []
        self._folder = folder
        self._started = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = list(state_dict["rows"])

    def on_train_start(self, trainer: L.Trainer, *_: Any) -> None:  # noqa: ANN401
        del self.rows[trainer.current_epoch :]

    def on_train_epoch_start(self, *_: Any) -> None:  # noqa: ANN401
        self._started = perf_counter()

    def on_validation_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule
    ) -> None:
        assert isinstance(pl_module, TrainedNetwork)
        self._row(trainer).update(pl_module.figures())

    def on_train_epoch_end(self, trainer: L.Trainer, *_: Any) -> None:  # noqa: ANN401
        seconds = round(perf_counter() - self._started, 3)
        measured = _measured(trainer.callback_metrics)
        self._row(trainer).update(measured, seconds=seconds)
        if trainer.is_global_zero:
            write_curves(self.rows, self._folder.parent)

    def _row(self, trainer: L.Trainer) -> dict[str, Any]:
        epoch = int(trainer.current_epoch)
        while len(self.rows) <= epoch:
            self.rows.append({"epoch": len(self.rows)})
        return self.rows[epoch]


def _measured(metrics: Mapping[str, torch.Tensor]) -> dict[str, float]:
    return {name: float(np.float32(value)) for name, value in metrics.items()}
