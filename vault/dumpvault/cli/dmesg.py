"""``dumpvault dmesg``."""

from __future__ import annotations

import sys
from typing import Any

import click

from dumpvault.cli import output
from dumpvault.cli.viewing import view_options, viewed
from dumpvault.errors import Incomplete

__all__ = ["dmesg_command"]


@click.command(
    "dmesg",
    epilog=output.epilog(
        "dumpvault dmesg latest | tail -50",
        "dumpvault dmesg 3f9c --json | jq -r '.records[].text'",
        codes=(0, 1, 2, 3, 10, 11, 12, 13, 130),
    ),
)
@click.argument("vault", metavar="ID")
@view_options
@output.json_option
def dmesg_command(vault: str, as_json: bool, **how: Any) -> None:
    """Print the kernel log, for triage: without debug symbols, and opening only the blocks that hold it."""
    warnings: list[str] = []
    with viewed("dmesg", vault, **how) as view:
        if as_json:
            records = [
                {"caller": r.caller, "nanoseconds": r.nanoseconds, "text": r.text.decode(errors="backslashreplace")}
                for r in view.kernel_log(warnings.append)
            ]
            output.print_json({"records": records, "vault": view.report.vault, "warnings": warnings})
        else:
            terminal = sys.stdout.isatty()
            for line in view.kernel_log_lines(warnings.append):
                # The buffer of old kernels is handed on as it is; on a terminal it is not to move the cursor.
                click.echo(output.printable_lines(line.decode(errors="replace")) if terminal else line, nl=False)
    for warning in warnings:
        output.say(f"note: {warning}")
    if warnings:
        raise Incomplete("the kernel log is not whole", "What was printed was authenticated.")
