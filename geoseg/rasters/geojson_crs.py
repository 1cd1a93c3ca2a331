"""Which coordinate reference systems GeoJSON names, in any spelling that GDAL reads.

GDAL asks a server for a CRS that is a link. Its readers of JSON take more than the
standard has: comments, single quotes, names in any case or by the numbers of their
letters, and names that end at a NUL.
"""

from __future__ import annotations

import json
import re
from typing import IO, TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_BLANKS: Final = b" \t\n\r\v\f"
_MEMBER: Final = re.compile(
    rb"[\"'](?:c|\\u00[46]3)(?:r|\\u00[57]2)(?:s|\\u00[57]3)"
    rb"(?:[\"'](?P<next>:[{/]|/)|\\u0000)",
    re.IGNORECASE,
)
_LONGEST: Final = 1 << 16
"""Bytes of a CRS that is looked into; WKT and PROJJSON take a few thousand."""
_AT_ONCE: Final = 1 << 20


def is_json(head: bytes) -> bool:
    """Whether a file that begins so may be GeoJSON to GDAL."""
    text = head.lstrip(b"\xef\xbb\xbf\x1e" + _BLANKS)
    return text.startswith((b"{", b"[", b"/", b"loadGeoJSON(", b"jsonp("))


def crs_members(file: IO[bytes], head: bytes = b"") -> Iterator[str | None]:
    """Yield each `crs` of a file, the head of which is read, as JSON without blanks.

    None is one that is not written as the standard has it, or is longer than a CRS is.
    The file is read once, a mebibyte at a time: who maps it into memory is killed where
    it shrinks meanwhile.
    """
    text, ended = head.translate(None, _BLANKS), False
    while not ended:
        read = file.read(_AT_ONCE)
        ended = not read
        text += read.translate(None, _BLANKS)
        # What begins after this is looked at when all that belongs to it is there.
        whole = len(text) if ended else max(len(text) - _LONGEST - 64, 0)
        for found in _MEMBER.finditer(text):
            if found.start() >= whole:
                break
            yield _value(text, found)
        text = text[whole:]


def _value(text: bytes, found: re.Match[bytes]) -> str | None:
    """Return the object behind a name; blanks within its texts are lost."""
    if found["next"] != b":{":
        return None
    start = found.end() - 1
    window = text[start : start + _LONGEST].decode("latin-1")
    try:
        value, end = json.JSONDecoder().raw_decode(window)
        told = json.dumps(value)
    except (ValueError, RecursionError):
        return None
    # One within another would be read again and again.
    inside = _MEMBER.search(text, start, start + end)
    return None if inside else told


def is_link(crs: str) -> bool:
    """Whether a CRS is looked up elsewhere: `{"type": "link", …}`.

    >>> is_link('{"type": "URL"}'), is_link('{"type": "name"}')
    (True, False)
    """
    pairs = json.loads(crs, object_pairs_hook=list)
    kinds = [str(v) for k, v in pairs if k.partition("\0")[0].lower() == "type"]
    return any(kind.lower().startswith(("link", "url")) for kind in kinds)
