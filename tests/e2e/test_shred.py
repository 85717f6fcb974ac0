"""Shred: what is gone is gone, what is left is left, verification says both, and every crash point is finished by a rerun."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from dumpvault.flows import officer, shredding
from dumpvault.stages.store.local import LocalStore
from support.command import seal
from support.officers import Case, Stopped, calls, certificate_path, fault_at, make_case
from support.vmcore import write_core

PART = ("--regions", "2-3", "--reason", "customer data", "--yes")
WHOLE = ("--reason", "retention ended", "--yes")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make_case(tmp_path_factory.mktemp("shred"))


@pytest.fixture
def case(original: Case, tmp_path: Path) -> Case:
    return original.copied(tmp_path / "site")


def shred(case: Case, *arguments: object) -> tuple[Any, Path]:
    """Exit code and messages, and the certificate's path."""
    path = certificate_path(case.home)
    return case.call("shred", *arguments, "-o", path), path


def records(case: Case) -> list[dict[str, Any]]:
    found = []
    for path in sorted((case.vault / "commits").iterdir(), key=lambda p: int(p.name.split(".")[0])):
        payload = json.loads(base64.b64decode(json.loads(path.read_text())["payload"]))
        found += payload["predicate"]["body"].get("regions", [])
    return found


def zeroed(case: Case, indexes: set[int]) -> bytes:
    """The source with zeros where these regions were."""
    data = bytearray(case.source)
    for record in records(case):
        if record["index"] in indexes:
            start, length = int(record["offset"], 16), int(record["length"], 16)
            data[start : start + length] = bytes(length)
    return bytes(data)


