"""Blocks of an image that is being made, kept beside it: a rerun goes on with them.

They lie in a hidden folder beside the product, each compressed and with a checksum,
and are removed when the product is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoseg.core.files import replace
from geoseg.core.packed import pack_arrays, unpack
from geoseg.errors import DamagedPackError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from geoseg.core.grid import Window

_ENDING = ".blocks"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptBlocks:
    """The folder of one product; blocks of another question are never in it."""

    folder: Path

    @classmethod
    def beside(cls, product: Path, question: Mapping[str, Any]) -> KeptBlocks:
        """Return the blocks of a product that are there; those of others are removed.

        Args:
            product: What is made of them; its folder exists.
            question: All that their pixels depend on, JSON-able.
        """
        text = json.dumps(question, sort_keys=True, default=str)
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        mine = product.with_name(f".{product.name}.{digest}{_ENDING}")
        for other in list(product.parent.iterdir()):
            ours = other.name.startswith(f".{product.name}.")
            if ours and other.suffix == _ENDING and other != mine:
                shutil.rmtree(other, ignore_errors=True)
        mine.mkdir(exist_ok=True)
        return cls(folder=mine)

    def get(self, window: Window) -> NDArray[np.float32] | None:
        """Return the pixels (band, y, x) of a block; None where they are not whole."""
        with suppress(FileNotFoundError, DamagedPackError):
            return unpack(self._file(window).read_bytes())[0]["pixels"]
        return None

    def put(self, window: Window, pixels: NDArray[np.float32]) -> None:
        """Keep the pixels of a block."""
        file = self._file(window)
        part = file.with_name(f"{file.name}.{os.getpid()}")
        with suppress(FileNotFoundError):  # another run of the same has ended
            part.write_bytes(pack_arrays({"pixels": pixels}, {}))
            replace(part, file)

    def remove(self) -> None:
        """Remove them: the product is whole."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, window: Window) -> Path:
        return self.folder / f"{window.y}.{window.x}"
