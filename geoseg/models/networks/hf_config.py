"""What the JSON files of a folder of transformers may name: nothing outside of it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from geoseg.errors import ModelError
from geoseg.models.plain import read_json

if TYPE_CHECKING:
    from pathlib import Path

PICKLED = "pytorch_model*.bin"
"""Weights as transformers wrote them by default until the end of 2023."""
_BACKBONE = frozenset({"out_indices", "out_features", "num_channels", "features_only"})
"""What a configuration may hand to a backbone of timm."""
_FETCHING = ("use_pretrained_backbone", "auto_map", "quantization_config")
_NAMES = ("backbone", "attn_implementation", "_attn_implementation", "experts")
"""What may be a name, but neither a path nor a repository."""


def read_config(path: Path) -> dict[str, Any]:
    """Return what a folder's `config.json` holds.

    Raises:
        ModelError: It has the library fetch, read or run something else.
    """
    config = read_json(path / "config.json")
    beside = [name for name in ("adapter_config.json",) if (path / name).exists()]
    for part in _mappings(config):
        arguments = part.get("backbone_kwargs") or {}
        beside += [k for k in arguments if k not in _BACKBONE]
        beside += [k for k in _FETCHING if part.get(k)]
        texts = [k for k in _NAMES if re.search(r"[/\\:]", str(part.get(k) or ""))]
        beside += [
            k for k in texts if k != "backbone" or not part.get("backbone_config")
        ]
    if beside:
        raise ModelError(
            f"{path / 'config.json'} has {beside[0]!r}, which makes transformers read "
            "or fetch something else: save the whole model with save_pretrained"
        )
    return config


def _mappings(value: Any) -> Iterator[Mapping[str, Any]]:  # noqa: ANN401 - of JSON
    """Yield the tables of a configuration, those in other ones too."""
    if isinstance(value, Mapping):
        yield value
    if isinstance(value, Mapping | list):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _mappings(each)


def weights_files(path: Path) -> list[Path]:
    """Return a folder's files of weights: safetensors, or what torch.save wrote."""
    return sorted(path.glob("*.safetensors")) or sorted(path.glob(PICKLED))


def check_shards(path: Path) -> None:
    """Raise where a list of the parts of weights names files elsewhere.

    Raises:
        ModelError: It does.
    """
    weights = weights_files(path)
    beside = [file.name for file in weights]
    for file in path.glob(f"*{weights[0].suffix}.index.json") if weights else ():
        parts = read_json(file).get("weight_map")
        for name in parts.values() if isinstance(parts, Mapping) else ():
            if name not in beside:
                raise ModelError(
                    f"{file} names {str(name)[:80]!r} as a part of the weights, which "
                    "does not lie beside it"
                )
