"""Training of torch networks, by Lightning."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import lightning as L  # noqa: N812 - as its documentation calls it
import numpy as np
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader

from geoseg.models.device import Precision, choose_device, choose_precision
from geoseg.models.scaling import Scaling
from geoseg.models.torch_adapter import fit_channels, tensor_of
from geoseg.quality.accuracy import Accuracy, estimate
from geoseg.training.curves import write_curves
from geoseg.training.epochs import EpochBar
from geoseg.training.losses import make_loss
from geoseg.training.patches import Index, Patches, Turn, ValidationWindows
from geoseg.training.scenes import IGNORED

if TYPE_CHECKING:
    from geoseg.models.card import Card
    from geoseg.training.ground import Ground

_LAST, _BEST = "last.ckpt", "best.ckpt"
_MOST_VALIDATION = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSettings:
    """How a network is trained."""

    epochs: int
    """At most."""
    windows: int
    """Patches in an epoch."""
    patch: int
    """Side of the patches, in pixels."""
    batch: int
    """Patches in a step, on each device."""
    lr: float
    """Highest learning rate of the one-cycle schedule."""
    weight_decay: float
    """Of AdamW."""
    loss: str
    """`ce`, `dice`, `focal`, or a sum."""
    balance: str
    """How patches are spread over classes: `none`, `sqrt`, `equal`."""
    brightness: float
    """How much gain and offset of bands vary, in standard deviations."""
    zoom: float
    """How much the scale of the ground varies, as a factor."""
    patience: int
    """Epochs without a better mean IoU after which training ends."""
    seed: int
    """Of everything random."""
    device: str
    """`auto`, `cpu`, `cuda` or `cuda:N`."""
    precision: Precision
    """`auto`, `fp32`, `bf16` or `fp16`."""
    loaders: int | None
    """Processes that cut patches; None: by the number of cores."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trained:
    """What came out."""

    accuracy: Accuracy | None
    """On the held-out blocks, at the best epoch."""
    best: int
    """The epoch that was kept."""
    rows: list[dict[str, Any]]
    """What was measured at each epoch."""


def train_network(
    module: nn.Module,
    card: Card,
    ground: Ground,
    index: Index,
    settings: NetworkSettings,
    folder: Path,
    *,
    progress: bool,
) -> Trained:
    """Train a network; what is left in it are the weights of the best epoch.

    Args:
        module: the network, trained in place.
        card: its card, with bands and scaling.
        ground: what to learn from.
        index: where the labelled pixels are that may be learned from.
        settings: how.
        folder: where checkpoints and curves go. Where it holds the checkpoint of an
            interrupted training, that goes on.
        progress: show a bar.
    """
    task = _Task(module, card, ground, index, settings)
    curves = _Curves(folder)
    last = folder / _LAST
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Lightning, on loaders and sanity checks
        trainer = _trainer(settings, folder, curves, ground, progress=progress)
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
    rows = curves.rows
    epoch = int(state["epoch"])
    counts = rows[epoch].get("confusion") if rows else None
    accuracy = None
    if counts is not None:
        names = [c.name for c in card.classes]
        accuracy = estimate(counts, names=names, estimator="census")
    return Trained(accuracy=accuracy, best=epoch, rows=rows)


def _trainer(
    settings: NetworkSettings,
    folder: Path,
    curves: Callback,
    ground: Ground,
    *,
    progress: bool,
) -> L.Trainer:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    device = choose_device(settings.device)
    precision = choose_precision(device, settings.precision)
    devices: Any = (
        "auto" if settings.device in ("auto", "cuda") else [device.index or 0]
    )
    callbacks: list[Callback] = [curves, *([EpochBar()] if progress else [])]
    if ground.split is not None:
        callbacks += [
            ModelCheckpoint(
                folder, "best", monitor="mean_iou", mode="max", save_top_k=1,
                enable_version_counter=False,
            ),
            EarlyStopping(
                "mean_iou", mode="max", patience=settings.patience,
                check_on_train_epoch_end=False,
            ),
        ]  # fmt: skip
    # At the very end of an epoch: what goes on from it begins the next one.
    callbacks.append(
        ModelCheckpoint(
            folder, "last", save_on_train_epoch_end=True, enable_version_counter=False
        )
    )
    return L.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=devices if device.type == "cuda" else 1,
        precision={"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}[
            precision
        ],
        max_epochs=settings.epochs,
        callbacks=callbacks,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # ours share among processes themselves
        deterministic=True if device.type == "cpu" else None,
        default_root_dir=folder,
        plugins=[_WholeFiles()],
    )


class _WholeFiles(TorchCheckpointIO):  # type: ignore[misc]
    """Checkpoints that are whole or not there, whenever the process is killed."""

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | Path,
        storage_options: Any = None,  # noqa: ANN401, ARG002 - Lightning's signature
    ) -> None:
        """Write beside the place, then put it there at once."""
        part = Path(path).with_suffix(".part")
        part.parent.mkdir(parents=True, exist_ok=True)
        torch.save(checkpoint, part)
        os.replace(part, path)  # noqa: PTH105 - atomic, and says so


