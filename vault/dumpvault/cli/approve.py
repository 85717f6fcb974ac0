"""``dumpvault approve``."""

from __future__ import annotations

import sys

import click

from dumpvault.cli import output
from dumpvault.cli.approvals import read_envelope
from dumpvault.cli.recording import load_recording
from dumpvault.cli.site import load_site, load_trust, passphrase_option, store_option, unlocker
from dumpvault.errors import PolicyRefused, Usage
from dumpvault.flows.approving import Asked, approve, read_asked
from dumpvault.flows.requesting import parse_duration
from dumpvault.flows.roles import signer_with_role
from dumpvault.formats.policy_facts import Retrieval
from dumpvault.stages.unlock import choose_key

__all__ = ["approve_command"]

_PURPOSES = {
    "open": "open it",
    "grant": "give somebody else the keys of some of it, or all",
    "reshare": "make a new vault key, and share it among custodians whom the officer names",
}


@click.command(
    "approve",
    epilog=output.epilog(
        "dumpvault approve request-52d1a05a1c0b.json",
        "dumpvault approve request.json --store /mnt/vaults --valid 2h --yes -o alice.json",
        codes=(0, 1, 2, 3, 10, 11, 12, 13, 130),
    ),
)
@click.argument("request", metavar="REQUEST")
@click.option("--valid", metavar="DURATION", help="How long: 30m, 8h, 7d. [default and most: as the request]")
@click.option("--yes", is_flag=True, help="Approve without asking, for scripts.")
@click.option("-o", "--output", "path", metavar="FILE", help="The approval's file. [default: a name of its own]")
@store_option
@click.option(
    "--key", "keys", multiple=True, metavar="NAME|FILE", help="The custodian's private key. [default: the home's]"
)
@click.option("--signer", metavar="NAME|FILE", help="The custodian's signing key. [default: the home's only one]")
@passphrase_option
@click.option("--allowed-signers", metavar="FILE", help="Whom to trust. [default: the site's]")
@output.json_option
def approve_command(
    request: str,
    valid: str | None,
    yes: bool,
    path: str | None,
    store: str | None,
    keys: tuple[str, ...],
    signer: str | None,
    passphrase_file: str | None,
    allowed_signers: str | None,
    as_json: bool,
) -> None:
    """Show who asks for what and why; if you agree, seal your share to the requester; prints the file to send back.

    The vault's header, commits and keybag must be in the store; its regions need not. The share is sealed to the
    request's one-time key: the file may travel by any means. What it helped to open cannot be taken back when it
    expires.
    """
    lasting = parse_duration(valid, "--valid") if valid else None
    site = load_site()
    trust = load_trust(site, allowed_signers)
    place = site.store(store)
    asked = read_asked(place, read_envelope(request, "a request"), request, trust)
    header = asked.report.examiner.header_now
    held = [site.trust.private_key(name) for name in keys] if keys else site.trust.private_keys()
    choose_key(header, held)
    recording = load_recording(site, place, trust)
    _show(asked)
    if not yes:
        _ask()
    unlock = unlocker(passphrase_file)
    key = signer_with_role(site, trust, "approval", header.host, signer, unlock)
    write = output.new_file(path)

    def begin() -> None:
        why = Retrieval(asked.request.reason, asked.request.ticket or "")
        recording.record(asked.report, "approved", "custodian", why, {"request": asked.digest})

    approval, data = approve(asked, held, key, lasting, unlock, begin)
    custodian = next(r.name for r in header.recipients if r.digest == approval.custodian)
    name = write(f"approval-{asked.digest[:12]}-{custodian}.json", data)
    output.say(f"{name}: approved by {custodian}, until {approval.expires}")
    if as_json:
        output.print_json(
            {
                "custodian": custodian,
                "expires": approval.expires,
                "file": name,
                "purpose": asked.request.purpose,
                "reason": asked.request.reason,
                "request": asked.digest,
                "requester": asked.requester,
                "ticket": asked.request.ticket,
                "vault": approval.vault,
            }
        )
    else:
        click.echo(name)


def _show(asked: Asked) -> None:
    request, header = asked.request, asked.report.examiner.header_now
    custodians = ", ".join(r.name for r in header.recipients)
    for label, value in (
        ("who asks", f"{asked.requester} ({request.requester})"),
        ("for", f"all of vault {request.vault}: {header.source.name} of host {header.host}, captured {header.created}"),
        ("to", _PURPOSES[request.purpose]),
        ("why", request.reason),
        ("ticket", request.ticket or "none"),
        ("asked", f"{request.time}, open until {request.expires}"),
        ("opens with", f"any {header.quorum} of {custodians}"),
    ):
        output.say(f"{label + ':':<11} {value}")
    for warning in asked.warnings:
        output.say(f"warning: {warning}")


def _ask() -> None:
    if not sys.stdin.isatty():
        raise Usage("approve asks on a terminal, and there is none", "Read what was asked; --yes approves it.")
    if not click.confirm("Approve? The requester can open all of it, and nothing takes that back", err=True):
        raise PolicyRefused("not approved", "Nothing was written.")
