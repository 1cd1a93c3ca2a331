"""The command line: one program, thin shells around the public functions."""

from __future__ import annotations

import _thread
import os
import re
import signal
import sys
import threading
import warnings
from contextlib import suppress
from importlib import import_module
from math import ceil
from typing import Any

import click

from geoseg._version import __version__
from geoseg.cli import log
from geoseg.cli.encoding import make_output_safe, read_names_as_utf8
from geoseg.cli.options import Group
from geoseg.core.text import counted, span_of_time
from geoseg.errors import GeosegError, Terminated, is_full, refused
from geoseg.execution.interrupts import InHand, answer_with
from geoseg.location import keep_secrets

RESUMED = {"segment", "compose", "run", "demo"}
"""Commands that go on where they were interrupted, whatever they were given."""

# Command → the module that holds it; imported when it is called, so `--help` is fast.
COMMANDS = {
    "segment": "geoseg.cli.segment",
    "plan": "geoseg.cli.segment",
    "search": "geoseg.cli.search",
    "compose": "geoseg.cli.compose",
    "classes": "geoseg.cli.classes",
    "vectorize": "geoseg.cli.vectorize",
    "evaluate": "geoseg.cli.accuracy",
    "sample": "geoseg.cli.accuracy",
    "compare": "geoseg.cli.accuracy",
    "train": "geoseg.cli.train",
    "export": "geoseg.cli.export",
    "run": "geoseg.cli.pipeline",
    "status": "geoseg.cli.pipeline",
    "verify": "geoseg.cli.verify",
    "report": "geoseg.cli.report",
    "view": "geoseg.cli.view",
    "info": "geoseg.cli.info",
    "models": "geoseg.cli.models",
    "model": "geoseg.cli.models",
    "demo": "geoseg.cli.demo",
    "cache": "geoseg.cli.cache",
    "completion": "geoseg.cli.completion",
}
_LIBRARIES = re.compile(
    r"[/\\](pyproj|pyogrio|geopandas|shapely|xarray|rioxarray|zarr|sklearn)[/\\]"
)
"""Whose warnings are not for people: they can do nothing about them."""
FAILED = 3
"""Something is missing that the same command can make later."""
INTERRUPTED = 130
TERMINATED = 143
GRACE = 25.0
"""Seconds to finish the blocks in hand after SIGTERM; schedulers kill after 30."""


class _InterruptedError(BaseException):
    """Ctrl-C, as click does not know it: it would print an empty line."""


class _Commands(Group):
    """A group whose commands are imported when they are asked for."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's
        """Run a command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise _InterruptedError from error

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:  # noqa: ARG002
        if name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(COMMANDS[name]), name)
        return command


_HELP = """Turn huge satellite and aerial rasters into seamless maps.

A raster and a model make masks: a Zarr store with the class of every pixel. From
masks come polygons, a GeoTIFF, a report, and a map to click in.

\b
The usual way:
  geoseg plan scene.tif --model models/landcover      what would run
  geoseg segment scene.tif --model models/landcover --out masks.zarr
  geoseg vectorize masks.zarr --out regions.gpkg --simplify 10
  geoseg view masks.zarr --regions regions.gpkg
  geoseg report masks.zarr

\b
New here?
  geoseg demo      all of it on a small scene
  geoseg models    what MODEL can be
  geoseg info X    what X is: a raster, masks, polygons, a model

Exit status: 0 done; 2 the input or the arguments are wrong; 3 done but for some
blocks or objects, run it again; 130 interrupted, the same command resumes.
"""


@click.group(
    cls=_Commands,
    help=_HELP,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Each command explains itself with examples: geoseg segment --help",
)
@click.version_option(__version__, prog_name="geoseg")
@click.option(
    "--log-level",
    type=click.Choice(log.LEVELS),
    default="info",
    show_default=True,
    envvar="GEOSEG_LOG_LEVEL",
    help="Lowest level that is logged to stderr; may stand anywhere.",
)
@click.option(
    "--log-json",
    is_flag=True,
    envvar="GEOSEG_LOG_JSON",
    help="Log as JSON lines, with the events of pipelines; may stand anywhere.",
)
def program(*, log_level: str, log_json: bool) -> None:
    """Turn huge satellite and aerial rasters into seamless maps."""
    log.configure(log_level, as_json=log_json)


