"""What a user asked for, so that a map can tell how it is made again."""

from __future__ import annotations

import os
from typing import Any

from geoseg.core.files import is_there
from geoseg.core.options import Options, cli_of
from geoseg.core.text import plain

_LATER = {"out", "overwrite"}
"""What says where a map goes, and not how it is made."""


def asked(source: Any, options: Options) -> dict[str, Any]:  # noqa: ANN401 - any source
    """Return the raster and the options that are not as by default, JSON-able.

    Local paths are `{"path": …}`, by which a store knows to note them as seen from its
    own folder. Secrets are cut out. What has no words, such as an array or a model that
    is an object, is left out.

    Args:
        source: What the user opens.
        options: What they ask for.
    """
    table = type(options)
    found = {} if source is None else {"raster": _words(source, location=True)}
    fields = table.model_fields
    for name in sorted(fields, key=lambda name: name != "model"):  # as people write it
        value = getattr(options, name)
        if name not in _LATER and value != fields[name].default:
            found[name] = _words(value, location=cli_of(table, name).location)
    return {name: value for name, value in found.items() if value is not None}


def _words(value: Any, *, location: bool) -> Any:  # noqa: ANN401 - JSON
    """Return a value as JSON has it; None where it has no words."""
    if isinstance(value, list | tuple):
        several = [_words(each, location=location) for each in value]
        return None if None in several else several
    if isinstance(value, str | os.PathLike):
        text = os.fspath(value)
        if location and "://" not in str(text) and is_there(text):
            return {"path": os.path.abspath(text)}  # noqa: PTH100 - links stay
        return plain(text)
    return plain(value) if isinstance(value, bool | int | float) else None
