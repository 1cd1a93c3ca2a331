"""Masks of scenes by what a model sees: what sources with time ask, without models.

`geoseg/__init__` fills the hook; `inference/scene_masks.py`, which it leads to, is
imported when the first mask of this kind is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from geoseg.core.grid import Window

PREFIX: Final = "model:"
"""What makes a mask's name that of a model, as in `model:models/clouds:cloud,shadow`"""


class SceneMasker(Protocol):
    """Says which pixels of a scene are masked; a value that travels."""

    @property
    def wants(self) -> tuple[str, ...]:
        """Names of the bands that it looks at."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """JSON-able facts that change when its answers may have."""

    def working_bytes(self, side: int) -> float:
        """Return how many bytes it takes to look at a square, beside the answer."""

    def masked(self, scene: Any, window: Window) -> NDArray[np.bool_]:  # noqa: ANN401
        """Return which pixels (y, x) of a window are masked.

        Args:
            scene: A source of what one scene shows in its bands, on the series' grid.
            window: Inside the grid; no pixel depends on it.
        """


_filled: list[Callable[[str], SceneMasker]] = []


def register_maskers(make: Callable[[str], SceneMasker]) -> None:
    """Say what makes a masker of its name."""
    _filled[:] = [make]


def masker_of(name: str) -> SceneMasker:
    """Return what a mask's name stands for; see `PREFIX`."""
    return _filled[0](name)
