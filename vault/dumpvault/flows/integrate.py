"""Puts dumpvault where a distribution takes its dumps: what would change, shown first, then written in one go.

The files stand in ``integrations/`` as they are installed, so that they can be reviewed without reading code. Two of them
are this host's: ``crash.conf``, which every script reads, and a systemd unit with its names filled in. ``kdump.conf``
belongs to the administrator: of it only two directives are changed, and what stood there is kept as a comment.
"""

from __future__ import annotations

import difflib
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from dumpvault.errors import BadInput, NoKey, StoreFailed, Usage
from dumpvault.flows.capture import recipients_for, signer_for
from dumpvault.flows.site import Site, shipped

__all__ = ["NAMES", "Change", "HostOptions", "Plan", "apply", "plan", "plan_removal"]

CRASH_CONF = "etc/dumpvault/crash.conf"
_KDUMP_CONF = "etc/kdump.conf"
#: In every file that is ours as a whole.
_MARK = "dumpvault integrate"
_BEGIN, _END, _KEPT = "# dumpvault integrate: begin", "# dumpvault integrate: end", "#kept by dumpvault: "
_COLLECTOR = "/usr/sbin/dumpvault-collector"
_MODULE = "--add zz-dumpvault"
_COMMANDS = ("usr/bin/dumpvault", "usr/local/bin/dumpvault", "opt/dumpvault/bin/dumpvault")
_PLAIN = re.compile(r"[A-Za-z0-9@%+=:,./_-]+")

_CRASH_CONF = """\
# What the crash kernel seals with; read by shell scripts. Written by 'dumpvault integrate': run that again to change it,
# then build the crash initramfs anew, for it holds a copy of this file and of the keys that are named here.
DUMPVAULT={command}
CAPTURE_OPTIONS="{options}"
STORE={store}
# What must be mounted to reach the store, such as UUID=...; empty if the root file system holds it.
STORE_DEVICE={device}
"""


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
    signer: str | None = None
    recipients: tuple[str, ...] = ()
    policy: str | None = None
    store: str | None = None
    store_device: str | None = None
    command: str | None = None
    layout: Literal["initramfs", "root"] = "initramfs"


@dataclass(frozen=True, slots=True)
class Change:
    """One file: ``path`` as the integrated system sees it, text before and after; None where there is no file.

    ``edited``: the file there is neither ours as shipped nor one whose administrator's lines are kept.
    """

    path: str
    before: str | None
    after: str | None
    mode: int
    edited: bool = False

    @property
    def action(self) -> str:
        if self.before is None:
            return "create"
        return "remove" if self.after is None else "replace" if self.edited else "change"

    @property
    def diff(self) -> str:
        old = [] if self.before is None else self.before.splitlines(keepends=True)
        new = [] if self.after is None else self.after.splitlines(keepends=True)
        names = ("/dev/null" if self.before is None else self.path, "/dev/null" if self.after is None else self.path)
        lines = difflib.unified_diff(old, new, *names)
        return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


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
    host = options.host or _host_of(root)
    signer = _signer(site, options.signer or site.signer, host)
    recipients = recipients_for(site, options.recipients or site.recipients)
    policy = site.policy(options.policy)
    policy.check_recipients(recipients)
    store = options.store or _inside(root, site.store_url)
    if not store.startswith("/"):
        raise Usage(f"--store {store} is no absolute path", "Name the directory as the integrated system sees it.")
    command = options.command or _find_command(root)
    capture = f"--host {host} --signer {signer} --policy {policy.name}"
    listed = "".join(f" --recipient {recipient.name}" for recipient in recipients)
    device = options.store_device or ""
    for what, word in (("host name", host), ("store", store), ("command", command), ("device", device or "-")):
        if not _PLAIN.fullmatch(word):
            raise BadInput(f"{what} {word!r} cannot stand in a script", "Letters, digits and @%+=:,./_- only.")
    for recipient in recipients:
        site.trust.recipient(recipient.name)  # the image finds it by name, not by path

    notes = []
    if name == "kdump-utils":
        notes.append(_check_target(root))
        if options.store:
            raise Usage("--store: kdump says where its dumps are, with 'path' in kdump.conf", "Leave --store out.")
    elif name == "kdump-tools" and not device and root == "/":
        _check_reach(store)
    conf = _CRASH_CONF.format(command=command, options=capture + listed, store=store, device=device)
    words = {
        "DUMPVAULT": command, "OPTIONS": f"--host {host} --policy {policy.name}{listed}",
        "SIGNER": signer, "STORE": store,
    }  # fmt: skip
    wanted = {} if name == "systemd" else {CRASH_CONF: (conf, 0o644)}
    for path, text, mode in _templates(name):
        if options.layout == "initramfs" or not path.startswith(_INITRAMFS_ONLY):
            wanted[path] = (re.sub(r"@([A-Z]+)@", lambda match: words[match[1]], text), mode)
    changes = [_change(root, path, text, mode) for path, (text, mode) in wanted.items()]
    if name == "kdump-utils":
        before = _read(root, _KDUMP_CONF) or ""
        changes.append(Change(f"/{_KDUMP_CONF}", before, merge_kdump_conf(before), 0o644))
    steps = _INTEGRATIONS[name].next_steps
    return Plan(root, _differing(changes), steps, tuple(filter(None, notes)))


