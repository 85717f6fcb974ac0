"""A second reader of ledgers: verifies one, written from docs/spec/ledger.md and what that page refers to alone.

It is here to show that the page suffices, and to notice when dumpvault and it drift apart; so it shares no code with
dumpvault. Section numbers below are those of ledger.md, of vault.md where that is said. From the second reader of vaults
it takes what vault.md says of JSON, of key blobs and of signatures. RFC 3161 timestamps are passed over.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from vectors.reader import (
    DIGEST,
    ENVELOPE,
    ID,
    KEY,
    QUANTITY,
    TIME,
    Refused,
    fingerprint,
    key_blob,
    load,
    need,
    strings,
    verify,
)

DAY = timedelta(hours=24)
ALWAYS = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
DECIMAL, KEY_ID = re.compile("0|[1-9][0-9]{0,12}"), re.compile("[0-9a-f]{8}")
ORIGIN = re.compile(r"[!-*,-~]{1,200}")  # printable ASCII without space and +
SIGNATURE_LINE = re.compile("\u2014 ([^\\s+]+) ([A-Za-z0-9+/]+={0,2})")

# --- What an entry holds: section 2 -------------------------------------------------------------------------------

ACTING = ("analyst", "custodian", "officer", "auditor")
EVENTS = {
    "collected": ("collector",), "received": ACTING, "moved": ACTING, "verified": ACTING, "requested": ("analyst",),
    "approved": ("custodian",), "opened": ("analyst",), "closed": ("analyst",), "granted": ("officer",),
    "rewrapped": ("officer",), "reshared": ("officer",), "shredded": ("officer",), "exported": ACTING,
    "audited": ("auditor",),
}  # fmt: skip


def text(most: int) -> re.Pattern[str]:
    return re.compile(f"(?s).{{1,{most}}}")


# Shapes are those of `check` in the second reader of vaults.
PREDICATE = {
    "format": 1, "ledger": (ORIGIN, None), "event": tuple(EVENTS), "vault": (ID, None), "role": ("collector", *ACTING),
    "actor": str, "host": str, "time": TIME, "purpose": (text(4096), None), "ticket": (text(256), None),
    "from": (text(256), None), "to": (text(256), None), "detail": dict, "sha384": (re.compile("[0-9a-f]{96}"), None),
    "seen": ({"size": QUANTITY, "root": DIGEST}, None), "serial": ID, "tool": text(64), "version": text(64),
}  # fmt: skip
STATEMENT = {
    "_type": "https://in-toto.io/Statement/v1", "predicateType": "urn:dumpvault:entry:v1", "predicate": PREDICATE,
    "subject": [{"name": str, "digest": {"sha256": DIGEST}}, 1, 1],
}  # fmt: skip


def instant(name: str, time: str) -> datetime:
    try:
        return datetime.strptime(time, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise Refused(f"{name}: a moment that does not exist") from None


# --- Whom to trust: sections 2, 4 and 6, and vault.md, section 5.2 ------------------------------------------------


@dataclass(frozen=True)
class Line:
    """One principal of one line of allowed_signers."""

    principal: str
    blob: bytes
    roles: tuple[str, ...]
    after: datetime
    before: datetime

    @property
    def ed25519(self) -> bytes | None:
        kind, *_, public = strings(self.blob)
        return public if kind == b"ssh-ed25519" else None

    def bound(self, to: str) -> bool:
        """What follows the first @ of a principal is the host, or for a log's key the origin, it counts for."""
        return "@" not in self.principal or self.principal.split("@", 1)[1] == to


def moment(option: str) -> datetime:
    """As ssh-keygen(1) has it: local time, unless a Z follows."""
    digits, zone = option.removesuffix("Z"), UTC if option.endswith("Z") else None
    form = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}.get(len(digits), "")
    return datetime.strptime(digits, form).replace(tzinfo=zone).astimezone(UTC)


