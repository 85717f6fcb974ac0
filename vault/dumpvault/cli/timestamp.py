"""``dumpvault timestamp``."""

from __future__ import annotations

from datetime import datetime

import click

from dumpvault.cli import output
from dumpvault.cli.site import at_option, load_site, load_trust, store_option
from dumpvault.errors import Usage

__all__ = ["timestamp_command"]


@click.command(
    "timestamp",
    epilog=output.epilog(
        "dumpvault timestamp latest --tsa https://tsa.example/tsr",
        "dumpvault timestamp 3f9c --json",
        codes=(0, 1, 2, 3, 10, 12, 13),
    ),
)
@click.argument("vault", metavar="ID")
@click.option("--tsa", metavar="URL", help="The timestamp authority. [default: the site's]")
@store_option
@click.option("--allowed-signers", metavar="FILE", help="Whom to trust. [default: the site's]")
@at_option
@output.json_option
def timestamp_command(
    vault: str, tsa: str | None, store: str | None, allowed_signers: str | None, at: datetime | None, as_json: bool
) -> None:
    """Have an authority timestamp a vault's manifest (RFC 3161), and keep its answer beside it.

    The authority learns a digest of the manifest, nothing else. Its root must stand in keys/tsa/ of the home. Anybody who
    may write to the store may do this; no private key is needed. Verifying works offline.
    """
    from dumpvault.flows.listing import find_vault
    from dumpvault.flows.timestamping import stamp_manifest

    site = load_site()
    url = tsa or site.tsa
    if url is None:
        raise Usage("no timestamp authority", "Name one with --tsa, or as tsa in config.toml.")
    trust = load_trust(site, allowed_signers, at)
    place = site.store(store)
    found = find_vault(place, vault)
    name, anchor = stamp_manifest(place, found, url, trust)
    if as_json:
        said = {"object": name, "source": anchor.source, "time": f"{anchor.time:%Y-%m-%dT%H:%M:%SZ}", "vault": found}
        output.print_json(said)
    else:
        click.echo(f"{name}: existed at {anchor.time:%Y-%m-%d %H:%M:%SZ} ({anchor.source})")
