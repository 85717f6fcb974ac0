"""What somebody who can write to a store may do to its ledger and vaults, case by case, and what an auditor is told.

The table of docs/reference/tampering.md is written from these cases; tests carry each one out.
"""

# ruff: noqa: E501 - a table: one case, one line
from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from dumpvault.flows.custody import Custody
from dumpvault.flows.site import Site
from dumpvault.formats import jcs, merkle, tiles
from dumpvault.formats.allowed_signers import AllowedSigners, line_for
from dumpvault.formats.checkpoint import Checkpoint
from dumpvault.formats.entry import Entry, Seen, sign
from dumpvault.formats.note import cosign
from dumpvault.formats.private_key import PrivateKey
from dumpvault.formats.sshkey import SigningKey
from dumpvault.stages.store.local import LocalStore
from support.command import Home, make_home
from support.vmcore import write_core

__all__ = ["CASES", "Case", "Scene", "make_scene", "render"]


@dataclass(frozen=True)
class Scene:
    """A home that captured two vaults, opened both and remembers the ledger; ``since`` is what an auditor kept before."""

    home: Home
    vault: str
    other: str
    since: Path

    @property
    def root(self) -> Path:
        return self.home.path / "store/ledger"

    @property
    def body(self) -> Path:
        return self.home.vaults / self.vault

    def copied(self, to: Path) -> Scene:
        """The same in another place; what the home remembers is of that place."""
        home = Home(Path(shutil.copytree(self.home.path, to)))
        (memory,) = (home.path / "ledgers").glob("*.json")
        memory.write_text(memory.read_text().replace(str(self.home.path), str(to)))
        return replace(self, home=home)

    @property
    def origin(self) -> str:
        return str(jcs.decode((self.root / "ledger.json").read_bytes(), "ledger.json", 4096)["origin"])

    def key(self, name: str) -> SigningKey:
        found = Site.load({"DUMPVAULT_HOME": str(self.home.path)}).trust.private_key(name)
        assert isinstance(found, PrivateKey)
        return SigningKey(found.secret, found.algorithm)

    @property
    def log(self) -> SigningKey:
        return self.key(f"log@{self.origin}")

    @property
    def size(self) -> int:
        return len(list((self.root / "entries").iterdir()))

    def entry(self, number: int) -> bytes:
        return (self.root / f"entries/{number}").read_bytes()

    def append(self, data: bytes) -> None:
        (self.root / f"entries/{self.size}").write_bytes(data)

    def written(self, *keys: str, **fields: object) -> None:
        """Append an entry by ``keys`` that is as the home's own would be, but for ``fields``."""
        manifest = (self.body / "manifest.dsse.json").read_bytes()
        own = Entry(
            event="received", role="auditor", vault=self.vault, subject=f"vaults/{self.vault}/manifest.dsse.json",
            digest=hashlib.sha256(manifest).hexdigest(), actor="actor", host="here",
            time=jcs.to_time(datetime.now(UTC)), ledger=self.origin,
        )  # fmt: skip
        self.append(sign(replace(own, **fields), [self.key(name) for name in keys or ("actor",)]))  # type: ignore[arg-type]

    def root_of(self, size: int) -> bytes:
        leaves = [merkle.leaf_hash(self.entry(i)) for i in range(size)]
        return merkle.root(lambda height, i: merkle.subtree(leaves[i << height : (i + 1) << height]), size)

    def sign_checkpoint(self, size: int, root: bytes, key: SigningKey | None = None, origin: str | None = None) -> None:
        path = self.root / f"checkpoints/{size}"
        path.unlink(missing_ok=True)
        path.write_bytes(Checkpoint(origin or self.origin, size, root).sign(key or self.log))

    def sizes(self) -> list[int]:
        return sorted(int(path.name) for path in (self.root / "checkpoints").iterdir())

    def forget(self) -> None:
        shutil.rmtree(self.home.path / "ledgers")

    def cut(self, size: int, *, checkpoints: bool) -> None:
        for path in (self.root / "entries").iterdir():
            if int(path.name) >= size:
                path.unlink()
        for path in (self.root / "checkpoints").iterdir():
            if checkpoints and int(path.name) > size:
                path.unlink()

    def rewrite(self, number: int) -> None:
        """The whole ledger once more by its own log's key, with one entry exchanged."""
        (self.root / f"entries/{number}").write_bytes(self.entry(0))
        shutil.rmtree(self.root / "tile")
        edge = tiles.Edge()
        for i in range(self.size):
            for _ in edge.add(merkle.leaf_hash(self.entry(i))):
                pass
            self.sign_checkpoint(edge.size, edge.root)


