"""``dumpvault open``."""

from __future__ import annotations

from datetime import datetime

import click

from dumpvault.cli import output
from dumpvault.cli.approvals import agreed, approvals_option, load_approvals
from dumpvault.cli.grants import grant_option, load_grant
from dumpvault.cli.recording import load_recording
from dumpvault.cli.site import (
    at_option,
    load_site,
    load_trust,
    passphrase_option,
    retrieval_options,
    store_option,
    unlocker,
)
from dumpvault.errors import Usage
from dumpvault.flows.judging import Judge
from dumpvault.flows.listing import find_vault
from dumpvault.flows.open import OpenRequest, open_vault, shortfall
from dumpvault.flows.recording import Opening
from dumpvault.formats.policy_facts import Retrieval

__all__ = ["open_command"]


@click.command(
    "open",
    epilog=output.epilog(
        "dumpvault open latest -o vmcore",
        "dumpvault open 3f9c -o - | sha256sum",
        "dumpvault open 3f9c -o what-there-is --partial",
        "dumpvault open 3f9c -o vmcore --approvals alice.json --approvals bob.json",
        codes=(0, 1, 2, 3, 10, 11, 12, 13, 130),
    ),
)
@click.argument("vault", metavar="ID")
@click.option("-o", "--output", "path", required=True, metavar="FILE|-", help="Where to write; - is standard output.")
@store_option
@click.option(
    "--key", "keys", multiple=True, metavar="NAME|FILE", help="Private key to use. [default: any of the site's]"
)
@passphrase_option
@approvals_option
@grant_option
@click.option("--allowed-signers", metavar="FILE", help="Whom to trust. [default: the site's]")
@at_option
@retrieval_options
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@click.option("--partial", is_flag=True, help="Write what can be authenticated of an incomplete or damaged vault.")
@click.option("--jobs", type=click.IntRange(1, 64), metavar="N", help="Threads. [default: one per processor]")
@output.json_option
def open_command(
    vault: str,
    path: str,
    store: str | None,
    keys: tuple[str, ...],
    passphrase_file: str | None,
    approvals: tuple[str, ...],
    grant: str | None,
    allowed_signers: str | None,
    at: datetime | None,
    policy: str | None,
    reason: str,
    ticket: str,
    force: bool,
    partial: bool,
    jobs: int | None,
    as_json: bool,
) -> None:
    """Write the captured memory back, bit for bit.

    FILE appears only when every byte of it is authenticated; a failed or killed run leaves nothing. Standard output
    gets each frame as soon as that frame is authenticated, in order.
    """
    if path == "-" and as_json:
        raise Usage("--json and -o - both want standard output", "Write to a file, or leave out --json.")
    site = load_site()
    trust = load_trust(site, allowed_signers, at)
    held = [site.trust.private_key(name) for name in keys] if keys else site.trust.private_keys()
    place = site.store(store)
    answers = load_approvals(site, approvals, keys)
    given = load_grant(grant)
    recording = load_recording(site, place, trust)
    said = Retrieval(reason, ticket)
    judge = Judge(site, policy, said, agreed(answers, granted=given is not None), recording.custody)
    request = OpenRequest(
        find_vault(place, vault), path, held, force, partial, jobs, answers, judge, given, Opening(recording, "open")
    )
    with output.bar("opening") as progress:
        opened = open_vault(place, request, trust, unlocker(passphrase_file), progress)
    output.say_notes(opened.report)
    short = shortfall(opened)
    if as_json:
        output.print_json(
            {
                "bytes": opened.size,
                "complete": short is None,
                "grant_recorded": None if grant is None else not opened.report.grant_note,
                "missing": [problem.message for problem in opened.problems],
                "opened_bytes": opened.written,
                "output": path,
                "policy": output.judgement(opened.report.judgement),
                "unreadable_bytes": opened.unreadable,
                "vault": request.vault,
            }
        )
    if opened.unreadable:
        output.say(f"note: {opened.unreadable} bytes could not be read when it was captured; they read as zeros")
    if short:
        output.say(f"{short.kind}: {short.message}")
        output.say(short.hint)
        raise click.exceptions.Exit(short.exit_code)
