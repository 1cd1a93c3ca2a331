"""OlmoEarth with a decoder: from months of Sentinel-2, Sentinel-1, Landsat to classes.

The encoder is that of the package `olmoearth-pretrain-minimal`, the decoder its
`UNetDecoder`, fed with the mean of the tokens over dates and groups of bands, as its
authors do it (https://github.com/allenai/rslearn, `models/olmoearth_pretrain`). A card
names the modalities as OlmoEarth does, each with its bands in OlmoEarth's order (where
two share a name as `landsat:B8`):

    "framework": {"family": "olmoearth", "version": "v1.2", "size": "nano", "patch": 4}
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from geoseg.core.extras import require
from geoseg.errors import ModelError, first_line
from geoseg.models.networks.torch_adapter import TorchModel
from geoseg.models.networks.weights import (
    fill_weights,
    load_safetensors,
    save_network,
)

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from geoseg.models.card import Card
    from geoseg.models.contract import Model
    from geoseg.models.folder import ModelFolder
    from geoseg.models.networks.device import ModelOptions

_ENCODED: Final = ("sentinel2_l2a", "sentinel1", "landsat")
"""What the published encoders have learned to read."""
_PACKAGE: Final = "olmoearth_pretrain_minimal"
_MISSING: Final = 3
"""What its mask says of tokens that nothing shows, of others 0."""
_MONTHS: Final = (0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334)
"""Days of a year before each month; one more after February of a leap year."""


def load_folder(folder: ModelFolder, options: ModelOptions) -> Model:
    """Load the network of a model folder."""
    network = build(folder.card)
    fill_weights(network, load_safetensors(folder.weights_file), folder.card)
    return TorchModel(network, folder.card, options)


def save_model(module: nn.Module, card: Card, folder: Path) -> Path:
    """Write a network that `build` made, and its card, as a model folder."""
    return save_network(module, card, folder, build)


def build(card: Card) -> OlmoEarth:
    """Return the network that a card describes, with weights that mean nothing yet.

    Raises:
        ModelError: The card does not describe one.
        MissingExtraError: The package is not installed.
    """
    package = require(_PACKAGE, what="OlmoEarth", extra="olmoearth")
    _check(card)
    told = card.framework
    patch = told.get("patch", 4)
    try:
        whole = package.OlmoEarthPretrain_v1(
            str(told.get("size", "nano")), str(told.get("version", "v1.2"))
        )
        encoder = whole.model.encoder
        encoder.restrict_input_modalities(list(card.modalities))
        decoder = package.UNetDecoder(encoder.embedding_size, card.channels, patch)
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"OlmoEarth cannot be built for {card.name!r}: {first_line(error)}"
        ) from error
    return OlmoEarth(encoder, decoder, patch, round(card.resolution or 10))


def _check(card: Card) -> None:
    """Raise where a card's input is not what OlmoEarth reads."""
    modality = _part("constants").Modality
    patch = card.framework.get("patch", 4)
    known = f"OlmoEarth knows {', '.join(_ENCODED)}"
    for name, bands in card.modalities.items():
        if name not in _ENCODED:
            raise ModelError(f"modality {name!r} of {card.name!r}: {known}")
        order = list(modality.get(name).band_order)
        if [band.removeprefix(f"{name}:") for band in bands] != order:
            raise ModelError(
                f"bands of {name} of {card.name!r} are {', '.join(bands)}: OlmoEarth "
                f"reads {', '.join(order)}, in this order"
            )
    if not card.modalities:
        raise ModelError(f'{card.name!r} names no "modalities": {known}')
    if card.layout != "tcyx" or card.inputs != ("dates",):
        raise ModelError(
            f'OlmoEarth takes "layout": "tcyx" and "inputs": ["dates"]; '
            f"{card.name!r} has {card.layout!r} and {list(card.inputs)}"
        )
    if not isinstance(patch, int) or patch not in (1, 2, 4, 8) or card.window % patch:
        raise ModelError(
            f"patch {patch!r} of {card.name!r} is 1, 2, 4 or 8 px, and divides the "
            f"window of {card.window} px"
        )


def _part(name: str) -> ModuleType:
    return require(
        f"{_PACKAGE}.olmoearth_pretrain_v1.utils.{name}",
        what="OlmoEarth",
        extra="olmoearth",
    )