def main(arguments: list[str] | None = None) -> None:
    """Run the program; never a traceback for what a user can mend."""
    if arguments is None:
        read_names_as_utf8()
    make_output_safe()
    signal.signal(signal.SIGINT, _on_interrupt)
    signal.signal(signal.SIGTERM, _on_terminate)
    answer_with(_answer)
    sys.unraisablehook = _unraisable
    # Python counts what killed workers left behind; that is no news to a user.
    os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker")
    sys.exit(run(arguments))


def _answer(number: int, count: int, in_hand: InHand | None) -> None:
    """Say at once that a signal was heard, where what is in hand is finished first."""
    if count > 1:
        if number == signal.SIGINT:
            os._exit(INTERRUPTED)
        return
    said = "interrupted" if number == signal.SIGINT else "asked to end"
    first, again = "stopping", ""
    if in_hand is not None:
        first = f"finishing {counted(in_hand.tasks, 'block')}"
        again = "; Ctrl-C again stops now"
        if in_hand.seconds is not None:
            most = max(1, ceil(in_hand.seconds))
            first += f", at most {span_of_time(most) if most > 60 else f'{most} s'}"
    with suppress(RuntimeError):  # it came while a line was being written
        log.say("warning", f"{said}: {first}{again}; what is done stays done")


def _on_interrupt(*_: Any) -> None:  # noqa: ANN401 - a signal handler's
    """End after the blocks in hand; asked again, at once: the store stands that."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    raise KeyboardInterrupt


def _unraisable(dropped: Any) -> None:  # noqa: ANN401 - of sys.unraisablehook
    """Let Ctrl-C through that came in a callback of a library, which drops it.

    Of what else is dropped half-way, such as requests at the end, nobody need hear.
    """
    if dropped.exc_type is KeyboardInterrupt:
        signal.signal(signal.SIGINT, _on_interrupt)
        threading.Timer(0.05, _thread.interrupt_main).start()


def _on_terminate(*_: Any) -> None:  # noqa: ANN401 - a signal handler's
    """End after the blocks in hand, or when the grace time is over."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    last = threading.Timer(
        float(os.environ.get("GEOSEG_GRACE", GRACE)), os._exit, [TERMINATED]
    )
    last.daemon = True
    last.start()
    raise Terminated


def run(arguments: list[str] | None = None) -> int:
    """Run the program and return its exit status: 0, 2, 3, 130 or 143."""
    warnings.showwarning = _one_line  # type: ignore[assignment]
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] == ["help"]:  # as other programs have it
        words = [*words[1:], "--help"]
    keep_secrets([*words])
    log.configure("info", as_json="--log-json" in words)
    try:
        status = program.main(
            log.first(words), prog_name="geoseg", standalone_mode=False
        )
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as error:
        _say_usage(error)
        return 2
    except GeosegError as error:
        log.say("error", str(error))
        return FAILED if is_full(error) else error.exit_status
    except (_InterruptedError, KeyboardInterrupt, click.Abort, Terminated) as end:
        asked = isinstance(end, Terminated)
        how = "asked to end" if asked else "interrupted"
        rest = "; what is done stays done, and the same command resumes"
        log.say("error", f"{how}{rest if RESUMED & {*words} else ''}")
        return TERMINATED if asked else INTERRUPTED
    except Exception as error:  # noqa: BLE001 - what nobody foresaw
        return _unforeseen(error)
    return status if isinstance(status, int) else 0  # of `context.exit`


def _say_usage(error: click.ClickException) -> None:
    """Say what is wrong with a command line; of an empty one, the help."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)
        return
    context = getattr(error, "ctx", None)
    where = f" (see {context.command_path} --help)" if context else ""
    log.say("error", f"{error.format_message()}{where}")


def _unforeseen(error: Exception) -> int:
    """Say what a disk or a store refuses, or print the traceback of a mistake."""
    if known := refused(error):
        log.say("error", str(known))
        return known.exit_status
    log.say_traceback(error)
    return 1


def _one_line(
    message: Warning | str,
    category: type[Warning],
    filename: str = "",
    *_: Any,  # noqa: ANN401
) -> None:
    """Say a warning on a line; what libraries say among themselves only to debug."""
    if issubclass(category, UserWarning):
        level = "debug" if _LIBRARIES.search(filename) else "warning"
        log.say(level, str(message))
