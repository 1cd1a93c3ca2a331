"""What the user names, paths and URLs: told without the secrets that are in it.

Secrets are learned where something is named, on the command line, in TOML and by the
arguments of Python functions, and cut out wherever anything is told: every
`GeosegError` does so itself, and so do logs, provenance and what is written.
"""

from __future__ import annotations

import os
import re
from glob import has_magic
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

_URL = re.compile(r"([a-z][a-z0-9+.-]*://)(?:[^/\s@'\"]+@)?([^\s?'\"]*)", re.IGNORECASE)
_QUERY = re.compile(r"\?[^\s,'\"?]*=[^\s,'\"]*")
_SECRET = re.compile(
    r"(pass(?:word|wd)?|token|secret|key)=(?!value\b)[^\s'\"&,]+", re.IGNORECASE
)
_USER = re.compile(r"://(?P<user>[^\s.:/@]*:.*)@", re.IGNORECASE | re.DOTALL)
_BARE_USER = re.compile(r"^\w+:(?!//)(?P<user>[^\s/:@]*:[^\s@]*)@")  # hf:me:so@own/er
_ELEMENT = re.compile(
    r"<(?:\w*UserPwd|\w*Password|\w*Token|\w*Secret|\w*Key)>(?P<text>[^<]+)<",
    re.IGNORECASE,
)
_TAIL = re.compile(r"[?#](?P<tail>\S+)$")
_MATRIX = re.compile(r"(?P<name>;[\w.-]+=)(?P<value>[^\s/;?#,'\"]+)")  # a;sid=x/b.tif
_SETTING = re.compile(
    r"(?:pass(?:word|wd)?|pwd|token|secret|key|sig(?:nature)?)\s*=\s*"
    r"(?:'(?P<single>[^']*)'|\"(?P<double>[^\"]*)\"|(?P<bare>[^\s&;,]+))",
    re.IGNORECASE,
)
_FOLDERS = re.compile(
    r"(?<![\w.:/\\])"
    r"(?:/(?!vsi)(?:[^\s/:]+/)+|(?:[a-z]:[/\\]|\\\\)(?:[^\s/\\:]+[/\\])*)",
    re.IGNORECASE,
)
_SHORTEST = 4
"""Letters of a secret that is hidden wherever it occurs; shorter ones are words too."""
_KEPT: set[str] = set()


def keep_secrets(named: object) -> None:
    """Hide the secrets of a path or URL, or of several, in all that is told.

    Args:
        named: Whatever an argument may be; what names no place is passed over.
    """
    if isinstance(named, str):
        keep_secret(named)
    elif isinstance(named, os.PathLike):
        keep_secrets(os.fspath(named))
    elif isinstance(named, list | tuple | dict):
        for each in named.values() if isinstance(named, dict) else named:
            keep_secrets(each)


def keep_secret(named: str) -> None:
    """Hide the secrets of what the user named wherever it is told from now on.

    Libraries put what they were asked to open into messages of their own, in pieces and
    in other spellings. So secrets are learned where a path or URL comes in, and
    `redact` hides them whatever stands around them.

    >>> keep_secret("https://me:so/secret@host/x.tif")
    >>> redact("curl said: so/secret was refused")
    'curl said: … was refused'
    """
    found = set()
    for element in _ELEMENT.finditer(named):  # of a WMS's description
        found |= {element["text"], element["text"].partition(":")[2]}
    if match := _USER.search(named) or _BARE_USER.search(named):
        found |= {match["user"], match["user"].partition(":")[2]}
    if "://" in named and (match := _TAIL.search(named)):
        found |= {match["tail"], *re.split(r"[&=#?;]", match["tail"])[1::2]}
        found |= set(match["tail"].partition("#")[::2])
    if "://" in named:
        found |= {match["value"] for match in _MATRIX.finditer(named)}
    for match in _SETTING.finditer(named):
        found |= {text for text in match.groups() if text}
    spelled = {form(text) for text in found for form in (str, quote, unquote)}
    _KEPT.update(text for text in spelled if len(text) >= _SHORTEST)


def redact(text: str) -> str:
    """Return a path, URL or message without credentials and query strings."""
    for secret in sorted(_KEPT, key=len, reverse=True):
        text = text.replace(secret, "…")
    text = _MATRIX.sub(r"\g<name>…", _URL.sub(r"\1\2", text))
    return _SECRET.sub(r"\1=…", _QUERY.sub("?…", text))


def portable(value: Any, folder: str | None = None) -> Any:  # noqa: ANN401 - JSON
    """Return JSON-able facts without the folders of this machine.

    For what is given away. Of a local file's path its name is left, or its place as
    seen from `folder`, by which it is found again where both were moved.

    >>> portable({"source": {"path": "/home/me/scene.tif", "size": 9}})
    {'source': {'path': 'scene.tif', 'size': 9}}
    >>> portable({"path": __file__}, os.path.join(os.path.dirname(__file__), "m.zarr"))
    {'path': '../location.py'}
    """
    if isinstance(value, dict):
        own = {}
        if isinstance(path := value.get("path"), str) and "://" not in path:
            own = {"path": _seen_from(folder, Path(path))}
        return {k: own.get(k, portable(v, folder)) for k, v in value.items()}
    return [portable(v, folder) for v in value] if isinstance(value, list) else value


def _seen_from(folder: str | None, path: Path) -> str:
    if folder is None or not (path.exists() or has_magic(path.name)):
        return path.name
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # on another drive of Windows
        return path.name


def without_folders(text: str) -> str:
    """Return a text with the names of local files in place of their absolute paths.

    >>> without_folders("/home/me/a.tif: as https://host/b/c.tif, see ../d/e.tif")
    'a.tif: as https://host/b/c.tif, see ../d/e.tif'
    """
    return _FOLDERS.sub("", text)


def hide_causes(error: BaseException) -> None:
    """Cut off what an error came of, where a traceback would print a secret with it."""
    last, cause = error, error.__cause__ or error.__context__
    while cause is not None:
        if any(redact(text) != text for text in (str(cause), repr(cause))):
            last.__cause__ = last.__context__ = None
            return
        last, cause = cause, cause.__cause__ or cause.__context__
