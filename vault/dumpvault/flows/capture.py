"""Seal a source into a new vault: source, regions, bodies, keys, commits, manifest, in the order of durability.

For each commit: keybag durable, bodies durable, wrapped keys durable, signed commit durable. The manifest comes last.
A store's put returns only when its object is durable, so the order of the calls below is the order on the disk.
"""

from __future__ import annotations

import hashlib
import os
import queue
import secrets
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from types import FrameType

from dumpvault import __version__
from dumpvault.errors import Incomplete, Interrupted, NoKey, StoreFailed, VaultError
from dumpvault.flows.site import Site
from dumpvault.formats import jcs
from dumpvault.formats import keybag as key_objects
from dumpvault.formats.allowed_signers import namespace
from dumpvault.formats.commit import MAX_REGIONS, Ended
from dumpvault.formats.header import ElfFacts, Header, Listed, PolicyText
from dumpvault.formats.header import Source as SourceFacts
from dumpvault.formats.keybag import Keybag
from dumpvault.formats.manifest import Manifest
from dumpvault.formats.policy import Policy, parse_compress
from dumpvault.formats.private_key import LockedKey
from dumpvault.formats.recipient import Recipient
from dumpvault.formats.sshkey import SigningKey
from dumpvault.model import FRAME_SIZE, Kind, Region, RegionRecord, Store, body_path, vault_prefix
from dumpvault.stages.chain import Chain
from dumpvault.stages.plan import plan_regions, special_spans
from dumpvault.stages.seal import SealedRegion, Sealer
from dumpvault.stages.source import Source, open_source

__all__ = ["CaptureRequest", "CaptureResult", "capture"]

_MAX_HOLES = 16384
_TOOL = f"dumpvault {__version__}"
Progress = Callable[[int, int | None], None]


@dataclass(frozen=True, slots=True)
class CaptureRequest:
    """What to capture, for whom. ``region_size`` in bytes overrides the policy's; ``jobs`` are sealing threads."""

    source: str
    recipients: tuple[str, ...]
    signer: str | None
    store: str | None = None
    policy: str | None = None
    compress: str | None = None
    region_size: int | None = None
    jobs: int | None = None
    host: str | None = None


@dataclass(frozen=True, slots=True)
class CaptureResult:
    vault: str
    store: str
    manifest: Manifest
    warnings: tuple[str, ...]


def capture(site: Site, request: CaptureRequest, progress: Progress, announce: Callable[[str], None]) -> CaptureResult:
    """Seal ``request.source``. ``announce`` is told the vault's id as soon as something durable bears it.

    Returns once the manifest is durable; raises ``VaultError`` otherwise, saying what is safe. A truncated source is
    sealed and certified as such: the result's manifest says so.
    """
    host = request.host or os.uname().nodename
    key = _signer(site, request.signer or site.signer, host)
    policy = site.policy(request.policy)
    recipients = _recipients(site, request.recipients or site.recipients)
    policy.check_recipients(recipients)
    compress, level = parse_compress(request.compress or policy.compress, "--compress")
    source = open_source(request.source)
    try:
        store = site.store(request.store, create=True)
        vault = secrets.token_hex(16)
        header = Header(
            vault=vault,
            created=_now(),
            tool=_TOOL,
            host=host,
            boot_id=_boot_id(),
            source=_describe(source),
            region_size=request.region_size or policy.region_size,
            frame_size=FRAME_SIZE,
            policy=PolicyText(policy.name, policy.text),
            signers=(key.signer,),
            recipients=tuple(Listed(r.name, r.suite.name, r.digest) for r in recipients),
        )
        chain = Chain(store, header, key)
        announce(vault)
        vk = os.urandom(32)
        chain.take_over(Keybag.seal(vk, recipients, vault, 1, chain.header_digest), header.boot_id, _TOOL, _now())
        kek = key_objects.derive_kek(vk, vault, 1)
        with _stop_on_signals() as stop:
            line = _Line(source, store, header, chain.attempt, kek, (compress, level), stop)
            jobs = request.jobs or os.cpu_count() or 1
            _run(line, chain, policy, jobs if source.seekable else 1, progress, stop)
        end, truncated = source.conclude(chain.totals.size)
        # A region that a shrinking file cut short may have another behind it; the hole is no dump's end.
        truncated = truncated or line.short_before < chain.totals.size
        manifest = chain.finish(end, truncated, _now())
        return CaptureResult(vault, store.url, manifest, (source.warning,) if source.warning else ())
    finally:
        source.close()