class _Task(L.LightningModule):  # type: ignore[misc]
    """What Lightning trains."""

    def __init__(
        self,
        module: nn.Module,
        card: Card,
        ground: Ground,
        index: Index,
        settings: NetworkSettings,
    ) -> None:
        super().__init__()
        self.module = module.to(memory_format=torch.channels_last)
        self._card, self._ground, self._settings = card, ground, settings
        self._index = index
        self._loss = make_loss(settings.loss)
        k = len(card.classes)
        self.confusion: torch.Tensor
        self.register_buffer("confusion", torch.zeros(k, k, dtype=torch.long), False)

    def configure_optimizers(self) -> Any:  # noqa: ANN401 - Lightning's own type
        settings = self._settings
        optimizer = torch.optim.AdamW(
            self.parameters(), lr=settings.lr, weight_decay=settings.weight_decay
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=settings.lr,
            total_steps=int(self.trainer.estimated_stepping_batches),
        )
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def train_dataloader(self) -> Any:  # noqa: ANN401
        settings, ground = self._settings, self._ground
        patches = Patches(
            ground.scenes,
            ground.split,
            self._index,
            self._card,
            side=settings.patch,
            balance=settings.balance,
            zoom=settings.zoom,
            seed=settings.seed,
        )
        return self._loader(patches, Turn(settings.windows, endless=True))

    def val_dataloader(self) -> Any:  # noqa: ANN401
        ground = self._ground
        if ground.split is None:
            return []
        windows = ValidationWindows(
            ground.scenes,
            ground.split,
            self._card,
            side=self._settings.patch,
            most=_MOST_VALIDATION,
        )
        return self._loader(windows, Turn(len(windows), endless=False))

    def _loader(self, data: Any, turn: Turn) -> Any:  # noqa: ANN401
        on_gpu = choose_device(self._settings.device).type == "cuda"
        loaders = self._settings.loaders
        if loaders is None:
            # On a CPU the network needs all cores; in front of a GPU they are free.
            loaders = min(16, os.cpu_count() or 1) if on_gpu else 0
        return DataLoader(
            data,
            batch_size=self._settings.batch,
            sampler=turn,
            num_workers=loaders,
            drop_last=len(turn) >= self._settings.batch and isinstance(data, Patches),
            pin_memory=on_gpu,
            persistent_workers=loaders > 0,
        )

    def on_train_batch_start(self, *_: Any) -> None:  # noqa: ANN401
        # Dropout and brightness of a step do not depend on where the run was begun.
        step = self.global_step + 1_000_003 * self.global_rank
        torch.manual_seed(self._settings.seed * 2**32 + step)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        x = Scaling(self._card.bands, pixels.device)(pixels)
        return self._logits(x)

    def _logits(self, x: torch.Tensor) -> torch.Tensor:
        x = x.to(memory_format=torch.channels_last)
        logits = tensor_of(self.module(x))
        if logits.shape[-2:] != x.shape[-2:]:
            logits = nn.functional.interpolate(
                logits, size=x.shape[-2:], mode="bilinear", align_corners=False
            )
        return fit_channels(logits, self._card)

    def training_step(self, batch: Sequence[torch.Tensor], _: int) -> torch.Tensor:
        pixels, targets = batch
        x = Scaling(self._card.bands, pixels.device)(pixels)
        loss = self._loss(self._logits(self._lit(x)), targets)
        self.log("train_loss", loss, on_epoch=True, on_step=False, sync_dist=True)
        return loss

    def _lit(self, x: torch.Tensor) -> torch.Tensor:
        """Vary gain and offset of all bands together, and of each on its own."""
        strength = self._settings.brightness
        if not strength:
            return x
        n, bands = x.shape[:2]
        noise = torch.randn(4, n, bands, 1, 1).to(x.device)
        noise[:2] = noise[:2, :, :1]
        gain = torch.exp(strength * (0.7 * noise[0] + 0.4 * noise[2]))
        return x * gain + strength * (1.2 * noise[1] + 0.6 * noise[3])

    def on_validation_epoch_start(self) -> None:
        self.confusion.zero_()

    def validation_step(self, batch: Sequence[torch.Tensor], _: int) -> None:
        pixels, targets = batch
        logits = self(pixels)
        n = int((targets != IGNORED).sum())
        loss = self._loss(logits, targets)
        self.log("val_loss", loss, batch_size=max(n, 1), sync_dist=True)
        k = len(self._card.classes)
        known = targets != IGNORED
        pairs = logits.argmax(dim=1)[known] * k + targets[known].long()
        self.confusion += torch.bincount(pairs, minlength=k * k).reshape(k, k)

    def on_validation_epoch_end(self) -> None:
        total = self.trainer.strategy.reduce(self.confusion, reduce_op="sum")
        self.confusion.copy_(total)
        shown = total.double()
        both = shown.diagonal()
        either = shown.sum(0) + shown.sum(1) - both
        iou = both / either
        self.log("mean_iou", iou[either > 0].mean().float(), prog_bar=True)
        self.log("overall", (both.sum() / shown.sum()).float())


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

    def on_train_start(
        self,
        trainer: L.Trainer,  # noqa: ARG002 - Lightning's signature
        pl_module: L.LightningModule,
    ) -> None:
        del self.rows[pl_module.current_epoch :]

    def on_train_epoch_start(
        self,
        trainer: L.Trainer,  # noqa: ARG002 - Lightning's signature
        pl_module: L.LightningModule,  # noqa: ARG002
    ) -> None:
        self._started = perf_counter()

    def on_validation_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule
    ) -> None:
        assert isinstance(pl_module, _Task)
        self._row(trainer)["confusion"] = pl_module.confusion.cpu().tolist()

    def on_train_epoch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,  # noqa: ARG002 - Lightning's signature
    ) -> None:
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
