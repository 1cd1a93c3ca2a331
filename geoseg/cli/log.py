"""What the program says beside its answer, on stderr: lines for people, or JSON lines.

`--log-level` says how much, `--log-json` how; both may stand anywhere in a line, and
GEOSEG_LOG_LEVEL and GEOSEG_LOG_JSON do for scripts.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from itertools import islice

import click

from geoseg.core.text import redact
from geoseg.errors import first_line

LEVELS = ("debug", "info", "warning", "error")
_LOGGER = logging.getLogger("geoseg")
_MARKS = {logging.WARNING: "warning: ", logging.DEBUG: "debug: "}


class _ForPeople(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """Return `geoseg: …`, or `note: …` of what was heard or guessed."""
        if trace := getattr(record, "facts", {}).get("traceback"):
            return str(trace)
        text = " ".join(redact(record.getMessage()).split())
        if getattr(record, "note", False):
            return f"note: {text}"
        return f"geoseg: {_MARKS.get(record.levelno, '')}{text}"


class _AsJson(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """Return one JSON object: time, level, message, and what is known of it."""
        time = datetime.fromtimestamp(record.created, UTC)
        line = {
            "time": time.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": redact(record.getMessage()),
            **getattr(record, "facts", {}),
        }
        return json.dumps(line)


class _Stderr(logging.Handler):
    """Writes to whatever stderr is now."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        click.echo(self.format(record), file=sys.stderr)


def configure(level: str, *, as_json: bool) -> None:
    """Let what the package and the program say come to stderr.

    Args:
        level: The least that is said; `info` is what people should read, `debug` has
            the events of pipelines and what libraries say, too.
        as_json: As JSON lines, with the events of pipelines.
    """
    handler = _Stderr()
    handler.setFormatter(_AsJson() if as_json else _ForPeople())
    _LOGGER.handlers = [handler]
    _LOGGER.propagate = False
    _LOGGER.setLevel(level.upper())
    # What happens in a pipeline stands in its log; people see bars instead.
    events = logging.getLogger("geoseg.pipeline")
    events.setLevel(logging.NOTSET if as_json or level == "debug" else logging.CRITICAL)
    if level == "debug":
        for name in ("rasterio", "distributed", "urllib3"):
            library = logging.getLogger(name)
            library.handlers, library.propagate = [handler], False
            library.setLevel(logging.DEBUG)


def say(level: str, text: str) -> None:
    """Say something on one line; `level` is one of LEVELS, or `note`."""
    if level == "note":
        _LOGGER.info("%s", text, extra={"note": True})
    else:
        _LOGGER.log(getattr(logging, level.upper()), "%s", text)


def say_traceback(error: Exception) -> None:
    """Show where an error came from that nobody foresaw; as JSON, on one line."""
    text = redact("".join(traceback.format_exception(error)))
    _LOGGER.error("%s", first_line(error), extra={"facts": {"traceback": text}})


def first(arguments: list[str]) -> list[str]:
    """Return a command line with the two options in front, where the group has them."""
    front, rest = [], list[str]()
    words = iter(arguments)
    for word in words:
        if word == "--":
            rest += [word, *words]
        elif word == "--log-json" or word.startswith("--log-level="):
            front.append(word)
        elif word == "--log-level":
            front += [word, *islice(words, 1)]
        else:
            rest.append(word)
    return front + rest
