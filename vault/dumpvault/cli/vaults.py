"""``dumpvault list`` and ``dumpvault info``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from dumpvault.cli import output
from dumpvault.cli.site import load_site, load_trust, policy_option, store_option
from dumpvault.flows.judging import Judge
from dumpvault.flows.listing import claims, find_vault
from dumpvault.flows.signers import signer_facts
from dumpvault.flows.verified import Report
from dumpvault.flows.verify import verify
from dumpvault.formats.event import Released

__all__ = ["info_command", "list_command"]


@click.command(
    "list", epilog=output.epilog("dumpvault list", "dumpvault list --store /mnt/vaults --json", codes=(0, 1, 2, 13))
)
@store_option
@output.json_option
def list_command(store: str | None, as_json: bool) -> None:
    """List the vaults of a store, oldest first, by what their headers claim. Nothing is verified."""
    found = list(claims(load_site().store(store)))
    if as_json:
        rows = [
            {
                "created": claim.header.created,
                "ended": claim.ended,
                "host": claim.header.host,
                "source": claim.header.source.name,
                "vault": claim.vault,
            }
            if claim.header
            else {"ended": claim.ended, "problem": claim.problem.message if claim.problem else "", "vault": claim.vault}
            for claim in found
        ]
        output.print_json({"vaults": rows})
        return
    for claim in found:
        state = "ended" if claim.ended else "unfinished"
        if claim.header:
            h = claim.header
            click.echo(
                f"{claim.vault}  {h.created}  {state:<10}  {output.printable(h.host):<20}  {output.printable(h.source.name)}"
            )
        else:
            problem = output.printable(claim.problem.message if claim.problem else "")
            click.echo(f"{claim.vault}  {'-':<20}  {state:<10}  {problem}")


@click.command(
    "info",
    epilog=output.epilog("dumpvault info latest", "dumpvault info 3f9c --json", codes=(0, 1, 2, 3, 10, 11, 12, 13)),
)
@click.argument("vault", metavar="ID")
@store_option
@click.option("--allowed-signers", metavar="FILE", help="Whom to trust. [default: the site's]")
@policy_option
@output.json_option
def info_command(vault: str, store: str | None, allowed_signers: str | None, policy: str | None, as_json: bool) -> None:
    """Show a vault: what it holds, who can open it, how it was captured.

    Signatures, chain and sizes are checked; the regions' bytes are not read ('verify' reads them).
    """
    site = load_site()
    place = site.store(store)
    trust = load_trust(site, allowed_signers)
    report = verify(place, find_vault(place, vault), trust, judge=Judge(site, policy), bodies=False)
    if not report.header_read:
        raise report.findings[0]
    facts = _facts(report)
    if as_json:
        output.print_json(facts)
    else:
        for label, value in facts.items():
            if label not in ("findings", "signers") and value != []:
                shown = ", ".join(map(str, value)) if isinstance(value, list) else value
                click.echo(f"{label.replace('_', ' ') + ':':<18} {output.printable(str(shown))}")
        for facts_of in signer_facts(report.examiner):
            click.echo(f"{'signer:':<18} {output.printable(facts_of.describe())}")
    for finding in report.findings:
        output.say(f"{finding.kind}: {finding.message}")
    if report.exit_code:
        raise click.exceptions.Exit(report.exit_code)


def _facts(report: Report) -> dict[str, Any]:
    examiner = report.examiner
    header, totals, manifest = examiner.header, examiner.totals, examiner.manifest
    source, released, now = header.source, examiner.release_bytes(), examiner.header_now
    return {
        "vault": report.vault,
        "verdict": f"{report.verdict} (regions' bytes not read)",
        "created": header.created,
        "finished": manifest.finished if manifest else None,
        "host": header.host,
        "boot_id": header.boot_id,
        "tool": header.tool,
        "source": source.name,
        "source_kind": source.kind + (f" {source.elf.bits}-bit {source.elf.endian}-endian" if source.elf else ""),
        "bytes": totals.size,
        "durable_bytes": sum(attempt.bytes for _, attempt in examiner.attempts.values()),
        "sealed_bytes": totals.sealed,
        "unreadable_bytes": totals.unreadable,
        "released_bytes": released["released"],
        "release_authorised_bytes": released["authorised"],
        "release_failed_bytes": released["failed"],
        "release_unknown_bytes": released["unknown"],
        "release_at_end": [
            f"{event.body.method}: {event.body.result}" for event in examiner.events if isinstance(event.body, Released)
        ],
        "changes": examiner.changes(),
        "regions": totals.regions,
        "commits": len(examiner.commits),
        "attempts": len(examiner.attempts),
        "end": manifest.end if manifest else None,
        "truncated": manifest.truncated if manifest else None,
        "policy": header.policy.name,
        "quorum": f"any {now.quorum} of {len(now.recipients)}" if now.quorum else None,
        "judged_by": report.judgement.note if report.judgement else None,
        "recipients": [f"{r.name} ({r.suite})" for r in now.recipients],
        "signed_by": [examiner.trust.principal(keyid) for keyid in examiner.header_signers],
        "signers": [asdict(facts) for facts in signer_facts(examiner)],
        "findings": [finding.message for finding in report.findings],
    }