def signers(allowed_signers: str) -> list[Line]:
    """A line that cannot be understood gives nothing."""
    found = []
    for line in allowed_signers.split("\n"):
        fields = re.fullmatch(rf'\s*([^\s#"][^\s"]*)\s+((?:[^\s"]|"[^"]*")+)\s+({KEY})(\s.*)?', line)
        pairs = re.findall('([A-Za-z-]+)="([^"]*)"(?:,|$)', fields[2]) if fields else []
        options = {key.lower(): value for key, value in pairs}
        known = len(options) == len(pairs) and options.keys() <= {"namespaces", "valid-after", "valid-before"}
        whole = fields and fields[2] == ",".join(f'{key}="{value}"' for key, value in pairs)
        if not fields or not whole or not known or not key_blob(fields[3]):
            continue
        try:
            after = moment(options["valid-after"]) if "valid-after" in options else ALWAYS[0]
            before = moment(options["valid-before"]) if "valid-before" in options else ALWAYS[1]
        except ValueError:
            continue
        roles = tuple(options.get("namespaces", "").split(","))
        found += [Line(name, key_blob(fields[3]), roles, after, before) for name in fields[1].split(",")]
    return found


class Trust:
    """Who may sign what, and when; keys that are revoked may sign nothing."""

    def __init__(self, allowed_signers: str, revoked_keys: str) -> None:
        self.lines = signers(allowed_signers)
        self.blobs = {fingerprint(line.blob): line.blob for line in self.lines}
        self.revoked = set()
        for line in revoked_keys.split("\n"):
            if line and not line.startswith("#"):
                blob = key_blob(" ".join(line.split()[:2]))
                need(blob, "revoked_keys", "a line that cannot be read")
                self.revoked.add(blob)

    def holding(self, role: str) -> list[Line]:
        return [line for line in self.lines if f"dumpvault-{role}@v1" in line.roles and line.blob not in self.revoked]


# --- Notes: C2SP signed-note, tlog-checkpoint and tlog-cosignature ------------------------------------------------


def signature_line(name: str, line: str) -> tuple[str, bytes, bytes]:
    """Key name, key id and signature."""
    parts = SIGNATURE_LINE.fullmatch(line)
    try:
        raw = base64.b64decode(parts[2], validate=True) if parts else b""
    except ValueError:
        raw = b""
    need(parts and len(raw) > 4 and base64.b64encode(raw).decode() == parts[2], name, "not a signature line")
    assert parts
    return parts[1], raw[:4], raw[4:]


