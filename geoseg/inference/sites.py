"""What will do the work, as far as a plan asks: this process, or workers elsewhere.

A login node or a notebook plans for the GPUs of its workers. So all of these are asked
what they are, and one of them what it makes of the model, before anything is cut.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from socket import gethostname
from typing import TYPE_CHECKING, Any

from geoseg.core.text import counted, size
from geoseg.errors import ClusterError, first_line, says_device_is_lost
from geoseg.execution.engine import ask_one, ask_workers
from geoseg.execution.resources import cores, feeding_threads, main_memory
from geoseg.models.networks.gpus import is_measured

if TYPE_CHECKING:
    from distributed import Client

    from geoseg.models.contract import Model
    from geoseg.models.load import ModelRecipe

_TRIES = 5
NO_GPU = "no GPU"
"""What a worker without one is called."""
_UNTOLD = {"own", "threads", "torch", "compile"}
_IMAGINED = (
    "the batch is the largest that is tried on a GPU: a run measures which suits it"
)
_UNSEEN = (
    "geoseg has never been run on a GPU of this kind ({}): its answers are compared "
    "with the CPU's before the run"
)
_LARGEST_BATCH = 1 << 24
"""Pixels of the windows of a batch, on a GPU that cannot be asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A process that will do the work."""

    device: str
    """Of the model: `cpu`, `cuda:0`, or `own`."""
    precision: str
    engine: str
    batch: int
    """Windows at a time."""
    streams: bool
    """Whether windows are cut on the device."""
    working: float
    """Bytes that weights and a batch take: of the GPU, or of main memory."""
    memory: float
    """Bytes of main memory: its share of the machine's, half of it at most."""
    notes: tuple[str, ...] = ()
    """What is to be said of the model's answers."""
    card: str | None = None
    """What its GPU is called; None without one."""
    room: float = float("inf")
    """Bytes of the GPU that may be used."""
    shares_memory: bool = False
    """Whether its GPU's memory is the machine's own, as Apple's is."""
    threads: int | None = None
    """Blocks at once, of a worker; None: as many as suit."""
    workers: Mapping[str, int] = field(default_factory=dict)
    """How many workers there are, by what their GPU is called; none: this process."""
    machines: int = 1
    """How many the workers are spread over."""
    asked: str | None = None
    """Address of the worker that was asked."""

    @property
    def without_gpu(self) -> bool:
        """Whether some that take part have no GPU."""
        return self.card is None or NO_GPU in self.workers

    @property
    def name(self) -> str:
        """What the model runs on, for a bar: the GPU, or the device, and precision."""
        words = (self.card or self.device, self.precision, self.engine)
        return ", ".join(word for word in words if word not in _UNTOLD)

    @property
    def facts(self) -> dict[str, Any]:
        """What a map keeps of it, JSON-able: no names of machines."""
        card = {} if self.card is None else {"card": self.card, "batch": self.batch}
        return card | ({"workers": dict(self.workers)} if self.workers else {})

    @property
    def told(self) -> str:
        """What it is, in words."""
        free = "" if self.card is None else f" ({size(self.room)} of its memory to use)"
        if not self.workers:
            return f"{self.card or self.device}{free}"
        kinds = (
            f"{count} with {card}{free * (card == self.card)}"
            for card, count in self.workers.items()
        )
        return f"{', '.join(kinds)}; {counted(self.threads or 1, 'block')} at once each"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a worker says of itself."""

    host: str
    card: str | None
    room: float
    """Bytes that are free of its GPU."""
    memory: float
    """Bytes of its machine's memory."""
    cores: int
    threads: int
    """Blocks that it takes at once."""


def gpu_name(model: Model) -> str | None:
    """Return what the GPU is called that a model is on; None elsewhere."""
    return _card_of(model.device)


def _card_of(device: str) -> str | None:
    from geoseg.models.networks.gpus import name_of

    return name_of(device)


@contextmanager
def leaving_with_device() -> Iterator[None]:
    """End a worker whose device failed: another one goes on with its blocks.

    Raises:
        ClusterError: It failed, and this is no worker of a cluster.
    """
    try:
        yield
    except Exception as error:
        if says_device_is_lost(error):
            _leave(error)
        raise


def _leave(error: Exception) -> None:
    from distributed import get_worker

    why = f"the GPU of {gethostname()} failed: {first_line(error)}"
    try:
        get_worker()
    except ValueError:
        raise ClusterError(
            f"{why}; what is done stays done, and the same command resumes"
        ) from error
    logging.getLogger(__name__).error("%s; this worker ends", why)
    os._exit(70)  # nothing of the GPU works any more in this process


def site_here(recipe: ModelRecipe, processes: int = 1) -> Site:
    """Return what this process makes of a model.

    Args:
        recipe: The model.
        processes: How many share this machine's memory.
    """
    model = recipe.load()
    working = float(model.working_bytes())
    room, notes = float("inf"), model.notes
    if not is_measured(model.device):
        notes = (*notes, _UNSEEN.format(model.device))
    if (card := gpu_name(model)) is not None:
        from geoseg.models.networks.device import free_memory

        room = free_memory(model.device, recipe.options.device_memory)
    return Site(
        device=model.device,
        precision=model.precision,
        engine=model.engine,
        batch=model.batch,
        streams=model.streams,
        working=working,
        memory=main_memory() / max(2, processes),
        notes=notes,
        card=card,
        room=room,
        shares_memory=model.device.startswith("mps"),
    )