def plan_removal(name: str, root: str) -> Plan:
    """What taking ``name`` out again would change: our files go, the administrator's lines come back."""
    root = _check_root(name, root)
    changes = []
    for path in [CRASH_CONF, *(path for path, _, _ in _templates(name))]:
        before = _read(root, path)
        if before is not None:
            changes.append(Change(f"/{path}", before, None, 0, edited=_MARK not in before))
    if name == "kdump-utils":
        before = _read(root, _KDUMP_CONF) or ""
        changes.append(Change(f"/{_KDUMP_CONF}", before, unmerge_kdump_conf(before), 0o644))
    return Plan(root, _differing(changes), _INTEGRATIONS[name].undone)


def apply(plan: Plan, *, replace: bool) -> None:
    """Write every change, each file atomically. Nothing is written if any of them cannot be.

    Files that somebody edited are refused without ``replace``; with it they are kept beside, as ``NAME.dpkg-old``,
    which initramfs-tools, GRUB and dpkg all pass over.
    """
    edited = [change.path for change in plan.changes if change.edited]
    if edited and not replace:
        raise BadInput(
            f"{', '.join(edited)}: there already, and not what dumpvault would write",
            "Nothing was written. Read the diff; --replace puts the new text there and keeps the old as NAME.dpkg-old.",
        )
    for change in plan.changes:
        _check_writable(plan.root, change.path)
    for change in plan.changes:
        target = _below(plan.root, change.path)
        try:
            if change.edited and change.before is not None:
                _write(f"{target}.dpkg-old", change.before, stat.S_IMODE(os.stat(target).st_mode))
            if change.after is not None:
                mode = stat.S_IMODE(os.stat(target).st_mode) if os.path.exists(target) else change.mode
                _write(target, change.after, mode | (change.mode & 0o111))
            else:
                os.unlink(target)
                with suppress(OSError):  # others' files keep their directory
                    os.removedirs(os.path.dirname(target))
        except OSError as error:
            raise StoreFailed(
                f"{change.path}: {error.strerror}", "What came before it was written whole; run this again to go on."
            ) from None


def merge_kdump_conf(text: str) -> str:
    """``text`` with our two directives; what they replace is kept as comments. The same again for its own result."""
    kept, arguments = [], ""
    for line in unmerge_kdump_conf(text).splitlines(keepends=True):
        word, _, rest = line.strip().partition(" ")
        if word in ("core_collector", "dracut_args"):
            arguments = f" {rest.strip()}" if word == "dracut_args" else arguments
            line = f"{_KEPT}{line}"  # noqa: PLW2901
        kept.append(line)
    body = "".join(kept)
    body += "" if not body or body.endswith("\n") else "\n"
    return f"{body}{_BEGIN}\ncore_collector {_COLLECTOR}\ndracut_args{arguments} {_MODULE}\n{_END}\n"


