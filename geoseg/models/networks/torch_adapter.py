"""Any torch network as a model: scaling, device, dtype, batches."""

from __future__ import annotations

import copy
from functools import cached_property
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from geoseg.errors import ModelError, first_line
from geoseg.models.contract import AnyModel
from geoseg.models.layout import is_shaped
from geoseg.models.networks.answers import (
    checked_labels,
    fit_channels,
    tensor_of,
    to_pixels,
)
from geoseg.models.networks.batch_size import quickest_batch
from geoseg.models.networks.device import (
    SIDE_BY_SIDE,
    ModelOptions,
    Precision,
    choose_device,
    choose_engine,
    choose_precision,
    free_memory,
    is_out_of_memory,
    measured_device,
    steady_kernels,
    torch_dtype,
)
from geoseg.models.networks.footprint import forward_bytes, weight_bytes
from geoseg.models.networks.gpus import forget
from geoseg.models.networks.scaling import Scaling, to_device
from geoseg.models.networks.shaping import Shaped
from geoseg.models.networks.single_threads import SingleThreads, forward_threads
from geoseg.models.networks.speedup.full_layers import first_in_full, last_in_full
from geoseg.models.networks.speedup.fuse import fused

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from geoseg.core.grid import Window
    from geoseg.models.card import Card
    from geoseg.models.context import Context

_OPENVINO_WEIGHTS = 3
"""Copies: torch's, those of OpenVINO's graph, and as its kernels want them."""
_COMPARED = 256
"""Side of a window that shows whether two networks are one, in pixels: two passes of
more would be most of the time that a small raster waits."""
_HEAP = 64 << 20  # what a thread's heap keeps of freed tensors, in bytes


