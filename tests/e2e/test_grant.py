"""Grants: a home that holds nothing else opens just those regions; for anything else a grant is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dumpvault.flows.site import Site
from dumpvault.formats import dsse
from dumpvault.formats.event import LIMIT, Run
from dumpvault.formats.grant import Grant
from dumpvault.formats.private_key import PrivateKey
from dumpvault.formats.sshkey import SigningKey
from support.command import Home, Ran
from support.logged import LOG, logged_core
from support.officers import Case, Stopped, calls, make_case


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make_case(tmp_path_factory.mktemp("grant"), logged_core(64 << 5))


@pytest.fixture
def case(original: Case, tmp_path: Path) -> Case:
    return original.copied(tmp_path / "site")


class Vendor:
    """A home with a private key, a copy of the trust file, and a store; nothing else."""

    def __init__(self, case: Case, path: Path, kem: str = "x25519") -> None:
        made = Home(path / "made")
        assert made.call("init").code == 0
        assert made.call("keys", "new", "recipient", "vendor", "--kem", kem, "--unprotected").code == 0
        self.public = path / "vendor.pub"
        shutil.copy(made.path / "keys/recipients/vendor.pub", self.public)
        self.home = Home(path / "vendor")
        (self.home.path / "keys").mkdir(parents=True)
        (self.home.path / "private").mkdir()
        shutil.copy(made.path / "private/vendor.key", self.home.path / "private/vendor.key")
        shutil.copy(case.home.path / "keys/allowed_signers", self.home.path / "keys/allowed_signers")
        self.case, self.path = case, path

    def store(self, *without: str) -> Path:
        """A copy of the store, without these folders of the vault."""
        to = self.path / "their-store"
        shutil.rmtree(to, ignore_errors=True)
        shutil.copytree(self.case.home.path / "store", to)
        for folder in without:
            shutil.rmtree(to / "vaults" / self.case.vault.name / folder)
        return to

    def granted(self, *what: object) -> Path:
        path = self.path / "grant.json"
        path.unlink(missing_ok=True)
        ran = self.case.call("grant", *what, "--to", self.public, "-o", path)
        assert ran.code == 0, ran.err
        return path

    def call(self, command: str, grant: Path | None, *more: object, store: Path | None = None) -> Ran:
        options = ["--grant", grant] if grant else []
        call = self.home.run if command == "dmesg" else self.home.call
        return call(command, self.case.vault.name, "--store", store or self.store(), *options, *more)

    def opened(self, grant: Path | None, *more: object, store: Path | None = None) -> tuple[int, bytes, str]:
        out = self.path / "out"
        ran = self.call("open", grant, "-o", out, "--force", *more, store=store)
        data = out.read_bytes() if out.exists() else b""
        out.unlink(missing_ok=True)
        return ran.code, data, ran.err


@pytest.fixture
def vendor(case: Case, tmp_path: Path) -> Vendor:
    return Vendor(case, tmp_path)


def spans(case: Case) -> dict[int, tuple[int, int]]:
    """Where each region of the vault is in the source."""
    found = {}
    for path in (case.vault / "commits").iterdir():
        payload = json.loads(dsse.parse(path.read_bytes(), "c", 8 << 20).payload)
        for record in payload["predicate"]["body"].get("regions", []):
            found[record["index"]] = (int(record["offset"], 16), int(record["length"], 16))
    return found


def only(case: Case, *indexes: int) -> bytes:
    """The source with zeros wherever these regions are not."""
    data = bytearray(len(case.source))
    for index in indexes:
        start, length = spans(case)[index]
        data[start : start + length] = case.source[start : start + length]
    return bytes(data)


@pytest.mark.parametrize("kem", ["x25519", "p384", "xwing", "mlkem1024", "mlkem1024-p384"])
def test_some_regions(case: Case, tmp_path: Path, kem: str) -> None:
    """Of a grant of two regions those open, all else reads as zeros; the vault stays intact, with the event told."""
    vendor = Vendor(case, tmp_path, kem)
    grant = vendor.granted("--regions", "1,3")
    code, data, err = vendor.opened(grant)
    assert (code, data) == (3, b"")
    assert "the grant opens 2 of" in err
    code, data, _ = vendor.opened(grant, "--partial")
    assert (code, data) == (3, only(case, 1, 3))
    told = case.verify()
    assert told["verdict"] == "intact"
    assert "2 regions granted to vendor by officer" in told["changes"][0]
    assert case.opened() == (0, case.source)


def test_nothing_but_what_it_needs(vendor: Vendor, case: Case) -> None:
    """Without any key object, and without the bodies of other regions, it opens what it is for."""
    grant = vendor.granted("--regions", "1,3")
    store = vendor.store("keybag", "keys")
    for body in (store / "vaults" / case.vault.name / "regions/1").iterdir():
        if body.name not in ("1.sealed", "3.sealed"):
            body.unlink()
    assert vendor.opened(grant, "--partial", store=store)[:2] == (3, only(case, 1, 3))


def test_without_the_grant_nothing_opens(vendor: Vendor) -> None:
    vendor.granted("--regions", "0")
    assert vendor.opened(None, "--partial")[:2] == (12, b"")


def test_the_kernel_log(vendor: Vendor, case: Case) -> None:
    """--dmesg gives what the log takes, and not the whole dump."""
    grant = vendor.granted("--dmesg")
    ran = vendor.call("dmesg", grant)
    assert (ran.code, ran.out) == (0, LOG.decode()), ran.err
    code, data, _ = vendor.opened(grant, "--partial")
    assert code == 3
    assert data != case.source


def test_the_notes(vendor: Vendor, case: Case) -> None:
    """--notes gives headers and notes, which is not enough for the log."""
    grant = vendor.granted("--notes")
    code, data, _ = vendor.opened(grant, "--partial")
    assert (code, data) == (3, only(case, 0, 1))
    assert vendor.call("dmesg", grant).code != 0


def test_all_regions(vendor: Vendor, case: Case) -> None:
    grant = vendor.granted("--regions", f"0-{len(spans(case)) - 1}")
    assert vendor.opened(grant)[:2] == (0, case.source)
    assert vendor.opened(grant, store=vendor.store("keybag", "keys"))[:2] == (0, case.source), "it needs no key object"


def test_without_the_manifest(vendor: Vendor, case: Case) -> None:
    """A copy that lacks what a grant is bound to is incomplete, not another vault."""
    store = vendor.store()
    (store / "vaults" / case.vault.name / "manifest.dsse.json").unlink()
    code, data, told = vendor.opened(vendor.granted("--notes"), "--partial", store=store)
    assert (code, data) == (3, b"")
    assert "manifest.dsse.json: missing" in told


def private(case: Case, name: str) -> SigningKey:
    key = Site.load(case.home.env).trust.private_key(name)
    assert isinstance(key, PrivateKey)
    return SigningKey(key.secret)


def forged(path: Path, key: SigningKey, **changes: Any) -> Path:
    made = Grant.read(dsse.parse(path.read_bytes(), "grant", LIMIT))
    to = path.with_name("forged.json")
    to.write_bytes(dsse.sign(replace(made, **changes).statement(), [key]))
    return to


def test_what_is_bound(vendor: Vendor, case: Case) -> None:
    """Signed by another role, or bound to another vault, header, manifest, recipient or region: refused or not opened."""
    grant = vendor.granted("--regions", "1,3")
    officer = private(case, "officer")
    copy = vendor.store("events")  # where the event is, it tells of any change
    assert vendor.opened(forged(grant, officer), "--partial", store=copy)[0] == 3  # as it was, but for the signature
    assert vendor.opened(forged(grant, private(case, "collector")), "--partial", store=copy)[0] == 10
    for changes in (
        {"vault": "0" * 32}, {"header": "0" * 64}, {"manifest": "0" * 64}, {"sealed": bytes(100)},
        {"regions": (Run(1, 1, 1),)}, {"regions": (Run(1, 1, 2), Run(1, 3, 3))}, {"regions": (Run(1, 1, 1), Run(1, 1, 1))},
        {"regions": (Run(1, 98, 99),)}, {"regions": (Run(2, 1, 2),)}, {"regions": (Run(1, 3, 3), Run(1, 1, 1))},
    ):  # fmt: skip
        code, data, err = vendor.opened(forged(grant, officer, **changes), "--partial", store=copy)
        assert (code, data) == (10, b""), (changes, err)
    # Its keys given for other regions: each body's commitment tells.
    code, data, _ = vendor.opened(forged(grant, officer, regions=(Run(1, 1, 2),)), "--partial", store=copy)
    assert (code, data[spans(case)[2][0] :][:4096]) == (10, bytes(4096))
    # A recipient whose key is not at hand.
    other = Grant.read(dsse.parse(grant.read_bytes(), "grant", LIMIT)).recipient
    stranger = replace(other, digest="0" * 64)
    assert vendor.opened(forged(grant, officer, recipient=stranger), "--partial", store=copy)[0] == 12


def test_its_event(vendor: Vendor, case: Case) -> None:
    """With the event of its number there, that must record this very file; a copy that ends before it, or has no
    events, opens by it and says so."""
    assert case.home.call("keys", "new", "recipient", "bob", "--unprotected").code == 0
    assert case.call("rewrap", "--add", "bob").code == 0
    older = vendor.store().rename(vendor.path / "older")
    grant = vendor.granted("--regions", "1,3")
    told = vendor.call("open", grant, "-o", vendor.path / "o", "--partial", "--json")
    assert (told.code, told.json["grant_recorded"]) == (3, True), told.err
    assert "which records" not in told.err
    for copy in (older, vendor.store("events")):
        code, data, err = vendor.opened(grant, "--partial", store=copy)
        assert (code, data) == (3, only(case, 1, 3))
        assert f"note: event 1, which records {grant}, is not in this copy" in err
        told = vendor.call("open", grant, "-o", vendor.path / "o", "--force", "--partial", "--json", store=copy)
        assert (told.code, told.json["grant_recorded"]) == (3, False), told.err
        assert "note: event 1, which records" in vendor.call("dmesg", grant, "--partial", store=copy).err
    officer = private(case, "officer")
    for changes in ({"time": "2026-01-01T00:00:00Z"}, {"event": 0}, {"regions": (Run(1, 1, 1),)}):
        for command, where in (("open", ("-o", vendor.path / "x")), ("dmesg", ())):
            ran = vendor.call(command, forged(grant, officer, **changes), *where, "--partial")
            assert (ran.code, (vendor.path / "x").exists()) == (10, False), ran.err
            assert "not the grant that event" in ran.err


def test_an_event_that_is_taken_away(vendor: Vendor, case: Case) -> None:
    """A later event shows that the one of the grant is missing: that is no older copy."""
    grant = vendor.granted("--regions", "1,3").rename(vendor.path / "first.json")
    vendor.granted("--regions", "2")
    store = vendor.store()
    (store / "vaults" / case.vault.name / "events/0.dsse.json").unlink()
    code, data, err = vendor.opened(grant, store=store)
    assert (code, data) == (3, b"")
    assert "events/0.dsse.json: missing, though" in err


def test_another_vault(vendor: Vendor, case: Case, tmp_path: Path) -> None:
    grant = vendor.granted("--regions", "1,3")
    other = case.home.call("capture", tmp_path / "grant.json", "--recipient", "analyst", "--signer", "collector")
    assert other.code == 0, other.err
    ran = vendor.home.call(
        "open", other.out.strip(), "--store", vendor.store(), "--grant", grant, "-o", tmp_path / "x", "--partial"
    )
    assert ran.code == 10
    assert "another vault" in ran.err


def test_shredded_since(vendor: Vendor, case: Case) -> None:
    """No reader opens what was shredded, by a grant neither, though its keys are in the grant."""
    grant = vendor.granted("--regions", "1,3")
    assert case.call("shred", "--regions", "3", "--reason", "r", "--yes", "-o", case.home.path / "c").code == 0
    assert vendor.opened(grant, "--partial")[:2] == (3, only(case, 1))
    ran = case.call("grant", "--regions", "3", "--to", vendor.public, "-o", case.home.path / "g")
    assert (ran.code, (case.home.path / "g").exists()) == (2, False)


def test_after_a_rewrap(vendor: Vendor, case: Case) -> None:
    """Data keys stay, so a grant does."""
    grant = vendor.granted("--regions", "1,3")
    assert case.home.call("keys", "new", "recipient", "bob", "--unprotected").code == 0
    assert case.call("rewrap", "--add", "bob", "--remove", "analyst").code == 0
    assert vendor.opened(grant, "--partial")[:2] == (3, only(case, 1, 3))


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ((), 2), (("--regions", "1", "--notes"), 2), (("--regions", "99"), 2), (("--regions", "x"), 2),
        (("--notes", "--signer", "collector"), 12), (("--notes", "--key", "officer"), 12),
    ],
)  # fmt: skip
def test_bad_requests_change_nothing(vendor: Vendor, case: Case, arguments: tuple[object, ...], code: int) -> None:
    before = case.tree()
    ran = case.call("grant", *arguments, "--to", vendor.public, "-o", vendor.path / "g")
    assert ran.code == code, ran.err
    assert "internal error" not in ran.err
    assert case.tree() == before
    assert not (vendor.path / "g").exists()


def test_a_file_that_is_no_grant(vendor: Vendor, tmp_path: Path) -> None:
    manifest = (vendor.case.vault / "manifest.dsse.json").read_bytes()
    for data, code in ((b"", 1), (b"\xff", 1), (vendor.public.read_bytes(), 1), (b"{}", 10), (manifest, 10)):
        (tmp_path / "g").write_bytes(data)
        ran = vendor.call("open", tmp_path / "g", "-o", tmp_path / "o", "--partial")
        assert (ran.code, (tmp_path / "o").exists()) == (code, False)
        assert "internal error" not in ran.err
    assert vendor.call("open", tmp_path / "nothing", "-o", tmp_path / "o").code == 1


def test_no_grant_without_its_event(vendor: Vendor, case: Case) -> None:
    """The event goes before the file: cut off before it, there is no file."""

    def stop(n: int, what: str) -> None:
        raise Stopped

    with calls(stop), pytest.raises(Stopped):
        case.call("grant", "--notes", "--to", vendor.public, "-o", vendor.path / "g")
    assert not (vendor.path / "g").exists()
    assert not case.objects("events")
