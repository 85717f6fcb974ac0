"""``dumpvault demo``."""

from __future__ import annotations

import click

from dumpvault.cli import output
from dumpvault.errors import VaultError
from dumpvault.flows.demo import run_demo

__all__ = ["demo_command"]


@click.command("demo", epilog=output.epilog("dumpvault demo", "dumpvault demo --mib 256", codes=(0, 1, 13)))
@click.option("--mib", type=click.IntRange(8, 65536), default=64, show_default=True, help="Size of the fake memory.")
@click.option("--directory", metavar="DIR", help="Work there and keep it. [default: a temporary directory]")
@output.json_option
def demo_command(mib: int, directory: str | None, as_json: bool) -> None:
    """The whole story in one minute: seal generated memory, check it, open it, attack it."""
    step = 0

    def say(text: str) -> None:
        nonlocal step
        step += 1
        if not as_json:
            click.echo(f"{step:>2}. {text}")

    result = run_demo(directory, mib, say)
    if as_json:
        output.print_json(
            {
                "good": result.good,
                "memory_bytes": result.memory,
                "opened_equal": result.opened_equal,
                "secrets_in_memory": result.secrets_in_memory,
                "secrets_in_vault": result.secrets_in_vault,
                "stored_bytes": result.stored,
                "tampering_found": result.tampering_found,
                "vault": result.vault,
            }
        )
    if not result.good:
        raise VaultError("the demo did not come out as it must", "Please report it with the lines above.")
