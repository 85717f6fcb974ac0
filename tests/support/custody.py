"""Homes of a site under dual control, each its own: a collector, an analyst, three custodians; and crafted answers."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from dumpvault.flows.site import Site
from dumpvault.formats import dsse, jcs
from dumpvault.formats.kem import SUITES
from dumpvault.formats.private_key import PrivateKey
from dumpvault.formats.request import Approval, Request, share_info
from dumpvault.formats.sshkey import SigningKey
from support.command import Home, Ran

CUSTODIANS = ("alice", "bob", "carol")


@dataclass(frozen=True)
class Sites:
    """``store`` is what all of them reach."""

    path: Path

    @property
    def store(self) -> Path:
        return self.path / "vaults"

    def home(self, name: str) -> Home:
        return Home(self.path / name)

    def call(self, name: str, *arguments: object) -> Ran:
        """A command in the home of ``name``, on the shared store."""
        return self.home(name).call(*arguments, "--store", self.store)

    def capture(self, source: Path, *more: object, quorum: str = "2of3:alice,bob,carol") -> str:
        ran = self.call("db1", "capture", source, "--quorum", quorum, "--signer", "collector", *more)
        assert ran.code in (0, 3), ran.err
        return ran.out.strip()

    def request(self, vault: str, *more: object, by: str = "ana") -> Path:
        path = self.path / f"request-{hashlib.sha256(repr((vault, by, more, _count())).encode()).hexdigest()[:8]}.json"
        ran = self.call(by, "request", vault, "--reason", "why did it panic?", "--ticket", "INC-1", "-o", path, *more)
        assert ran.code == 0, ran.err
        return path

    def approve(self, request: Path, who: str, *more: object) -> Path:
        path = request.with_suffix(f".{who}.{_count()}.json")
        ran = self.call(who, "approve", request, "--yes", "-o", path, *more)
        assert ran.code == 0, ran.err
        return path

    def open(self, vault: str, *approvals: Path, by: str = "ana", to: str = "copy") -> Ran:
        """``open`` with these approvals."""
        options = [word for path in approvals for word in ("--approvals", path)]
        return self.call(by, "open", vault, "-o", self.path / to, "--force", *options)

    def signer(self, home: str, name: str) -> SigningKey:
        key = Site.load(self.home(home).env).trust.private_key(name)
        assert isinstance(key, PrivateKey)
        return SigningKey(key.secret)


_numbers = iter(range(1 << 30))


def _count() -> int:
    return next(_numbers)


def make_sites(path: Path) -> Sites:
    """Custodians alice, bob and carol, analysts ana and mallory, a collector on db1; all public halves are everywhere."""
    sites = Sites(path)
    new = {"collector": ("db1", "signer", "--role", "collector")}
    for who in CUSTODIANS:
        new[who] = (who, "custodian", "--kem", "x25519")
        new[f"{who}-signs"] = (who, "signer", "--role", "custodian")
    for who in ("ana", "mallory"):
        new[who] = (who, "signer", "--role", "analyst")
    for name, (home, purpose, *options) in new.items():
        if not (path / home).exists():
            sites.home(home).call("init")
        assert sites.home(home).call("keys", "new", purpose, name, "--unprotected", *options).code == 0
        assert sites.home(home).call("keys", "export", name, "-o", path / f"{name}.pub").code == 0
    for home in {home for home, *_ in new.values()}:
        for name, (owner, purpose, *options) in new.items():
            if owner != home:
                how = ["--custodian"] if purpose == "custodian" else options
                ran = sites.home(home).call("keys", "import", path / f"{name}.pub", *how)
                assert ran.code == 0, ran.err
    return sites


def read_request(path: Path) -> Request:
    return Request.read(dsse.parse(path.read_bytes(), path.name))


def read_approval(path: Path) -> Approval:
    return Approval.read(dsse.parse(path.read_bytes(), path.name))


def forge_approval(original: Path, to: Path, key: SigningKey, **changes: Any) -> Path:
    """The approval at ``original`` with some fields changed, signed by ``key``: what a dishonest custodian can write."""
    to.write_bytes(dsse.sign(replace(read_approval(original), **changes).statement(), [key]))
    return to


def forge_request(original: Path, to: Path, key: SigningKey, **changes: Any) -> Path:
    to.write_bytes(dsse.sign(replace(read_request(original), **changes).statement(), [key]))
    return to


def reseal(original: Path, request: Path, to: Path, key: SigningKey, share: bytes, **changes: Any) -> Path:
    """The approval at ``original`` with another share in it, properly sealed and signed."""
    bare = replace(read_approval(original), **changes)
    ((suite, public),) = read_request(request).keys
    shares = tuple((n, SUITES[suite].seal(public, share, share_info(suite, n, bare))) for n, _ in bare.shares)
    to.write_bytes(dsse.sign(replace(bare, shares=shares).statement(), [key]))
    return to


def ago(**how: float) -> str:
    """A time that is so long ago."""
    return jcs.to_time(datetime.now(UTC) - timedelta(**how))


def onetime(sites: Sites, request: Path, home: str = "ana") -> Path:
    """Where the private halves of a request's keys are."""
    return sites.home(home).path / "private" / "requests" / hashlib.sha256(request.read_bytes()).hexdigest()


def refused(ran: Ran, code: int, *words: str) -> None:
    assert ran.code == code, ran.err
    assert "Traceback" not in ran.err
    for word in words:
        assert word in ran.err, ran.err