def make_scene(path: Path) -> Scene:
    """Twelve entries and some; a witness has cosigned a checkpoint that covers the first vault's."""
    home = make_home(path / "site", "actor")

    def do(*words: object) -> str:
        ran = home.call(*words)
        assert ran.code == 0, ran.err
        return ran.out.strip()

    for name, role in (
        ("officer", "officer"),
        ("eve", "witness"),
        ("thief", "actor"),
        ("former", "actor"),
        ("stranger", "actor"),
        ("c@db1", "collector"),
    ):
        do("keys", "new", "signer", name, "--role", role, "--unprotected")
    do("keys", "new", "recipient", "vendor", "--unprotected")
    signers = home.path / "keys/allowed_signers"
    trust = AllowedSigners(signers.read_text())
    lines = [key.line for key in trust.keys if key.principal not in ("former", "stranger")]
    former = next(key for key in trust.keys if key.principal == "former")
    lines.append(line_for("former", former.signer, "actor", datetime(2020, 1, 1, tzinfo=UTC)))
    signers.write_text("".join(lines))
    do("keys", "revoke", "thief", "--reason", "stolen")
    core = write_core(path / "vmcore", 64)
    vault, other = (do("capture", core, "--recipient", "analyst", "--signer", "collector") for _ in range(2))
    do("custody", "sequence")
    do("custody", "witness")
    since = path / "since"
    do("custody", "verify", "--keep", since)
    for one in (vault, other):
        do("open", one, "-o", path / "copy", "--force", "--reason", "it died", "--ticket", "INC-7")
        do("verify", one, "--record")
    do("rewrap", vault, "--add", "vendor", "--signer", "officer")
    do("custody", "record", other, "moved", "--to", "the cellar")
    do("custody", "verify", "--record")
    do("custody", "verify")
    return Scene(home, vault, other, since)


def _flip(path: Path, at: int = -10) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)


def _swap(one: Path, two: Path) -> None:
    first, second = one.read_bytes(), two.read_bytes()
    for path, data in ((one, second), (two, first)):
        path.chmod(0o600)
        path.write_bytes(data)


