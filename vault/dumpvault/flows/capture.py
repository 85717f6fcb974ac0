"""Seal a source into a vault: a new one, or the unfinished one of the same dump.

What follows what, and why, is docs/spec/durability.md. A store's put returns only when its object is durable, so the
order of the calls here and in ``sealing`` is the order on the disk.
"""

from __future__ import annotations

import hashlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from dumpvault.errors import BadInput, Interrupted, NoKey, StoreFailed, Usage
from dumpvault.flows.attempt import Attempt, CaptureRequest, CaptureResult, boot_id
from dumpvault.flows.planning import plan
from dumpvault.flows.sealing import Stop
from dumpvault.flows.site import Site
from dumpvault.formats.allowed_signers import namespace
from dumpvault.formats.dsse import SIGNATURES
from dumpvault.formats.header import ElfFacts
from dumpvault.formats.header import Source as SourceFacts
from dumpvault.formats.policy import parse_compress
from dumpvault.formats.private_key import LockedKey, PassphraseKey
from dumpvault.formats.recipient import Recipient
from dumpvault.formats.sharing import Quorum
from dumpvault.formats.sshkey import SigningKey
from dumpvault.ranges import Ranges
from dumpvault.stages.journal import Journal
from dumpvault.stages.plan import special_spans
from dumpvault.stages.release import choose_releaser
from dumpvault.stages.source import Source, open_source

__all__ = ["CaptureRequest", "CaptureResult", "capture", "parties_for", "signers_for"]


def capture(
    site: Site, request: CaptureRequest, progress: Callable[[int, int | None], None], announce: Callable[[str], None]
) -> CaptureResult:
    """Seal ``request.source``. ``announce`` is told the vault's id as soon as something durable bears it.

    Returns once the manifest is durable; raises ``VaultError`` otherwise, saying what is safe. A truncated source is
    sealed and certified as such: the result's manifest says so.
    """
    stop = Stop(request.deadline)
    try:
        source = open_source(request.source)
    except KeyboardInterrupt:
        raise Interrupted("interrupted before anything was written", "Nothing was captured.") from None
    try:
        attempt = _prepare(site, request, source)
        try:
            with _stop_on_signals(stop):
                return attempt.carry_out(request, stop, progress, announce)
        finally:
            attempt.store.unreserve()
            if attempt.journal:
                attempt.journal.close()
    finally:
        source.close()


def _prepare(site: Site, request: CaptureRequest, source: Source) -> Attempt:
    """Everything that can be refused before anything is written."""
    host = os.fsencode(request.host or os.uname().nodename).decode(errors="backslashreplace")
    keys = signers_for(site, request.signers or site.signers, host)
    policy = site.policy(request.policy)
    recipients, quorum = parties_for(site, request.recipients, request.quorum)
    compress = parse_compress(request.compress or policy.compress, "--compress")
    policy.require(
        plan(
            site, policy, recipients=recipients, quorum=quorum, signers=[key.signer for key in keys],
            region_size=request.region_size, compress=request.compress, release=request.release, store=request.store,
        )
    )  # fmt: skip
    own = _is_own(request.source, request.vmcore)
    store = site.store(request.store, create=True)
    notes: list[str] = [source.warning] if source.warning else []
    heads = Ranges((span.offset, span.end) for span, _ in special_spans(source.core, source.size))
    releaser = choose_releaser(
        request.release or policy.release,
        request.sysfs,
        source.core.memory if source.core else (),
        heads,
        own_vmcore=own,
        pipe=source.size is None,
        hold=policy.hold_undescribed,
    )
    if store.volatile:
        if own or releaser.method != "none":
            raise StoreFailed(
                f"{store.url}: {store.volatile}", "The dump would be gone with the next boot. Name a store on a disk."
            )
        notes.append(f"{store.url}: {store.volatile}; this vault will not survive a reboot")
    facts = _describe(source, own)
    journal = None
    if own or facts.identity or releaser.method != "none":
        # A boot has one dump of its own, also when its notes have gone with the CPU area and it looks like another.
        journal = Journal(site.run, "own" if own else facts.identity or "pipe", boot_id())
    return Attempt(
        site, store, source, keys, policy, recipients, compress, host, facts, releaser, journal, notes,
        quorum,
    )  # fmt: skip