def unmerge_kdump_conf(text: str) -> str:
    """``text`` without our directives, and with what they replaced."""
    text = re.sub(rf"^{_BEGIN}\n(?:.*\n)*?{_END}\n?", "", text, flags=re.MULTILINE)
    return re.sub(rf"^{_KEPT}", "", text, flags=re.MULTILINE)


def _signer(site: Site, name: str | None, host: str) -> str:
    """A collector's key for this host alone: it will stand, unprotected, in an image on its disk."""
    key = signer_for(site, name, host)
    entries = site.trust.allowed_signers().by_keyid(key.signer.keyid)
    assert name
    if not any(entry.host == host for entry in entries):
        raise NoKey(
            f"signer {name} is not bound to host {host}",
            "A key in a crash initramfs is to vouch for its own host only: "
            f"'dumpvault keys new signer collector@{host} --unprotected', then --signer collector@{host}.",
        )
    if "/" in name:
        raise NoKey(f"signer {name} is named by its path", "Put it into the site's private keys, and name it.")
    return name


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


def _host_of(root: str) -> str:
    if root == "/":
        return os.uname().nodename
    name = (_read(root, "etc/hostname") or "").strip()
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


def _check_target(root: str) -> str:
    text = unmerge_kdump_conf(_read(root, _KDUMP_CONF) or "")
    settings = {parts[0]: parts[1] for line in text.splitlines() if len(parts := line.split(None, 1)) == 2}
    for bad in ("raw", "ssh"):
        if bad in settings:
            raise BadInput(
                f"{root}/{_KDUMP_CONF}: a target of kind {bad} cannot hold a vault",
                "Give kdump a file system (ext4, xfs, nfs, …), then integrate again. Nothing was written.",
            )
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
    top = next((place for place in shipped("integrations") if os.path.isdir(place)), "")
    folder = os.path.join(top, name)
    for where, folders, files in os.walk(folder):
        folders.sort()
        for file in sorted(files):
            path = os.path.join(where, file)
            with open(path, encoding="utf-8") as opened:
                text = opened.read()
            yield os.path.relpath(path, folder), text, 0o755 if text.startswith("#!") else 0o644


def _change(root: str, path: str, text: str, mode: int) -> Change:
    before = _read(root, path)
    return Change(f"/{path}", before, text, mode, edited=before is not None and before != text)


def _differing(changes: list[Change]) -> tuple[Change, ...]:
    return tuple(change for change in changes if change.before != change.after)


def _inside(root: str, path: str) -> str:
    return "/" + os.path.relpath(path, root) if root != "/" else path


def _below(root: str, path: str) -> str:
    """Where ``path`` is below ``root``; a link that leads out of it is refused."""
    full = os.path.join(root, path.lstrip("/"))
    real = os.path.realpath(full)
    if os.path.commonpath([root, real]) != root:
        raise BadInput(f"{full} leads out of {root}, to {real}", "Run dumpvault inside that system. Nothing was written.")
    return real


def _read(root: str, path: str) -> str | None:
    try:
        with open(_below(root, path), encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BadInput(f"{root}/{path}: {error.strerror}", "Nothing was written.") from None


def _check_writable(root: str, path: str) -> None:
    here = os.path.dirname(_below(root, path))
    while not os.path.exists(here):
        here = os.path.dirname(here)
    if not os.access(here, os.W_OK):
        raise StoreFailed(f"{path}: {here} cannot be written", "Nothing was written. Is it mounted read-only?")


def _write(path: str, text: str, mode: int) -> None:
    directory = os.path.dirname(path)
    os.makedirs(directory, exist_ok=True)
    temporary = f"{path}.dpkg-{secrets.token_hex(4)}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(fd, "w", encoding="utf-8", errors="surrogateescape") as file:
            os.fchmod(fd, mode)
            file.write(text)
            file.flush()
            os.fsync(fd)
        os.rename(temporary, path)
    except OSError:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
