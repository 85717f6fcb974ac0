"""``dumpvault policy``."""

from __future__ import annotations

from typing import Any

import click

from dumpvault.cli import output
from dumpvault.cli.site import load_site, store_option
from dumpvault.errors import BadInput
from dumpvault.flows import policies as flow
from dumpvault.formats.policy import Policy
from dumpvault.formats.rules import RULES

__all__ = ["policy_command"]


@click.group("policy")
def policy_command() -> None:
    """List, show and check policies: TOML files that say what a capture, a verification and an opening must do."""


@policy_command.command(
    "list", epilog=output.epilog("dumpvault policy list", "dumpvault policy list --json", codes=(0, 1, 2))
)
@output.json_option
def list_command(as_json: bool) -> int:
    """List the site's policies and the shipped ones. Exits 1 if one of them cannot be used."""
    site = load_site()
    rows: list[dict[str, Any]] = []
    for name in site.policy_names():
        row = {"name": name, "path": site.policy_path(name), "problem": "", "description": ""}
        try:
            row["description"] = site.policy(name)["description"]
        except BadInput as error:
            row["problem"] = error.message
        rows.append(row)
    if as_json:
        output.print_json({"policies": rows})
    for row in rows if not as_json else ():
        click.echo(output.printable(f"{row['name']:<16} {row['description'] or 'cannot be used: ' + row['problem']}"))
    return 1 if any(row["problem"] for row in rows) else 0


@policy_command.command(
    "show",
    epilog=output.epilog(
        "dumpvault policy show pci-dss-4", "dumpvault policy show ./ours.toml --text", codes=(0, 1, 2)
    ),
)
@click.argument("name", required=False)
@click.option("--text", is_flag=True, help="The file as it is, comments included.")
@output.json_option
def show_command(name: str | None, text: bool, as_json: bool) -> None:
    """Show a policy, by name or path: every rule, what it says and what it means. [default: the site's]"""
    site = load_site()
    policy = site.policy(name)
    if as_json:
        output.print_json({"name": policy.name, "rules": dict(policy.rules), "text": policy.text})
        return
    if text:
        click.echo(policy.text, nl=False)
        return
    for rule in RULES:
        click.echo(output.printable(f"{rule.name:<25} {_value(policy, rule.name):<34} {rule.meaning}"))


@policy_command.command(
    "check",
    epilog=output.epilog(
        "dumpvault policy check pci-dss-4",
        "dumpvault policy check ./ours.toml --recipient alice --recipient bob --store /mnt/vaults --json",
        codes=(0, 1, 2, 11, 12, 13),
    ),
)
@click.argument("name", required=False)
@click.option(
    "--recipient", "recipients", multiple=True, metavar="NAME|FILE", help="Who shall open. [default: the site's]"
)
@click.option("--quorum", metavar="KofN:NAME,…", help="Custodians, instead of --recipient. [default: the site's]")
@click.option(
    "--signer",
    "signers",
    multiple=True,
    metavar="NAME|FILE",
    help="The collector's signing key. May be repeated. [default: the site's]",
)
@click.option("--host", metavar="NAME", help="Name of the machine. [default: this machine's]")
@store_option
@output.json_option
def check_command(
    name: str | None,
    recipients: tuple[str, ...],
    quorum: str | None,
    signers: tuple[str, ...],
    host: str | None,
    store: str | None,
    as_json: bool,
) -> int:
    """Say before any crash whether a capture at this site would obey a policy: one line for each rule.

    Nothing is written. What only opening or destroying can tell is said to be so. Exits 11 if a rule is broken.
    """
    site = load_site()
    policy = site.policy(name)
    lines = flow.check(site, policy, recipients, quorum, signers, host, store)
    code = flow.exit_code(lines)
    if as_json:
        rules = [
            {
                "advice": line.advice,
                "found": line.found,
                "rule": line.rule,
                "state": line.state,
                "value": policy[line.rule],
            }
            for line in lines
        ]
        output.print_json({"exit_code": code, "good": not code, "policy": policy.name, "rules": rules})
        return code
    for line in lines:
        click.echo(output.printable(f"{line.state:<9} {line.rule:<25} {_value(policy, line.rule):<34} {line.found}"))
        if line.advice and line.state in ("broken", "unknown"):
            click.echo(output.printable(f"{'':<9} {line.advice}"))
    return code


def _value(policy: Policy, rule: str) -> str:
    value = policy[rule]
    if value is None:
        return "none" if rule != "quorum.custodians" else "any"
    if isinstance(value, tuple):
        return ", ".join(value)
    if isinstance(value, dict):
        return "; ".join(f"{group}: {' or '.join(names)}" for group, names in value.items())
    return str(value).lower() if isinstance(value, bool) else str(value)
