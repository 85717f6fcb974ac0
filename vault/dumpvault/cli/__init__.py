"""The command line. Each command's module is imported when it runs, so that ``--help`` and a crash kernel stay light."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import click

from dumpvault import __version__
from dumpvault.cli import output
from dumpvault.errors import Usage, VaultError
from dumpvault.stages.secrecy import keep_from_dumps

__all__ = ["cli", "main"]

_COMMANDS = {
    "init": ("site", "Make a site: configuration, keys directory, store."),
    "keys": ("keys", "Make, list, rotate, revoke, import and export keys."),
    "policy": ("policy", "List, show and check policies."),
    "capture": ("capture", "Seal a vmcore into a new vault; prints the vault's id."),
    "list": ("vaults", "List the vaults of a store."),
    "info": ("vaults", "Show what a vault says of itself, signatures checked."),
    "verify": ("verify", "Check a vault's signatures and every block; needs no key."),
    "report": ("report", "Write a page for an auditor; needs no key."),
    "custody": ("custody", "The ledger of a store: tell, verify, prove, witness."),
    "timestamp": ("timestamp", "Have a vault's manifest timestamped by an authority."),
    "open": ("open", "Write the captured memory back, bit for bit."),
    "mount": ("mount", "Show a vault as read-only files, opened as they are read."),
    "drgn": ("drgn", "A drgn session or script on a vault: no file, no mount."),
    "crash": ("crash", "Run crash on a vault, mounted privately meanwhile."),
    "dmesg": ("dmesg", "Print the kernel log, opening only what holds it."),
    "request": ("request", "Ask a vault's custodians to open it."),
    "approve": ("approve", "Answer a request with a custodian's share."),
    "grant": ("grant", "Give somebody the keys of some regions, and nothing else."),
    "reshare": ("reshare", "Make new vault keys under dual control, and share them anew."),
    "rewrap": ("rewrap", "Change who can open a vault, without touching what is sealed."),
    "shred": ("shred", "Destroy keys by a signed order, and certify it."),
    "integrate": ("integrate", "Seal dumps where the system takes them."),
    "doctor": ("doctor", "Say before any crash whether a capture would work."),
    "demo": ("demo", "The whole story in one minute, on generated memory."),
}

EXIT_CODES = """\b
Exit codes:
  0 all asked was done and checked    11 policy refused
  1 failure                           12 missing key or approval
  2 usage                             13 store failure
  3 incomplete vault                  14 release failure
  10 authentication failure           130 interrupted"""


class _Lazy(click.Group):
    """Knows its commands' names and one-line helps; imports one only to run it or to show its own help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"dumpvault.cli.{_COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]}, epilog=EXIT_CODES)
@click.version_option(__version__, prog_name="dumpvault")
def cli() -> None:
    """Seal Linux crash dumps as they are read, open them under policy, prove their custody.

    \b
    Examples:
      dumpvault demo
      dumpvault capture /proc/vmcore --recipient analyst --signer collector
      dumpvault verify latest
      dumpvault COMMAND --help
    """


def main(arguments: list[str] | None = None) -> None:
    """Run, and turn every error into a message and an exit code: never a traceback."""
    _open_standard_files()
    keep_from_dumps()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    words = sys.argv[1:] if arguments is None else arguments
    code = _run(lambda: cli.main(args=words, prog_name="dumpvault", standalone_mode=False), "--json" in words)
    try:
        if not sys.stdout.closed:  # a drgn script may close it
            sys.stdout.flush()
    except BrokenPipeError:
        code = code or 130
    except OSError as error:
        output.say(f"standard output could not be written: {error.strerror}; all else was done")
        code = code or 1
    if code in (1, 130):
        # Keep the interpreter from trying again, and complaining, when it ends.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def _run(call: Callable[[], Any], json_wanted: bool) -> int:
    try:
        code = call()
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        if json_wanted:
            output.print_json_error(Usage(error.format_message(), "See --help."))
        error.show()
        return 2
    except VaultError as error:
        output.show_error(error, json_wanted)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        output.say("interrupted")
        return 130
    except BrokenPipeError:
        return 130
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        output.show_error(VaultError(f"{where}{error.strerror or error}", "Nothing was overwritten."), json_wanted)
        return 1
    except Exception as error:
        if os.environ.get("DUMPVAULT_TRACEBACK"):
            raise
        hint = "This is a defect. Please report it with the output of the same command under DUMPVAULT_TRACEBACK=1."
        output.show_error(VaultError(f"internal error: {type(error).__name__}: {error}", hint), json_wanted)
        return 1
    return code if isinstance(code, int) else 0


def _open_standard_files() -> None:
    """A crash kernel, cron or a service may start us with closed ones; no store's file is to get their numbers."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8"))  # noqa: SIM115
