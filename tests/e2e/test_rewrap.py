"""Rewrap: one more recipient, one fewer, and every point at which it can be cut off; bodies are never touched."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from dumpvault.errors import Forged
from dumpvault.flows import officer, rewrapping
from support.officers import Case, Stopped, calls, fault_at, make_case

ADD, REMOVE = ("--add", "bob"), ("--remove", "analyst", "--add", "bob")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Case:
    case = make_case(tmp_path_factory.mktemp("rewrap"))
    for name in ("bob", "carol"):
        assert case.home.call("keys", "new", "recipient", name, "--unprotected").code == 0
    return case


@pytest.fixture
def case(original: Case, tmp_path: Path) -> Case:
    return original.copied(tmp_path / "site")


def opens(case: Case, *names: str) -> set[str]:
    """Which of the keys open the vault bit for bit."""
    found = set()
    for name in names or ("analyst", "bob", "carol"):
        code, data = case.opened("--key", name)
        assert (code, data) in ((0, case.source), (12, b"")), (name, code)
        found |= {name} if code == 0 else set()
    return found


def intact(case: Case) -> Any:
    told = case.verify()
    assert told["verdict"] == "intact", told["findings"]
    return told


def test_add(case: Case) -> None:
    """One more can open; keys objects and bodies are the same bytes, and the old keybag is gone."""
    before = {name: digest for name, digest in case.tree().items() if not name.startswith("keybag")}
    ran = case.call("rewrap", *ADD)
    assert ran.code == 0, ran.err
    told = intact(case)
    assert told["superseded"] == told["foreign"] == []
    assert "sealed to analyst, bob by officer" in told["changes"][0]
    assert opens(case) == {"analyst", "bob"}
    after = case.tree()
    assert before.items() <= after.items()
    assert len(case.objects("keybag")) == 1
    assert case.call("verify", "--with-key", "bob").code == 0
    assert case.call("info", "--json").json["recipients"] == ["analyst (xwing)", "bob (xwing)"]


def test_remove(case: Case, original: Case) -> None:
    """A new vault key: who was removed opens nothing any more, not even with the old keybag brought back."""
    assert case.call("rewrap", *ADD).code == 0
    old = case.objects("keybag", "keys")
    bodies = {name: digest for name, digest in case.tree().items() if name.startswith(("regions", "commits"))}
    ran = case.call("rewrap", "--remove", "analyst")
    assert ran.code == 0, ran.err
    assert "with new vault keys" in ran.err
    told = intact(case)
    assert told["superseded"] == told["foreign"] == []
    assert not case.objects("keybag", "keys") & old
    assert opens(case) == {"bob"}
    assert bodies.items() <= case.tree().items()
    for name in original.objects("keybag"):
        shutil.copy(original.vault / name, case.vault / name)
    assert intact(case)["superseded"] == ["keybag/1.json"]
    assert opens(case) == {"bob"}
    assert case.call("verify", "--with-key", "bob").code == 0
    assert case.call("verify", "--with-key", "analyst").code == 12


def test_old_keys_objects_do_not_open_under_the_new_vault_key(case: Case) -> None:
    """Removing one and adding another in one go; then a shred of what was rewrapped."""
    assert case.call("rewrap", *REMOVE).code == 0
    assert opens(case) == {"bob"}
    assert case.call("shred", "--regions", "2", "--reason", "r", "--yes", "-o", case.home.path / "c").code == 0
    intact(case)
    assert case.opened("--key", "bob") == (3, b"")
    assert case.call("verify", "--with-key", "bob").code == 0
    assert case.call("rewrap", "--add", "carol", "--remove", "bob").code == 0
    assert intact(case)["shredded_regions"] == 1
    assert case.call("verify", "--with-key", "carol").code == 0
    assert len(case.objects("events")) == 3


def test_what_is_so_already(case: Case) -> None:
    before = case.tree()
    ran = case.call("rewrap", "--add", "analyst", "--remove", "carol", "--json")
    assert (ran.code, ran.json["event"]) == (0, None)
    assert case.tree() == before


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ((), 2), (("--add", "nobody"), 12), (("--remove", "analyst"), 2), (("--add", "bob", "--remove", "bob"), 2),
        (("--add", "bob", "--key", "carol"), 12), (("--add", "bob", "--signer", "collector"), 12),
    ],
)  # fmt: skip
def test_bad_requests_change_nothing(case: Case, arguments: tuple[object, ...], code: int) -> None:
    if arguments == ("--add", "bob", "--remove", "bob"):
        assert case.call("rewrap", "--add", "bob").code == 0
    before = case.tree()
    ran = case.call("rewrap", *arguments)
    assert ran.code == code, ran.err
    assert "internal error" not in ran.err
    assert case.tree() == before


def test_a_classical_recipient_beside_post_quantum_ones(case: Case) -> None:
    """What the vault's own policy refuses at capture it refuses here."""
    assert case.home.call("keys", "new", "recipient", "weak", "--kem", "x25519", "--unprotected").code == 0
    before = case.tree()
    ran = case.call("rewrap", "--add", "weak")
    assert ran.code == 11, ran.err
    assert case.tree() == before


def test_a_name_that_is_taken(case: Case) -> None:
    other = case.home.path / "other.pub"
    bob = (case.home.path / "keys/recipients/bob.pub").read_text()
    other.write_text(bob.replace(" bob", " analyst"))
    assert case.call("rewrap", "--add", other).code == 2


def test_the_public_keys_of_those_who_stay_are_needed(case: Case) -> None:
    assert case.call("rewrap", *ADD).code == 0
    before = case.tree()
    (case.home.path / "keys/recipients/bob.pub").unlink()
    ran = case.call("rewrap", "--remove", "analyst")
    assert ran.code == 12
    assert "public key of recipient bob" in ran.err
    assert case.tree() == before


