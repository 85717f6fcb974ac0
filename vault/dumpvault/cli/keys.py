"""``dumpvault keys``."""

from __future__ import annotations

import os
from typing import Any

import click

from dumpvault.cli import output
from dumpvault.cli.site import load_site, passphrase_option, read_passphrase
from dumpvault.errors import BadInput, Usage
from dumpvault.flows import keys as flow
from dumpvault.formats.allowed_signers import ROLES
from dumpvault.formats.kem import SUITES
from dumpvault.formats.recipient import NAME
from dumpvault.formats.signature import ALGORITHMS

__all__ = ["keys_command"]


@click.group("keys")
def keys_command() -> None:
    """Make, list, show, import and export keys.

    Public halves are one-line text files in the site's keys directory and may be shown to anyone; private halves are
    files of mode 0600 beside it.
    """


@keys_command.group("new")
def new() -> None:
    """Make a recipient (who can open) or a signer (who vouches)."""


def _protection(function: Any) -> Any:
    function = click.option(
        "--unprotected", is_flag=True, help="Do not lock the private half; its file mode is all that protects it."
    )(function)
    return passphrase_option(function)


def _passphrase(name: str, unprotected: bool, path: str | None) -> bytes | None:
    if not NAME.fullmatch(name):
        raise BadInput(f"{name!r} is no key name", "Letters, digits, '.', '_', '-' and '@', at most 64.")
    if unprotected and path:
        raise Usage("--unprotected and --passphrase-file exclude each other", "Choose one.")
    return None if unprotected else read_passphrase(path, f"New passphrase for {name}", confirm=True)


@new.command(
    "recipient",
    epilog=output.epilog(
        "dumpvault keys new recipient analyst",
        "dumpvault keys new recipient vault-hsm --kem p384",
        codes=(0, 1, 2, 12, 13),
    ),
)
@click.argument("name")
@click.option("--kem", type=click.Choice(list(SUITES)), default="xwing", show_default=True, help="Kind of key.")
@_protection
@output.json_option
def new_recipient(name: str, kem: str, unprotected: bool, passphrase_file: str | None, as_json: bool) -> None:
    """Make a recipient NAME: vaults sealed to it open with its private half and nothing else."""
    site = load_site()
    facts = flow.new_recipient(site, name, kem, _passphrase(name, unprotected, passphrase_file))
    _made(facts, as_json)


@new.command(
    "signer",
    epilog=output.epilog(
        "dumpvault keys new signer collector@db1 --unprotected",
        "dumpvault keys new signer officer --role officer",
        "dumpvault keys new signer collector-pq@db1 --algorithm mldsa87 --unprotected",
        codes=(0, 1, 2, 12, 13),
    ),
)
@click.argument("name")
@click.option(
    "--role", type=click.Choice(list(ROLES)), default="collector", show_default=True, help="What it may sign."
)
@click.option(
    "--algorithm", type=click.Choice(list(ALGORITHMS)), default="ed25519", show_default=True, help="Kind of signature."
)
@_protection
@output.json_option
def new_signer(
    name: str, role: str, algorithm: str, unprotected: bool, passphrase_file: str | None, as_json: bool
) -> None:
    """Make a signer NAME and list it with its role in allowed_signers.

    Stock ssh-keygen can check ed25519 and p384; mldsa65 and mldsa87 are post-quantum, and it skips their lines.

    A name of the form NAME@HOST binds a collector to that host: its signature counts for no other.
    """
    site = load_site()
    facts = flow.new_signer(site, name, role, _passphrase(name, unprotected, passphrase_file), algorithm)
    _made(facts, as_json)


def _made(facts: flow.KeyFacts, as_json: bool) -> None:
    if as_json:
        output.print_json(_as_json(facts))
    else:
        output.say(f"{facts.purpose} {facts.name} ({facts.algorithm}, {facts.private}) {facts.fingerprint}")


@keys_command.command("list", epilog=output.epilog("dumpvault keys list", codes=(0, 1, 2)))
@output.json_option
def list_keys(as_json: bool) -> None:
    """List the keys of this home."""
    found = flow.list_keys(load_site())
    if as_json:
        output.print_json({"keys": [_as_json(facts) for facts in found]})
        return
    for facts in found:
        roles = " ".join(flow.role_names(facts)) or "-"
        click.echo(
            f"{facts.purpose:<10} {facts.name:<24} {facts.algorithm:<15} {facts.private:<12} {roles:<10} {facts.fingerprint}"
        )


@keys_command.command("show", epilog=output.epilog("dumpvault keys show analyst", codes=(0, 1, 2)))
@click.argument("name")
@output.json_option
def show(name: str, as_json: bool) -> None:
    """Show what may be shown of key NAME."""
    facts = flow.key_facts(load_site(), name)
    if as_json:
        output.print_json(_as_json(facts))
        return
    click.echo(f"name:         {facts.name}")
    click.echo(f"purpose:      {facts.purpose}")
    click.echo(f"algorithm:    {facts.algorithm}")
    click.echo(f"fingerprint:  {facts.fingerprint}")
    click.echo(f"private half: {facts.private}")
    if facts.purpose == "signer":
        click.echo(f"roles:        {', '.join(flow.role_names(facts)) or 'none'}")
        click.echo(f"namespaces:   {', '.join(facts.roles) or 'none'}")
    click.echo(f"public half:  {facts.public_line}", nl=False)


@keys_command.command(
    "export", epilog=output.epilog("dumpvault keys export analyst > analyst.pub", codes=(0, 1, 2, 13))
)
@click.argument("name")
@click.option("-o", "--output", "path", metavar="FILE", help="Write to FILE instead of stdout.")
@output.json_option
def export(name: str, path: str | None, as_json: bool) -> None:
    """Print the public half of key NAME: one line that 'keys import' takes."""
    line = flow.export_key(load_site(), name)
    if path:
        if os.path.lexists(path):
            raise BadInput(f"{path} exists and is kept", "Name another file.")
        with open(path, "x", encoding="utf-8") as file:
            file.write(line)
    if as_json:
        output.print_json({"name": name, "public": line.strip()})
    elif not path:
        click.echo(line, nl=False)


@keys_command.command(
    "import",
    epilog=output.epilog(
        "dumpvault keys import analyst.pub",
        "dumpvault keys import db1.pub --role collector --name collector@db1",
        codes=(0, 1, 2, 13),
    ),
)
@click.argument("file")
@click.option("--name", help="Call it NAME here. [default: the name in the file]")
@click.option("--role", type=click.Choice(list(ROLES)), help="What an imported signer may sign.")
@output.json_option
def import_key(file: str, name: str | None, role: str | None, as_json: bool) -> None:
    """Add somebody's public half from FILE: a recipient, or a signer with --role."""
    _made(flow.import_key(load_site(), file, name, role), as_json)


def _as_json(facts: flow.KeyFacts) -> dict[str, Any]:
    return {
        "algorithm": facts.algorithm,
        "fingerprint": facts.fingerprint,
        "name": facts.name,
        "namespaces": list(facts.roles),
        "private": facts.private,
        "public": facts.public_line.strip(),
        "purpose": facts.purpose,
        "roles": flow.role_names(facts) if facts.purpose == "signer" else [],
    }