class _Line:
    """The sealing line: workers draw regions, seal them into the store and report each once it is durable."""

    def __init__(
        self,
        source: Source,
        store: Store,
        header: Header,
        attempt: int,
        kek: bytes,
        compress: tuple[str, int],
        stop: _Stop,
    ) -> None:
        kind: Kind = "memory" if source.kind == "elf" else "opaque"
        self.done: queue.SimpleQueue[tuple[RegionRecord, bytes] | BaseException | None] = queue.SimpleQueue()
        self.short_before = 1 << 64
        self._plan = plan_regions(source.core, source.size, header.region_size, kind)
        self._source = source
        self._store = store
        self._header = header
        self._attempt = attempt
        self._kek = kek
        self._compress = compress
        self._stop = stop
        self._lock = threading.Lock()
        self._ended = False

    def work(self) -> None:
        """One worker's life. Ends by reporting None, after an exception if there was one."""
        try:
            sealer = Sealer(self._header.vault, self._attempt, self._header.frame_size, *self._compress)
            while (region := self._draw()) is not None:
                result = self._seal(sealer, region)
                if result is None or result.length < region.length:
                    with self._lock:
                        self._ended = True
                        self.short_before = min(self.short_before, region.offset + (result.length if result else 0))
                if result is not None:
                    self.done.put(self._record(result))
        except BaseException as error:  # noqa: BLE001 - handed to the committing thread, which raises it
            self._stop.ask()
            self.done.put(error)
        finally:
            self.done.put(None)

    def _draw(self) -> Region | None:
        with self._lock:
            if self._ended or self._stop.asked():
                return None
            return next(self._plan, None)

    def _seal(self, sealer: Sealer, region: Region) -> SealedRegion | None:
        name = f"{vault_prefix(self._header.vault)}/{body_path(self._attempt, region.index)}"
        upload = self._store.create(name)
        try:
            result = sealer.seal(
                region, lambda offset, view: self._source.read(offset, view, self._stop.asked), upload, self._stop.asked
            )
            if result is not None:
                upload.finish()
        finally:
            upload.abort()
        return result

    def _record(self, done: SealedRegion) -> tuple[RegionRecord, bytes]:
        wrapped = key_objects.wrap(self._kek, done.dek)
        record = RegionRecord(
            index=done.region.index,
            offset=done.region.offset,
            length=done.length,
            kind=done.region.kind,
            codec=done.codec,
            message=done.message,
            blocks=done.blocks,
            key=hashlib.sha256(wrapped).hexdigest(),
            unreadable=done.unreadable,
        )
        return record, wrapped


def _run(line: _Line, chain: Chain, policy: Policy, jobs: int, progress: Progress, stop: _Stop) -> None:
    """Start the workers and commit what they report, in bounded commits, until all have ended."""
    # Daemons: a thread stuck in a dead device's read must not keep the process from ending.
    workers = [threading.Thread(target=line.work, name=f"seal-{i}", daemon=True) for i in range(jobs)]
    for worker in workers:
        worker.start()
    pending: list[tuple[RegionRecord, bytes]] = []
    held = holes = total = 0
    due = monotonic() + policy.commit_seconds
    failure: BaseException | None = None
    running = len(workers)
    try:
        while running:
            with suppress(queue.Empty):
                item = line.done.get(timeout=max(0.0, min(0.5, due - monotonic())))
                if item is None:
                    running -= 1
                elif isinstance(item, BaseException):
                    failure = _worse(failure, item)
                else:
                    pending.append(item)
                    held += item[0].length
                    holes += len(item[0].unreadable)
                    total += item[0].length
                    progress(total, line._source.size)
            full = held >= policy.commit_bytes or len(pending) == MAX_REGIONS or holes >= _MAX_HOLES
            if monotonic() >= due or full:
                if pending and not isinstance(failure, StoreFailed):
                    chain.commit_regions(pending, _now())
                    pending, held, holes = [], 0, 0
                due = monotonic() + policy.commit_seconds
        _settle(chain, pending, failure, stop)
    finally:
        stop.ask()
        for worker in workers:
            worker.join(timeout=5)