def test_a_region_that_would_not_open(case: Case) -> None:
    """New keys never count before they were tried on every body."""
    path = case.vault / "regions/1/2.sealed"
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    data[30] ^= 1
    path.write_bytes(data)
    for how in (ADD, REMOVE):
        ran = case.call("rewrap", *how)
        assert ran.code == 10
        assert "regions/1/2.sealed" in ran.err
    assert not case.objects("events")
    assert case.objects("keybag", "keys") >= {"keybag/1.json", "keys/1/1.json"}


@pytest.mark.parametrize("how", [ADD, REMOVE], ids=["add", "remove"])
@pytest.mark.parametrize("fault", ["killed before", "killed after", "failed"])
def test_every_crash_point(original: Case, tmp_path: Path, how: tuple[object, ...], fault: str) -> None:
    """Stopped around each call to the store: whoever could open before the event can until it, whoever may after it can
    from it on; it never opens for nobody; and running it again finishes it."""
    steps: list[str] = []
    with calls(lambda n, what: steps.append(what)):
        assert original.copied(tmp_path / "whole").call("rewrap", *how).code == 0
    event = next(n for n, step in enumerate(steps) if step.startswith("put events"))
    before, after = {"analyst"}, {"analyst", "bob"} if how is ADD else {"bob"}
    for at, step in enumerate(steps):
        case = original.copied(tmp_path / str(at))
        with fault_at(at, fault):
            try:
                ran = case.call("rewrap", *how)
                assert (fault, ran.code) == ("failed", 13), ran.err
            except Stopped:
                pass
        counts = at > event or (at == event and fault == "killed after")
        told = intact(case)
        assert opens(case, "analyst", "bob") == (after if counts else before), step
        assert bool(told["superseded"]) == (counts and not (at == len(steps) - 1 and fault == "killed after")), step
        ran = case.call("rewrap", *how)
        assert ran.code == 0, (step, ran.err)
        told = intact(case)
        assert told["superseded"] == told["foreign"] == []
        assert opens(case, "analyst", "bob") == after
        assert len(case.objects("events")) == 1
        shutil.rmtree(case.home.path)


def test_two_officers_at_once(case: Case) -> None:
    """The one who loses the put of the event has changed nothing, and the winner's vault opens."""
    done = False

    def rival(n: int, what: str) -> None:
        nonlocal done
        if what.startswith("put events/0") and not done:
            done = True
            assert case.call("rewrap", "--add", "carol").code == 0

    with calls(rival):
        ran = case.call("rewrap", *REMOVE)
    assert ran.code == 13
    assert "another officer was first" in ran.err
    intact(case)
    assert opens(case) == {"analyst", "carol"}
    assert case.call("rewrap", *REMOVE).code == 0
    assert opens(case) == {"bob", "carol"}
    assert intact(case)["foreign"] == []


def cut(case: Case, step: str, *how: object) -> None:
    def stop(n: int, what: str) -> None:
        if what.startswith(step):
            raise Stopped

    with calls(stop), pytest.raises(Stopped):
        case.call("rewrap", *how)


def test_deleting_before_the_event_would_be_found(case: Case) -> None:
    """The order matters: old objects deleted before the event, and a stop between leaves a vault that nobody opens."""
    real = officer.put_event

    def swapped(change: Any, body: Any, key: Any) -> str:
        for name in ("keybag/1.json", "keys/1/1.json"):
            change.store.delete(f"vaults/{change.vault}/{name}")
        return real(change, body, key)

    with mock.patch.object(rewrapping, "put_event", swapped):
        cut(case, "put events", *REMOVE)
    assert case.verify()["verdict"] == "incomplete"
    assert case.opened()[0] != 0


@pytest.mark.parametrize("late", ["keybag", "keys"])
def test_the_event_before_the_new_keys_would_be_found(case: Case, late: str) -> None:
    """With a new object put after the event, a stop between the two leaves the vault without it."""
    real_put, real_get, held = officer.Change.put, officer.Change.get, {}

    def put(change: Any, name: str, data: bytes, sha256: str) -> str:
        if not name.startswith(late):
            return real_put(change, name, data, sha256)
        new = officer.generation_path(name, change.number, sha256)
        held[new] = data
        return new

    def stop(change: Any, body: Any, key: Any) -> str:
        officer.put_event(change, body, key)
        raise Stopped

    with (
        mock.patch.object(officer.Change, "put", put),
        mock.patch.object(officer.Change, "get", lambda c, name: held.get(name) or real_get(c, name)),
        mock.patch.object(rewrapping, "put_event", stop),
        pytest.raises(Stopped),
    ):
        case.call("rewrap", *REMOVE)
    assert held
    assert case.verify()["verdict"] == "incomplete"
    assert case.opened("--key", "bob")[0] == 3


def test_new_keys_that_do_not_open_would_be_found(case: Case) -> None:
    """With a wrapping that is wrong, the trial on the bodies refuses before anything counts."""
    with mock.patch.object(rewrapping, "wrap", lambda kek, dek: _wrap(kek, bytes(32))):
        assert case.call("rewrap", *REMOVE).code == 10
    assert not case.objects("events")
    assert opens(case) == {"analyst"}
    with mock.patch.object(rewrapping, "unwrap_key", side_effect=Forged("x", "y")):
        assert case.call("rewrap", *ADD).code == 10


def _wrap(kek: bytes, dek: bytes) -> bytes:
    from dumpvault.formats.keybag import wrap

    return wrap(kek, dek)
