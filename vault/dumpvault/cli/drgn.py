"""``dumpvault drgn``."""

from __future__ import annotations

import os
import runpy
import sys
import traceback
from typing import Any

import click

from dumpvault.cli import output
from dumpvault.cli.viewing import view_options, viewed
from dumpvault.errors import Usage, VaultError
from dumpvault.flows import drgn

__all__ = ["drgn_command"]

_OURS = (__file__, drgn.__file__, runpy.__file__, "<frozen runpy>")


@click.command(
    "drgn",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog=output.epilog(
        "dumpvault drgn latest",
        "dumpvault drgn -e 'for task in for_each_task(prog): print(task.comm.string_())' 3f9c",
        "dumpvault drgn -s vmlinux 3f9c tasks.py --all",
        codes=(0, 1, 2, 3, 10, 11, 12, 13, 130),
    ),
)
@click.argument("vault", metavar="ID")
@click.argument("script", required=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.option("-e", "code", metavar="CODE", help="Run CODE instead of a script.")
@click.option(
    "-s", "--symbols", multiple=True, metavar="FILE", help="Debug symbols: a vmlinux or module. May be repeated."
)
@click.option("--no-default-symbols", is_flag=True, help="Load only the symbols that --symbols names.")
@view_options
def drgn_command(
    vault: str,
    script: str | None,
    arguments: tuple[str, ...],
    code: str | None,
    symbols: tuple[str, ...],
    no_default_symbols: bool,
    **how: Any,
) -> int:
    """A drgn session on a vault, or SCRIPT; options stand before ID, what follows SCRIPT is its own.

    Memory is opened as drgn reads it: no file, no mount. x86_64, aarch64 and ppc64le. Standard output is the
    script's, so there is no --json.
    """
    if code is not None and script is not None:
        raise Usage("-e CODE and a SCRIPT both say what to run", "Give one of them.")
    if script is not None and not os.path.isfile(script):
        raise Usage(f"{script}: no such script", "Options such as -e and --symbols stand before ID.")
    drgn.check_drgn()
    with viewed("drgn", vault, **how) as view:
        prog = drgn.program(view.image, symbols, find_symbols=not no_default_symbols)
        try:
            drgn.run(prog, script, arguments, code)
        except (VaultError, BrokenPipeError):
            raise
        except Exception as error:  # noqa: BLE001
            # The script's own, or drgn's: shown from its own code on.
            frames = error.__traceback__
            while frames and frames.tb_frame.f_code.co_filename in _OURS:
                frames = frames.tb_next
            traceback.print_exception(error.with_traceback(frames), file=sys.stderr)
            return 1
    return 0
