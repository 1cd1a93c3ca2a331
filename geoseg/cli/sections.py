"""Help in sections: what belongs together stands together, as one reads it."""

from __future__ import annotations

import click

_MANY = 12
"""Commands with more options than this have them in sections."""

# Option → where it stands; `command.option` where it means another thing there. What is
# not named here stands under "Options".
_SECTIONS = {
    "Model and raster": (
        "model", "tta", "scales", "prompts", "bands", "aoi", "nodata", "resolution",
        "overlap", "labels", "init",
    ),
    "Labels": (
        "reference", "column", "layer", "mapping", "constant", "background", "order",
        "strict", "within", "train.labels", "train.classes", "train.boundary",
    ),
    "Estimates": ("evaluate.design", "confidence", "finite_population"),
    "Held out": ("validation", "train.block", "gap"),
    "Objects": ("task", "instances", "things"),
    "Lines and polygons": (
        "simplify", "method", "smooth", "regularize", "min_area", "classes",
        "connectivity", "stats",
    ),
    "Network": ("arch", "train.task", "encoder", "arguments", "train.init"),
    "Learning": (
        "epochs", "windows", "patch", "train.batch", "lr", "weight_decay", "loss",
        "balance", "brightness", "zoom", "patience", "seed",
    ),
    "Trees": ("trees", "leaf", "samples", "scales", "differences"),
    "What is written": (
        "out", "scores", "probabilities", "overwrite", "zarr_format", "csv", "matrix",
        "figures", "name", "license",
    ),
    "Speed and memory": (
        "batch", "block", "device", "precision", "loaders", "memory", "workers",
        "scheduler", "cluster",
    ),
}  # fmt: skip
_OTHERS = "Options"


class Sectioned(click.Command):
    """A command whose help has its options in sections."""

    def format_options(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """Write the options, those of a section under its name."""
        sections: dict[str, list[tuple[str, str]]] = {s: [] for s in _SECTIONS}
        sections[_OTHERS] = []
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                sections[_section_of(self.name, parameter.name)].append(record)
        for name, records in sections.items():
            if records:
                with formatter.section(name):
                    formatter.write_dl(records)


def _section_of(command: str | None, option: str | None) -> str:
    places = {name: s for s, names in _SECTIONS.items() for name in names}
    return places.get(f"{command}.{option}", places.get(str(option), _OTHERS))


def sectioned(command: click.Command) -> click.Command:
    """Return a command with its options in sections where it has many."""
    options = [p for p in command.params if isinstance(p, click.Option)]
    if len(options) <= _MANY or isinstance(command, click.Group):
        return command
    return Sectioned(
        name=command.name,
        callback=command.callback,
        params=command.params,
        help=command.help,
        epilog=command.epilog,
        short_help=command.short_help,
        context_settings=command.context_settings,
    )