def key_id(name: str, kind: int, public: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\n" + bytes([kind]) + public).digest()[:4]


def signed(public: bytes, signature: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except InvalidSignature:
        return False
    return True


def plain(name: str, data: bytes) -> str:
    """The text of a note: UTF-8, without control characters."""
    try:
        found = data.decode()
    except ValueError:
        raise Refused(f"{name}: not UTF-8") from None
    need(not re.search("[\0-\x09\x0b-\x1f]", found), name, "a control character")
    return found


@dataclass(frozen=True)
class Checkpoint:
    size: int
    root: bytes
    text: bytes


def read_checkpoint(name: str, data: bytes, origin: str, logs: list[bytes]) -> Checkpoint:
    """Section 4: a note that one of these keys has signed as the log."""
    need(len(data) <= 16384, name, "longer than 16 KiB")
    body, _, below = plain(name, data).rpartition("\n\n")
    lines = body.split("\n")
    need(below.endswith("\n") and below.count("\n") <= 16, name, "not 1 to 16 signature lines")
    need(len(lines) == 3 and lines[0] == origin, name, "not three lines of this ledger")
    need(DECIMAL.fullmatch(lines[1]), name, "no size")
    root = base64.b64decode(lines[2])
    need(len(root) == 32 and base64.b64encode(root).decode() == lines[2], name, "no root")
    message, by = (body + "\n").encode(), 0
    for line in below[:-1].split("\n"):
        key, ident, signature = signature_line(name, line)
        known = [public for public in logs if key == origin and key_id(origin, 1, public) == ident]
        need(not known or any(signed(public, signature, message) for public in known), name, "does not verify")
        by += bool(known)
    need(by, name, "not signed by a trusted log's key")
    return Checkpoint(int(lines[1]), root, message)


# --- The tree: RFC 6962, section 2.1, and C2SP tlog-tiles ---------------------------------------------------------


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


class Tree:
    def __init__(self, entries: list[bytes]) -> None:
        self.entries = entries
        self.leaves = [sha256(b"\0" + entry) for entry in entries]
        self.hash = cache(self._hash)

    def _hash(self, start: int, end: int) -> bytes:
        if end - start < 2:
            return self.leaves[start] if end > start else sha256(b"")
        middle = start + (1 << (end - start - 1).bit_length() - 1)
        return sha256(b"\1" + self.hash(start, middle) + self.hash(middle, end))

    def root(self, size: int) -> bytes:
        return self.hash(0, size)

    def caches(self, size: int) -> Iterable[tuple[str, Callable[[], bytes]]]:
        """Names and bytes of full tiles and bundles, and of the partial tiles of a checkpoint of this size."""
        for n in range(len(self.entries) // 256):
            bundle = self.entries[256 * n : 256 * n + 256]
            yield f"tile/entries/{path(n)}", lambda b=bundle: b"".join(len(e).to_bytes(2) + e for e in b)  # type: ignore[misc]
        for level in range(6):
            step = 256**level
            widths = dict.fromkeys(range(len(self.entries) // step // 256), 256)
            for n, width in (*widths.items(), (size // step // 256, size // step % 256)):
                at = range(256 * n * step, (256 * n + width) * step, step)
                name = f"tile/{level}/{path(n)}" + (f".p/{width}" if width < 256 else "")
                if width:
                    yield name, lambda a=at, s=step: b"".join(self.hash(i, i + s) for i in a)  # type: ignore[misc]


def path(n: int) -> str:
    """An index as tlog-tiles writes it: 1234067 is x001/x234/067."""
    digits = f"{n:0{-(-len(str(n)) // 3) * 3}}"
    groups = [digits[at : at + 3] for at in range(0, len(digits), 3)]
    return "/".join([*("x" + group for group in groups[:-1]), groups[-1]])


# --- Verifying: section 9 -----------------------------------------------------------------------------------------


@dataclass
class Entry:
    """What is known of an entry: why it is flagged, who signed it, and which of these keys count."""

    number: int
    flag: str = ""
    said: dict[str, Any] = field(default_factory=dict)
    signed_by: set[bytes] = field(default_factory=set)
    keys: set[bytes] = field(default_factory=set)
    time: datetime = ALWAYS[0]
    doubt: str = ""
    before: datetime = ALWAYS[0]  # the latest time of those before it
    seen: tuple[int, str] | None = None


@dataclass(frozen=True)
class Anchor:
    """A time by which the signers of an entry, or if there are no keys somebody outside, say that all entries below a
    size were there."""

    time: datetime
    size: int
    keys: frozenset[bytes] = frozenset()


@dataclass
class Result:
    verdict: str = "intact"
    entries: int = 0
    checkpoint: tuple[int, str] | None = None
    findings: list[tuple[str, str]] = field(default_factory=list)
    flagged: dict[int, str] = field(default_factory=dict)
    doubtful: dict[int, str] = field(default_factory=dict)
    cosigned: list[int] = field(default_factory=list)
    others: list[str] = field(default_factory=list)  # what is reported and condemns nothing


class Ledger:
    def __init__(self, store: Path, trust: Trust, now: datetime) -> None:
        self.root, self.trust, self.now, self.result = store / "ledger", trust, now, Result()
        self.tree = Tree([])
        self.anchors: list[Anchor] = []

    def names(self, folder: str, kind: Callable[[Path], bool] = Path.is_file) -> list[str]:
        """The objects below a folder; unfinished writes and symbolic links are none."""
        top = self.root / folder
        found = [one for one in top.iterdir() if not one.is_symlink() and kind(one)] if top.is_dir() else []
        return sorted(one.name for one in found if not one.name.startswith("."))

    def get(self, name: str) -> bytes:
        file = self.root / name
        need(file.is_file() and not file.is_symlink(), f"ledger/{name}", "missing")
        return file.read_bytes()

    def found(self, word: str, why: str) -> None:
        self.result.findings.append((word, why))

    def read_origin(self) -> None:
        """Step 1."""
        self.origin = load("ledger.json", self.get("ledger.json"), {"format": 1, "origin": ORIGIN})["origin"]

    def read_checkpoints(self) -> None:
        """Step 2, but for what needs the tree. A log's key counts whenever it is valid."""
        logs = [line for line in self.trust.holding("checkpoint") if line.bound(self.origin)]
        keys = [line.ed25519 for line in logs if line.ed25519]
        self.checkpoints: dict[int, Checkpoint] = {}
        for size in self.names("checkpoints"):
            name = f"checkpoints/{size}"
            try:
                checkpoint = read_checkpoint(name, self.get(name), self.origin, keys)
                need(str(checkpoint.size) == size, name, f"it is of {checkpoint.size}")
            except (Refused, ValueError) as error:
                self.result.others.append(str(error))
            else:
                self.checkpoints[checkpoint.size] = checkpoint

    def read_entries(self) -> None:
        """Step 3, and the parts of 2 and 4 that need the tree."""
        numbers = {int(name) for name in self.names("entries") if DECIMAL.fullmatch(name)}
        tip = next(i for i in range(len(numbers) + 1) if i not in numbers)
        self.result.others += [f"entries/{number}: behind a gap" for number in sorted(numbers) if number > tip]
        held = {number: self.get(f"entries/{number}") for number in range(tip)}
        held = {number: data if len(data) <= 65535 else b"" for number, data in held.items()}
        self.tree = Tree([held[i] for i in range(tip)])
        self.result.entries = tip
        standing = [s for s, c in self.checkpoints.items() if s <= tip and self.tree.root(s) == c.root]
        self.latest = max(standing, default=0)
        if self.latest in self.checkpoints:
            self.result.checkpoint = (self.latest, self.checkpoints[self.latest].root.hex())
        for size, checkpoint in sorted(self.checkpoints.items()):
            if size > tip:
                self.found("truncated", f"a checkpoint is good for {size} entries, and {tip} are there")
            elif self.tree.root(size) != checkpoint.root:
                self.found("rewritten", f"the tree at {size} is another")
        self.entries = [self.read_entry(number, data) for number, data in held.items()]

    def read_entry(self, number: int, data: bytes) -> Entry:
        """Section 2, but for what time and other entries have to do with it."""
        entry, name = Entry(number), f"entries/{number}"
        try:
            envelope = load(name, data, {**ENVELOPE, "signatures": [ENVELOPE["signatures"][0], 1, 4]}, canonical=True)
            payload, media = base64.b64decode(envelope["payload"]), envelope["payloadType"].encode()
            statement = load(name, payload, STATEMENT)
            said, about = statement["predicate"], statement["subject"][0]["name"]
            self.check_entry(name, said, about)
            entry.time = instant(name, said["time"])
            if said["seen"]:
                entry.seen = (int(said["seen"]["size"], 16), said["seen"]["root"])
                need(entry.seen[0] <= 1 << 40, name, "more entries than a ledger can have")
            signatures = {one["keyid"]: base64.b64decode(one["sig"]) for one in envelope["signatures"]}
            need(len(signatures) == len(envelope["signatures"]), name, "a key id stands twice")
            for keyid in signatures.keys() & self.trust.blobs.keys():
                encoded = b"DSSEv1 %d %b %d %b" % (len(media), media, len(payload), payload)
                verify(name, self.trust.blobs[keyid], signatures[keyid], encoded)
                entry.signed_by.add(self.trust.blobs[keyid])
            need(entry.signed_by, name, "no listed key signed it")
            entry.said = said
        except (Refused, ValueError) as error:
            entry.flag, entry.seen = str(error), None
        return entry

    def check_entry(self, name: str, said: dict[str, Any], about: str) -> None:
        detail, event, vault = said["detail"], said["event"], said["vault"]
        members = all(re.fullmatch("[a-z_]{1,32}", key) and isinstance(value, str) for key, value in detail.items())
        need(members and len(detail) <= 32, name, "its detail is malformed")
        need(all(len(value) <= 4096 for value in detail.values()), name, "its detail is too long")
        need(vault or event == "audited", name, "about no vault")
        allowed = [f"vaults/{vault}/manifest.dsse.json", f"vaults/{vault}/vault.dsse.json"]
        need(about in (["checkpoint"] if event == "audited" else allowed), name, "its subject is something else")
        need(said["role"] in EVENTS[event], name, f"{event} is no event of role {said['role']}")
        ours = said["ledger"] == self.origin or (said["ledger"] is None and event == "collected")
        need(ours, name, "an entry of another ledger")

    def read_cosignatures(self) -> None:
        """Step 7. A witness's key must be valid at the time that it names."""
        lines = self.trust.holding("cosignature")
        for folder in self.names("cosignatures", Path.is_dir):
            for ident in self.names(f"cosignatures/{folder}"):
                name = f"cosignatures/{folder}/{ident}"
                try:
                    need(DECIMAL.fullmatch(folder) and KEY_ID.fullmatch(ident), name, "not the name of a cosignature")
                    checkpoint = self.checkpoints.get(int(folder))
                    standing = checkpoint and self.was(checkpoint.size, checkpoint.size, checkpoint.root.hex())
                    need(standing and int(folder) <= self.result.entries, name, "of no checkpoint that stands")
                    assert checkpoint
                    line = plain(name, self.get(name))
                    need(line.endswith("\n"), name, "not a line")
                    self.read_cosignature(name, line[:-1], checkpoint, lines)
                except Refused as error:
                    self.result.others.append(str(error))

    def read_cosignature(self, name: str, line: str, checkpoint: Checkpoint, lines: list[Line]) -> None:
        witness, ident, signature = signature_line(name, line)
        need(ident.hex() == name[-8:] and len(signature) == 72, name, "not a cosignature of this name")
        at = int.from_bytes(signature[:8])
        need(at < 2**63, name, "a time that is too large")
        message = b"cosignature/v1\ntime %d\n" % at + checkpoint.text
        for pin in lines:
            if pin.principal == witness and pin.ed25519 and key_id(witness, 4, pin.ed25519) == ident:
                need(signed(pin.ed25519, signature[8:], message), name, "does not verify")
                time = datetime.fromtimestamp(min(at, 2**37), UTC)
                need(pin.after <= time <= pin.before, name, "the witness's key was not valid then")
                self.anchors.append(Anchor(time, checkpoint.size))
                self.result.cosigned.append(checkpoint.size)
                return
        raise Refused(f"{name}: not by a witness's key")

    def judge_times(self, again: set[int]) -> None:
        """Section 2: whose time is doubtful, and the latest one before each entry; whether its key had ended is no
        matter. `again` are the entries whose serial stands before them."""
        latest = ALWAYS[0]
        for entry in self.entries:
            entry.doubt, entry.before = "", latest
            if entry.number in again or not any(self.lines(entry, key) for key in entry.signed_by):
                continue
            outside = [anchor.time for anchor in self.anchors if entry.number < anchor.size]
            if entry.time - min([self.now, *outside]) > DAY:
                entry.doubt = "post-dated"
            elif entry.said["event"] != "collected":
                entry.doubt = "back-dated" if latest - entry.time > DAY else ""
                latest = latest if entry.doubt else max(latest, entry.time)

    def judge_keys(self, again: set[int]) -> None:
        """Section 2: which keys were valid. Anchors of an entry stand behind it, so that the last one is judged first."""
        anchors = list(self.anchors)
        for entry in reversed(self.entries):
            covering = [a.time for a in anchors if entry.number < a.size and not a.keys & entry.signed_by]
            at = min([self.now, *covering])
            lines = [(key, line) for key in entry.signed_by for line in self.lines(entry, key)]
            entry.keys = {key for key, line in lines if line.after <= at <= line.before}
            if entry.seen and entry.keys and not entry.doubt and entry.number not in again:
                time = max(entry.time, entry.before)
                anchors.append(Anchor(time, entry.seen[0], frozenset(entry.signed_by)))

    def lines(self, entry: Entry, key: bytes) -> list[Line]:
        """What gives a key the entry's role on the entry's host, at any time; nothing if the entry is flagged."""
        if entry.flag:
            return []
        role, host = f"entry-{entry.said['role']}", entry.said["host"]
        return [line for line in self.trust.holding(role) if line.blob == key and line.bound(host)]

    def repeated(self) -> set[int]:
        """Section 2: those whose serial stands before them, whether that one's key had ended or not."""
        serials: set[str] = set()
        found = set()
        for entry in self.entries:
            if any(self.lines(entry, key) for key in entry.signed_by):
                found |= {entry.number} if entry.said["serial"] in serials else set()
                serials.add(entry.said["serial"])
        return found

    def read_times(self) -> None:
        """Step 5: which entries count, whose time is doubtful, and what actors had seen."""
        again = self.repeated()
        self.judge_times(again)
        self.judge_keys(again)
        for entry in self.entries:
            number = entry.number
            if entry.flag or not entry.keys or number in again:
                said = "no key that may sign it" if not entry.keys else "it is there already"
                self.result.flagged[number] = entry.flag or said
                continue
            if entry.doubt:
                self.result.doubtful[number] = entry.doubt
            if entry.seen and not self.was(number, *entry.seen):
                self.found("forked", f"entry {number}: its actor had verified another tree")

    def was(self, number: int, size: int, root: str) -> bool:
        return size <= number and (size > self.result.entries or self.tree.root(size).hex() == root)

    def compare(self, kept: Iterable[tuple[str, int, str]]) -> None:
        """Step 6."""
        for origin, size, root in kept:
            if origin != self.origin:
                self.found("another ledger", f"{self.origin} stands in the place of {origin}")
            elif size > self.result.entries:
                self.found("rolled back", f"{size} entries were known, and {self.result.entries} are there")
            elif self.tree.root(size).hex() != root:
                self.found("forked", f"the tree of {size} that was known is another")

    def read_caches(self) -> None:
        """Step 8."""
        for name, expected in self.tree.caches(self.latest):
            at = self.root / name
            if at.is_file() and (at.is_symlink() or self.get(name) != expected()):
                self.result.others.append(f"{name}: junk")


def read(
    store: Path, allowed_signers: str, revoked_keys: str, now: datetime, kept: Iterable[tuple[str, int, str]] = ()
) -> Result:
    """Verify the ledger of a store; `kept` are checkpoints (origin, size, root) that it must continue.

    What cannot be read as a ledger at all is refused."""
    ledger = Ledger(store, Trust(allowed_signers, revoked_keys), now)
    ledger.read_origin()
    ledger.read_checkpoints()
    ledger.read_entries()
    ledger.read_cosignatures()
    ledger.read_times()
    ledger.compare(kept)
    ledger.read_caches()
    result = ledger.result
    bare = result.entries and not ledger.latest
    result.verdict = "failed" if result.findings else "incomplete" if bare else "intact"
    return result
