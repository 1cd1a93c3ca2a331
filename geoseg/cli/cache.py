"""`geoseg cache`."""

from __future__ import annotations

from collections import defaultdict

import click

from geoseg.cli.common import OutputOptions, print_summary
from geoseg.cli.options import command, takes
from geoseg.core import user_cache
from geoseg.core.text import size


@command("geoseg cache", "geoseg cache --clear")
@click.option("--clear", is_flag=True, help="Delete it; it is made again when needed.")
@takes(OutputOptions, "output", only="as_json")
def cache(*, clear: bool, output: OutputOptions) -> None:
    """Show what is cached for this user between runs, or delete it.

    Compiled networks, measured batch sizes and engines, in a folder that nobody else
    can write; GEOSEG_CACHE_DIR names another one.
    """
    found: dict[str, int] = defaultdict(int)
    for kind, path in user_cache.kept():
        found[kind] += path.stat().st_size
    if clear:
        user_cache.clear()
    what = "deleted" if clear else "kept"
    lines = [
        f"{user_cache.KINDS[kind]}: {size(count)} {what}"
        for kind, count in found.items()
    ]
    place = str(user_cache.root())
    print_summary(
        {"folder": place, **found, "deleted": clear},
        [f"{place}: {'' if lines else 'empty'}".rstrip(": "), *lines],
        output,
    )
