"""Says before any crash whether a capture would work, with the parts that the capture itself uses.

What a crash kernel will be told (``crash.conf``) goes before the site's configuration. Nothing is left behind: the vault
that is sealed for trial lies in a temporary directory, for an object in a store that is locked could not be deleted; the
store itself is tried with one key object, the only kind that stores delete.
"""

from __future__ import annotations

import filecmp
import glob
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from dumpvault.errors import StoreFailed, VaultError
from dumpvault.flows.capture import CaptureRequest, capture, parties_for, signers_for
from dumpvault.flows.crash_kernel import Check, State, check_clock, check_kernel, check_release, memory_total
from dumpvault.flows.demo import write_memory
from dumpvault.flows.installing import read_below
from dumpvault.flows.integrate import CRASH_CONF, host_of, installed, read_crash_conf
from dumpvault.flows.open import OpenRequest, open_vault
from dumpvault.flows.planning import STORES, plan
from dumpvault.flows.site import Site
from dumpvault.flows.verify import verify
from dumpvault.formats import kdump_conf
from dumpvault.formats.allowed_signers import ROLES, namespace
from dumpvault.formats.policy import Policy
from dumpvault.formats.private_key import LockedKey, PrivateKey
from dumpvault.formats.sshkey import Signer

__all__ = ["Question", "examine", "exit_code"]

_IMAGES = ("var/lib/kdump/initrd.img-*", "boot/initramfs-*kdump.img")
#: kdump.conf's directives that name a file system to mount.
_TARGETS = ("ext2", "ext3", "ext4", "xfs", "btrfs", "minix", "nfs", "virtiofs")
_LOCAL = "file://"


@dataclass(frozen=True, slots=True)
class Question:
    """Whose readiness is asked. ``root`` None is the site of whoever asks; ``sysfs`` is where the kernel is asked."""

    root: str | None = None
    sysfs: str = "/sys"
    host: str | None = None
    store: str | None = None


def examine(question: Question, environ: Mapping[str, str]) -> list[Check]:
    """Every check, in the order in which a capture would stumble."""
    try:
        case = _Case(question, environ)
        found = case.all()
    except VaultError as error:
        found = iter([_failed("configuration", error)])
    return list(found)


def exit_code(checks: list[Check]) -> int:
    """0 if none failed; the code of those that did, or 1 where they differ."""
    codes = {check.exit_code for check in checks if check.state == "failed"}
    return 0 if not codes else codes.pop() if len(codes) == 1 else 1


