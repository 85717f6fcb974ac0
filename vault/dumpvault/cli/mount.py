"""``dumpvault mount``."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from dumpvault.cli import output
from dumpvault.cli.viewing import view_options, viewed
from dumpvault.flows.mount import check_fuse, check_mount_point, mount

__all__ = ["mount_command"]


@click.command(
    "mount",
    epilog=output.epilog(
        "dumpvault mount latest /mnt/vmcore",
        "crash /mnt/vmcore/vmcore /usr/lib/debug/boot/vmlinux-6.1.0-56-amd64",
        codes=(0, 1, 2, 3, 10, 11, 12, 13, 130),
    ),
)
@click.argument("vault", metavar="ID")
@click.argument("directory", metavar="DIR")
@view_options
@click.option(
    "--no-page-cache",
    is_flag=True,
    help="Keep opened pages out of the kernel's page cache. Slower; no mmap(MAP_SHARED).",
)
@output.json_option
def mount_command(vault: str, directory: str, no_page_cache: bool, as_json: bool, **how: Any) -> None:
    """Show a vault as read-only files at DIR, an empty directory, until Ctrl-C or umount.

    \b
    vmcore            what was captured; of a flattened stream the dump that it makes
    vmcore-available  of an incomplete ELF dump, a core of what is there
    vmcore.flat       a flattened stream as it was captured
    vmcoreinfo        the kernel's VMCOREINFO
    dmesg.txt         the kernel log
    manifest.json     the signed manifest

    Nothing is written anywhere. Only the user who mounts can read it. A page that fails authentication is a read
    error, never zeros.
    """
    check_mount_point(directory)
    check_fuse()
    with viewed("mount", vault, ahead=os.cpu_count() or 1, shared=True, **how) as view:
        where = os.path.abspath(directory)

        def ready(names: list[str]) -> None:
            if as_json:
                output.print_json({"files": sorted(names), "mounted": where, "vault": view.report.vault})
                sys.stdout.flush()
            output.say(f"vault {view.report.vault} at {where}: {', '.join(names)}; Ctrl-C unmounts")

        mount(view, directory, output.say, ready, page_cache=not no_page_cache)