def checked(path: Path, case: Case) -> Any:
    """The certificate, after ssh-keygen has checked it."""
    if shutil.which("ssh-keygen") is None:
        pytest.skip("NO ssh-keygen COMMAND")
    with path.open("rb") as payload:
        done = subprocess.run(
            ["ssh-keygen", "-Y", "verify", "-f", case.home.path / "keys/allowed_signers", "-I", "officer",
             "-n", "dumpvault-shred@v1", "-s", f"{path}.sig"],
            stdin=payload, capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(path.read_bytes())["predicate"]


def test_some_regions(case: Case) -> None:
    """Two regions of six: the others open bit for bit, these read as zeros, and the verdict stays intact, saying so."""
    before = case.objects("regions", "commits")
    ran, path = shred(case, *PART)
    assert ran.code == 0, ran.err
    told = case.verify()
    assert (told["verdict"], told["exit_code"], told["shredded_regions"]) == ("intact", 0, 2)
    assert "customer data" in told["changes"][0]
    assert "officer" in told["changes"][0]
    assert told["superseded"] == told["foreign"] == []
    assert case.objects("regions", "commits") == before
    assert case.opened() == (3, b"")
    assert case.opened("--partial") == (3, zeroed(case, {2, 3}))
    assert case.call("verify", "--with-key", "analyst").code == 0
    certificate = checked(path, case)
    assert certificate["regions"] == [{"attempt": 1, "first": 2, "last": 3}]
    assert len(certificate["tried"]) == 1
    assert certificate["reasons"] == ["customer data"]
    assert not case.objects("keys", "keybag") & set(certificate["deleted"])


def test_the_whole_vault(case: Case) -> None:
    """No key object is left; the vault is intact and opens no more."""
    ran, path = shred(case, *WHOLE)
    assert ran.code == 0, ran.err
    assert case.objects("keys", "keybag") == set()
    told = case.verify()
    assert (told["verdict"], told["shredded_regions"]) == ("intact", told["regions"])
    assert case.opened() == (3, b"")
    assert case.opened("--partial") == (3, bytes(len(case.source)))
    assert case.call("dmesg").code != 0
    assert int(checked(path, case)["bytes"], 16) == len(case.source)


def test_region_by_region_and_then_all(case: Case) -> None:
    """Each shred is an event of its own; what was shredded stays so; the last one takes the rest."""
    assert shred(case, "--regions", "0", *WHOLE)[0].code == 0
    assert shred(case, "--regions", "0,3,4", *WHOLE)[0].code == 0
    assert case.opened("--partial") == (3, zeroed(case, {0, 3, 4}))
    assert shred(case, *WHOLE)[0].code == 0
    assert case.objects("keys", "keybag") == set()
    told = case.verify()
    assert (told["verdict"], len(told["changes"])) == ("intact", 3)
    ran, path = shred(case, *WHOLE)
    assert (ran.code, len(case.objects("events"))) == (0, 3)
    assert "already" in ran.err
    assert len(checked(path, case)["reasons"]) == 3


def test_a_key_deleted_without_an_event_is_missing(case: Case) -> None:
    (case.vault / "keys/1/1.json").unlink()
    assert case.verify()["verdict"] == "incomplete"
    ran, _ = shred(case, "--regions", "5", *WHOLE)
    assert ran.code == 0, ran.err
    told = case.verify()
    assert told["verdict"] == "incomplete"
    assert any("keys/1/1.json: missing" in finding["message"] for finding in told["findings"])


def test_what_an_event_named_is_missed(case: Case) -> None:
    """The object that holds the keys that stay is as needed as any other; another one in its place is refused."""
    assert shred(case, "--regions", "2", *WHOLE)[0].code == 0
    (name,) = (name for name in case.objects("keys") if "-" in name)
    data = (case.vault / name).read_bytes()
    (case.vault / name).unlink()
    assert case.verify()["verdict"] == "incomplete"
    (case.vault / name).write_bytes(data.replace(b'"region":', b'"region": '))
    assert case.verify()["exit_code"] == 10


def test_keys_that_come_back_are_told_and_not_used(case: Case, original: Case) -> None:
    """Restored from a backup, the old keys would open: verify says that they are there, no reader uses them, and
    shredding again deletes them."""
    assert shred(case, *PART)[0].code == 0
    for name in original.objects("keys", "keybag"):
        target = case.vault / name
        if not target.exists():
            target.write_bytes((original.vault / name).read_bytes())
    ran = case.call("verify")
    assert ran.code == 0
    assert "still there" in ran.err
    assert case.verify()["superseded"]
    assert case.opened("--partial") == (3, zeroed(case, {2, 3}))
    assert shred(case, *PART)[0].code == 0
    assert case.verify()["superseded"] == []


def test_a_copy_under_any_name_goes_too(case: Case) -> None:
    """What stands among the key objects is deleted whatever it is called; what cannot be is told, and not certified."""
    copy = case.vault / "keys/1/1.json.bak"
    shutil.copy(case.vault / "keys/1/1.json", copy)
    assert shred(case, *WHOLE)[0].code == 0
    assert not copy.exists()
    deep = case.vault / "keys/old/1/1.json"
    deep.parent.mkdir(parents=True)
    deep.write_bytes(b"{}")
    ran, path = shred(case, *WHOLE)
    assert (ran.code, path.exists()) == (13, False)
    assert "keys/old/1/1.json: not deleted" in ran.err


def test_only_an_officer_shreds(case: Case) -> None:
    before = case.tree()
    for wanted, code in (("collector", 12), ("analyst", 12)):
        ran, path = shred(case, *WHOLE, "--signer", wanted)
        assert (ran.code, path.exists()) == (code, False), ran.err
    assert case.tree() == before
    ran, _ = shred(case, *WHOLE)
    assert ran.code == 0
    trust = case.home.path / "keys/allowed_signers"
    trust.write_text("".join(line for line in trust.read_text().splitlines(True) if not line.startswith("officer")))
    told = case.verify()
    assert told["exit_code"] == 10  # nobody trusted vouches for what is gone
    assert any("events/0.dsse.json" in finding["message"] for finding in told["findings"])


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--regions", "99", *WHOLE), 2), (("--regions", "2/0", *WHOLE), 2), (("--regions", "3-1", *WHOLE), 2),
        (("--regions", "", *WHOLE), 2), (("--regions", "a", *WHOLE), 2), (("--regions", "-1", *WHOLE), 2),
        (("--regions", "1-", *WHOLE), 2), (("--regions", "0-99999999", *WHOLE), 2), (("--regions", "\u0661", *WHOLE), 2),
        (("--reason", " ", "--yes"), 1), (("--reason", "x" * 4097, "--yes"), 1), (("--reason", "no terminal"), 2),
    ],
)  # fmt: skip
def test_bad_requests_change_nothing(case: Case, arguments: tuple[object, ...], code: int) -> None:
    before = case.tree()
    ran, path = shred(case, *arguments)
    assert ran.code == code, ran.err
    assert "internal error" not in ran.err
    assert case.tree() == before
    assert not path.exists()


def test_a_taken_certificate_is_refused_before_anything(case: Case) -> None:
    before, path = case.tree(), case.home.path / "taken"
    path.write_text("mine")
    assert case.call("shred", *WHOLE, "-o", path).code == 1
    assert case.tree() == before
    assert path.read_text() == "mine"


def test_an_unfinished_vault_is_refused(case: Case) -> None:
    (case.vault / "manifest.dsse.json").unlink()
    before = case.tree()
    assert shred(case, *WHOLE)[0].code == 3
    assert case.tree() == before


@pytest.mark.parametrize("how", [PART, WHOLE], ids=["part", "whole"])
@pytest.mark.parametrize("fault", ["killed before", "killed after", "failed"])
def test_every_crash_point(original: Case, tmp_path: Path, how: tuple[object, ...], fault: str) -> None:
    """Stopped around each call to the store: before the event all is as it was, after it the regions are shredded, and
    running it again finishes it. Verification says which of the two it is each time."""
    steps: list[str] = []
    whole = original.copied(tmp_path / "whole")
    with calls(lambda n, what: steps.append(what)):
        assert shred(whole, *how)[0].code == 0
    event = steps.index("put events/0.dsse.json")
    gone = {2, 3} if how is PART else set(range(len(records(original))))
    for at, step in enumerate(steps):
        case = original.copied(tmp_path / str(at))
        with fault_at(at, fault):
            try:
                ran, path = shred(case, *how)
                assert fault == "failed"
                assert ran.code == 13, ran.err
                assert not path.exists()
            except Stopped:
                pass
        told = case.verify()
        assert told["verdict"] == "intact", (step, told["findings"])
        counts = at > event or (at == event and fault == "killed after")
        assert told["shredded_regions"] == (len(gone) if counts else 0), step
        left = set(case.objects("keys", "keybag")) & original.objects("keys", "keybag")
        if counts:
            # Superseded keys that are still there are told of, and nothing opens by them.
            assert set(told["superseded"]) == left - whole.objects()
            assert case.opened("--partial") == (3, zeroed(case, gone)), step
        else:
            assert left == original.objects("keys", "keybag")
            assert case.opened() == (0, case.source), step
        ran, path = shred(case, *how)
        assert ran.code == 0, (step, ran.err)
        told = case.verify()
        assert (told["verdict"], told["shredded_regions"]) == ("intact", len(gone))
        assert told["superseded"] == told["foreign"] == []
        assert len(case.objects("events")) == 1
        assert path.exists()
        shutil.rmtree(case.home.path)


