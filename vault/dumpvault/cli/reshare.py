"""``dumpvault reshare``."""

from __future__ import annotations

from collections.abc import Sequence

import click

from dumpvault.cli import output
from dumpvault.cli.approvals import approvals_option, load_approvals
from dumpvault.cli.officer import load_officer, officer_options
from dumpvault.cli.recording import why_options
from dumpvault.cli.site import policy_option
from dumpvault.errors import NoKey
from dumpvault.flows.capture import custodians_for
from dumpvault.flows.judging import Judge
from dumpvault.flows.listing import find_vault
from dumpvault.flows.resharing import ReshareRequest, reshare
from dumpvault.flows.site import Site
from dumpvault.formats.header import Header
from dumpvault.formats.recipient import Recipient
from dumpvault.formats.sharing import Quorum

__all__ = ["reshare_command"]


@click.command(
    "reshare",
    epilog=output.epilog(
        "dumpvault reshare 3f9c --approvals alice.json --approvals bob.json",
        "dumpvault reshare 3f9c --quorum 2of3:alice,bob,dan --approvals alice.json --approvals bob.json",
        codes=(0, 1, 2, 3, 10, 11, 12, 13, 130),
    ),
)
@click.argument("vault", metavar="ID")
@click.option(
    "--quorum", metavar="KofN:NAMES", help="The custodians from now on. [default: the same, and as many of them]"
)
@approvals_option
@why_options
@policy_option
@officer_options
def reshare_command(
    vault: str,
    quorum: str | None,
    approvals: tuple[str, ...],
    reason: str,
    ticket: str,
    policy: str | None,
    store: str | None,
    signer: str | None,
    passphrase_file: str | None,
    allowed_signers: str | None,
    as_json: bool,
) -> None:
    """Make new vault keys for a vault under dual control, and share them anew. What is sealed stays as it is.

    It takes approvals that were asked for with 'request --for reshare', and an officer's key. Shares and approvals of
    before then open nothing of what is there; who put a vault key together before may have kept it, and copies of the
    old key objects open what they opened. What was interrupted is finished by running it again.
    """
    officer = load_officer(store, signer, passphrase_file, allowed_signers)
    site = officer.site
    wanted = Quorum.parse(quorum, "--quorum") if quorum else None

    def sharing(header: Header) -> tuple[Sequence[Recipient], int]:
        if wanted:
            return custodians_for(site, wanted), wanted.threshold
        assert header.quorum is not None
        return _same(site, header), header.quorum

    judge = Judge(site, policy)
    request = ReshareRequest(
        find_vault(officer.store, vault),
        load_approvals(site, approvals, purpose="reshare"),
        sharing,
        judge.bound_by,
        site.trust.known(),
    )
    record = officer.record("reshared", reason, ticket)
    done = reshare(officer.store, request, officer.trust, officer.signer("rewrap"), record)
    names = ", ".join(f"{r.name} ({r.suite})" for r in done.custodians)
    what = "was shared anew already, and is finished now" if done.finished else "shared anew, with new vault keys"
    output.say(f"{request.vault}: {what}: any {done.quorum} of {names} (event {done.event})")
    if as_json:
        output.print_json(
            {
                "agreed": list(done.agreed),
                "custodians": [{"name": r.name, "suite": r.suite} for r in done.custodians],
                "deleted": list(done.deleted),
                "event": done.event,
                "finished": done.finished,
                "quorum": done.quorum,
                "vault": request.vault,
            }
        )


def _same(site: Site, header: Header) -> list[Recipient]:
    """The public keys of the custodians that a vault has, as this home holds them. Raises ``NoKey``."""
    held = {r.digest: r for r in site.trust.recipients("custodians")}
    for one in header.recipients:
        if one.digest not in held:
            raise NoKey(
                f"the public key of custodian {one.name} ({one.suite}) is not in this home",
                "New shares are sealed to all custodians: import it (dumpvault keys import --custodian), or name others.",
            )
    return [held[one.digest] for one in header.recipients]
