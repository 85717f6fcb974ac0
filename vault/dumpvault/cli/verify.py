"""``dumpvault verify``."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime

import click

from dumpvault.cli import output
from dumpvault.cli.recording import load_recording
from dumpvault.cli.site import (
    at_option,
    load_site,
    load_trust,
    passphrase_option,
    policy_option,
    store_option,
    unlocker,
)
from dumpvault.errors import StoreFailed
from dumpvault.flows.judging import Judge
from dumpvault.flows.listing import find_vault
from dumpvault.flows.recording import Opening, Recording
from dumpvault.flows.signers import signer_facts
from dumpvault.flows.verified import Report
from dumpvault.flows.verify import verify
from dumpvault.formats.policy_facts import Retrieval
from dumpvault.formats.private_key import LockedKey

__all__ = ["verify_command"]

_MARKS = {"held": "held", "partly": "held in part", "missing": "MISSING", "failed": "FAILED", "skipped": "not done"}


@click.command(
    "verify",
    epilog=output.epilog(
        "dumpvault verify latest",
        "dumpvault verify 3f9c --allowed-signers auditors_copy --json",
        "dumpvault verify 3f9c --with-key analyst",
        codes=(0, 1, 2, 3, 10, 11, 12, 13),
    ),
)
@click.argument("vault", metavar="ID")
@store_option
@click.option("--allowed-signers", metavar="FILE", help="Whom to trust, in OpenSSH's format. [default: the site's]")
@at_option
@policy_option
@click.option("--with-key", metavar="NAME|FILE", help="Also prove that this private key opens every region.")
@passphrase_option
@click.option("--record", is_flag=True, help="Write what came out into the store's ledger.")
@click.option("--jobs", type=click.IntRange(1, 64), metavar="N", help="Threads. [default: one per processor]")
@output.json_option
def verify_command(
    vault: str,
    store: str | None,
    allowed_signers: str | None,
    at: datetime | None,
    policy: str | None,
    with_key: str | None,
    passphrase_file: str | None,
    record: bool,
    jobs: int | None,
    as_json: bool,
) -> None:
    """Check everything that can be checked without a key: signatures, roles, chain, every block, policy.

    The vault must also obey the policy that this site's configuration names for its host, whatever policy its own header
    states. Exits 0 only if all of it was checked and held. Objects that nobody signed for are listed and change nothing.
    """
    site = load_site()
    trust = load_trust(site, allowed_signers, at)
    key = site.trust.private_key(with_key) if with_key else None
    if isinstance(key, LockedKey):
        key = unlocker(passphrase_file)(key)
    place = site.store(store)
    found = find_vault(place, vault)
    recording = load_recording(site, place, trust) if record or key else None
    opening = Opening(recording, "verify") if recording and key else None
    begin = opening.begin if opening else lambda report: None
    try:
        with output.bar("verifying") as progress:
            judge = Judge(site, policy)
            report = verify(place, found, trust, jobs=jobs, key=key, judge=judge, begin=begin, progress=progress)
    finally:
        if opening:
            opening.end(0, ())
    if record and recording:
        _record(recording, report)
    if as_json:
        _print_json(report)
    else:
        _print(report)
    if report.exit_code:
        raise click.exceptions.Exit(report.exit_code)


def _record(recording: Recording, report: Report) -> None:
    """Raises ``StoreFailed`` where it cannot be written: it was asked for."""
    if not report.header_read:
        raise report.findings[0]
    if recording.record(report, "verified", "auditor", Retrieval(), {"verdict": report.verdict}) is None:
        raise StoreFailed(
            f"the verdict on vault {report.vault}, {report.verdict}, is not in a ledger",
            "Nothing was changed. Begin a ledger in the store, or leave --record out.",
        )


def _print(report: Report) -> None:
    for number in sorted(report.steps):
        step = report.steps[number]
        click.echo(
            f"{number:>3}. {step.title:<16} {_MARKS[step.state]}{f'  ({output.printable(step.note)})' if step.note else ''}"
        )
    for name in report.foreign[:20]:
        click.echo(f"     foreign: {output.printable(name)}")
    if len(report.foreign) > 20:
        click.echo(f"     foreign: and {len(report.foreign) - 20} more")
    examiner = report.examiner
    _print_anchors(report)
    _print_events(report)
    if report.header_read:
        signed = ", ".join(examiner.trust.principal(keyid) for keyid in examiner.header_signers)
        until = "" if examiner.manifest else f", at least up to commit {len(examiner.commits) - 1}"
        released = examiner.release_bytes()
        for facts in signer_facts(examiner):
            click.echo(f"     signer: {output.printable(facts.describe())}")
        if released["authorised"]:
            told = ", ".join(f"{output.size(released[state])} {state}" for state in ("released", "failed", "unknown"))
            click.echo(f"     memory handed back: {output.size(released['authorised'])} authorised: {told}")
        click.echo(
            f"{report.vault}: {report.verdict}; {examiner.totals.regions} regions, "
            f"{output.size(examiner.totals.size)} of memory, signed by {signed}{until}"
        )
    else:
        click.echo(f"{report.vault}: {report.verdict}")
    for finding in report.findings[:20]:
        output.say(f"{finding.kind}: {finding.message}")
        if finding.hint:
            output.say(f"  {finding.hint}")
    if len(report.findings) > 20:
        output.say(f"and {len(report.findings) - 20} more findings; --json lists all")


def _print_anchors(report: Report) -> None:
    for name, anchor in report.anchors.items():
        click.echo(
            f"     timestamp: the manifest existed at {anchor.time:%Y-%m-%d %H:%M:%SZ} "
            f"({output.printable(anchor.source)}; {output.printable(name)})"
        )
    if report.witnessed:
        click.echo(
            f"     witness: the manifest existed at {report.witnessed.time:%Y-%m-%d %H:%M:%SZ} "
            f"({output.printable(report.witnessed.source)})"
        )
    for error in report.unproved.values():
        output.say(f"note: {error.message}")


def _print_events(report: Report) -> None:
    """What officers did to the keys, and what of it is not finished."""
    for change in report.examiner.changes():
        click.echo(f"     {output.printable(change)}")
    for name in report.superseded[:20]:
        click.echo(f"     out of use: {output.printable(name)}")
    if report.superseded:
        output.say(
            f"note: {len(report.superseded)} key objects that an event put out of use are still there, and open what they "
            "opened; the same command once more deletes them"
        )


def _print_json(report: Report) -> None:
    examiner = report.examiner
    output.print_json(
        {
            "bytes": examiner.totals.size,
            "commits": len(examiner.commits),
            "exit_code": report.exit_code,
            "findings": [
                {"exit_code": f.exit_code, "hint": f.hint, "kind": f.kind, "message": f.message}
                for f in report.findings
            ],
            "foreign": report.foreign,
            "judged_at": f"{report.moment:%Y-%m-%dT%H:%M:%SZ}",
            "policy": output.judgement(report.judgement),
            "regions": examiner.totals.regions,
            "release_bytes": examiner.release_bytes(),
            "changes": examiner.changes(),
            "shredded_regions": len(examiner.current.shredded),
            "sealed_bytes": examiner.totals.sealed,
            "signed_by": [examiner.trust.principal(keyid) for keyid in examiner.header_signers],
            "signers": [asdict(facts) for facts in signer_facts(examiner)] if report.header_read else [],
            "steps": [
                {"name": step.title, "note": step.note, "number": number, "state": step.state}
                for number, step in sorted(report.steps.items())
            ],
            "superseded": report.superseded,
            "timestamps": [
                {"object": n, "source": a.source, "time": f"{a.time:%Y-%m-%dT%H:%M:%SZ}"}
                for n, a in report.anchors.items()
            ],
            "unproved_timestamps": [error.message for error in report.unproved.values()],
            "vault": report.vault,
            "verdict": report.verdict,
            "witnessed": report.witnessed
            and {"source": report.witnessed.source, "time": f"{report.witnessed.time:%Y-%m-%dT%H:%M:%SZ}"},
        }
    )
