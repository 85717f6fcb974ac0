"""``dumpvault capture``. Runs in a crash kernel: what is imported here is paid for in its memory."""

from __future__ import annotations

import click

from dumpvault.cli import output
from dumpvault.cli.site import load_site, store_option
from dumpvault.errors import Incomplete, ReleaseFailed
from dumpvault.flows.capture import CaptureRequest, capture
from dumpvault.stages.secrecy import keep_out_of_swap, swaps

__all__ = ["capture_command"]

METHODS = ["auto", "none", "phyp", "fadump"]


def _region_size(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | None:
    if value is None:
        return None
    number, unit = value[:-1], {"K": 1 << 10, "M": 1 << 20}.get(value[-1:].upper(), 0)
    size = int(number) * unit if number.isdigit() else 0
    if size % 4096 or not 4096 <= size <= 1 << 28:
        raise click.BadParameter("a multiple of 4K from 4K to 256M, such as 64M")
    return size


@click.command(
    "capture",
    epilog=output.epilog(
        "dumpvault capture /proc/vmcore --recipient analyst --signer collector",
        "makedumpfile -F -d 31 /proc/vmcore | dumpvault capture - --recipient analyst --signer collector",
        "id=$(dumpvault capture vmcore --store /mnt/vaults --recipient analyst.pub)",
        "dumpvault capture vmcore --quorum 2of3:alice,bob,carol --signer collector",
        codes=(0, 1, 2, 3, 10, 11, 12, 13, 14, 130),
    ),
)
@click.argument("source", required=False)
@store_option
@click.option("--policy", metavar="NAME", help="Policy by name or path. [default: the site's, else baseline]")
@click.option("--recipient", "recipients", multiple=True, metavar="NAME|FILE", help="Who can open it. May be repeated.")
@click.option(
    "--quorum", metavar="KofN:NAME,…", help="Custodians, K of whom must agree to open it; instead of --recipient."
)
@click.option(
    "--signer",
    "signers",
    multiple=True,
    metavar="NAME|FILE",
    help="The collector's signing key. May be repeated: each signs every object. [default: the site's]",
)
@click.option("--compress", metavar="HOW", help="auto, zstd[:LEVEL] or none. [default: the policy's]")
@click.option("--release", type=click.Choice(METHODS), help="How memory is handed back. [default: the policy's]")
@click.option("--resume", metavar="ID", help="Go on with this vault. [default: an unfinished one of the same dump]")
@click.option("--deadline", type=click.FloatRange(0.1), metavar="SECONDS", help="End in order after this time.")
@click.option("--vmcore", metavar="FILE", default="/proc/vmcore", show_default=True, help="This boot's own dump.")
@click.option("--sysfs", metavar="DIR", default="/sys", show_default=True, help="Where the kernel's interfaces are.")
@click.option("--region-size", callback=_region_size, metavar="SIZE", help="Such as 64M. [default: the policy's]")
@click.option("--host", metavar="NAME", help="Name of the crashed machine. [default: this machine's]")
@click.option("--jobs", type=click.IntRange(1, 64), metavar="N", help="Sealing threads. [default: one per processor]")
@output.json_option
def capture_command(
    source: str | None,
    store: str | None,
    policy: str | None,
    recipients: tuple[str, ...],
    quorum: str | None,
    signers: tuple[str, ...],
    compress: str | None,
    release: str | None,
    resume: str | None,
    deadline: float | None,
    vmcore: str,
    sysfs: str,
    region_size: int | None,
    host: str | None,
    jobs: int | None,
    as_json: bool,
) -> None:
    """Seal SOURCE (a vmcore, any file, or - for a pipe; by default this boot's) and print the vault's id.

    Every region is encrypted as it is read and synced before the signed commit that names it; memory is handed back
    only after that. An unfinished vault of the same dump is gone on with. A source that ends early is sealed,
    certified as truncated, and reported with exit code 3.
    """
    source = source or vmcore
    if swaps():  # a crash kernel has none, and no memory to keep from being reclaimed
        keep_out_of_swap()
    request = CaptureRequest(
        source=source, recipients=recipients, signers=signers, store=store, policy=policy, compress=compress,
        region_size=region_size, jobs=jobs, host=host, release=release, resume=resume, deadline=deadline, vmcore=vmcore,
        sysfs=sysfs, quorum=quorum,
    )  # fmt: skip
    with output.bar("sealing") as progress:
        result = capture(load_site(), request, progress, lambda vault: output.say(f"vault {vault}"))
    manifest = result.manifest
    for warning in result.warnings:
        output.say(f"note: {warning}")
    if manifest.totals.unreadable:
        output.say(f"warning: {manifest.totals.unreadable} bytes could not be read; they stand as zeros and are listed")
    if as_json:
        output.print_json(
            {
                "attempts": len(manifest.attempts),
                "bytes": manifest.totals.size,
                "end": manifest.end,
                "refused_releases": list(result.refused),
                "regions": manifest.totals.regions,
                "sealed_bytes": manifest.totals.sealed,
                "store": result.store,
                "truncated": manifest.truncated,
                "unreadable_bytes": manifest.totals.unreadable,
                "vault": result.vault,
                "warnings": list(result.warnings),
            }
        )
    else:
        click.echo(result.vault)
    if manifest.truncated:
        error = Incomplete(
            f"{source}: ended after {manifest.totals.size} bytes, before its own headers say",
            f"Vault {result.vault} holds all that could be read and is certified as truncated; 'dumpvault open --partial' "
            "writes it.",
        )
        output.say(f"{error.kind}: {error.message}")
        output.say(error.hint)
        raise click.exceptions.Exit(error.exit_code)
    if result.refused:
        raise ReleaseFailed(
            "; ".join(result.refused),
            f"Vault {result.vault} is whole and signed. What could not be accounted for stays reserved until the next boot.",
        )