def _replace(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert old in data
    path.chmod(0o600)
    path.write_bytes(data.replace(old, new))


def _empty(path: Path) -> None:
    for one in path.iterdir():
        one.unlink()


def _and_forget(change: Callable[[Scene], object]) -> Callable[[Scene], object]:
    return lambda s: (change(s), s.forget())


def _cosigned(scene: Scene) -> Path:
    (path,) = (scene.root / "cosignatures").glob("*/*")
    return path


def _signed_falsely(scene: Scene) -> None:
    path = scene.root / f"checkpoints/{scene.sizes()[1]}"
    line = path.read_text().splitlines()[-1]
    words = line.split(" ")
    words[-1] = jcs.b64encode(jcs.b64decode(words[-1])[:4] + bytes(64))
    path.write_text(path.read_text() + " ".join(words) + "\n")


def _cosign_elsewhere(scene: Scene) -> None:
    path = scene.root / f"cosignatures/{scene.sizes()[-1]}"
    path.mkdir()
    _cosigned(scene).rename(path / _cosigned(scene).name)


def _cosign_by_nobody(scene: Scene) -> None:
    size = scene.sizes()[0]
    text = Checkpoint(scene.origin, size, scene.root_of(size)).text
    line = cosign(text, "eve", scene.key("stranger"), 1)
    (_cosigned(scene).parent / line.id.hex()).write_text(line.text)


def _revoke_log(scene: Scene) -> None:
    assert scene.home.call("keys", "revoke", f"log@{scene.origin}", "--reason", "lost").code == 0


def _resign(scene: Scene) -> None:
    """The statement of an entry, signed once more: other bytes, and the same serial."""
    custody = Custody.of(
        site := Site.load({"DUMPVAULT_HOME": str(scene.home.path)}),
        LocalStore(site.store_url),
        site.trust.allowed_signers(),
    )
    assert custody is not None
    judged = next(judged for _, judged in custody.entries() if judged.entry and judged.entry.event == "opened")
    assert judged.entry
    scene.append(sign(judged.entry, [scene.key("actor"), scene.key("stranger")]))


_NOW = datetime.now(UTC)
_DAYS = timedelta(days=3)


@dataclass(frozen=True)
class Case:
    """``custody`` and ``vault`` are the verdicts of ``custody verify`` and ``verify``; ``says`` is in what is told."""

    what: str
    change: Callable[[Scene], object]
    custody: str
    vault: str
    says: str
    since: bool = False


def _ledger(what: str, change: Callable[[Scene], object], custody: str, says: str, since: bool = False) -> Case:
    return Case(what, change, custody, "intact", says, since)


def _vault(what: str, change: Callable[[Scene], object], vault: str, says: str) -> Case:
    return Case(what, change, "intact", vault, says)


CASES: list[Case] = [
    # The ledger's past.
    _ledger("a byte of an entry changed", lambda s: _flip(s.root / "entries/3"), "failed", "rewritten: entry 3 is not"),
    _ledger("an entry replaced by a copy of another", lambda s: shutil.copy(s.root / "entries/2", s.root / "entries/5"), "failed", "rewritten: entry 5 is not"),
    _ledger("two entries change places", lambda s: _swap(s.root / "entries/4", s.root / "entries/6"), "failed", "rewritten: entry 4 is not"),
    _ledger("an entry in the middle removed", lambda s: (s.root / "entries/4").unlink(), "failed", "truncated: a log's key signed"),
    _ledger("those after it moved down to fill the gap", lambda s: [(s.root / f"entries/{i + 1}").rename(s.root / f"entries/{i}") for i in range(4, s.size - 1)], "failed", "rewritten: entry 4 is not"),
    _ledger("the last entries removed", lambda s: s.cut(6, checkpoints=False), "failed", "truncated"),
    _ledger("the last entries and their checkpoints removed", lambda s: s.cut(6, checkpoints=True), "failed", "rolled back: this home's memory"),
    _ledger("the same, told by what the auditor kept", _and_forget(lambda s: s.cut(1, checkpoints=True)), "failed", "rolled back", since=True),
    _ledger("the same, by an auditor who kept nothing", _and_forget(lambda s: s.cut(6, checkpoints=True)), "intact", "6 entries"),
    _ledger("all checkpoints removed", lambda s: _empty(s.root / "checkpoints"), "incomplete", "no checkpoint by a log's key"),
    _ledger("the whole ledger removed", lambda s: shutil.rmtree(s.root), "failed", "it is gone"),
    _ledger("an older copy of the whole ledger put in its place", lambda s: (s.cut(2, checkpoints=True), shutil.rmtree(s.root / "tile")), "failed", "rolled back"),
    _ledger("rewritten and signed by the log's own key", lambda s: s.rewrite(3), "failed", "forked: this home's memory"),
    _ledger("the same, told by what the auditor kept", _and_forget(lambda s: s.rewrite(1)), "failed", "forked", since=True),
    _ledger("the same, by an auditor who kept nothing: by what actors had seen", _and_forget(lambda s: s.rewrite(3)), "failed", "its actor had verified another tree"),
    # ledger.json and checkpoints.
    _ledger("another ledger's name in ledger.json", lambda s: _replace(s.root / "ledger.json", b"ledger-", b"edgerl-"), "failed", "stands in its place"),
    _ledger("ledger.json of a newer version", lambda s: _replace(s.root / "ledger.json", b'"format":1', b'"format":2'), "failed", "format 2"),
    _ledger("ledger.json is no JSON", lambda s: (s.root / "ledger.json").write_bytes(b"{"), "failed", "ledger.json"),
    _ledger("the latest checkpoint changed", lambda s: _flip(s.root / f"checkpoints/{s.sizes()[-1]}", 40), "intact", "does not verify"),
    _ledger("an older checkpoint changed", lambda s: _flip(s.root / f"checkpoints/{s.sizes()[1]}", 40), "intact", "does not verify"),
    _ledger("a checkpoint by a key that is not trusted", lambda s: (s.written(), s.sign_checkpoint(s.size, s.root_of(s.size), s.key("stranger"))), "intact", "no trusted log's key"),
    _ledger("a checkpoint of another log", lambda s: (s.written(), s.sign_checkpoint(s.size, s.root_of(s.size), origin="ledger-0")), "intact", "no trusted log's key"),
    _ledger("a checkpoint under the name of another size", lambda s: shutil.copy(s.root / f"checkpoints/{s.sizes()[0]}", s.root / "checkpoints/3"), "intact", "ledger/checkpoints/3: it is of"),
    _ledger("a checkpoint by the log's key over entries that are not there", lambda s: s.sign_checkpoint(s.size + 1, bytes(32)), "failed", "truncated"),
    _ledger("a second tree of one size, signed by the log's key", lambda s: s.sign_checkpoint(s.sizes()[2], bytes(32)), "failed", "rewritten"),
    _ledger("the log's key revoked", _revoke_log, "incomplete", "no checkpoint by a log's key"),
    # What anybody who can write to the store may put into it.
    _ledger("junk as an entry", lambda s: s.append(b"junk"), "intact", "not JSON"),
    _ledger("an entry of 70 000 bytes", lambda s: s.append(bytes(70000)), "intact", "ledger/entries/"),
    _ledger("an entry by a key that is not listed", lambda s: s.written("stranger"), "intact", "no listed key signed it"),
    _ledger("an entry with a false signature under a listed key", lambda s: s.append(_false(s)), "intact", "does not verify"),
    _ledger("a copy of an entry", lambda s: s.append(s.entry(2)), "intact", "it is there already"),
    _ledger("an entry signed once more", _resign, "intact", "it is there already"),
    _ledger("an entry of another ledger", lambda s: s.written(ledger="ledger-0"), "intact", "an entry of another ledger"),
    _ledger("an entry of a newer version", lambda s: s.append(_newer(s)), "intact", "format 2"),
    _ledger("junk in the inbox", lambda s: (s.root / "inbox" / ("0" * 64)).write_bytes(b"junk"), "intact", '"waiting": 1'),
    _ledger("junk behind the end", lambda s: (s.root / "entries/99").write_bytes(b"junk"), "intact", "are no entries"),
    _ledger("an entry's name taken by a folder", lambda s: (s.root / f"entries/{s.size}").mkdir(), "intact", "are no entries"),
    _ledger("an entry's name taken by a link", lambda s: (s.root / f"entries/{s.size}").symlink_to("0"), "intact", "are no entries"),
    _ledger("an entry whose actor says to have seen 2^64 - 1", lambda s: s.written(seen=Seen(2**64 - 1, "0" * 64)), "intact", "has seen more than"),
    _ledger("a checkpoint with one good and one false signature of the log", _signed_falsely, "intact", "does not verify"),
    _ledger("a cosignature copied under another name", lambda s: shutil.copy(_cosigned(s), _cosigned(s).with_name("0" * 8)), "intact", "prove nothing here"),
    _ledger("a tile changed", lambda s: [_flip(path) for path in (s.root / "tile/0").glob(f"000.p/{s.size}")], "intact", "junk: not what the entries make"),
    _ledger("all tiles removed", lambda s: shutil.rmtree(s.root / "tile"), "intact", '"flagged": []'),
    _ledger("an entry whose purpose is HTML", lambda s: s.written(purpose="<script>alert(1)</script>"), "intact", '"flagged": []'),
    # What a listed key may say, and must not.
    _ledger("a collector's key says that it opened", lambda s: s.written("collector", event="opened", role="analyst"), "intact", "may not sign"),
    _ledger("an event that is not one of the role's", lambda s: s.written(event="opened", role="auditor"), "intact", "is no event of role auditor"),
    _ledger("a key of another host collects", lambda s: s.written("c@db1", event="collected", role="collector", host="db2", ledger=None), "intact", "bound to host"),
    _ledger("an entry by a revoked key", lambda s: s.written("thief"), "intact", "is revoked"),
    _ledger("an entry by a key whose time is over", lambda s: s.written("former"), "intact", "was valid only before"),
    _ledger("a back-dated entry", lambda s: s.written(time=jcs.to_time(_NOW - _DAYS)), "intact", "back-dated"),
    _ledger("a post-dated entry", lambda s: s.written(time=jcs.to_time(_NOW + _DAYS)), "intact", "post-dated"),
    _ledger("an actor had seen another tree", lambda s: s.written(seen=Seen(3, "0" * 64)), "failed", "forked"),
    _ledger("an actor had seen more than there is", lambda s: s.written(seen=Seen(99, "0" * 64)), "failed", "forked"),
    # Witnesses.
    _ledger("a cosignature changed", lambda s: _flip(_cosigned(s)), "intact", "prove nothing here"),
    _ledger("a cosignature moved to another checkpoint", _cosign_elsewhere, "intact", "prove nothing here"),
    _ledger("a cosignature by a key that is no witness's", _cosign_by_nobody, "intact", "prove nothing here"),
    # The vault.
    _vault("a byte of a region changed", lambda s: _flip(next(s.body.glob("regions/*/*.sealed")), 200), "failed", "regions/"),
    _vault("a region removed", lambda s: next(s.body.glob("regions/*/*.sealed")).unlink(), "incomplete", "regions/"),
    _vault("a commit removed", lambda s: (s.body / "commits/1.dsse.json").unlink(), "failed", "commits/1"),
    _vault("a byte of a commit changed", lambda s: _flip(s.body / "commits/1.dsse.json"), "failed", "commits/1"),
    _vault("the manifest removed", lambda s: (s.body / "manifest.dsse.json").unlink(), "failed", "manifest"),
    _vault("the manifest of another vault", lambda s: _swap(s.body / "manifest.dsse.json", s.home.vaults / s.other / "manifest.dsse.json"), "failed", "manifest"),
    _vault("a byte of the header changed", lambda s: _flip(s.body / "vault.dsse.json"), "failed", "vault.dsse.json"),
    _vault("the sidecar's signature changed", lambda s: _flip(s.body / "manifest.json.sig", 100), "failed", "manifest.json.sig"),
    _vault("the wrapped keys of a commit removed", lambda s: shutil.rmtree(s.body / "keys"), "incomplete", "keys/"),
    _vault("the keybag of another vault", lambda s: _swap(next(s.body.glob("keybag/*")), next((s.home.vaults / s.other).glob("keybag/*"))), "failed", "keybag"),
    _vault("an event removed", lambda s: next(s.body.glob("events/*")).unlink(), "incomplete", "keybag"),
    _vault("an object added", lambda s: (s.body / "note.txt").write_text("hello"), "intact", "note.txt"),
]  # fmt: skip


def _false(scene: Scene) -> bytes:
    value = jcs.decode(scene.entry(scene.size - 1), "entry", 65535)
    value["signatures"][0]["sig"] = jcs.b64encode(bytes(64))
    return jcs.encode(value)


def _newer(scene: Scene) -> bytes:
    value = jcs.decode(scene.entry(scene.size - 1), "entry", 65535)
    payload = jcs.b64decode(value["payload"]).replace(b'"format":1', b'"format":2')
    return jcs.encode({**value, "payload": jcs.b64encode(payload)})


HEAD = """\
# What is told of tampering

Written by `make reference` from the cases that the tests carry out, each on a store with two vaults and a ledger, in a home
that remembers the ledger. `custody verify` and `verify` exit 0 for "intact", 3 for "incomplete" and 10 for "failed". What
anybody who can write to a store may put into its ledger is told of, does not count, and is no reason to distrust the rest;
`custody verify --strict` exits 10 for it.

| what was done | `custody verify` | `verify` | what one of them says |
|---|---|---|---|
"""


def render() -> str:
    """docs/reference/tampering.md."""
    rows = [f"| {case.what} | {case.custody} | {case.vault} | {_said(case)} |\n" for case in CASES]
    return HEAD + "".join(rows)


def _said(case: Case) -> str:
    return {'"flagged": []': "", '"waiting": 1': "1 waits in the inbox"}.get(case.says, case.says)
