"""Puts dumpvault where a distribution takes its dumps: what would change, shown first, then written in one go.

The files stand in ``integrations/`` as they are installed, so that they can be reviewed without reading code. Two are this
host's: ``crash.conf``, which the scripts and ``doctor`` read, and a systemd unit with its names filled in. ``kdump.conf``
belongs to the administrator: of it only two directives are changed, and what stood there is kept as a comment.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from dumpvault.errors import BadInput, NoKey, Usage, VaultError
from dumpvault.flows import planning
from dumpvault.flows.capture import parties_for, signers_for
from dumpvault.flows.installing import Change, apply, read_below
from dumpvault.flows.site import Site, shipped
from dumpvault.formats import kdump_conf
from dumpvault.formats.crash_conf import CrashConf
from dumpvault.formats.private_key import PrivateKey
from dumpvault.formats.sharing import Quorum
from dumpvault.formats.sshkey import Signer

__all__ = [
    "CRASH_CONF",
    "NAMES",
    "HostOptions",
    "Plan",
    "apply",
    "host_of",
    "installed",
    "plan",
    "plan_removal",
    "read_crash_conf",
]

CRASH_CONF = "etc/dumpvault/crash.conf"
_KDUMP_CONF = "etc/kdump.conf"
#: In every file that is ours as a whole.
_MARK = "dumpvault integrate"
_COMMANDS = ("usr/bin/dumpvault", "usr/local/bin/dumpvault", "opt/dumpvault/bin/dumpvault")


@dataclass(frozen=True, slots=True)
class _Integration:
    """``needs``: each entry is a choice of files of which one must be there, and what it belongs to."""

    needs: tuple[tuple[tuple[str, ...], str], ...]
    next_steps: tuple[str, ...]
    undone: tuple[str, ...]


_INTEGRATIONS = {
    "kdump-tools": _Integration(
        needs=((("usr/sbin/kdump-config",), "kdump-tools"),),
        next_steps=(
            "update-grub, then reboot: 192 MiB for the crash kernel (initramfs layout)",
            "/etc/kernel/postinst.d/kdump-tools $(uname -r): build the crash initramfs (initramfs layout)",
            "systemctl daemon-reload; kdump-config unload; kdump-config load",
            "dumpvault doctor",
        ),
        undone=("update-grub; /etc/kernel/postinst.d/kdump-tools $(uname -r); systemctl daemon-reload",),
    ),
    "kdump-utils": _Integration(
        needs=(
            ((_KDUMP_CONF,), "kdump-utils"),
            (("usr/lib/dracut/dracut-functions.sh",), "dracut"),
        ),
        next_steps=(
            "kdumpctl rebuild; kdumpctl restart: build the crash initramfs and load it",
            "grubby --update-kernel ALL --args crashkernel=192M, then reboot, if less is reserved",
            "dumpvault doctor",
        ),
        undone=("kdumpctl rebuild; kdumpctl restart",),
    ),
    "systemd": _Integration(
        needs=((("usr/lib/systemd/systemd", "lib/systemd/systemd"), "systemd"),),
        next_steps=("systemctl daemon-reload; systemctl enable dumpvault-capture.service", "dumpvault doctor"),
        undone=("systemctl disable dumpvault-capture.service; systemctl daemon-reload",),
    ),
}
NAMES = tuple(_INTEGRATIONS)
#: What only a capture from the initramfs needs.
_INITRAMFS_ONLY = ("etc/initramfs-tools/", "etc/default/grub.d/")


@dataclass(frozen=True, slots=True)
class HostOptions:
    """What is baked in. None is found: host from the root, the rest from its site's configuration.

    ``command`` and ``store`` are paths as the integrated system sees them.
    """

    host: str | None = None
    signers: tuple[str, ...] = ()
    recipients: tuple[str, ...] = ()
    quorum: str | None = None
    policy: str | None = None
    store: str | None = None
    store_device: str | None = None
    command: str | None = None
    layout: Literal["initramfs", "root"] = "initramfs"


@dataclass(frozen=True, slots=True)
class Plan:
    """What differs; nothing of it is written yet. ``next_steps`` are commands for people, in order."""

    root: str
    changes: tuple[Change, ...]
    next_steps: tuple[str, ...]
    notes: tuple[str, ...] = ()


def plan(name: str, root: str, options: HostOptions) -> Plan:
    """What ``name`` would change below ``root``. Raises ``VaultError`` where a capture there would be refused."""
    root = _check_root(name, root)
    site = Site.load({}, root)
    host = options.host or host_of(root)
    signers = options.signers or site.signers
    keys = _signers(site, signers, host)
    recipients, threshold = parties_for(site, options.recipients, options.quorum)
    policy = site.policy(options.policy)
    # Not of its store: what is there now need not be what the crash kernel mounts; doctor tries that.
    facts = planning.plan(site, policy, recipients=recipients, quorum=threshold, signers=keys)
    policy.require(facts, planning.KEYS)
    store = options.store or _inside(root, site.store_url)
    if not store.startswith("/"):
        raise Usage(f"--store {store} is no absolute path", "Name the directory as the integrated system sees it.")
    # An image finds them by name.
    names = [site.trust.recipient(r.name, "custodians" if threshold else "recipients").name for r in recipients]
    baked = CrashConf(
        command=options.command or _find_command(root), host=host, signers=signers, policy=policy.name,
        recipients=tuple(names) if threshold is None else (),
        quorum=Quorum(threshold, tuple(names)).text if threshold else "",
        store=store, store_device=options.store_device or "",
    )  # fmt: skip
    notes = []
    if name == "kdump-utils":
        notes.append(_check_target(root, options.store))
    elif name == "kdump-tools" and options.layout == "initramfs" and not baked.store_device and root == "/":
        _check_reach(store)
    words = {"DUMPVAULT": [baked.command], "OPTIONS": [baked.options], "SIGNER": list(signers), "STORE": [store]}
    wanted = [(CRASH_CONF, baked.text, 0o644)]
    for path, template, mode in _templates(name):
        wanted.append((path, "".join(_filled(line, words) for line in template.splitlines(keepends=True)), mode))
    changes = []
    for path, text, mode in wanted:
        before = read_below(root, path)
        skipped = options.layout == "root" and path.startswith(_INITRAMFS_ONLY)
        edited = before is not None and before != text
        changes.append(Change(f"/{path}", before, None if skipped else text, mode, edited))
    if name == "kdump-utils":
        conf = read_below(root, _KDUMP_CONF) or ""
        changes.append(Change(f"/{_KDUMP_CONF}", conf, kdump_conf.merge(conf), 0o644))
    steps = [step for step in _INTEGRATIONS[name].next_steps if options.layout in step or "layout" not in step]
    return Plan(root, _differing(changes), tuple(steps), tuple(notes))


def plan_removal(name: str, root: str) -> Plan:
    """What taking ``name`` out again would change: our files go, the administrator's lines come back."""
    root = _check_root(name, root)
    changes = []
    shared = any(other != name for other, _ in installed(root))
    for path in [*([] if shared else [CRASH_CONF]), *(path for path, _, _ in _templates(name))]:
        before = read_below(root, path)
        if before is not None:
            changes.append(Change(f"/{path}", before, None, 0, edited=_MARK not in before))
    if name == "kdump-utils":
        conf = read_below(root, _KDUMP_CONF) or ""
        changes.append(Change(f"/{_KDUMP_CONF}", conf, kdump_conf.unmerge(conf), 0o644))
    return Plan(root, _differing(changes), _INTEGRATIONS[name].undone)