def _settle(
    chain: Chain, pending: list[tuple[RegionRecord, bytes]], failure: BaseException | None, stop: _Stop
) -> None:
    """After the workers: commit the rest; if anything went wrong, end the attempt in order and raise."""
    safe = f"vault {chain.vault} holds what was sealed until then"
    useful = "'dumpvault verify' checks it, 'dumpvault open --partial' opens it."
    if isinstance(failure, StoreFailed):
        # A failed writer stays failed: not one more byte goes to this store.
        raise type(failure)(
            failure.message, f"{failure.hint} {safe.capitalize()}, up to commit {chain.next - 1}; {useful}"
        )
    if pending:
        chain.commit_regions(pending, _now())
    if failure is None and not stop.asked():
        return
    if failure is None or isinstance(failure, Interrupted):
        chain.append(Ended(stop.reason), _now())
        raise (Interrupted if stop.reason == "SIGINT" else Incomplete)(
            f"stopped by {stop.reason} before the source was read to its end", f"{safe.capitalize()}; {useful}"
        )
    chain.append(Ended(str(failure)[:500]), _now())
    if isinstance(failure, VaultError):
        raise type(failure)(failure.message, f"{failure.hint} {safe.capitalize()}; {useful}")
    raise failure


def _worse(one: BaseException | None, other: BaseException) -> BaseException:
    """Of two workers' errors the one to report: a store's first, an interruption last."""
    if one is None or (isinstance(one, Interrupted) and not isinstance(other, Interrupted)):
        return other
    return other if isinstance(other, StoreFailed) and not isinstance(one, StoreFailed) else one


class _Stop:
    """Whether the capture was asked to stop, and by what."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.reason = ""

    def ask(self, reason: str = "") -> None:
        self.reason = self.reason or reason
        self._event.set()

    def asked(self) -> bool:
        return self._event.is_set()


@contextmanager
def _stop_on_signals() -> Iterator[_Stop]:
    """SIGINT and SIGTERM ask for an orderly end; the second one is the system's own."""
    stop = _Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, _frame: FrameType | None) -> None:
        stop.ask(signal.Signals(number).name)
        signal.signal(number, signal.SIG_DFL)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _signer(site: Site, name: str | None, host: str) -> SigningKey:
    if not name:
        raise NoKey("no signer", "Name one with --signer; 'dumpvault keys new signer NAME --unprotected' makes one.")
    key = site.trust.private_key(name)
    if key.purpose != "signer":
        raise NoKey(f"{name} is a recipient key, not a signer", "Name a signer with --signer. Nothing was captured.")
    if isinstance(key, LockedKey):
        raise NoKey(
            f"signer {name} is locked with a passphrase",
            "A collector's passphrase would need more memory than a crash kernel has. Make a signer for this host "
            "with --unprotected; it can sign captures and nothing else.",
        )
    signing = SigningKey(key.secret)
    trusted = site.trust.allowed_signers().by_keyid(signing.signer.keyid)
    role = namespace("header")
    if not any(entry.has_role(role, host, datetime.now(UTC)) for entry in trusted):
        raise NoKey(
            f"signer {name} ({signing.signer.keyid}) is not listed with the role {role} for host {host}",
            f"No verifier would accept its captures. List it in {site.trust.allowed_signers_path}.",
        )
    return signing


def _recipients(site: Site, names: tuple[str, ...]) -> list[Recipient]:
    if not names:
        raise NoKey("no recipient", "Name at least one with --recipient; without one nobody could open the vault.")
    return [site.trust.recipient(name) for name in names]


def _describe(source: Source) -> SourceFacts:
    core = source.core
    return SourceFacts(
        kind=source.kind,
        name=source.name,
        size=source.size,
        mtime=source.mtime,
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


def _boot_id() -> str | None:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return None


def _now() -> str:
    return jcs.to_time(datetime.now(UTC))
