"""What a run would find where its masks are to lie; nothing is written."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from geoseg.core.text import counted
from geoseg.inference.numerics import choose_numerics, keeping_to
from geoseg.inference.output_path import checked_out
from geoseg.maps.complete import block_counts
from geoseg.maps.create import resumable, settings_of
from geoseg.maps.store import open_masks

if TYPE_CHECKING:
    from geoseg.inference.planning import Plan


def store_preview(
    plan: Plan, out: str | os.PathLike[str], *, overwrite: bool = False
) -> str:
    """Return what would become of a store: begun, resumed, overwritten, or nothing.

    Args:
        plan: What would be run.
        out: The masks' Zarr store, a folder or URL.
        overwrite: Whether a store that is there is begun again.

    Raises:
        MasksError: The run would be refused: something else is there, or a store made
            by other settings.
    """
    path = checked_out(os.fspath(out), plan.source)
    begun = settings_of(path)
    if begun is not None and not overwrite:
        plan = _keeping_to(plan, begun)
    found = resumable(
        path, settings=plan.settings, grid=plan.source.grid, overwrite=overwrite
    )
    if found is None:
        return "a new store" if begun is None else "would be deleted and begun again"
    if found["complete"]:
        return "complete already, nothing is left to do"
    if not found.get("created"):
        return "resumed, no block is done"
    done, total = block_counts(open_masks(path))
    return f"resumed, {done:,} of {counted(total, 'block')} done"


def _keeping_to(plan: Plan, begun: dict[str, object]) -> Plan:
    """Return a plan that computes as its store was begun, where that is left open."""
    if "precision" not in begun:
        return plan
    choice = choose_numerics(
        plan.model, plan.tiling.windows, engine=plan.engine, site=plan.site, begun=begun
    )
    model = keeping_to(plan.model, choice.numerics)
    return replace(plan, model=model, numerics=choice.numerics)