class TorchModel(AnyModel):
    """A card and any `nn.Module`, as geoseg's models are.

    Windows travel to the device in the raster's own dtype, are scaled there band by
    band, and pass through the network channels-last without gradients: on a GPU as a
    batch of fixed shape, on a CPU side by side, one thread each. So the answer for a
    window depends neither on its company nor on the number of cores. A batch that does
    not fit in memory is halved, and stays halved. Batches that lie on the device
    already go through `scores`.

    Attributes:
        card: What the network expects and answers.
        batch: Windows in work at once at present.
        abreast: Those that threads ask about one by one; 1 where they pass as a batch.
        device: Where it runs, such as `cpu` or `cuda:N`.
        precision: `fp32`, `bf16` or `fp16`.
        engine: `threads`, `torch`, `compile` or `openvino`.
        streams: Whether its windows are cut on the device.
        single: Whether the network has one channel for two classes, once it has passed.
    """

    single = False

    def __init__(
        self, module: nn.Module, card: Card, options: ModelOptions | None = None
    ) -> None:
        """Move the network to its device and dtype.

        Args:
            module: Takes (n, band, y, x) floats, or what the card's layout, modalities
                and inputs say; answers (n, class, y, x) scores,
                (n, y, x) labels, or either wrapped as torchvision (`["out"]`) and
                transformers (`.logits`) do it, at full size or at a stride.
            card: Its card.
            options: Device, precision, batch.
        """
        options = options or ModelOptions()
        self.card = card
        scores = card.task == "semantic" and card.output != "labels"
        self._device = (
            choose_device(options.device)
            if scores and not card.inputs
            else measured_device(options.device, f"{card.name!r}")
        )
        self.device = str(self._device)
        wanted = options.precision
        if wanted == "auto":  # of bf16's digits a year takes too many
            own: Precision = "fp32" if card.inputs else "auto"
            wanted = getattr(module, "own_precision", own)
        self.precision = choose_precision(self._device, wanted)
        self.engine = choose_engine(self._device, options.engine)
        self.placed = "location" in card.inputs
        side_by_side = self.engine in SIDE_BY_SIDE
        self.streams = not side_by_side and not self.placed
        self._context: Context | None = None
        self.records = not getattr(module, "own_runtime", False)
        self._dtype = torch_dtype(self.precision)
        # A network that scales its input itself may want all of its digits.
        self._input: torch.dtype = getattr(module, "input_dtype", self._dtype)
        self._answers: tuple[Sequence[int], Sequence[int]] = (1, 1), (1, 1)
        self._layout = torch.channels_last
        self._threads = SingleThreads(forward_threads()) if side_by_side else None
        make = self._openvino if self.engine == "openvino" else self._as_is
        # Threads of torch's own wait for each other at each of the small passes.
        self._module = (
            make(module)
            if self._threads is None
            else self._threads.map(make, [module])[0]
        )
        if isinstance(self._module, Shaped):
            self._module.tell(None, self._device)  # for trials with blank windows
        self._scaling = Scaling(card.bands, self._device)
        if options.batch is not None:
            self.batch = options.batch
        elif self._threads is not None:
            self.batch = self._threads.count
        else:
            most = free_memory(self._device, options.device_memory) / 2
            network = f"{module}{self.precision}"
            self.batch = quickest_batch(self._trial, card, self._device, most, network)
        if self._threads is not None:
            self.abreast = min(self.batch, self._threads.count)

    def with_context(self, context: Context) -> Self:
        """Return the model, which knows what the raster tells from now on."""
        self._context = context
        if isinstance(self._module, Shaped):
            self._module.tell(context, self._device)
        return self

    def _as_is(self, module: nn.Module) -> nn.Module:
        """Return the network as torch runs it, rewritten where that is quicker."""
        card = self.card
        on_cpu, in_shape = self.device == "cpu", is_shaped(card)
        quick: nn.Module = (
            Shaped(module.eval(), card)
            if in_shape
            else fused(module.eval(), len(card.bands), _compared(card), on_cpu=on_cpu)
        )
        rounds = not in_shape and self._rounds(module, quick)
        exact = copy.deepcopy(quick) if rounds else None
        prepared = _prepare(quick, self._device, self._dtype)
        if exact is not None:
            shape = (1, len(card.bands), card.window, card.window)
            self._input = first_in_full(prepared, exact, shape)
            last_in_full(prepared, exact, shape, self._input)
        self._measured = prepared
        return prepared

    def _openvino(self, module: nn.Module) -> nn.Module:
        """Return the network as OpenVINO runs it, which takes and gives fp32."""
        from geoseg.models.engines.openvino_cpu import OpenVinoNetwork

        if is_shaped(self.card) or self.card.inputs or not self.records:
            raise ModelError(
                f"--engine openvino runs networks that see bands alone, in torch; "
                f"{self.card.name!r} is not one: leave --engine out"
            )
        assert self._threads is not None, "it takes windows side by side"
        card, self._input = self.card, torch.float32
        self._layout = torch.contiguous_format
        bands, side = len(card.bands), card.window
        quick = fused(module.eval(), bands, _compared(card), on_cpu=True)
        self._measured = quick.requires_grad_(requires_grad=False)
        return OpenVinoNetwork(
            _OneTensor(quick, card),
            (1, bands, side, side),
            precision=self.precision,
            threads=self._threads.count,
        )

    def predict(self, pixels: NDArray[np.generic]) -> torch.Tensor:
        """Return (n, class, y, x) scores, or (n, y, x) labels, on the device."""
        if self.placed or (self._context is None and self.card.inputs):
            raise ModelError(
                f"{self.card.name!r} asks for {', '.join(self.card.inputs)} beside the "
                "pixels: give them with with_context, and places with predict_at"
            )
        return self._predict(pixels)

    def predict_at(
        self,
        pixels: NDArray[np.generic],
        windows: Sequence[Window],
        valid: NDArray[np.bool_],  # noqa: ARG002 - nodata has the card's fill
    ) -> torch.Tensor:
        """Return what `predict` does, of a network that is told where windows lie."""
        if not self.placed or self._context is None:
            return self.predict(pixels)
        places = torch.from_numpy(self._context.locations(windows))
        return self._predict(pixels, places.to(self._device))

    def _predict(
        self, pixels: NDArray[np.generic], places: torch.Tensor | None = None
    ) -> torch.Tensor:
        parts: list[torch.Tensor] = []
        done = 0
        while done < len(pixels):
            part = pixels[done : done + self.batch]
            where = None if places is None else places[done : done + self.batch]
            answer = self._try(part, where)
            if answer is None:
                self._halve(part)
                continue
            parts.append(answer)
            done += len(part)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _rounds(self, module: nn.Module, quick: nn.Module) -> bool:
        """Whether a CPU rounds input and scores of a library's network to bf16."""
        rounds = self.device == "cpu" and self._input == torch.bfloat16
        return rounds and quick is not module

    def working_bytes(self) -> int:
        """Return how much memory weights and forward passes of one batch take."""
        weights, passing, pixels = self._footprint
        weights *= _OPENVINO_WEIGHTS if self.engine == "openvino" else 1
        return weights + self.batch * (passing + pixels)

    @cached_property
    def _footprint(self) -> tuple[int, int, int]:
        """Bytes of the weights; and per window: of the pass, of pixels and scores."""
        card, side = self.card, self.card.window
        scalars = side**2 * (4 * len(card.bands) + 8 * card.channels)
        shape = (1, len(card.bands), side, side)
        network = self._measured

        def forward(x: torch.Tensor) -> torch.Tensor:
            return self._in_pixels(network(x), side, side)

        try:
            passing = forward_bytes(network, forward, shape, self._input)
        except (RuntimeError, TypeError, ValueError, AssertionError):
            # It looks at values, which the estimate has none of: a generous guess,
            # after a pass that says now what it does not take.
            self._predict(np.zeros(shape, np.uint8))
            passing = 4 * 512 * side**2
        if self._threads is not None:
            passing += _HEAP
        return weight_bytes(network), passing, scalars

    def _try(
        self, pixels: NDArray[np.generic], places: torch.Tensor | None
    ) -> torch.Tensor | None:
        """Return the answer for one batch, or None where memory was too small."""
        try:
            return self._forward(pixels, places)
        except (
            RuntimeError,
            MemoryError,
            ValueError,
            TypeError,
            AssertionError,
        ) as error:
            if is_out_of_memory(error):
                return None
            raise ModelError(
                f"model {self.card.name!r} failed on windows of shape "
                f"{tuple(pixels.shape)}: {first_line(error)}"
            ) from error

    def _halve(self, pixels: NDArray[np.generic]) -> None:
        """Go on with half the batch; called when the failed one's memory is free."""
        forget(self._device)
        if len(pixels) == 1 and self.batch == 1:
            raise ModelError(
                f"model {self.card.name!r} runs out of memory on {self.device} with "
                f"one window of {pixels.shape[-2]} x {pixels.shape[-1]} px: use a "
                "smaller --window, or --device cpu"
            )
        self.batch = max(1, min(self.batch, len(pixels)) // 2)

    def _forward(
        self, pixels: NDArray[np.generic], places: torch.Tensor | None
    ) -> torch.Tensor:
        if self._threads is None:
            return self._pass(pixels, self.batch, places)

        def answer(i: int) -> torch.Tensor:
            where = None if places is None else places[i : i + 1]
            return self._pass(pixels[i : i + 1], 1, where)

        if self.card.output == "labels":
            return torch.cat(self._threads.map(answer, range(len(pixels))))
        # Each thread leaves its scores where blending reads them, as it reads them.
        scores = torch.empty((len(pixels), self.card.channels, *pixels.shape[2:]))

        def pass_one(i: int) -> None:
            scores[i] = answer(i)[0]

        self._threads.map(pass_one, range(len(pixels)))
        return scores

    @torch.no_grad()
    def _pass(
        self,
        pixels: NDArray[np.generic],
        batch: int,
        places: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Pass windows through the network as a batch of fixed size.

        Not in inference mode: what networks keep could not be trained with then.
        """
        size = len(pixels)
        x = to_device(pixels, self._device)
        if size < batch:
            # One shape only: other shapes get other kernels, which round otherwise,
            # and where a remainder falls depends on the blocks.
            x = functional.pad(x.float(), (0, 0, 0, 0, 0, 0, 0, batch - size))
            if places is not None:
                places = functional.pad(places, (0, 0, 0, batch - size))
        with self.kernels():
            return self.scores(x, places)[:size]

    def scores(
        self, pixels: torch.Tensor, places: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return (n, class, y, x) scores, or labels, of windows on the device.

        Args:
            pixels: (n, band, y, x).
            places: (n, 2) latitude and longitude, of networks that are told them.
        """
        x = self._scaling(pixels).to(self._input, memory_format=self._layout)
        answer = self._module(x) if places is None else self._module(x, places)
        return self._in_pixels(answer, *pixels.shape[-2:])

    @property
    def notes(self) -> tuple[str, ...]:
        """That scores are fewer than pixels; of transformers everybody knows it."""
        (high, wide), (height, width) = self._answers
        family = self.card.framework.get("family")
        if height % high or width % wide or (high, wide) == (height, width):
            return ()
        if family == "transformers":
            return ()
        told = (
            f"model {self.card.name!r} answers {high} x {wide} scores of a window of "
            f"{height} x {width} px: each is taken for {height // high} x "
            f"{width // wide} px; where they are the window's middle, export it for "
            "windows that this does not divide"
        )
        return (told,)

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """The network."""
        return (self._module,)

    def _in_pixels(self, output: object, height: int, width: int) -> torch.Tensor:
        answer = tensor_of(output, self.card)
        if self.card.output == "labels":
            return checked_labels(answer, height, width)
        scores = fit_channels(answer, self.card)
        if not torch.compiler.is_compiling():
            self._answers = scores.shape[-2:], (height, width)
            self.single = answer.numel() < scores.numel()
        return to_pixels(scores, height, width, self.card)

    def kernels(self) -> AbstractContextManager[None]:
        """Kernels whose answer does not change from run to run; true fp32 in fp32."""
        return steady_kernels(self._device, tf32=self.precision != "fp32")

    def _trial(self, batch: int) -> None:
        """Pass a batch of blank windows, without waiting for the device."""
        card = self.card
        shape = (batch, len(card.bands), card.window, card.window)
        with torch.no_grad(), self.kernels():
            self.scores(torch.zeros(shape, device=self._device))


def _compared(card: Card) -> int:
    """Return the side of a window on which a network and its rewriting are compared."""
    step = card.multiple
    return min(card.window, -(-_COMPARED // step) * step) if step else card.window


class _OneTensor(nn.Module):
    """A network that answers the tensor of its scores alone."""

    def __init__(self, module: nn.Module, card: Card) -> None:
        super().__init__()
        self._module, self._card = module, card

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the scores."""
        return tensor_of(self._module(x), self._card)


def _prepare(module: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Return the network in evaluation mode, channels-last, in the dtype.

    Batch norms stay in fp32: their statistics are worth it, and on CPUs the mixed
    kernels are faster than the pure bf16 ones.
    """
    module = module.eval().requires_grad_(False)
    try:
        module = module.to(device=device, dtype=dtype)
        for part in module.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):  # noqa: SLF001
                part.float()
        if any(p.ndim == 5 for p in module.parameters()):
            return module  # PyTorch puts the channels of volumes last in another way
        return module.to(memory_format=torch.channels_last)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise ModelError(
            f"the model's weights do not fit in the memory of {device}: use another "
            "--device, or --precision bf16"
        ) from error
