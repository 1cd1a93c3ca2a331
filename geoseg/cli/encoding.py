"""Output that a terminal or a pipe of few characters can show.

Under `PYTHONIOENCODING=ascii`, in consoles of Windows and in logs of batch systems a
character may have no code. What geoseg itself writes then has a plain form; anything
else is a question mark. Nothing ends because of it.
"""

from __future__ import annotations

import codecs
import io
import os
import sys

_PLAIN = {
    "×": "x", "·": "-", "–": "-", "—": "-", "\N{MINUS SIGN}": "-", "…": "...",
    "→": "->", "’": "'", "“": '"', "”": '"', "±": "+/-", "²": "2", "³": "3",
    "°": " deg", "µ": "u", "≤": "<=", "≥": ">=",
}  # fmt: skip


def plain_characters(error: UnicodeError) -> tuple[str, int]:
    """Return what stands for characters without a code; an error handler of `codecs`.

    >>> codecs.register_error("plain", plain_characters)
    >>> "512 × 512 px · 3 km² ☃".encode("ascii", errors="plain")
    b'512 x 512 px - 3 km2 ?'
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lost = error.object[error.start : error.end]
    return "".join(_PLAIN.get(character, "?") for character in lost), error.end


def make_output_safe() -> None:
    """Let standard output and errors take any text, also where they are closed.

    A file that is opened later would otherwise get their numbers, and what libraries
    print into it.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_WRONLY)  # of the lowest free number
            os.set_inheritable(nowhere, True)
            setattr(sys, name, os.fdopen(nowhere, "w", encoding="utf-8"))
    codecs.register_error("plain", plain_characters)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="plain")


def read_names_as_utf8() -> None:
    """Begin again in UTF-8 where names of files have letters that Python cannot tell.

    In a locale without UTF-8, when Python is told not to help itself (PYTHONUTF8=0).
    GDAL and SQLite take names in UTF-8, whatever the locale.
    """
    plain_names = all(word.isascii() for word in sys.argv)
    if os.name != "posix" or plain_names or sys.getfilesystemencoding() == "utf-8":
        return
    words = [sys.executable, "-X", "utf8", *sys.orig_argv[1:]]
    os.execv(sys.executable, words)  # noqa: S606 - the same command once more
