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
    """Print the script that completes geoseg in SHELL: commands, options, files."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None, "click knows all three"
    root = context.find_root().command
    source = kind(root, {}, "geoseg", "_GEOSEG_COMPLETE").source()
    click.echo(_MENDED[shell](source) if shell in _MENDED else source)


def _with_compinit(source: str) -> str:
    """Load what zsh completes with, where ~/.zshrc has not done so before."""
    head, _, rest = source.partition("\n")
    load = "(( $+functions[compdef] )) || { autoload -Uz compinit && compinit -i }"
    return f"{head}\n{load}\n{rest}"


def _with_whole_texts(source: str) -> str:
    """Let descriptions of commands have commas, at which fish's script cuts them."""
    return source.replace('string split ","', 'string split -m 1 ","')


_MENDED = {"zsh": _with_compinit, "fish": _with_whole_texts}
