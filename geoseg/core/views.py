"""How values show themselves in notebooks, without knowing HTML: one hook.

`geoseg/__init__` fills it; `viz/html.py`, which it leads to, is imported when the first
value is shown.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

View = Callable[[str, object], str]
"""Takes a kind of view (`card`, `map`, `plan`, `run`) and a value; returns HTML."""
_filled: list[View] = []


def register_view(view: View) -> None:
    """Say what makes HTML of values."""
    _filled[:] = [view]


def html(kind: str, value: object) -> str:
    """Return the HTML of a value, for its `_repr_html_`."""
    return _filled[0](kind, value)


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    return getattr(get_ipython(), "kernel", None) is not None


def show_models_as_cards(kind: type) -> None:
    """Tell notebooks that models of this type are shown by their cards.

    Models are of many families, and of users' own: what they share is the card.
    """
    if in_notebook():
        from IPython import get_ipython

        formatter = get_ipython().display_formatter.formatters["text/html"]
        formatter.for_type(kind, lambda model: html("card", model.card))
