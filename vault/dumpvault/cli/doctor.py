"""``dumpvault doctor``."""

from __future__ import annotations

import os
from dataclasses import asdict

import click

from dumpvault.cli import output
from dumpvault.flows.doctor import Question, examine, exit_code

__all__ = ["doctor_command"]


@click.command(
    "doctor",
    epilog=output.epilog(
        "dumpvault doctor",
        "dumpvault doctor --root /mnt/image --host db1",
        "dumpvault doctor --json",
        codes=(0, 1, 2, 10, 11, 12, 13, 14),
    ),
)
@click.option("--root", metavar="DIR", help="Ask about the system that is mounted there. [default: this one]")
@click.option("--sysfs", metavar="DIR", default="/sys", show_default=True, help="Where the kernel's interfaces are.")
@click.option("--host", metavar="NAME", help="Name of the machine. [default: as integrated, else the root's]")
@click.option("--store", metavar="DIR", help="Try this store. [default: as integrated, else the site's]")
@output.json_option
def doctor_command(root: str | None, sysfs: str, host: str | None, store: str | None, as_json: bool) -> int:
    """Say before any crash whether a capture would work.

    Policy, recipients, signer, store and room, integration, crash kernel, release, clock; then a canary is sealed,
    verified and, where a recipient's private half is held, opened. Nothing is left behind. The exit code is 0 if
    nothing failed; if all that failed is of one kind it is that kind's, else 1.
    """
    checks = examine(Question(root=root, sysfs=sysfs, host=host, store=store), os.environ)
    code = exit_code(checks)
    if as_json:
        output.print_json({"checks": [asdict(check) for check in checks], "exit_code": code, "good": not code})
        return code
    for check in checks:
        click.echo(output.printable(f"{check.state:<14} {check.name + ':':<17} {check.found}"))
        if check.advice and check.state in ("warning", "failed"):
            click.echo(output.printable(f"{'':<33}{check.advice}"))
    return code
