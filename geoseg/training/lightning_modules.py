"""What Lightning trains: networks that tell classes apart, or that find objects."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import lightning as L  # noqa: N812 - as its documentation calls it
import torch
from torch import nn
from torch.utils.data import DataLoader

from geoseg.execution.resources import cores
from geoseg.models.networks.answers import fit_channels, tensor_of
from geoseg.models.networks.device import measured_device
from geoseg.models.networks.scaling import Scaling
from geoseg.training.architectures import has_own_loss
from geoseg.training.losses import make_loss
from geoseg.training.objects import (
    WindowComparison,
    compare_window,
    objects_of,
    own_loss,
    score_windows,
    scores_of,
    split_objects,
)
from geoseg.training.patches import (
    EpochSampler,
    Index,
    Patches,
    ValidationWindows,
    process_of,
)
from geoseg.training.scenes import IGNORED, UNKNOWN

if TYPE_CHECKING:
    from geoseg.models.card import Card
    from geoseg.training.data import TrainingData
    from geoseg.training.options import TrainOptions

_MOST_VALIDATION = 1024
_AHEAD = 4  # batches that each loader has ready, for when one takes longer


class TrainedNetwork(L.LightningModule):  # type: ignore[misc]
    """What all networks have in common: steps, patches, brightness."""

    monitor: ClassVar[str]
    """The figure by which the best epoch is chosen; the higher, the better."""

    def __init__(
        self,
        module: nn.Module,
        card: Card,
        data: TrainingData,
        index: Index,
        options: TrainOptions,
    ) -> None:
        super().__init__()
        self.module = module.to(memory_format=torch.channels_last)
        self._card, self._data, self._options = card, data, options
        self._index = index
        self.begin()

    def begin(self) -> None:
        """Make what a kind of network has beside the others."""
        raise NotImplementedError

    @property
    def is_validated(self) -> bool:
        """Whether anything is held out."""
        return self._data.split is not None

    def loss(self, x: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return what is to become small, of scaled pixels (n, band, y, x)."""
        raise NotImplementedError

    def figures(self) -> dict[str, Any]:
        """Return what the last validation found, beyond what was logged."""
        raise NotImplementedError

    def setup(self, stage: str) -> None:  # noqa: ARG002 - Lightning's signature
        """Keep Lightning as quiet in each of several processes as it is in one."""
        if self._processes > 1:
            logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
            warnings.simplefilter("ignore")

    def configure_optimizers(self) -> Any:  # noqa: ANN401 - Lightning's own type
        """AdamW, and one cycle of the learning rate."""
        options = self._options
        optimizer = torch.optim.AdamW(
            self.parameters(), lr=options.lr, weight_decay=options.weight_decay
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=options.lr,
            total_steps=int(self.trainer.estimated_stepping_batches),
        )
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def train_dataloader(self) -> Any:  # noqa: ANN401
        """Patches to learn from."""
        options, data = self._options, self._data
        patches = Patches(data, self._index, self._card, options)
        assert options.windows is not None
        return self._loader(patches, EpochSampler(options.windows, endless=True))

    def val_dataloader(self) -> Any:  # noqa: ANN401
        """Windows on what is held out."""
        data, side = self._data, self._options.patch
        if data.split is None:
            return []
        windows = ValidationWindows(
            data.scenes, data.split, self._card, side=side, most=_MOST_VALIDATION
        )
        return self._loader(windows, EpochSampler(len(windows), endless=False))

    def _loader(self, data: Any, sampler: EpochSampler) -> Any:  # noqa: ANN401
        on_gpu = measured_device(self._options.device, "training").type == "cuda"
        loaders = self._options.loaders
        if loaders is None:
            # On a CPU the network needs all cores; in front of GPUs they are free, and
            # the processes share them.
            loaders = max(1, min(16, cores() // self._processes)) if on_gpu else 0
        return DataLoader(
            data,
            batch_size=self._options.batch,
            sampler=sampler,
            num_workers=loaders,
            drop_last=len(sampler) >= self._options.batch and isinstance(data, Patches),
            pin_memory=on_gpu,
            persistent_workers=loaders > 0,
            prefetch_factor=_AHEAD if loaders else None,
        )

    @property
    def _processes(self) -> int:
        """How many train together."""
        return int(self.trainer.world_size)

    def on_train_batch_start(self, *_: Any) -> None:  # noqa: ANN401
        """Make what is random in a step its own."""
        # Dropout and brightness of a step do not depend on where the run was begun.
        step = self.global_step + 1_000_003 * self.global_rank
        torch.manual_seed(self._options.seed * 2**32 + step)

    def _scaled(self, pixels: torch.Tensor) -> torch.Tensor:
        return Scaling(self._card.bands, pixels.device)(pixels)

    def training_step(self, batch: Sequence[torch.Tensor], _: int) -> torch.Tensor:
        """Return the loss of a batch."""
        pixels, targets = batch
        loss = self.loss(self._lit(self._scaled(pixels)), targets)
        self.log("train_loss", loss, on_epoch=True, on_step=False, sync_dist=True)
        return loss

    def _lit(self, x: torch.Tensor) -> torch.Tensor:
        """Vary gain and offset of all bands together, and of each on its own."""
        strength = self._options.brightness
        if not strength:
            return x
        n, bands = x.shape[:2]
        noise = torch.randn(4, n, bands, 1, 1).to(x.device)
        noise[:2] = noise[:2, :, :1]
        gain = torch.exp(strength * (0.7 * noise[0] + 0.4 * noise[2]))
        return x * gain + strength * (1.2 * noise[1] + 0.6 * noise[3])


class ClassNetwork(TrainedNetwork):
    """To tell classes apart, pixel by pixel."""

    monitor = "mean_iou"

    def begin(self) -> None:
        """Make the loss, and room for the confusion matrix and its interval."""
        self._loss = make_loss(self._options.loss)
        self._own_loss = has_own_loss(self._card)
        k = len(self._card.classes)
        self.confusion: torch.Tensor
        self.register_buffer("confusion", torch.zeros(k, k, dtype=torch.long), False)
        self.moments: torch.Tensor
        self.register_buffer("moments", torch.zeros(3, 3, dtype=torch.long), False)

    def loss(self, x: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return what is to become small."""
        if not self._own_loss:
            return self._loss(self._scores(x), targets)
        # Classes are the objects of networks with queries, one mask for each.
        unknown = targets == IGNORED
        numbers = targets.int().add(1).masked_fill(unknown, UNKNOWN)
        places = torch.arange(len(self._card.classes), device=x.device)
        return loss_of_objects(self.module, x, numbers, places)

    def _scores(self, x: torch.Tensor) -> torch.Tensor:
        x = x.to(memory_format=torch.channels_last)
        if self._own_loss:
            return scores_of(self.module, x)
        logits = tensor_of(self.module(x), self._card)
        if logits.shape[-2:] != x.shape[-2:]:
            logits = nn.functional.interpolate(
                logits, size=x.shape[-2:], mode="bilinear", align_corners=False
            )
        return fit_channels(logits, self._card)

    def on_validation_epoch_start(self) -> None:
        """Forget what the last validation saw."""
        self.confusion.zero_()
        self.moments.zero_()

    def validation_step(self, batch: Sequence[torch.Tensor], _: int) -> None:
        """Compare a batch with what is there."""
        pixels, targets = batch
        scores = self._scores(self._scaled(pixels))
        known = targets != IGNORED
        if not self._own_loss:
            loss, n = self._loss(scores, targets), int(known.sum())
            self.log("val_loss", loss, batch_size=max(n, 1), sync_dist=True)
        k = len(self._card.classes)
        answers = scores.argmax(dim=1)
        pairs = answers[known] * k + targets[known].long()
        self.confusion += torch.bincount(pairs, minlength=k * k).reshape(k, k)
        right = (known & (answers == targets)).sum(dim=(1, 2))
        of_patch = torch.stack([torch.ones_like(right), right, known.sum(dim=(1, 2))])
        of_patch = of_patch[:, of_patch[2] > 0]
        self.moments += (of_patch[:, None] * of_patch[None]).sum(dim=2)

    def on_validation_epoch_end(self) -> None:
        """Bring together what all batches, in all processes, saw."""
        total = self.trainer.strategy.reduce(self.confusion, reduce_op="sum")
        self.confusion.copy_(total)
        self.moments.copy_(self.trainer.strategy.reduce(self.moments, reduce_op="sum"))
        shown = total.double()
        both = shown.diagonal()
        either = shown.sum(0) + shown.sum(1) - both
        iou = both / either
        self.log("mean_iou", iou[either > 0].mean().float(), prog_bar=True)
        self.log("overall", (both.sum() / shown.sum()).float())

    def figures(self) -> dict[str, Any]:
        """Return the confusion matrix, and what its interval comes of."""
        return {
            "confusion": self.confusion.cpu().tolist(),
            "moments": self.moments.cpu().tolist(),
        }


class ObjectNetwork(TrainedNetwork):
    """To find objects."""

    monitor = "ap50"

    def begin(self) -> None:
        """Remember the objects' classes."""
        assert self._data.objects is not None
        self.places: torch.Tensor
        self.register_buffer("places", torch.from_numpy(self._data.objects), False)
        self._seen: list[WindowComparison] = []
        self._figures: dict[str, Any] = {}

    def loss(self, x: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return what is to become small."""
        return loss_of_objects(self.module, x, targets, self.places)

    def on_validation_epoch_start(self) -> None:
        """Forget what the last validation saw."""
        self._seen = []

    def validation_step(self, batch: Sequence[torch.Tensor], _: int) -> None:
        """Compare a batch with what is there."""
        pixels, targets = batch
        for window, numbers in zip(self._scaled(pixels), targets, strict=True):
            found = objects_of(self.module, window[None])
            self._seen.append(compare_window(found, numbers, self.places))

    def on_validation_epoch_end(self) -> None:
        """Bring together what all batches, in all processes, saw."""
        scores = score_windows(_of_all_processes(self._seen), self._card)
        self._figures = scores.to_dict()
        for name, figure in (("ap50", "ap50"), ("pq", "pq"), ("f1", "f1_50")):
            self.log(name, float(self._figures[figure] or 0.0))

    def figures(self) -> dict[str, Any]:
        """Return all figures of objects."""
        return {"objects": self._figures}


def loss_of_objects(
    module: nn.Module, x: torch.Tensor, numbers: torch.Tensor, places: torch.Tensor
) -> torch.Tensor:
    """Return the network's own loss, which cannot leave pixels out.

    So what is unknown, or held out, is covered as nodata is, and nothing is there.
    """
    covered = x.masked_fill((numbers == UNKNOWN)[:, None], 0.0)
    return own_loss(module, covered, [split_objects(n, places) for n in numbers])


def _of_all_processes(seen: list[WindowComparison]) -> list[WindowComparison]:
    _, count = process_of()
    if count == 1:
        return seen
    gathered: list[Any] = [None] * count
    torch.distributed.all_gather_object(gathered, seen)
    return [window for windows in gathered for window in windows]
