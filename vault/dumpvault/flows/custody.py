"""The custody ledger of one store, as one home works with it: record, look up, remember (docs/spec/ledger.md)."""

from __future__ import annotations

import hashlib
import os
import secrets
import socket
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from dumpvault.errors import Forged, NoKey
from dumpvault.flows.anchors import cosigned, log_keys, stamped
from dumpvault.flows.site import Site
from dumpvault.formats import jcs, policy_facts
from dumpvault.formats.allowed_signers import AllowedSigners, TrustedKey, namespace
from dumpvault.formats.checkpoint import Checkpoint
from dumpvault.formats.entry import LIMIT, SIGNATURES, Entry, Judged, Seen, judge, sign
from dumpvault.formats.private_key import LockedKey, PrivateKey
from dumpvault.formats.sshkey import CanSign, Signer, SigningKey
from dumpvault.model import Store, vault_prefix
from dumpvault.stages.ledger import Appended, Ledger
from dumpvault.stages.remembered import Remembered

__all__ = ["Custody", "Recorded", "Subject", "new_origin", "remembers"]

#: Name, SHA-256 and SHA-384 (None where it is not wanted) of the object that an entry is about.
Subject = tuple[str, str, str | None]


@dataclass(frozen=True, slots=True)
class Recorded:
    """An entry that is durably in the ledger: its number, and the SHA-256 of its bytes."""

    index: int
    digest: str


def remembers(site: Site) -> Remembered:
    return Remembered(os.path.join(site.data, "ledgers"))


def new_origin() -> str:
    """A name that no other ledger has."""
    return f"ledger-{secrets.token_hex(16)}"


