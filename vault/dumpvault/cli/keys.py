"""``dumpvault keys``."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Any

import click

from dumpvault.cli import output
from dumpvault.cli.site import Moment, load_site, passphrase_option, read_passphrase
from dumpvault.errors import BadInput, Usage
from dumpvault.flows import key_doctor
from dumpvault.flows import keys as flow
from dumpvault.flows.key_access import find_pin
from dumpvault.flows.site import Site
from dumpvault.formats.allowed_signers import ROLES
from dumpvault.formats.kem import SUITES
from dumpvault.formats.pkcs11_uri import Pkcs11Uri
from dumpvault.formats.recipient import NAME
from dumpvault.formats.signature import ALGORITHMS
from dumpvault.stages.token import Pin
from dumpvault.stages.trust import Folder

__all__ = ["keys_command"]


@click.group("keys")
def keys_command() -> None:
    """Make, list, show, import, export, rotate and revoke keys.

    Public halves are one-line text files in the site's keys directory and may be shown to anyone; private halves are
    files of mode 0600 beside it, in the session's keyring, or in a token.
    """


@keys_command.group("new")
def new() -> None:
    """Make a recipient (who can open), a custodian (who holds a share) or a signer (who vouches)."""


def _protection(function: Any) -> Any:
    for option in (
        click.option("--existing", is_flag=True, help="Use the key that the token holds already, and make none."),
        click.option(
            "--token", metavar="URI", help="Make it in a PKCS#11 token, which it never leaves; URI as in RFC 7512."
        ),
        click.option("--keyring", is_flag=True, help="Keep the private half in the keyring of your session."),
        click.option(
            "--unprotected", is_flag=True, help="Do not lock the private half; its file mode is all that protects it."
        ),
    ):
        function = option(function)
    return passphrase_option(function)


def _keep(
    site: Site,
    name: str,
    unprotected: bool,
    keyring: bool,
    token: str | None,
    existing: bool,
    passphrase_file: str | None,
) -> flow.Keep:
    """What the options say of where to keep the private half of ``name``."""
    if not NAME.fullmatch(name):
        raise BadInput(f"{name!r} is no key name", "Letters, digits, '.', '_', '-' and '@', at most 64.")
    chosen = [word for word, given in (
        ("--unprotected", unprotected), ("--keyring", keyring), ("--token", token),
        ("--passphrase-file", passphrase_file and not token),
    ) if given]  # fmt: skip
    if len(chosen) > 1:
        raise Usage(f"{' and '.join(chosen)} exclude each other", "Choose one.")
    if existing and not token:
        raise Usage("--existing speaks of a key in a token", "Name it with --token URI.")
    if token:
        uri = Pkcs11Uri.parse(token, "--token")
        pin = find_pin(site, name, uri, passphrase_file, lambda prompt: read_passphrase(None, prompt))
        return flow.OnToken(uri, Pin(*pin), existing)
    if keyring:
        return flow.InKeyring()
    return None if unprotected else read_passphrase(passphrase_file, f"New passphrase for {name}", confirm=True)


@new.command(
    "recipient",
    epilog=output.epilog(
        "dumpvault keys new recipient analyst",
        "dumpvault keys new recipient analyst --keyring",
        "dumpvault keys new recipient vault --kem p384 --token "
        "'pkcs11:token=site;object=vault?module-path=/usr/lib/softhsm/libsofthsm2.so'",
        codes=(0, 1, 2, 12, 13),
    ),
)
@click.argument("name")
@click.option("--kem", type=click.Choice(list(SUITES)), default="xwing", show_default=True, help="Kind of key.")
@_protection
@output.json_option
def new_recipient(name: str, kem: str, as_json: bool, **protection: Any) -> None:
    """Make a recipient NAME: vaults sealed to it open with its private half and nothing else."""
    site = load_site()
    facts = flow.new_recipient(site, name, kem, _keep(site, name, **protection))
    _made(facts, as_json)


@new.command(
    "custodian",
    epilog=output.epilog(
        "dumpvault keys new custodian alice",
        "dumpvault keys new custodian bob --kem p384 --passphrase-file bob.txt",
        codes=(0, 1, 2, 12, 13),
    ),
)
@click.argument("name")
@click.option("--kem", type=click.Choice(list(SUITES)), default="xwing", show_default=True, help="Kind of key.")
@_protection
@output.json_option
def new_custodian(name: str, kem: str, as_json: bool, **protection: Any) -> None:
    """Make a custodian NAME, who holds one share of vaults under dual control and opens none of them alone."""
    site = load_site()
    _made(flow.new_recipient(site, name, kem, _keep(site, name, **protection), "custodians"), as_json)


@new.command(
    "signer",
    epilog=output.epilog(
        "dumpvault keys new signer collector@db1 --unprotected",
        "dumpvault keys new signer officer --role officer --valid-before 2028-01-01",
        "dumpvault keys new signer collector-pq@db1 --algorithm mldsa87 --unprotected",
        codes=(0, 1, 2, 12, 13),
    ),
)
@click.argument("name")
@click.option(
    "--role", type=click.Choice(list(ROLES)), default="collector", show_default=True, help="What it may sign."
)
@click.option("--valid-before", type=Moment(), metavar="TIME", help="The last moment at which it is good.")
@click.option(
    "--algorithm", type=click.Choice(list(ALGORITHMS)), default="ed25519", show_default=True, help="Kind of signature."
)
@_protection
@output.json_option
def new_signer(
    name: str, role: str, algorithm: str, valid_before: datetime | None, as_json: bool, **protection: Any
) -> None:
    """Make a signer NAME and list it with its role in allowed_signers.

    Stock ssh-keygen can check ed25519 and p384; mldsa65 and mldsa87 are post-quantum, and it skips their lines.

    A name of the form NAME@HOST binds a collector to that host: its signature counts for no other.
    """
    site = load_site()
    facts = flow.new_signer(site, name, role, _keep(site, name, **protection), valid_before, algorithm)
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
            f"{facts.purpose:<10} {facts.name:<24} {facts.algorithm:<15} {facts.private:<12} {facts.status:<8} "
            f"{roles:<10} {facts.fingerprint}"
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
    click.echo(f"status:       {facts.status}")
    if facts.valid_before:
        click.echo(f"valid before: {facts.valid_before:%Y-%m-%dT%H:%M:%SZ}")
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
        "dumpvault keys import alice.pub --custodian",
        codes=(0, 1, 2, 13),
    ),
)
@click.argument("file")
@click.option("--name", help="Call it NAME here. [default: the name in the file]")
@click.option("--role", type=click.Choice(list(ROLES)), help="What an imported signer may sign.")
@click.option("--custodian", is_flag=True, help="It is to hold shares under dual control, not to open vaults alone.")
@output.json_option
def import_key(file: str, name: str | None, role: str | None, custodian: bool, as_json: bool) -> None:
    """Add somebody's public half from FILE: a recipient, a custodian with --custodian, or a signer with --role."""
    folder: Folder = "custodians" if custodian else "recipients"
    _made(flow.import_key(load_site(), file, name, role, folder), as_json)


