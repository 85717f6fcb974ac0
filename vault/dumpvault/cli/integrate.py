"""``dumpvault integrate``."""

from __future__ import annotations

import sys
from typing import Literal

import click

from dumpvault.cli import output
from dumpvault.errors import Usage
from dumpvault.flows.integrate import NAMES, HostOptions, Plan, apply, plan, plan_removal

__all__ = ["integrate_command"]


@click.command(
    "integrate",
    epilog=output.epilog(
        "dumpvault integrate kdump-tools --signer collector@db1 --recipient analyst",
        "dumpvault integrate kdump-utils --yes",
        "dumpvault integrate systemd --root /mnt/image --command /opt/dumpvault/bin/dumpvault",
        "dumpvault integrate kdump-tools --undo",
        codes=(0, 1, 2, 11, 12, 13),
    ),
)
@click.argument("name", metavar="NAME", required=False)
@click.option("--root", metavar="DIR", default="/", show_default=True, help="The system to integrate with.")
@click.option("--yes", is_flag=True, help="Write without asking.")
@click.option("--replace", is_flag=True, help="Replace files that were edited; the old ones are kept as NAME.dpkg-old.")
@click.option("--undo", is_flag=True, help="Take it out again.")
@click.option(
    "--signer", "signers", multiple=True, metavar="NAME",
    help="This host's collector key, NAME@HOST. May be repeated: each signs. [default: the site's]",
)  # fmt: skip
@click.option("--recipient", "recipients", multiple=True, metavar="NAME", help="Who can open it. May be repeated.")
@click.option("--quorum", metavar="KofN:NAME,…", help="Custodians, K of whom must agree; instead of --recipient.")
@click.option("--policy", metavar="NAME", help="Policy by name. [default: the site's, else baseline]")
@click.option("--host", metavar="NAME", help="Name of the machine. [default: the root's]")
@click.option("--store", metavar="DIR", help="The store, as the crash kernel finds it. [default: the site's]")
@click.option("--store-device", metavar="DEV", help="What holds the store, if not the root file system: UUID=…")
@click.option("--command", metavar="FILE", help="dumpvault, as that system sees it. [default: looked for]")
@click.option(
    "--layout", type=click.Choice(["initramfs", "root"]), default="initramfs", show_default=True,
    help="kdump-tools: seal from the crash initramfs, or only from the root file system.",
)  # fmt: skip
@click.option("--image", metavar="DIR", help="Instead: fill an initramfs' tree, for its hooks; prints its binaries.")
@output.json_option
def integrate_command(
    name: str | None,
    root: str,
    yes: bool,
    replace: bool,
    undo: bool,
    signers: tuple[str, ...],
    recipients: tuple[str, ...],
    quorum: str | None,
    policy: str | None,
    host: str | None,
    store: str | None,
    store_device: str | None,
    command: str | None,
    layout: Literal["initramfs", "root"],
    image: str | None,
    as_json: bool,
) -> None:
    """Seal dumps where the system takes them: NAME is kdump-tools (Debian), kdump-utils (Fedora, RHEL) or systemd
    (hypervisor- and firmware-assisted dumps).

    Shows as a diff what would change, and writes it only with --yes or after asking on a terminal. What the crash
    kernel will hold is baked in: the host's name, its own signers (unprotected, so bound to this host), the recipients'
    public keys and the policy, all from the site below --root. Doing it again changes nothing.
    """
    if image:
        _fill(image, root, host, signers, recipients, quorum, policy)
        return
    if not name:
        raise Usage("no NAME", f"One of {', '.join(NAMES)}.")
    options = HostOptions(
        host=host, signers=signers, recipients=recipients, policy=policy, store=store, store_device=store_device,
        command=command, layout=layout, quorum=quorum,
    )  # fmt: skip
    wanted = plan_removal(name, root) if undo else plan(name, root, options)
    if not as_json:
        click.echo("".join(change.diff for change in wanted.changes), nl=False)
    written = bool(wanted.changes) and (yes or (not as_json and _asked(wanted)))
    if written:
        apply(wanted.root, wanted.changes, replace=replace)
    if as_json:
        output.print_json(
            {
                "changes": [
                    {"action": change.action, "diff": change.diff, "edited": change.edited, "path": change.path}
                    for change in wanted.changes
                ],
                "name": name,
                "next": list(wanted.next_steps),
                "notes": list(wanted.notes),
                "root": wanted.root,
                "written": written,
            }
        )
        return
    for note in wanted.notes:
        output.say(f"note: {note}")
    if not wanted.changes:
        output.say("nothing to change")
    elif written:
        output.say(f"{len(wanted.changes)} files written; then, as root of that system:")
        for step in wanted.next_steps:
            output.say(f"  {step}")
    else:
        output.say(f"{len(wanted.changes)} files would change; nothing was written. --yes writes them.")


def _asked(wanted: Plan) -> bool:
    if not sys.stdin.isatty():
        return False
    return click.confirm(f"Write these {len(wanted.changes)} files below {wanted.root}?", err=True)


def _fill(
    image: str, root: str, host: str | None, signers: tuple[str, ...], recipients: tuple[str, ...],
    quorum: str | None, policy: str | None,
) -> None:  # fmt: skip
    from dumpvault.flows.image import fill_image
    from dumpvault.flows.site import Site

    if not host or not signers:
        raise Usage("--image needs --host and --signer", "The hooks take both from /etc/dumpvault/crash.conf.")
    site = Site.load({}, root)
    for binary in fill_image(site, image, host, signers, recipients, policy or site.policy_name, quorum):
        click.echo(binary)
