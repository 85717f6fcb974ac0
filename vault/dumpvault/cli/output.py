"""What commands print: results on standard output, all else on standard error, JSON when asked."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from dumpvault.errors import BadInput, PolicyRefused, Usage, VaultError
from dumpvault.formats.plain import printable, size

if TYPE_CHECKING:
    from dumpvault.flows.verified import Judgement, Report

__all__ = [
    "bar",
    "confirm",
    "epilog",
    "json_option",
    "judgement",
    "new_file",
    "print_json",
    "print_json_error",
    "printable",
    "printable_lines",
    "say",
    "say_notes",
    "show_error",
    "size",
]

Progress = Callable[[int, int | None], None]
_Command = TypeVar("_Command", bound=Callable[..., Any])

_CODES = {
    0: "everything asked was done and checked", 1: "failure", 2: "usage", 3: "incomplete vault",
    10: "authentication or signature failure", 11: "policy refused", 12: "missing key or approval",
    13: "store failure", 14: "release failure", 130: "interrupted",
}  # fmt: skip


def epilog(*examples: str, codes: tuple[int, ...]) -> str:
    """The end of a command's help: examples and the exit codes it can have."""
    lines = ["\b", "Examples:", *(f"  {example}" for example in examples)]
    lines += ["", "\b", "Exit codes:", *(f"  {code:>3}  {_CODES[code]}" for code in codes)]
    return "\n".join(lines)


def json_option(command: _Command) -> _Command:
    """``--json``: one JSON object on standard output, errors included."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")(command)


def print_json(value: object) -> None:
    click.echo(json.dumps(value, indent=2, sort_keys=True))


def say(text: str) -> None:
    """A line for people, on standard error; what a dump or a store's names contain is not to move their cursor."""
    with suppress(OSError):
        click.echo(f"dumpvault: {printable(text)}", err=True)


def printable_lines(text: str) -> str:
    """Control characters replaced, but for tabs and line ends."""
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text)


def print_json_error(error: VaultError) -> None:
    with suppress(OSError):
        print_json(
            {"error": {"exit_code": error.exit_code, "hint": error.hint, "kind": error.kind, "message": error.message}}
        )


def show_error(error: VaultError, json_wanted: bool) -> None:
    """What went wrong, then what is safe and what to do next."""
    if json_wanted:
        print_json_error(error)
    say(f"{error.kind}: {error.message}")
    if error.hint:
        say(error.hint)


def judgement(found: Judgement | None) -> dict[str, object] | None:
    """What a vault was judged by, for ``--json``."""
    if found is None:
        return None
    broken = [{"rule": one.rule, "why": one.why} for one in found.broken]
    return {"broken": broken, "name": found.policy.name, "note": found.note, "trusted": found.trusted}


def say_notes(report: Report) -> None:
    """That a vault was captured under another policy than the one that it obeys, or that a grant's record was not seen."""
    if report.judgement is not None and report.judgement.differs:
        say(f"note: policy {report.judgement.note}")
    if report.grant_note:
        say(f"note: {report.grant_note}")


@contextmanager
def bar(what: str) -> Iterator[Progress]:
    """Progress with rate and time left, on a terminal only."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    began = monotonic()
    shown = 0.0

    def update(done: int, total: int | None) -> None:
        nonlocal shown
        now = monotonic()
        if now - shown < 0.2 and done != total:
            return
        shown = now
        rate = done / max(now - began, 1e-3)
        line = f"{what} {size(done)}"
        if total:
            left = (total - done) / rate if rate else 0
            line += f" of {size(total)}, {100 * done // total} %, {size(int(rate))}/s, {left:.0f} s left"
        else:
            line += f", {size(int(rate))}/s"
        click.echo(f"\r\x1b[K{line}", nl=False, err=True)

    try:
        yield update
    finally:
        if shown:
            click.echo("\r\x1b[K", nl=False, err=True)


def new_file(path: str | None) -> Callable[[str, bytes], str]:
    """A function that writes a new file, at ``path`` or else under the name given to it, and returns where.

    A ``path`` that is taken is refused before anything is done.
    """

    def refuse(name: str, why: str) -> NoReturn:
        raise BadInput(f"{name}: {why}", "Nothing is overwritten. Name another file with -o.")

    if path and os.path.lexists(path):
        refuse(path, "exists and is kept")

    def write(name: str, data: bytes) -> str:
        where = path or name
        try:
            with open(where, "xb") as file:
                file.write(data)
        except OSError as error:
            refuse(where, error.strerror or "cannot be written")
        return where

    return write


def confirm(question: str, what: str, does: str) -> None:
    """Ask on the terminal before what nothing takes back. Raises ``Usage`` where there is none, and ``PolicyRefused``."""
    if not sys.stdin.isatty():
        raise Usage(f"{what} asks on a terminal, and there is none", f"Nothing was done. --yes {does}.")
    if not click.confirm(question, err=True):
        raise PolicyRefused(f"{what}: not confirmed", "Nothing was done.")
