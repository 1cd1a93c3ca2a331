"""`geoseg completion`."""

from __future__ import annotations

import click

from geoseg.cli.options import command


@command(
    "geoseg completion bash >> ~/.bashrc",
    "geoseg completion zsh >> ~/.zshrc",
    "geoseg completion fish > ~/.config/fish/completions/geoseg.fish",
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, *, shell: str) -> None:
    """Print the script that completes geoseg's commands and options in SHELL."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None, "click knows all three"
    root = context.find_root().command
    click.echo(kind(root, {}, "geoseg", "_GEOSEG_COMPLETE").source())