class Custody:
    """A home's view of one store's ledger."""

    def __init__(
        self,
        site: Site,
        ledger: Ledger,
        trust: AllowedSigners,
        unlock: Callable[[LockedKey], PrivateKey] | None = None,
    ) -> None:
        self.site = site
        self.ledger = ledger
        self.trust = trust
        self._unlock = unlock

    @property
    def origin(self) -> str:
        return self.ledger.origin

    @classmethod
    def of(
        cls, site: Site, store: Store, trust: AllowedSigners, unlock: Callable[[LockedKey], PrivateKey] | None = None
    ) -> Custody | None:
        """None where the store has no ledger. ``unlock`` serves for actor keys that are locked, if no other is at hand.

        Raises ``Forged`` where this home remembers a ledger in that store, and it is gone or another one.
        """
        ledger = Ledger.of(store, ())
        for known in remembers(site).of_store(store.url):
            if ledger is None or ledger.origin != known.origin:
                now = f"{ledger.origin} stands in its place" if ledger else "it is gone"
                raise Forged(
                    f"ledger {known.origin}: this home has seen it in {store.url}, and {now}",
                    f"Find out who changed the store. If that was on purpose, remove {remembers(site).path(known.origin)}.",
                )
        if ledger is None:
            return None
        ledger.logs = log_keys(trust, ledger.origin)
        return cls(site, ledger, trust, unlock)

    @property
    def known(self) -> Checkpoint | None:
        """The last checkpoint that this home verified."""
        held = remembers(self.site).of(self.origin)
        return held.checkpoint if held else None

    def check(self) -> Checkpoint | None:
        """The latest checkpoint, held against what this home remembers. Raises ``Forged`` for a finding of section 5."""
        known = self.known
        tip = self.ledger.tip(known.size if known else 0)
        latest = self.ledger.latest(tip)
        if known:
            self.ledger.check_consistent(known, latest)
        return latest

    def remember(self, checkpoint: Checkpoint | None) -> None:
        """Keep it, durably, if it is not older than what is kept. Raises ``Forged`` or ``StoreFailed``."""
        url = self.ledger.store.url
        remembers(self.site).keep(self.origin, url, checkpoint, self.ledger.check_consistent)

    def record(
        self,
        *,
        event: str,
        role: str,
        vault: str | None,
        subject: Subject,
        purpose: str | None = None,
        ticket: str | None = None,
        detail: Mapping[str, str] | None = None,
        from_: str | None = None,
        to: str | None = None,
        kinds: Collection[str] | None = None,
    ) -> Recorded:
        """Sign an entry with this home's actor keys and append it; durable on return.

        ``kinds`` are the algorithms of which one key must be, if that is demanded. Raises ``NoKey`` without such a key,
        ``Forged`` for a finding of section 5, ``StoreFailed``.
        """
        known = self.known
        if not self.ledger.logs:
            raise NoKey(
                f"no trusted key signs checkpoints of {self.origin}, so what is written here could not be kept track of",
                "Import the log's public key from the home that made the store ('dumpvault keys import --role log').",
            )
        try:
            actor, keys = self._actor(role, kinds)
        except NoKey:
            self.check()  # a ledger that was changed is the worse news
            raise
        name, sha256, sha384 = subject
        entry = Entry(
            event=event, role=role, vault=vault, subject=name, digest=sha256, sha384=sha384, actor=actor,
            host=socket.gethostname(), time=jcs.to_time(datetime.now(UTC)), ledger=self.origin, purpose=purpose,
            ticket=ticket, detail=detail, from_=from_, to=to, seen=Seen(known.size, known.root.hex()) if known else None,
        )  # fmt: skip
        data = sign(entry, keys)
        return Recorded(self._append(data).index, hashlib.sha256(data).hexdigest())

    def sequence(self) -> Checkpoint | None:
        """Give numbers to what waits in the inbox, and sign a checkpoint over all. Raises as ``record`` does."""
        return self._append(None).checkpoint

    def left_out(self) -> Iterator[tuple[str, str]]:
        """What waits in the inbox and gets no number, by name, and why."""
        for digest in self.ledger.waiting():
            name = f"ledger/inbox/{digest}"
            data = self.ledger.store.get(name, 0, LIMIT + 1)
            judged = judge(data, name, self.origin, self.trust)
            misnamed = "" if judged.digest == digest else "its name is not that of its bytes"
            if why := misnamed or judged.flag or judged.expired(datetime.now(UTC)):
                yield name, why

    def _append(self, data: bytes | None) -> Appended:
        done = self.ledger.append(data, self._log(), self.known, self._acceptable)
        self.remember(done.checkpoint)
        return done

    def entries(self, vault: str | None = None) -> Iterator[tuple[int, Judged]]:
        """The entries whose signers may sign them, whenever that was: all, or those of one vault. Raises ``VaultError``."""
        for number in range(self.ledger.tip()):
            judged = judge(self.ledger.entry(number), f"ledger/entries/{number}", self.origin, self.trust)
            if judged.entry and not judged.flag and vault in (None, judged.entry.vault):
                yield number, judged

    def facts(self, vault: str, manifest: str) -> policy_facts.Custody:
        """What the ledger says of a vault whose manifest has this SHA-256, for a policy. Raises ``VaultError``.

        It is the order of entries that counts here, and no clock: keys' validity in time is left out.
        """
        self.check()
        evidence: int | None = None
        opened: tuple[int, int] | None = None
        opened_at: datetime | None = None
        subject = f"{vault_prefix(vault)}/manifest.dsse.json"
        for number, judged in self.entries(vault):
            entry = judged.entry
            assert entry is not None
            if evidence is None and (entry.subject, entry.digest) == (subject, manifest):
                evidence = number
            if opened is None and entry.event == "opened":
                opened = (number, entry.seen.size if entry.seen else 0)
                opened_at = jcs.from_time(entry.time)
        good, witnessed = set(), set()
        stamps: list[datetime] = []
        for name in self.ledger.store.children("ledger/checkpoints") if evidence is not None else ():
            size = int(name) if name.isdigit() else 0
            in_time = evidence is not None and size > evidence and (opened is None or size <= opened[0])
            if in_time and (checkpoint := self.ledger.checkpoint(size)):
                good.add(size)
                if cosigned(self.ledger, self.trust, checkpoint):
                    witnessed.add(size)
                stamps += [when for _, when in stamped(self.ledger, self.trust, checkpoint)]
        return policy_facts.Custody(
            "", evidence, opened, frozenset(good), frozenset(witnessed), opened_at, min(stamps, default=None)
        )

    def stamp(self, checkpoint: Checkpoint, url: str) -> tuple[str, datetime]:
        """Have the authority at ``url`` timestamp a checkpoint's text; durable on return. Raises ``VaultError``."""
        from dumpvault.flows.timestamping import stamp
        from dumpvault.formats import timestamp

        reply, anchor = stamp(checkpoint.text.encode(), url, self.trust)
        self.ledger.store.put(f"ledger/timestamps/{checkpoint.size}/{timestamp.path(reply).rpartition('/')[2]}", reply)
        return anchor.source, anchor.time

    def own_keys(self, statement: str, bound: str | None = None) -> list[tuple[TrustedKey, PrivateKey | LockedKey]]:
        """This home's signers that may sign ``statement`` now, with the lines that say so."""
        now, role = datetime.now(UTC), namespace(statement)
        own = self.site.trust.allowed_signers() if os.path.exists(self.site.trust.allowed_signers_path) else self.trust
        found = []
        for key in self.site.trust.private_keys():
            if key.purpose == "signer":
                keyid = Signer(key.public, key.algorithm).keyid
                for line in [*self.trust.by_keyid(keyid), *own.by_keyid(keyid)]:
                    if not line.objection(role, bound, now):
                        found.append((line, key))
                        break
        return found

    def _actor(self, role: str, kinds: Collection[str] | None) -> tuple[str, list[CanSign]]:
        """The name and the keys that entries of ``role`` are signed with: one of ``kinds`` first, if any are named."""
        able = self.own_keys(f"entry-{role}", socket.gethostname())
        open_ = [(line, key) for line, key in able if isinstance(key, PrivateKey)]
        if not open_ and able and self._unlock:
            open_ = [(able[0][0], self._unlock(able[0][1]))]  # type: ignore[arg-type]
        if not open_:
            raise NoKey(
                f"no key of this home may sign entries of the ledger as {role}",
                "'dumpvault init' makes one, and leaves alone what is there.",
            )
        if kinds is not None:
            open_.sort(key=lambda held: held[1].algorithm not in kinds)
            if open_[0][1].algorithm not in kinds:
                raise NoKey(
                    f"no key of this home of the kinds that the policy allows ({', '.join(sorted(kinds))}) may sign entries",
                    f"'dumpvault keys new signer NAME --role actor --algorithm {min(kinds)}' makes one.",
                )
        return open_[0][0].principal, [SigningKey(key.secret, key.algorithm) for _, key in open_[:SIGNATURES]]

    def _log(self) -> CanSign | None:
        """A log's key of this home, if it has one that is not locked."""
        for line, key in self.own_keys("checkpoint", self.origin):
            if isinstance(key, PrivateKey) and line.signer in self.ledger.logs:
                return SigningKey(key.secret, key.algorithm)
        return None

    def _acceptable(self, data: bytes, name: str) -> bool:
        judged = judge(data, name, self.origin, self.trust)
        return not judged.flag and not judged.expired(datetime.now(UTC))