class OlmoEarth(nn.Module):
    """An encoder of OlmoEarth, and a decoder of its tokens."""

    def __init__(
        self, encoder: nn.Module, decoder: nn.Module, patch: int, resolution: int
    ) -> None:
        """Put them together.

        Args:
            encoder: Takes a sample of OlmoEarth's.
            decoder: Takes (n, y, x, feature) of patches; answers (n, class, y, x).
            patch: Side of a patch, in pixels.
            resolution: Metres per pixel.
        """
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.patch, self.resolution = patch, resolution
        self._sample = _part("datatypes").MaskedOlmoEarthSample

    def forward(
        self, pixels: dict[str, torch.Tensor], dates: torch.Tensor
    ) -> torch.Tensor:
        """Return scores (n, class, y, x).

        Args:
            pixels: Of each modality (n, step, band, y, x), scaled.
            dates: (n, step, 2) year and day of the year.
        """
        seen = {k: v.permute(0, 3, 4, 1, 2).contiguous() for k, v in pixels.items()}
        when = timestamps(dates)
        missing = {name: self._missing(name, data) for name, data in seen.items()}
        gone = torch.cat([m.flatten(1) for m in missing.values()], 1)
        # A blank window is one of which its size alone matters.
        some = gone.any(1) & ~gone.all(1)
        if isinstance(some, FakeTensor) or not some.any():
            return self._scores(seen, when, None)
        # Of tokens that are missing each window has its own number, so it goes alone,
        # while the others' batch keeps its shape: whoever is beside changes nothing.
        scores = when if some.all() else self._scores(seen, when, None)
        rows = [
            self._scores(_row(seen, i), when[i : i + 1], _row(missing, i))[0]
            if alone
            else scores[i]
            for i, alone in enumerate(some.tolist())
        ]
        return torch.stack(rows)

    def _missing(self, name: str, data: torch.Tensor) -> torch.Tensor:
        """Return which tokens of a modality nothing shows.

        Their pixels have the card's fill, which scaled is 0, in all bands of a group.

        Args:
            name: Of the modality.
            data: (n, y, x, step, band).

        Returns:
            (n, y, x, step, group) bool, in patches that are missing or not.
        """
        side, groups = self.patch, self._groups(name)
        n, height, width, steps, bands = data.shape
        pixels = (data != 0).view(
            n, height // side, side, width // side, side, steps, bands
        )
        shown = pixels.any(4).any(2)  # (n, y, x, step, band) of patches
        empty = torch.stack([~shown[..., g].any(-1) for g in groups], -1)
        return empty.repeat_interleave(side, 1).repeat_interleave(side, 2)

    def _groups(self, name: str) -> list[list[int]]:
        """Return which bands of a modality share a token."""
        told: Any = self.encoder.patch_embeddings
        groups: list[list[int]] = told.tokenization_config.get_bandset_indices(name)
        return groups

    def _scores(
        self,
        seen: dict[str, torch.Tensor],
        when: torch.Tensor,
        missing: dict[str, torch.Tensor] | None,
    ) -> torch.Tensor:
        """Return scores of windows, of one alone where something is missing."""
        fields: dict[str, Any] = {"timestamps": when, **seen}
        for name, data in seen.items():
            shape = (*data.shape[:-1], len(self._groups(name)))
            fields[f"{name}_mask"] = (
                data.new_zeros(shape) if missing is None else missing[name] * _MISSING
            )
        found = self.encoder(
            self._sample(**fields),
            patch_size=self.patch,
            input_res=self.resolution,
            fast_pass=missing is None,
        )["tokens_and_masks"]
        tokens = [
            _mean(getattr(found, name), getattr(found, f"{name}_mask")) for name in seen
        ]
        scores: torch.Tensor = self.decoder(torch.stack(tokens).mean(0))
        return scores


def _row(of: dict[str, torch.Tensor], number: int) -> dict[str, torch.Tensor]:
    """Return one window of a batch of several kinds of data."""
    return {name: data[number : number + 1] for name, data in of.items()}


def _mean(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean (n, y, x, feature) of tokens that are not missing, else 0."""
    there = (mask == 0)[..., None]
    return (tokens * there).sum((3, 4)) / there.sum((3, 4)).clamp(min=1)


def timestamps(dates: torch.Tensor) -> torch.Tensor:
    """Return dates as OlmoEarth has them: day, month from 0, year, as whole numbers.

    Args:
        dates: (n, step, 2) year and day of the year, 1 … 366.
    """
    year, day = dates.long().unbind(-1)
    leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    before = torch.tensor(_MONTHS, device=dates.device).expand(*year.shape, 12)
    later = torch.arange(12, device=dates.device) >= 2
    before = before + (leap[..., None] & later)
    month = (day[..., None] > before).sum(-1) - 1
    first = before.gather(-1, month[..., None])[..., 0]
    return torch.stack([day - first, month, year], dim=-1)