class _Case:
    """One machine with what its capture would be told."""

    def __init__(self, question: Question, environ: Mapping[str, str]) -> None:
        self.question = question
        self.root = os.path.realpath(question.root or "/")
        self.site = Site.load(environ, self.root if question.root is not None else None)
        own = question.root is None and self.site.home != "/etc/dumpvault"
        self.baked = None if own else read_crash_conf(self.root)
        self.integrations = [] if own else installed(self.root)
        self.host = question.host or (self.baked.host if self.baked else host_of(self.root))
        self.policy: Policy | None = None
        self.signers: list[Signer] = []

    def all(self) -> Iterator[Check]:
        yield Check("configuration", "ok", f"{self.site.home}, host {self.host}")
        keys_fail = False
        for check in (self.check_policy, self.check_recipients, self.check_signers, self.check_rules):
            for result in _guarded(check):
                keys_fail |= result.state == "failed"
                yield result
        yield from _guarded(self.check_store)
        yield from _guarded(self.check_integration)
        assisted = [kind for kind, _ in self.integrations] == ["systemd"]
        yield from check_kernel(self.question.sysfs, "initramfs" if self.bakes_image else "root", assisted=assisted)
        if self.policy:
            yield check_release(self.question.sysfs, self.policy)
        yield check_clock([self.site.trust.allowed_signers_path, os.path.join(self.root, CRASH_CONF)])
        if keys_fail:
            yield Check("canary", "not applicable", "nothing can be sealed before the failures above are mended")
        else:
            yield from _guarded(self.check_canary)

    @property
    def bakes_image(self) -> bool:
        """Whether keys are in an initramfs, and captures start there."""
        return any(kind != "systemd" and layout == "initramfs" for kind, layout in self.integrations)

    @property
    def recipient_names(self) -> tuple[str, ...]:
        return self.baked.recipients if self.baked else self.site.recipients

    @property
    def quorum(self) -> str | None:
        return (self.baked.quorum or None) if self.baked else self.site.quorum

    @property
    def signer_names(self) -> tuple[str, ...]:
        return self.baked.signers if self.baked else self.site.signers

    @property
    def policy_name(self) -> str:
        return self.baked.policy if self.baked else self.site.policy_name

    def check_policy(self) -> Iterator[Check]:
        self.policy = self.site.policy(self.policy_name)
        yield Check("policy", "ok", f"{self.policy.name} ({self.site.policy_path(self.policy.name)})")

    def check_recipients(self) -> Iterator[Check]:
        chosen, threshold = parties_for(self.site, self.recipient_names, self.quorum)
        if self.policy:
            self.policy.check_recipients(chosen, self.site.trust.known(), threshold)
        needed = f"any {threshold} of " if threshold else ""
        yield Check("recipients", "ok", needed + ", ".join(f"{r.name} ({r.suite.name})" for r in chosen))
        held = {key.public for key in self.site.trust.private_keys() if key.purpose == "recipient"}
        here = [r.name for r in chosen if r.public in held]
        if here:
            found = f"the private half of {', '.join(here)} is on this machine"
            yield Check("separation", "warning", found, "A dump may hold it. Keep it where dumps are opened.")

    def check_signers(self) -> Iterator[Check]:
        self.signers = [key.signer for key in signers_for(self.site, self.signer_names, self.host)]
        for name, signer in zip(self.signer_names, self.signers, strict=True):
            yield self._listed(name, signer)

    def _listed(self, named: str, signer: Signer) -> Check:
        """Whether verifiers would take what ``signer`` signs."""
        trusted = self.site.trust.allowed_signers()
        entries = trusted.by_keyid(signer.keyid)
        lacking = [
            space
            for space in ROLES["collector"]
            # Keys of before the ledger lack this one, and capture as ever.
            if space != namespace("entry-collector")
            and all(entry.objection(space, self.host, None) for entry in entries)
        ]
        found = f"{named} ({signer.algorithm.name}, {signer.keyid}), listed in {trusted.name}"
        name = "signers"
        now = datetime.now(UTC)
        late = [why for entry in entries if (why := entry.objection(ROLES["collector"][0], self.host, now))]
        if lacking:
            return Check(name, "failed", f"{found}, which lacks {', '.join(lacking)}", "Give it role collector.", 12)
        if len(late) == len(entries):
            return Check(name, "failed", f"{found}: {late[0]}", "Make a new signer for this host.", 12)
        if not any(entry.host == self.host for entry in entries):
            advice = f"dumpvault keys new signer collector@{self.host} --unprotected"
            return Check(name, "warning", f"{found}, is not bound to host {self.host}", advice)
        entries_by = namespace("entry-collector")
        if all(entry.objection(entries_by, self.host, None) for entry in entries):
            advice = f"Add {entries_by} to its namespaces there, or captures leave no entry that counts in a ledger."
            return Check(name, "warning", f"{found}, which lacks {entries_by}", advice)
        return Check(name, "ok", found)

    def check_rules(self) -> Iterator[Check]:
        """What the policy asks of signers and, where it can be tried from here, of the store; silent if all of it holds."""
        if self.policy is None:
            return
        url, elsewhere = self._store()
        tables = (() if elsewhere else STORES) + (("signatures",) if self.signers else ())
        if tables:
            self.policy.require(plan(self.site, self.policy, signers=self.signers, store=url or None), tables)
        yield from ()

    def check_store(self) -> Iterator[Check]:
        url, elsewhere = self._store()
        if elsewhere:
            yield Check("store", "not applicable", elsewhere, "Mount it, and name the directory with --store.")
            return
        store = self.site.store(url)
        trial = f"doctor/keybag/{secrets.token_hex(8)}"
        data = secrets.token_bytes(4096)
        store.put(trial, data)
        try:
            if store.get(trial) != data:
                raise StoreFailed(f"{store.url}: {trial} came back changed", "Do not keep vaults on this medium.")
        finally:
            store.delete(trial)
            for folder in ("doctor/keybag", "doctor"):  # a directory keeps its folders
                with suppress(OSError):
                    os.rmdir(os.path.join(url.removeprefix(_LOCAL), folder))
        if store.volatile:
            raise StoreFailed(f"{store.url}: {store.volatile}", "A capture would be refused. Name a store on a disk.")
        yield Check("store", "ok", f"{store.url}: an object was written, synced, read back and deleted")
        yield self._room(url.removeprefix(_LOCAL))

    def _store(self) -> tuple[str, str]:
        """Where vaults will be, and why that cannot be tried from here; empty if it can."""
        kinds = [kind for kind, _ in self.integrations]
        if self.question.store:
            return self.question.store, ""
        if "kdump-utils" in kinds:
            conf = kdump_conf.settings(read_below(self.root, "etc/kdump.conf") or "")
            path = conf.get("path", "/var/crash").strip("/")
            target = next((conf[word] for word in _TARGETS if word in conf), "")
            if "--mount" in conf.get("dracut_args", ""):
                target = conf["dracut_args"]
            elsewhere = f"{path}/dumpvault on kdump's target, {target}" if target else ""
            return os.path.join(self.root, path), elsewhere
        if self.baked and self.baked.store_device:
            return "", f"{self.baked.store} on {self.baked.store_device}, which the crash kernel mounts"
        if self.baked:
            return os.path.join(self.root, self.baked.store.lstrip("/")), ""
        return self.site.store_url, ""

    def _room(self, path: str) -> Check:
        memory = memory_total(self.root)
        if memory is None:
            return Check("room", "not applicable", f"{self.root}/proc/meminfo does not say how much memory there is")
        facts = os.statvfs(path)
        free = facts.f_bavail * facts.f_frsize
        found = f"{free >> 20} MiB free for {memory >> 20} MiB of memory"
        packs = self.policy is None or self.policy.compress != "none"
        state: State = "ok" if free >= memory * 1.01 else "warning" if packs and free >= memory // 4 else "failed"
        if state == "warning":
            return Check("room", state, f"{found}: enough only if it compresses", "Make room, or a larger store.")
        return Check("room", state, found, "" if state == "ok" else "Make room, or name a larger store.", 13)

    def check_integration(self) -> Iterator[Check]:
        if not self.integrations:
            advice = "dumpvault integrate kdump-tools, kdump-utils or systemd"
            yield Check("integration", "warning", "nothing starts a capture after a crash", advice)
            return
        names = ", ".join(
            kind + (f" ({layout})" if kind == "kdump-tools" else "") for kind, layout in self.integrations
        )
        yield Check("integration", "ok", names)
        if not self.bakes_image:
            return
        images = [path for pattern in _IMAGES for path in glob.glob(os.path.join(glob.escape(self.root), pattern))]
        own = [path for path in images if os.uname().release in path] if self.root == "/" else []
        if not images:
            advice = "/etc/kernel/postinst.d/kdump-tools $(uname -r), or kdumpctl rebuild"
            yield Check("crash initramfs", "failed", f"there is none: {' or '.join(_IMAGES)}", advice)
        baked = [os.path.join(self.root, CRASH_CONF), *map(self.site.trust.private_path, self.signer_names)]
        made = max(((os.stat(path).st_mtime, path) for path in baked if os.path.exists(path)), default=(0.0, ""))
        for image in own or images:
            facts = os.stat(image)
            if facts.st_mode & 0o077:
                found = f"{image} holds a signing key and others can read it (mode {facts.st_mode & 0o777:04o})"
                yield Check("crash initramfs", "failed", found, f"chmod 600 {image}, and make a new signer.")
            elif facts.st_mtime < made[0]:
                found = f"{image} is older than {made[1]}, of which it holds a copy"
                yield Check("crash initramfs", "failed", found, "Build it again, and load it.")
            else:
                yield Check("crash initramfs", "ok", f"{image}, newer than what it holds, mode 0600")

    def check_canary(self) -> Iterator[Check]:
        with tempfile.TemporaryDirectory(prefix="dumpvault-doctor-") as folder:
            source = os.path.join(folder, "vmcore")
            write_memory(source, 1)
            policy = os.path.join(folder, "rehearsal.toml")
            assert self.policy
            with open(policy, "w", encoding="utf-8") as file:
                file.write(self.policy.rehearsal())
            trial = replace(self.site, run=os.path.join(folder, "run"), store_url=os.path.join(folder, "store"))
            request = CaptureRequest(
                source=source, recipients=self.recipient_names, signers=self.signer_names, policy=policy,
                host=self.host, release="none", quorum=self.quorum,
            )  # fmt: skip
            result = capture(trial, request, lambda done, total: None, lambda vault: None)
            store, trust = trial.store(), trial.trust.allowed_signers()
            report = verify(store, result.vault, trust)
            worst = report.worst()
            if worst:
                raise worst
            found = "sealed and verified 1 MiB"
            chosen, threshold = parties_for(self.site, self.recipient_names, self.quorum)
            if threshold:
                yield Check("canary", "ok", f"{found}; not opened, for {threshold} custodians must agree to that")
                return
            wanted = {r.public for r in chosen}
            keys: list[PrivateKey | LockedKey] = [
                key for key in trial.trust.private_keys() if isinstance(key, PrivateKey) and key.public in wanted
            ]
            if not keys:
                yield Check("canary", "ok", f"{found}; not opened, for no recipient's private half is here")
                return
            copy = os.path.join(folder, "copy")
            open_vault(store, OpenRequest(result.vault, copy, keys), trust, _never, lambda done, total: None)
            if not filecmp.cmp(source, copy, shallow=False):
                raise VaultError("what was opened is not what was sealed", "Please report it.")
            yield Check("canary", "ok", f"{found}, and opened it bit for bit")


def _guarded(check: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    try:
        yield from check()
    except VaultError as error:
        yield _failed(check.__name__.removeprefix("check_"), error)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        yield Check(check.__name__.removeprefix("check_"), "failed", f"{where}{error.strerror}", "Run it as root.")


def _failed(name: str, error: VaultError) -> Check:
    return Check(name, "failed", error.message, error.hint, error.exit_code)


def _never(key: LockedKey) -> PrivateKey:
    raise AssertionError(f"{key.name} is not locked")