def read_crash_conf(root: str) -> CrashConf | None:
    """What was baked in; None where nothing was. Raises ``BadInput`` for a file that cannot be read."""
    text = read_below(root, CRASH_CONF)
    return None if text is None else CrashConf.parse(text, os.path.join(root, CRASH_CONF))


def installed(root: str) -> list[tuple[str, Literal["initramfs", "root"]]]:
    """(name, layout) of each integration that is there."""
    found: list[tuple[str, Literal["initramfs", "root"]]] = []
    for name in NAMES:
        there = [path for path, _, _ in _templates(name) if read_below(root, path) is not None]
        if there:
            image = any(path.startswith((*_INITRAMFS_ONLY, "usr/lib/dracut/")) for path in there)
            found.append((name, "initramfs" if image else "root"))
    return found


def _filled(line: str, words: dict[str, list[str]]) -> str:
    """A template's line with its words filled in; once for each value of a word that has several."""
    match = re.search(r"@([A-Z]+)@", line)
    return "".join(_filled(line.replace(match[0], value), words) for value in words[match[1]]) if match else line


def _signers(site: Site, names: tuple[str, ...], host: str) -> list[Signer]:
    """Collector's keys for this host alone: they will stand, unprotected, in an image on its disk."""
    for name in names:
        if "/" in name:
            raise NoKey(f"signer {name} is named by its path", "Put it into the site's private keys, and name it.")
        if not isinstance(site.trust.private_key(name), PrivateKey):
            raise NoKey(
                f"signer {name} is not in its file, or locked there",
                "No keyring, token or passphrase is at hand after a crash. Make a signer for this host with --unprotected.",
            )
    found = [key.signer for key in signers_for(site, names, host)]
    for name, signer in zip(names, found, strict=True):
        if not any(entry.host == host for entry in site.trust.allowed_signers().by_keyid(signer.keyid)):
            raise NoKey(
                f"signer {name} is not bound to host {host}",
                "A key in a crash initramfs is to vouch for its own host only: "
                f"'dumpvault keys new signer collector@{host} --unprotected', then --signer collector@{host}.",
            )
    return found


