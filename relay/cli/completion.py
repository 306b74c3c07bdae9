"""``relay completion``: the script that lets a shell complete commands and options, and how to install it."""

import click
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

VARIABLE = "_RELAY_COMPLETE"
SHELLS: dict[str, type[ShellComplete]] = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}
INSTALL = {
    "bash": ("~/.bashrc", 'eval "$(relay completion bash)"'),
    "zsh": ("~/.zshrc", 'eval "$(relay completion zsh)"'),
    "fish": ("~/.config/fish/completions/relay.fish", "relay completion fish | source"),
}


@click.command()
@click.argument("shell", type=click.Choice(list(INSTALL)))
def completion(shell: str) -> None:
    r"""Print the script that completes 'relay' in a shell.

    \b
    bash:  eval "$(relay completion bash)"          in ~/.bashrc; needs bash 4.4 or newer
    zsh:   eval "$(relay completion zsh)"           in ~/.zshrc, after compinit
    fish:  relay completion fish | source           in ~/.config/fish/completions/relay.fish
    """
    file, line = INSTALL[shell]
    click.echo(f"# To have it in every shell, put this line into {file}:\n#   {line}")
    root = click.get_current_context().find_root().command
    click.echo(SHELLS[shell](root, {}, "relay", VARIABLE).source())
