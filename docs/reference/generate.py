"""Writes what stands in the reference from the code itself: commands, the rules of policies, and where each is enforced.

A test checks that the pages are current.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from dumpvault.cli import cli
from dumpvault.formats.rules import RULES

sys.path.append(str(Path(__file__).parents[2] / "tests"))
from support import enforcement, tampered

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


RULES_HEAD = """\
# The rules of a policy

Written by `make reference` from the table by which policies are read and checked. All of them stand in every policy of
`format = 2`; an unknown or missing rule is an error, and so is an empty one: what demands nothing says `"none"` or `"any"`.

"Checked" means that a capture is refused before anything is written, or that a vault is refused with exit code 11, by
the rule's name.
[Enforcement](enforcement.md) names the tests.
"""


def rules() -> str:
    """docs/reference/policies/rules.md."""
    lines = [RULES_HEAD, "| rule | allowed | meaning | at capture | at opening |", "|---|---|---|---|---|"]
    for rule in RULES:
        sides = [side if isinstance(side, str) else "checked" for side in (rule.capture, rule.opening)]
        allowed = rule.kind.allowed.replace("|", "\\|") or "2; 1 is still read"
        lines.append(f"| `{rule.name}` | {allowed} | {rule.meaning} | {sides[0]} | {sides[1]} |")
    return "\n".join(lines) + "\n"


def pages() -> dict[str, str]:
    """Every written page, by its path below this folder."""
    return {
        "commands.md": render(),
        "policies/rules.md": rules(),
        "policies/enforcement.md": enforcement.render(),
        "tampering.md": tampered.render(),
    }


if __name__ == "__main__":
    for name, text in pages().items():
        (Path(__file__).parent / name).write_text(text, encoding="utf-8")