def _check_root(name: str, root: str) -> str:
    if name not in _INTEGRATIONS:
        raise Usage(f"no integration {name!r}", f"Known: {', '.join(NAMES)}.")
    root = os.path.realpath(root)
    if not all(os.path.isdir(os.path.join(root, part)) for part in ("etc", "usr")):
        raise BadInput(f"{root} is no root file system: it lacks etc or usr", "Name one with --root; / is this system.")
    for choice, package in _INTEGRATIONS[name].needs:
        if not any(os.path.exists(os.path.join(root, path)) for path in choice):
            raise BadInput(
                f"{package} is not installed in {root}: there is no {' or '.join(choice)}",
                "Install it first; nothing was written.",
            )
    return root


def host_of(root: str) -> str:
    """The name of the machine whose root this is. Raises ``BadInput``."""
    if root == "/":
        return os.uname().nodename
    name = (read_below(root, "etc/hostname") or "").strip()
    if not name:
        raise BadInput(f"{root}/etc/hostname does not name the host", "Name it with --host.")
    return name


def _find_command(root: str) -> str:
    for path in _COMMANDS:
        if os.path.lexists(os.path.join(root, path)):
            return f"/{path}"
    raise BadInput(
        f"dumpvault is not installed in {root}: looked for {', '.join(_COMMANDS)}",
        "Install it there, or say where it is with --command, as that system sees it.",
    )


def _check_target(root: str, store: str | None) -> str:
    """kdump mounts its own target; what is said of it for people."""
    settings = kdump_conf.settings(read_below(root, _KDUMP_CONF) or "")
    for bad in ("raw", "ssh"):
        if bad in settings:
            raise BadInput(
                f"{root}/{_KDUMP_CONF}: a target of kind {bad} cannot hold a vault",
                "Give kdump a file system (ext4, xfs, nfs, …), then integrate again. Nothing was written.",
            )
    if store:
        raise Usage("--store: kdump says where its dumps are, with 'path' in kdump.conf", "Leave --store out.")
    return f"vaults will be in {settings.get('path', '/var/crash').rstrip('/')}/dumpvault of kdump's target"


def _check_reach(store: str) -> None:
    """From an initramfs the store must be on the root file system, unless its device is named."""
    here = store
    while not os.path.exists(here):
        here = os.path.dirname(here)
    if os.stat(here).st_dev != os.stat("/").st_dev:
        raise BadInput(
            f"{store} is not on the root file system, which is all that a crash kernel mounts",
            "Name its device with --store-device, such as UUID=…, and with --store the path below its mount point.",
        )


def _templates(name: str) -> Iterator[tuple[str, str, int]]:
    """(path, text, mode) of each shipped file."""
    top = next((place for place in shipped("integrations") if os.path.isdir(place)), None)
    if top is None:
        raise VaultError("the files to install are missing from this installation", "Install dumpvault again.")
    folder = os.path.join(top, name)
    for where, folders, files in os.walk(folder):
        folders.sort()
        for file in sorted(files):
            path = os.path.join(where, file)
            with open(path, encoding="utf-8") as opened:
                text = opened.read()
            yield os.path.relpath(path, folder), text, 0o755 if text.startswith("#!") else 0o644


def _differing(changes: list[Change]) -> tuple[Change, ...]:
    return tuple(change for change in changes if change.before != change.after)


def _inside(root: str, path: str) -> str:
    return "/" + os.path.relpath(path, root) if root != "/" else path