def imagined_site(recipe: ModelRecipe, room: float) -> Site:
    """Return what a GPU that is not here would make of a network, as far as is known.

    Its batch is as large as any that is tried on a GPU; a run measures which suits it.

    Args:
        recipe: The model.
        room: Bytes of the GPU.
    """
    import torch

    from geoseg.models.networks.device import choose_engine

    engine = choose_engine(torch.device("cuda"), recipe.options.engine)
    options = replace(recipe.options, device="cpu", engine="torch")
    if options.precision == "auto":
        options = replace(options, precision="bf16")
    one, two = (recipe.with_options(replace(options, batch=n)) for n in (1, 2))
    alone = site_here(one)
    window = float(two.load().working_bytes()) - alone.working
    most = max(1, _LARGEST_BATCH // recipe.card.window**2)
    while most > 1 and alone.working + (most - 1) * window > room / 2:
        most //= 2
    batch = recipe.options.batch or most
    return replace(
        alone,
        device="cuda",
        engine=engine,
        batch=batch,
        working=alone.working + (batch - 1) * window,
        card="none here, planned for one",
        room=room,
        notes=(*alone.notes, _IMAGINED),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Crew:
    """The workers of a cluster, by what they say of themselves."""

    facts: Mapping[str, Facts]
    """By address; one at least."""

    @property
    def kinds(self) -> Mapping[str, int]:
        """How many there are, by what their GPU is called."""
        return Counter(one.card or NO_GPU for one in self.facts.values())

    @property
    def card(self) -> str | None:
        """The GPU that most of those have that have one; None without any."""
        kinds = self.kinds
        card = max(kinds, key=lambda name: (name != NO_GPU, kinds[name]))
        return None if card == NO_GPU else card

    def site(self, recipe: ModelRecipe, here: ModelRecipe, client: Client) -> Site:
        """Return what will do the work; of a network on GPUs a worker says it.

        Of several kinds those with `card` count, and the least that any of them has.

        Args:
            recipe: The model, with what the user asks for.
            here: The same as it is without a GPU, and may be loaded here.
            client: The cluster's.
        """
        asked, facts = None, self.facts.values()
        if self.card is None:
            site = site_here(here)
        else:
            # One with the least room: a batch that fits there fits the others.
            asked = min(
                (a for a, one in self.facts.items() if one.card == self.card),
                key=lambda address: self.facts[address].room,
            )
            site = ask_one(client, recipe, _site_there, worker=asked)
        on_host = Counter(one.host for one in facts)
        threads = max(one.threads for one in facts)
        wanted = min(feeding_threads(one.cores, on_host[one.host]) for one in facts)
        notes = site.notes
        if site.card is not None and site.streams and threads < wanted // 2:
            note = (
                f"a worker has {counted(threads, 'thread')}, which read and write "
                f"beside its GPU: {wanted} keep it busy (dask worker --nthreads "
                f"{wanted}, or threads in the cluster's file)"
            )
            notes = (*notes, note)
        return replace(
            site,
            room=min(site.room, *(one.room for one in facts)),
            memory=min(one.memory / max(2, on_host[one.host]) for one in facts),
            threads=threads,
            notes=notes,
            workers=dict(self.kinds),
            machines=len(on_host),
            asked=asked,
        )


def crew_of(recipe: ModelRecipe, device: str, client: Client, *, mixed: bool) -> Crew:
    """Return a cluster's workers; the first is waited for.

    Args:
        recipe: The model, as it is without a GPU.
        device: What the user asks for.
        client: The cluster's.
        mixed: Whether workers of different kinds may work together.

    Raises:
        ClusterError: They are of different kinds, or one lacks what is asked for.
    """
    # A classical method stays on the processor unless it is asked elsewhere.
    own = recipe.load().engine == "own" and not device.startswith("cuda")
    facts: dict[str, Facts] = {}
    for _ in range(_TRIES):  # a worker of a cluster that shrinks may go as it is asked
        for address, answer in ask_workers(client, _facts, None if own else device):
            if isinstance(answer, Exception) and not isinstance(answer, OSError):
                said = first_line(answer)
                raise ClusterError(f"worker {address}: {said}") from answer
            if isinstance(answer, Facts):
                facts[address] = answer
        if facts:
            break
    else:
        raise ClusterError("no worker of the cluster answers: are they still there?")
    crew = Crew(facts=facts)
    if len(crew.kinds) > 1 and not mixed:
        raise ClusterError(_differ(crew))
    return crew


def _site_there(recipe: ModelRecipe) -> Site:
    with leaving_with_device():
        return site_here(recipe)


def _facts(device: str | None, dask_worker: Any) -> Facts:  # noqa: ANN401
    """Return what this worker is.

    Args:
        device: What the user asks for; None: the model uses no GPU.
        dask_worker: Dask gives itself by this name.
    """
    card, room = None, float("inf")
    if device is not None:
        from geoseg.models.networks.device import choose_device, free_memory

        chosen = str(choose_device(device))
        if (card := _card_of(chosen)) is not None:
            room = free_memory(chosen, None)
    return Facts(
        host=gethostname(),
        card=card,
        room=room,
        memory=main_memory(),
        cores=cores(),
        threads=dask_worker.state.nthreads,
    )


def _differ(crew: Crew) -> str:
    """Say which workers are not alike, and what to do."""
    hosts: dict[str, set[str]] = {name: set() for name in crew.kinds}
    for one in crew.facts.values():
        hosts[one.card or NO_GPU].add(one.host)
    each = "; ".join(
        f"{count} with {name}, on {', '.join(sorted(hosts[name]))}"
        for name, count in crew.kinds.items()
    )
    return (
        f"the workers are of different kinds ({each}), whose answers round "
        "differently: start workers of one kind, say --device cpu, or --mixed, and the "
        "store says which blocks are whose"
    )
