"""``dumpvault request``."""

from __future__ import annotations

import click

from dumpvault.cli import output
from dumpvault.cli.approvals import onetime_keys
from dumpvault.cli.recording import load_recording
from dumpvault.cli.site import load_site, load_trust, passphrase_option, store_option, unlocker
from dumpvault.flows.listing import find_vault
from dumpvault.flows.requesting import check_asked, make_request, parse_duration, sweep
from dumpvault.flows.roles import signer_with_role
from dumpvault.flows.verify import verify
from dumpvault.formats.policy_facts import Retrieval
from dumpvault.formats.request import Purpose

__all__ = ["request_command"]


@click.command(
    "request",
    epilog=output.epilog(
        "dumpvault request latest --reason 'panic in db1, find the culprit' --ticket INC-4711",
        "dumpvault request 3f9c --reason 'customer data leak?' --valid 4h -o request.json",
        "dumpvault request 3f9c --for reshare --reason 'carol has left'",
        codes=(0, 1, 2, 3, 10, 12, 13),
    ),
)
@click.argument("vault", metavar="ID")
@click.option("--reason", required=True, metavar="TEXT", help="Why. It stands in the file in the clear.")
@click.option(
    "--for",
    "purpose",
    type=click.Choice(("open", "grant", "reshare")),
    default="open",
    show_default=True,
    help="What they shall agree to.",
)
@click.option("--ticket", metavar="TEXT", help="Where it is recorded. It stands in the file in the clear.")
@click.option(
    "--valid", default="24h", show_default=True, metavar="DURATION", help="How long: 30m, 8h, 7d; 31d at most."
)
@click.option("-o", "--output", "path", metavar="FILE", help="The request's file. [default: a name of its own]")
@store_option
@click.option("--signer", metavar="NAME|FILE", help="The analyst's signing key. [default: the home's only one]")
@passphrase_option
@click.option("--allowed-signers", metavar="FILE", help="Whom to trust. [default: the site's]")
@output.json_option
def request_command(
    vault: str,
    reason: str,
    purpose: Purpose,
    ticket: str | None,
    valid: str,
    path: str | None,
    store: str | None,
    signer: str | None,
    passphrase_file: str | None,
    allowed_signers: str | None,
    as_json: bool,
) -> None:
    """Ask the custodians of a vault under dual control; prints the name of the file to send them.

    Their approvals serve once, here, and only what was asked for: --approvals of open, mount, drgn, crash and dmesg, or
    with --for that of grant or reshare. Their shares are sealed to a one-time key that stays in this home until it is
    used or expires. The file may travel by any means; whoever reads it learns who asks, for which vault, why, and
    nothing more.
    """
    lasting = parse_duration(valid, "--valid")
    check_asked(reason, ticket, lasting)
    site = load_site()
    trust = load_trust(site, allowed_signers)
    place = site.store(store)
    report = verify(place, find_vault(place, vault), trust, bodies=False)
    if not report.header_read:
        raise report.findings[0]
    header = report.examiner.header_now
    key = signer_with_role(site, trust, "request", header.host, signer, unlocker(passphrase_file))
    onetime = onetime_keys(site)
    sweep(onetime)
    write = output.new_file(path)
    made = make_request(report, key, onetime, reason, ticket, lasting, purpose)
    try:
        asked = {"request": made.digest}
        load_recording(site, place, trust).record(
            report, "requested", "analyst", Retrieval(reason, ticket or ""), asked
        )
        name = write(f"request-{made.digest[:12]}.json", made.data)
    except BaseException:
        onetime.use_up(made.digest)
        raise
    request = made.request
    for finding in report.findings:
        output.say(f"note: {finding.message}")
    custodians = ", ".join(r.name for r in header.recipients)
    output.say(f"{name}: request for vault {request.vault}, open until {request.expires}")
    output.say(f"any {header.quorum} of {custodians} must approve it: 'dumpvault approve {name}' in their homes")
    if as_json:
        output.print_json(
            {
                "attempts": list(request.attempts),
                "custodians": [r.name for r in header.recipients],
                "digest": made.digest,
                "expires": request.expires,
                "file": name,
                "purpose": request.purpose,
                "quorum": header.quorum,
                "vault": request.vault,
            }
        )
    else:
        click.echo(name)
