"""What this boot says of a crash to come: memory set aside, a crash kernel loaded, ways to hand memory back, the clock.

Kernel interfaces: Documentation/ABI/testing/sysfs-kernel-fadump, sysfs-kernel-kexec; fadump's older files lie one level
up. Nothing here writes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from dumpvault.formats.policy import Policy
from dumpvault.stages.release import fadump, phyp

__all__ = ["Check", "State", "check_clock", "check_kernel", "check_release", "memory_total"]

State = Literal["ok", "warning", "failed", "not applicable"]
_MIB = 1 << 20
#: Bytes that a capture was measured to need, by where the crash kernel's root is.
NEEDED = {"root": 128 * _MIB, "initramfs": 192 * _MIB}
_ASSISTED = "firmware/devicetree/base/rtas/ibm,configure-kernel-dump"


@dataclass(frozen=True, slots=True)
class Check:
    """One answer: what was asked, what was found, what to do about it. ``exit_code`` counts where it failed."""

    name: str
    state: State
    found: str
    advice: str = ""
    exit_code: int = 1


def memory_total(root: str) -> int | None:
    """Bytes of memory, from ``proc/meminfo`` below ``root``; None where that is not there."""
    for line in (_text(os.path.join(root, "proc/meminfo")) or "").splitlines():
        word, _, rest = line.partition(":")
        if word == "MemTotal":
            return int(rest.split()[0]) << 10
    return None


def check_kernel(sysfs: str, layout: Literal["root", "initramfs"], *, assisted: bool) -> Iterator[Check]:
    """Whether a crash would be caught: fadump registered, or a crash kernel loaded into enough memory.

    ``assisted``: captures start in the production kernel, as after a hypervisor-assisted dump.
    """
    kernel = os.path.join(sysfs, "kernel")
    enabled, registered = (_number(kernel, f"fadump/{word}", f"fadump_{word}") for word in ("enabled", "registered"))
    if enabled:
        if registered:
            yield Check("crash kernel", "ok", "fadump is registered: the production kernel boots again after a crash")
        else:
            advice = "echo 1 > /sys/kernel/fadump/registered (kdump-config load, kdumpctl start)."
            yield Check("crash kernel", "failed", "fadump is enabled and not registered", advice)
        return
    if assisted and os.path.exists(os.path.join(sysfs, _ASSISTED)):
        yield Check("crash kernel", "ok", "none is needed: the platform keeps memory over a crash")
        return
    size, loaded = _number(kernel, "kexec_crash_size"), _number(kernel, "kexec_crash_loaded")
    needed = NEEDED[layout]
    advice = f"Boot with crashkernel={needed // _MIB}M or more."
    if size is None:
        yield Check("crash memory", "not applicable", f"{kernel} has no kexec_crash_size: no kdump in this kernel")
    elif size < needed:
        found = f"{size // _MIB} MiB are set aside; a capture with its root in the {layout} needs {needed // _MIB} MiB"
        if layout == "root":
            found = f"{size // _MIB} MiB are set aside; a capture with its root on a disk needs {needed // _MIB} MiB"
        yield Check("crash memory", "failed", found, advice)
    else:
        yield Check("crash memory", "ok", f"{size // _MIB} MiB are set aside; {needed // _MIB} MiB are needed")
    if loaded is None:
        yield Check(
            "crash kernel", "failed", "neither kdump nor fadump is in this kernel", "Use a kernel that has one."
        )
    elif loaded:
        yield Check("crash kernel", "ok", "loaded")
    else:
        yield Check("crash kernel", "failed", "none is loaded", "kdump-config load (Debian), kdumpctl start (Fedora).")


def check_release(sysfs: str, policy: Policy) -> Check:
    """Whether memory can be handed back as the policy asks. The interfaces themselves exist after a crash only."""
    name, wanted = "release", policy.release
    if phyp.present(sysfs) or fadump.present(sysfs):
        advice = "Seal it now: dumpvault capture /proc/vmcore."
        return Check(name, "warning", "this boot holds the memory of a crashed kernel, not captured yet", advice)
    assisted = _number(os.path.join(sysfs, "kernel"), "fadump/enabled", "fadump_enabled") or os.path.exists(
        os.path.join(sysfs, _ASSISTED)
    )
    if assisted:
        return Check(name, "ok", f"the platform preserves memory over a crash; policy {policy.name}: {wanted}")
    if wanted in ("phyp", "fadump"):
        found = f"policy {policy.name} demands release by {wanted}, and this machine has no assisted dumps"
        return Check(name, "failed", found, "A capture would be refused (exit 14). Use release mode auto.", 14)
    return Check(name, "not applicable", "kdump: the crash kernel gives its memory back by rebooting")


def check_clock(known: list[str]) -> Check:
    """Whether the clock is later than what was made on it: the times that vaults claim come from it."""
    now = datetime.now(UTC)
    times = [(os.stat(path).st_mtime, path) for path in [*known, __file__] if os.path.exists(path)]
    latest, path = max(times)
    if now.timestamp() + 60 < latest:
        found = f"it is {now:%Y-%m-%d %H:%M}Z, before {path} was written"
        return Check("clock", "failed", found, "Set the clock, also the hardware's: hwclock --systohc.")
    return Check("clock", "ok", f"{now:%Y-%m-%d %H:%M}Z")


def _number(directory: str, *names: str) -> int | None:
    """The number in the first of the files that can be read."""
    for name in names:
        text = _text(os.path.join(directory, name))
        if text and text.strip().isdigit():
            return int(text)
    return None


def _text(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return None
