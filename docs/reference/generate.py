"""Writes docs/reference/commands.md from the commands' own --help; a test checks that it is current."""

from __future__ import annotations

from pathlib import Path

import click

from dumpvault.cli import cli

HEAD = """\
# Commands

Written by `make reference` from what each command's `--help` prints.
"""


def commands(command: click.Command, name: str, parent: click.Context | None = None) -> list[str]:
    """The section of one command, then those of its subcommands, in contexts like those of a real run."""
    context = click.Context(
        command, parent, name, terminal_width=100, max_content_width=100, **command.context_settings
    )
    sections = [f"\n## {context.command_path}\n\n```text\n{command.get_help(context)}\n```\n"]
    if isinstance(command, click.Group):
        for child_name in command.list_commands(context):
            child = command.get_command(context, child_name)
            assert child is not None
            sections += commands(child, child_name, context)
    return sections


def render() -> str:
    return HEAD + "".join(commands(cli, "dumpvault"))


if __name__ == "__main__":
    Path(__file__).with_name("commands.md").write_text(render(), encoding="utf-8")