@contextmanager
def _stop_on_signals(stop: Stop) -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP ask for an orderly end; the second one is the system's own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, _frame: FrameType | None) -> None:
        stop.ask(signal.Signals(number).name)
        signal.signal(number, signal.SIG_DFL)

    # What was set to be ignored (nohup) stays ignored.
    wanted = [n for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_own(source: str, vmcore: str) -> bool:
    """Whether ``source`` is this boot's own dump."""
    try:
        return source != "-" and os.path.samefile(source, vmcore)
    except OSError:
        return False


def signers_for(site: Site, names: tuple[str, ...], host: str) -> list[SigningKey]:
    """The keys that sign a capture, in order, all of them each object. Raises ``NoKey``; ``BadInput`` for one key twice."""
    if not names:
        raise NoKey("no signer", "Name one with --signer; 'dumpvault keys new signer NAME --unprotected' makes one.")
    if len(names) > SIGNATURES:
        raise BadInput(f"{len(names)} signers", f"A vault has at most {SIGNATURES}. Nothing was captured.")
    keys: dict[str, SigningKey] = {}
    for name in names:
        key = _signer_for(site, name, host)
        if key.signer.keyid in keys:
            raise BadInput(
                f"signer {name} ({key.signer.keyid}) is named twice", "Name each key once. Nothing was captured."
            )
        keys[key.signer.keyid] = key
    return list(keys.values())


def _signer_for(site: Site, name: str, host: str) -> SigningKey:
    """A collector's key, which must be usable without a person, and listed for ``host``. Raises ``NoKey``."""
    key = site.trust.private_key(name)
    if key.purpose != "signer":
        raise NoKey(f"{name} is a recipient key, not a signer", "Name a signer with --signer. Nothing was captured.")
    if isinstance(key, PassphraseKey):
        raise NoKey(
            f"signer {name} is locked with a passphrase",
            "A collector's passphrase would need more memory than a crash kernel has. Make a signer for this host "
            "with --unprotected; it can sign captures and nothing else.",
        )
    if isinstance(key, LockedKey):
        from dumpvault.flows.key_access import unlock_key

        key = unlock_key(site, key, None, _nobody)
    signing = SigningKey(key.secret, key.algorithm)
    trusted = site.trust.allowed_signers()
    entries = trusted.by_keyid(signing.signer.keyid)
    # Not its validity in time: a crash kernel's clock may stand at 1970, and verifiers judge by their own.
    objections = [entry.objection(namespace("header"), host, None) for entry in entries] or ["is not listed"]
    if all(objections):
        raise NoKey(
            f"signer {name} ({signing.signer.keyid}) {objections[0]}, in {trusted.name}",
            "No verifier would accept its captures. Correct its line there, or name another signer; --host names this machine.",
        )
    return signing


def _nobody(prompt: str) -> bytes:
    raise NoKey(
        f"{prompt}: captures ask nobody",
        "Name a file with the PIN in the key's URI (pin-source), or give it as systemd credential NAME.pin.",
    )


def recipients_for(site: Site, names: tuple[str, ...]) -> list[Recipient]:
    """The recipients of ``names``, at least one. Raises ``NoKey`` or ``BadInput``."""
    if not names:
        raise NoKey("no recipient", "Name at least one with --recipient; without one nobody could open the vault.")
    return [site.trust.recipient(name) for name in names]


def parties_for(site: Site, names: tuple[str, ...], quorum: str | None) -> tuple[list[Recipient], int | None]:
    """Who is to open: recipients, or custodians and how many of them must agree; by default as the configuration says.

    Raises ``NoKey``, ``BadInput`` or ``Usage``.
    """
    if quorum and names:
        raise Usage(
            "--quorum and --recipient exclude each other",
            "Whoever opens the vault alone undoes the quorum. Leave one of them out; nothing was captured.",
        )
    if wanted := quorum or (site.quorum if not names else None):
        shared = Quorum.parse(wanted, "--quorum" if quorum else "quorum")
        return custodians_for(site, shared), shared.threshold
    return recipients_for(site, names or site.recipients), None


def custodians_for(site: Site, quorum: Quorum) -> list[Recipient]:
    """The custodians of ``quorum``, no two with one key. Raises ``NoKey``, ``BadInput`` or ``Usage``."""
    found: dict[str, Recipient] = {}
    for name in quorum.custodians:
        custodian = site.trust.recipient(name, "custodians")
        other = found.setdefault(custodian.digest, custodian)
        if other is not custodian:
            raise Usage(
                f"quorum: custodians {other.name} and {custodian.name} have the same key",
                "Two shares in one hand are no dual control. Give each a key of their own; nothing was captured.",
            )
    return list(found.values())


def _describe(source: Source, own: bool) -> SourceFacts:
    core = source.core
    return SourceFacts(
        kind=source.kind,
        name=source.name,
        size=source.size,
        mtime=None if own else source.mtime,  # that of /proc/vmcore says nothing
        identity=_identity(source),
        elf=ElfFacts(core.bits, core.endian, core.machine) if core else None,
        memory=tuple(core.memory) if core else (),
    )


def _identity(source: Source) -> str | None:
    """SHA-256 of the headers and notes regions: what tells one crash from another. None for pipes and opaque files."""
    if source.core is None or source.size is None:
        return None
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(1 << 20))
    for span, _ in special_spans(source.core, source.size):
        for start in range(span.offset, span.end, len(buffer)):
            count, _ = source.read(start, buffer[: min(len(buffer), span.end - start)], lambda: False)
            digest.update(buffer[:count])
    return digest.hexdigest()
