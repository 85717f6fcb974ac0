"""``dumpvault report``."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from dumpvault import __version__
from dumpvault.cli import output
from dumpvault.cli.site import at_option, load_site, load_trust, policy_option
from dumpvault.errors import Usage
from dumpvault.flows.custody_told import read_ledger
from dumpvault.flows.judging import Judge
from dumpvault.flows.listing import claims, find_vault
from dumpvault.flows.rendering import place_report, render, write_report
from dumpvault.flows.reporting import vault_facts
from dumpvault.flows.verify import verify
from dumpvault.formats import jcs
from dumpvault.formats.report_facts import ReportFacts

__all__ = ["report_command"]

_OF_SITE = "\0"


@click.command(
    "report",
    epilog=output.epilog(
        "dumpvault report latest -o report.html",
        "dumpvault report --store -o site.html",
        "dumpvault report --store /mnt/vaults --allowed-signers auditors_copy --json",
        codes=(0, 1, 2, 3, 10, 11, 12, 13),
    ),
)
@click.argument("vault", metavar="[ID]", required=False)
@click.option("-o", "--output", "path", metavar="FILE|-", help="Where to write the page; - is standard output.")
@click.option(
    "--store",
    is_flag=False,
    flag_value=_OF_SITE,
    metavar="[URL]",
    help="The store: a directory. Without an ID, report on all its vaults. [default: the site's]",
)
@click.option("--allowed-signers", metavar="FILE", help="Whom to trust, in OpenSSH's format. [default: the site's]")
@at_option
@policy_option
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@click.option("--jobs", type=click.IntRange(1, 64), metavar="N", help="Threads. [default: one per processor]")
@output.json_option
def report_command(
    vault: str | None,
    path: str | None,
    store: str | None,
    allowed_signers: str | None,
    at: datetime | None,
    policy: str | None,
    force: bool,
    jobs: int | None,
    as_json: bool,
) -> None:
    """Write a page for an auditor: is a vault intact and complete, who could open it, who did, and what nobody checked.

    Verifies as 'verify' does, needs no private key, and exits as 'verify' does. The page is written whatever was
    found. It is one file that loads nothing and runs nothing. --json prints the same facts.
    """
    if vault is None and store is None:
        raise Usage("which vault?", "Name one by its id, or say --store for all vaults of the store.")
    if path is None and not as_json:
        raise Usage("where to?", "Name a file with -o, or ask for --json.")
    if path == "-" and as_json:
        raise Usage("--json and -o - both want standard output", "Write to a file, or leave out --json.")
    if path and path != "-":
        place_report(path, force=force)
    site = load_site()
    trust = load_trust(site, allowed_signers, at)
    place = site.store(None if store == _OF_SITE else store)
    chosen = [find_vault(place, vault)] if vault is not None else [claim.vault for claim in claims(place)]
    moment = at or datetime.now(UTC)
    told = read_ledger(site, place, trust, moment)
    found = []
    with output.bar("verifying") as progress:
        for one in chosen:
            report = verify(place, one, trust, moment=moment, jobs=jobs, judge=Judge(site, policy), progress=progress)
            found.append(vault_facts(report, told(report)))
    facts = ReportFacts(
        made=jcs.to_time(datetime.now(UTC)),
        judged_at=jcs.to_time(moment),
        tool=f"dumpvault {__version__}",
        trust=trust.name,
        store=None if vault is not None else place.url,
        vaults=tuple(found),
    )
    if path == "-":
        click.echo(render(facts), nl=False)
    elif path:
        write_report(path, render(facts), force=force)
        output.say(f"report: {path}")
    if as_json:
        output.print_json(facts.encode())
    elif path != "-":
        for facts_of in found:
            click.echo(f"{facts_of.vault}: {facts_of.verdict}; {facts_of.answers[1].short.lower()}")
    if facts.exit_code:
        raise click.exceptions.Exit(facts.exit_code)
