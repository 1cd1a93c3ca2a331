"""How a run is, for machines and people: `status.json` beside its products.

It is rewritten, whole, whenever something happens and every ten seconds of a stage that
has blocks. A run that was killed cannot say so: whoever reads the file looks whether
its process is still there.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from geoseg.core.processes import begun, has_ended, here
from geoseg.core.text import plain, redact, span_of_time
from geoseg.errors import MasksError, first_line
from geoseg.maps.storage import Storage

FILE = "status.json"
_PATIENCE = 10.0
"""Seconds that a webhook is waited for."""
_PAUSES = (1.0, 4.0)
"""Seconds after which a webhook that does not answer is tried again."""
STATES = ("waiting", "done", "unchanged", "failed")
"""What becomes of a scene."""
_EXIT = {"done": 0, "running": 0, "interrupted": 3, "killed": 3}
"""Exit statuses of states; those of failed runs are their own."""


def write_status(storage: Storage, facts: Mapping[str, Any]) -> None:
    """Write how a run is; one whose disk is full keeps what it last said."""
    pid = os.getpid()
    process = {"pid": pid, "place": here(), "started": begun(pid)}
    with suppress(OSError):
        data = json.dumps(plain({**facts, "process": process}), indent=1)
        storage.put(FILE, data.encode())


def post_status(url: str, facts: Mapping[str, Any]) -> None:
    """Send how a run ended, as JSON, to a web address that the user named.

    Where nobody answers, it is tried again; in the end that is said, and changes
    nothing. Of the address only the host is named: such paths are secrets.
    """
    data = json.dumps(plain(facts)).encode()
    headers = {"Content-Type": "application/json", "User-Agent": "geoseg"}
    asked = Request(url, data=data, headers=headers)  # noqa: S310 - see RunOptions
    stopped = facts.get("state") == "interrupted"  # and nobody wants to wait
    for pause in (None,) if stopped else (*_PAUSES, None):
        try:
            with urlopen(asked, timeout=_PATIENCE):  # noqa: S310
                return
        except (OSError, ValueError, HTTPException) as error:
            if pause is None:
                cause = getattr(error, "reason", None)  # without urllib's brackets
                shown = cause if isinstance(cause, BaseException) else error
                warnings.warn(
                    f"the webhook at {urlsplit(url).hostname} could not be told how "
                    f"the run ended: {first_line(shown)}",
                    stacklevel=2,
                )
            else:
                time.sleep(pause)


def read_status(out: str) -> dict[str, Any]:
    """Return how the run in a folder is.

    Args:
        out: The folder of a pipeline's products, or of many scenes.

    Returns:
        What `status.json` says; the `state` of a run whose process has gone without a
        word is `killed`.

    Raises:
        MasksError: No run left a status there.
    """
    try:
        found: dict[str, Any] = json.loads(Storage(out).get(FILE))
        process = found.pop("process")
        _ = [process[key] for key in ("pid", "started")]
        _ = [found[key] for key in ("state", "begun", "updated", "host")]
    except OSError as error:
        raise MasksError(
            f"{redact(out)} has no {FILE}: it is not the folder of a pipeline's "
            f"products, or nothing has run there yet{_runs_below(out)}"
        ) from error
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise MasksError(
            f"{redact(out)}: {FILE} is empty, cut or no run's: the next run writes it"
        ) from error
    gone = has_ended(process.get("place"), process.get("pid", 0), process["started"])
    if found["state"] == "running" and gone:
        found["state"] = "killed"
        end_stages(found)
    return {**found, "pid": process["pid"]}


def _runs_below(out: str) -> str:
    """Name the newest run in a folder of runs, such as one for each day."""
    found = [] if "://" in out else [*Path(out).glob(f"*/{FILE}")]
    if not found:
        return ""
    newest = max(found, key=lambda file: file.stat().st_mtime).parent
    return f"; the newest run below it is geoseg status {redact(str(newest))}"


def end_stages(status: dict[str, Any]) -> None:
    """Say of stages at work that they ended as their run did."""
    for stage in status.get("stages", {}).values():
        if stage["state"] == "running":
            stage["state"] = status["state"]


def exit_status_of(found: Mapping[str, Any]) -> int:
    """Return 0 for a run that is done or at work; else what it ended with."""
    return int(found.get("status") or _EXIT.get(found["state"], 1))


def lines_of(out: str, found: Mapping[str, Any]) -> Iterator[str]:
    """Yield a status as people read it."""
    since = datetime.fromisoformat(found["begun"])
    until = datetime.fromisoformat(found.get("ended") or found["updated"])
    if found["state"] == "running":
        until = datetime.now(UTC)
    took = span_of_time((until - since).total_seconds())
    state = _SAID.get(found["state"], found["state"])
    head = f"{out}: {state} after {took}, begun {since:%Y-%m-%d %H:%M} UTC"
    yield f"{head}, process {found['pid']} on {found['host']}"
    if found.get("scenes"):
        counts = ", ".join(f"{n} {name}" for name, n in found["scenes"].items())
        yield f"scenes: {counts}; each is a line of {Path(out) / 'scenes.csv'}"
    for name, stage in found.get("stages", {}).items():
        if name != "scenes":  # which are counted above
            yield f"{name}: {_stage(stage)}"
    if found.get("error"):
        yield f"error: {found['error']}"


_SAID = {
    "running": "running",
    "killed": "killed (the same command resumes)",
    "interrupted": "interrupted (the same command resumes)",
}


def _stage(stage: Mapping[str, Any]) -> str:
    words = [stage["state"]]
    if "of" in stage and stage["state"] != "done":
        words.append(f"{stage['blocks']:,} of {stage['of']:,} blocks")
    if stage.get("failed"):
        words.append(f"{stage['failed']} failed")
    if "seconds" in stage:
        words.append(span_of_time(stage["seconds"]))
    if "product" in stage:
        words.append(stage["product"])
    return ", ".join(words)


def metrics_of(out: str, found: Mapping[str, Any]) -> Iterator[str]:
    """Yield a status in the text format of Prometheus."""
    escaped = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
    label = '{out="' + out.translate(escaped) + '"}'
    values: dict[str, float] = {
        "up": found["state"] == "running",
        "exit_status": exit_status_of(found),
        "begun_seconds": datetime.fromisoformat(found["begun"]).timestamp(),
        "updated_seconds": datetime.fromisoformat(found["updated"]).timestamp(),
    }
    for stage in found.get("stages", {}).values():
        for key, name in (("blocks", "blocks_done"), ("of", "blocks")):
            if key in stage:
                values[name] = values.get(name, 0) + stage[key]
    if "scenes" in found:  # a state that none is in is 0, not absent
        values |= {f"scenes_{state}": found["scenes"].get(state, 0) for state in STATES}
    for name, value in values.items():
        yield f"# TYPE geoseg_{name} gauge"
        yield f"geoseg_{name}{label} {float(value):.16g}"
