"""How many windows a device is given at once: measured once, and remembered.

Small batches leave a GPU idle, large ones only take memory and wait to be filled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from geoseg.core import user_cache
from geoseg.models.networks.device import is_out_of_memory
from geoseg.models.networks.gpus import name_of, streams_of

if TYPE_CHECKING:
    from geoseg.models.card import Card

_MOST_PIXELS = 1 << 24  # 64 windows of 512 x 512
_MOST_WINDOWS = 1 << 10
_CLOSE = 1.03  # a batch half as large that is at most this much slower is preferred
_PASSES = 3
_UNTIMED = 4


def quickest_batch(
    trial: Callable[[int], None],
    card: Card,
    device: torch.device,
    most: float,
    network: str,
) -> int:
    """Return the smallest power of two of windows that is about as fast as any.

    Args:
        trial: Asks the device to pass so many windows.
        card: Says how large windows are.
        device: Where; CPUs and Apple's GPUs are not measured.
        most: Bytes of the device that a pass may take.
        network: What the network is, so that its figure is found again.
    """
    if streams_of(device.type) is None:
        return _UNTIMED
    facts = [network, name_of(device), torch.__version__, card.window, len(card.bands)]
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
    found = _remembered(key)
    if found is None:
        found = _measured(trial, card.window, device, most)
        user_cache.remember("batches", key, str(found))
    return found


def _measured(
    trial: Callable[[int], None], side: int, device: torch.device, most: float
) -> int:
    """Time powers of two, as long as they fit and still help."""
    module = streams_of(device.type)
    best, rate, batch = 1, 0.0, 1
    while batch * side**2 <= _MOST_PIXELS and batch <= _MOST_WINDOWS:
        try:
            module.reset_peak_memory_stats(device)
            before = module.memory_allocated(device)
            trial(batch)
            module.synchronize(device)
            peak = module.max_memory_allocated(device) - before
            now = _rate(trial, batch, module)
        except RuntimeError as error:
            if is_out_of_memory(error):
                break
            raise
        if now > _CLOSE * rate:
            best, rate = batch, now
        if 2 * peak > most:
            break
        batch *= 2
    module.empty_cache()
    return best


def _rate(trial: Callable[[int], None], batch: int, module: Any) -> float:  # noqa: ANN401
    """Return windows per millisecond, by events of torch's module for the device."""
    begin, end = (module.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(_PASSES):
        trial(batch)
    end.record()
    end.synchronize()
    return _PASSES * batch / float(begin.elapsed_time(end))


def _remembered(key: str) -> int | None:
    try:
        return int(user_cache.remembered("batches", key) or "")
    except ValueError:
        return None
