"""``dumpvault crash``."""

from __future__ import annotations

from typing import Any

import click

from dumpvault.cli import output
from dumpvault.cli.viewing import view_options, viewed
from dumpvault.flows.crash import check_crash, run_crash
from dumpvault.flows.mount import check_fuse

__all__ = ["crash_command"]


@click.command(
    "crash",
    epilog=output.epilog(
        "dumpvault crash latest /usr/lib/debug/boot/vmlinux-6.1.0-56-amd64",
        "dumpvault crash 3f9c vmlinux -- -s -i commands",
        codes=(0, 1, 2, 3, 10, 11, 12, 13, 130),
    ),
)
@click.argument("vault", metavar="ID")
@click.argument("vmlinux")
@click.argument("arguments", metavar="[-- ARGS]", nargs=-1, type=click.UNPROCESSED)
@view_options
@click.option("--no-page-cache", is_flag=True, help="Keep opened pages out of the kernel's page cache. Slower.")
def crash_command(vault: str, vmlinux: str, arguments: tuple[str, ...], no_page_cache: bool, **how: Any) -> int:
    """Run crash on a vault: mounted privately before, unmounted after. ARGS are crash's own.

    Ends with crash's exit status. Standard output is crash's, so there is no --json.
    """
    check_crash(vmlinux)
    check_fuse()
    with viewed("crash", vault, shared=True, **how) as view:
        return run_crash(view, vmlinux, arguments, output.say, page_cache=not no_page_cache)