def test_two_officers_at_once(case: Case) -> None:
    """Another officer's event lands while one's own is about to: the loser has changed nothing that counts."""
    done = False

    def rival(n: int, what: str) -> None:
        nonlocal done
        if what == "put events/0.dsse.json" and not done:
            done = True
            assert shred(case, "--regions", "0", *WHOLE)[0].code == 0

    with calls(rival):
        ran, path = shred(case, *PART)
    assert (ran.code, path.exists()) == (13, False)
    assert "another officer was first" in ran.err
    assert case.verify()["verdict"] == "intact"
    assert case.opened("--partial") == (3, zeroed(case, {0}))
    assert shred(case, *PART)[0].code == 0
    assert case.opened("--partial") == (3, zeroed(case, {0, 2, 3}))
    assert case.verify()["foreign"] == []


def test_the_next_officer_is_not_harmed_by_the_last_ones_deletions(case: Case) -> None:
    """While one deletes after event 0, another has put the key objects of event 1: they stay."""
    done = False

    def rival(n: int, what: str) -> None:
        nonlocal done
        if what.startswith("delete") and not done:
            done = True
            with mock.patch.object(shredding, "delete_superseded", side_effect=Stopped), pytest.raises(Stopped):
                shred(case, "--regions", "0", *WHOLE)

    with calls(rival):
        assert shred(case, *PART)[0].code == 0
    assert case.verify()["verdict"] == "intact"
    assert case.opened("--partial") == (3, zeroed(case, {0, 2, 3}))


def test_deleting_before_the_event_would_be_found(case: Case) -> None:
    """The order matters: with deletions taken before the event, a stop between the two leaves a vault incomplete."""
    real = officer.put_event

    def swapped(change: Any, body: Any, key: Any) -> str:
        for commit in body.keys:
            change.store.delete(f"vaults/{change.vault}/keys/{commit.attempt}/{commit.commit}.json")
        return real(change, body, key)

    def stop(n: int, what: str) -> None:
        if what.startswith("put events"):
            raise Stopped

    with mock.patch.object(shredding, "put_event", swapped), calls(stop), pytest.raises(Stopped):
        shred(case, *PART)
    assert case.verify()["verdict"] == "incomplete"


def test_the_event_before_the_keys_that_stay_would_be_found(case: Case) -> None:
    """With the event put before the object that holds the keys that stay, a stop between the two loses those keys."""
    held: list[Any] = []
    real = officer.put_event

    def late(change: Any, name: str, data: bytes, sha256: str) -> str:
        held.append((change, name, data, sha256))
        return ""

    def stop(change: Any, body: Any, key: Any) -> str:
        real(change, body, key)
        raise Stopped

    with (
        mock.patch.object(officer.Change, "put", late),
        mock.patch.object(shredding, "put_event", stop),
        pytest.raises(Stopped),
    ):
        shred(case, *PART)
    assert held
    assert case.verify()["verdict"] == "incomplete"


def test_a_deletion_that_does_nothing_is_found(case: Case) -> None:
    """The proof afterwards does not believe the store."""
    with mock.patch.object(LocalStore, "delete", lambda store, name: None):
        ran, path = shred(case, *PART)
    assert (ran.code, path.exists()) == (10, False)
    assert "still holds the key of region" in ran.err


def test_an_event_between_is_missed(case: Case) -> None:
    assert shred(case, "--regions", "0", *WHOLE)[0].code == 0
    assert shred(case, "--regions", "3", *WHOLE)[0].code == 0
    (case.vault / "events/0.dsse.json").unlink()
    told = case.verify()
    assert told["verdict"] == "incomplete"
    assert any("events/0.dsse.json: missing, though" in finding["message"] for finding in told["findings"])


def test_another_vaults_event(case: Case, tmp_path: Path) -> None:
    """An event binds its vault's manifest: moved to another vault it fails there."""
    assert shred(case, "--regions", "0", *WHOLE)[0].code == 0
    second = seal(case.home, write_core(tmp_path / "second", 60, seed=9))
    target = case.home.vaults / second / "events"
    target.mkdir()
    shutil.copy(case.vault / "events/0.dsse.json", target)
    assert case.home.call("verify", second).code == 10
