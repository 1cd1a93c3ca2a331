"""A pipeline at work: its log, its status for whoever looks, what is done already."""

from __future__ import annotations

import json
import logging
import os
import socket
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoseg._version import __version__
from geoseg.core.text import plain, redact
from geoseg.errors import GeosegError, Terminated, first_line, is_full
from geoseg.maps.storage import Storage
from geoseg.pipeline.status import FILE, end_stages, post_status, write_status

if TYPE_CHECKING:
    from distributed import Client

    from geoseg.execution.progress import Progress
    from geoseg.pipeline.options import IfChanged
    from geoseg.pipeline.settings import Pipeline

LOG = "log.jsonl"
META = ".pipeline"
_STATE = f"{META}/state.json"
_EVERY = 10.0
"""Seconds between two lines of progress in the log."""
_LOGGER = logging.getLogger("geoseg.pipeline")
_LOGGER.addHandler(logging.NullHandler())  # or errors go to the stderr of workers
_LEVELS = {"failed": logging.ERROR, "interrupted": logging.WARNING}


@dataclass(slots=True)
class PipelineRun:
    """A pipeline at work."""

    pipeline: Pipeline
    overwrite: bool
    show: Callable[[str, Progress], None]
    resources: ExitStack
    """What ends with the run, such as the cluster."""
    if_changed: IfChanged = "refuse"
    """What becomes of masks of another raster, model or setting."""
    shared: Client | None = None
    """The cluster where one is open already."""
    status: dict[str, Any] = field(default_factory=dict)
    """What `status.json` says."""
    _before: bytes | None = None
    """What it said of the run before."""
    _opened: list[Client | None] = field(default_factory=list)
    _told: float = -1e9

    @property
    def storage(self) -> Storage:
        """The folder of the products."""
        return Storage(self.pipeline.out)

    def client(self) -> Client | None:
        """Return the client, opened when it is first needed."""
        if self.shared is not None:
            return self.shared
        if not self._opened:
            client = None
            if self.pipeline.cluster is not None:
                from geoseg.execution.clusters import cluster_client

                opened = cluster_client(self.pipeline.cluster)
                client = self.resources.enter_context(opened)
                self.log("cluster", "start", dashboard=client.dashboard_link)
            self._opened.append(client)
        return self._opened[0]

    def begin(self) -> None:
        """Note that the run has begun, in the log and for whoever asks."""
        with suppress(FileNotFoundError):
            self._before = self.storage.get(FILE)
        self.status = {
            "name": self.pipeline.name,
            "state": "running",
            "begun": _now(),
            "version": __version__,
            "host": socket.gethostname(),
            "stages": {},
        }
        facts = {"name": self.pipeline.name, "version": __version__}
        self.log("pipeline", "start", **facts, pid=os.getpid())

    def withdraw(self, text: str) -> None:
        """Leave a folder whose masks are kept, as the run before it did."""
        self.log("pipeline", "kept", text=text)
        if self._before is None:
            self.storage.discard(FILE)
        else:
            self.storage.put(FILE, self._before)

    def post(self, webhook: str) -> None:
        """Tell a web address how the run ended, if it has begun."""
        if self.status.get("state", "running") != "running":
            post_status(webhook, {"out": self.pipeline.out, **self.status})

    def log(self, stage: str, event: str, **facts: Any) -> None:  # noqa: ANN401
        """Add a line to the log; secrets in URLs are not part of it."""
        line = plain({"time": _now(), "stage": stage, "event": event, **facts})
        facts.pop("traceback", None)  # which is for the log alone
        with (Path(self.pipeline.out) / LOG).open("a", encoding="utf-8") as file:
            file.write(f"{json.dumps(line)}\n")
        level = _LEVELS.get(event, logging.INFO)
        _LOGGER.log(level, "%s: %s", stage, event, extra={"facts": line})
        self._note_status(stage, event, facts)

    def _note_status(self, stage: str, event: str, facts: Mapping[str, Any]) -> None:
        if stage == "cluster":
            self.status |= facts
        elif stage != "pipeline":
            known = self.status.setdefault("stages", {}).setdefault(stage, {})
            known.update(facts, state=_STATES.get(event, known.get("state", "running")))
            if event == "done" and "of" in known:
                known["blocks"] = known["of"]
        elif event in _ENDS:
            self.status |= {"state": _STATES[event], "ended": _now(), **facts}
            end_stages(self.status)
        self.status["updated"] = _now()
        write_status(self.storage, self.status)

    def progress(self, stage: str) -> Callable[[Progress], None]:
        """Return what a stage tells its progress to."""

        def tell(now: Progress) -> None:
            self.show(stage, now)
            if time.monotonic() - self._told > _EVERY:
                self._told = time.monotonic()
                done = {"blocks": now.blocks, "of": now.total, "failed": now.failed}
                self.log(stage, "progress", **done)

        return tell

    def state(self) -> dict[str, dict[str, Any]]:
        """Return of each stage what it was made of, `key`, and what it made, `product`.

        The second is None while it is being made.

        Raises:
            GeosegError: What is noted there was cut, as by a full disk.
        """
        noted = self.storage.find(_STATE)
        if noted is None:
            return {}
        try:
            state = json.loads(noted)
            return {stage: {"key": of["key"], **of} for stage, of in state.items()}
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise GeosegError(
                f"{self.pipeline.out}/{_STATE} is empty or cut, so what is done is not "
                "known: restore it from a copy; or delete it and the files that the "
                "pipeline made beside the masks, which stay; or --overwrite makes all "
                "again"
            ) from error

    def note(self, stage: str, key: str, product: str | None = None) -> None:
        """Note what a stage was made of, and what it is now that it is done."""
        state = {**self.state(), stage: {"key": key, "product": product}}
        self.storage.put(_STATE, json.dumps(state, indent=1).encode())

    def forget(self) -> None:
        """Take nothing for done."""
        self.storage.discard(_STATE)

    def warn(self, stage: str, event: str, text: str) -> None:
        """Say a thing to whoever looks, and to the log."""
        self.log(stage, event, text=text)
        warnings.warn(text, stacklevel=2)


_STATES = {
    "start": "running",
    "done": "done",
    "skipped": "done",
    "failed": "failed",
    "interrupted": "interrupted",
}
"""What a run or stage is, after an event of the log."""
_ENDS = {"done", "failed", "interrupted"}


def ending_of(error: BaseException) -> tuple[str, dict[str, Any]]:
    """Return how a run ended that an error ends: the event, and facts of its line."""
    if isinstance(error, KeyboardInterrupt | Terminated):
        status = 143 if isinstance(error, Terminated) else 130
        return "interrupted", {"signal": type(error).__name__, "status": status}
    if isinstance(error, GeosegError):
        status = 3 if is_full(error) else error.exit_status
        return "failed", {"error": str(error), "status": status}
    facts: dict[str, Any] = {"error": first_line(error), "status": 3}
    if not is_full(error):  # a mistake of ours, which a line does not tell
        lines = redact("".join(traceback.format_exception(error)))
        facts |= {"traceback": lines, "status": 1}
    return "failed", facts


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
