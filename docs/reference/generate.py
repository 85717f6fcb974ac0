"""Writes docs/reference/commands.md from the commands' own --help; a test checks that it is current."""

from __future__ import annotations

from pathlib import Path

import click

from dumpvault.cli import cli

HEAD = """\
# Commands

Written by `make reference` from what each command's `--help` prints.
"""


def commands(command: click.Command, path: list[str]) -> list[str]:
    """The section of one command, then those of its subcommands."""
    settings = command.context_settings
    context = click.Context(command, info_name=" ".join(path), terminal_width=100, max_content_width=100, **settings)
    sections = [f"\n## {' '.join(path)}\n\n```text\n{command.get_help(context)}\n```\n"]
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            sections += commands(child, [*path, name])
    return sections


def render() -> str:
    return HEAD + "".join(commands(cli, ["dumpvault"]))


if __name__ == "__main__":
    Path(__file__).with_name("commands.md").write_text(render(), encoding="utf-8")