@keys_command.command(
    "rotate",
    epilog=output.epilog(
        "dumpvault keys rotate analyst", "dumpvault keys rotate collector@db1 --unprotected", codes=(0, 1, 2, 12, 13)
    ),
)
@click.argument("name")
@click.option("--valid-before", type=Moment(), metavar="TIME", help="A new signer's last moment.")
@_protection
@output.json_option
def rotate(name: str, valid_before: datetime | None, as_json: bool, **protection: Any) -> None:
    """Make a new key in the place of NAME's.

    A recipient's old key stays, under its name and the date, to open old vaults; nothing more is sealed to it. A
    signer's old key is valid before now, and its private half is destroyed (in a token it stays): vaults that it
    signed are checked with --at TIME.
    """
    site = load_site()
    old = flow.key_facts(site, name)
    if old.purpose != "signer" and valid_before:
        raise Usage("a recipient has no end of validity", "It is rotated or revoked.")
    facts = flow.rotate(
        site, name, _keep(site, name, **protection), datetime.now(UTC).replace(microsecond=0), valid_before
    )
    _made(facts, as_json)


@keys_command.command(
    "revoke",
    epilog=output.epilog(
        "dumpvault keys revoke collector@db1 --reason 'the host was broken into'",
        "dumpvault keys revoke SHA256:Bvn… --reason 'laptop stolen'",
        codes=(0, 1, 2, 13),
    ),
)
@click.argument("name", metavar="NAME|FINGERPRINT")
@click.option("--reason", required=True, metavar="TEXT", help="Why; one line, kept beside the key.")
@output.json_option
def revoke(name: str, reason: str, as_json: bool) -> None:
    """Revoke a key for good.

    No signature of a revoked signer is good any more, old ones included, at whatever time they are judged. A revoked
    recipient opens what was sealed to it; nothing more is.
    """
    site = load_site()
    facts = flow.revoke(site, name, reason, datetime.now(UTC).replace(microsecond=0))
    if as_json:
        output.print_json(
            {"fingerprint": facts.fingerprint, "name": facts.name, "purpose": facts.purpose, "reason": reason}
        )
        return
    output.say(f"revoked: {facts.purpose} {facts.name} {facts.fingerprint}")
    if facts.purpose != "signer":
        output.say("what was sealed to it still opens with it; rewrap vaults that it must not open")
    else:
        output.say(f"send {site.trust.revoked_keys_path} to all who verify")


@keys_command.command("doctor", epilog=output.epilog("dumpvault keys doctor", codes=(0, 1, 2, 12)))
@output.json_option
def doctor(as_json: bool) -> int:
    """Say where each private half is and whether it can be reached, and whether the trust files are in order.

    No PIN or passphrase is asked for or tried.
    """
    checks = list(key_doctor.examine(load_site(), datetime.now(UTC)))
    if as_json:
        output.print_json({"checks": [
            {"advice": c.advice, "found": c.found, "name": c.name, "state": c.state} for c in checks
        ]})  # fmt: skip
    else:
        for check in checks:
            click.echo(f"{check.state:<15} {check.name}: {output.printable(check.found)}")
            if check.advice and check.state != "ok":
                click.echo(f"{'':<15} {output.printable(check.advice)}")
    return key_doctor.exit_code(checks)


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
        "status": facts.status,
        "valid_before": f"{facts.valid_before:%Y-%m-%dT%H:%M:%SZ}" if facts.valid_before else None,
    }
