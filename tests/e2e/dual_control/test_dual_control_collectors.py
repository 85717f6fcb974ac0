"""Captures under dual control: what is refused, collectors that do not do as they should, and changed bytes."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest

from dumpvault.flows import attempt
from dumpvault.formats import sharing
from dumpvault.formats.keybag import Keybag
from dumpvault.stages.onetime import OneTimeKeys
from support.command import Home
from support.custody import (
    Sites,
    refused,
)


@pytest.mark.usefixtures("vault")
@pytest.mark.parametrize("options", [
    ("--quorum", "2of2:alice,twin"), ("--quorum", "2of2:alice,nobody"), ("--quorum", "1of2:alice,bob"),
    ("--quorum", "3of2:alice,bob"), ("--quorum", "2of2:alice,alice"), ("--quorum", "2of2:alice,bob", "--recipient", "x"),
], ids=str)  # fmt: skip
def test_captures_that_are_refused(sites: Sites, source: Path, options: tuple[str, ...]) -> None:
    """Before anything is written; a custodian with two names is found by the key."""
    keys = sites.home("db1").path / "keys" / "custodians"
    (keys / "twin.pub").write_text((keys / "alice.pub").read_text().replace(" alice", " twin"))
    before = sorted(os.listdir(sites.store / "vaults"))
    ran = sites.call("db1", "capture", source, *options, "--signer", "collector")
    assert ran.code == (12 if "nobody" in options[1] else 2), ran.err
    if "twin" in options[1]:
        assert "quorum: custodians alice and twin have the same key" in ran.err
    assert sorted(os.listdir(sites.store / "vaults")) == before
    (keys / "twin.pub").unlink()


def test_the_configuration_names_the_quorum(sites: Sites, source: Path, tmp_path: Path) -> None:
    """Without flags a host captures for its custodians; a flag overrides, and both in one file are refused."""
    home = Home(shutil.copytree(sites.path / "db1", tmp_path / "db1"))
    config = home.path / "config.toml"
    config.write_text('quorum = "2of2:alice,bob"\n')
    ran = home.call("capture", source, "--signer", "collector")
    assert ran.code == 0, ran.err
    assert home.call("info", ran.out.strip(), "--json").json["quorum"] == "any 2 of 2"
    checks = home.call("doctor", "--json").json["checks"]
    told = {check["name"]: check["found"] for check in checks}
    assert told["recipients"] == "any 2 of alice (x25519), bob (x25519)"
    ran = home.call("capture", source, "--signer", "collector", "--quorum", "3of3:alice,bob,carol")
    assert home.call("info", ran.out.strip(), "--json").json["quorum"] == "any 3 of 3"
    config.write_text('quorum = "2of2:alice,bob"\nrecipients = ["x"]\n')
    refused(home.call("capture", source), 1, "'quorum' and 'recipients' exclude each other")
    config.write_text('quorum = "1of2:alice,bob"\n')
    refused(home.call("capture", source, "--signer", "collector"), 2, "quorum: 1 of 2 is no dual control")


def _rogue(change: Callable[..., object]) -> Callable[..., object]:
    honest = attempt.Attempt._seal
    return lambda self, vk, vault, n, header: change(self, honest(self, vk, vault, n, header), vk, vault, n, header)


def _wrong_for_alice(self: attempt.Attempt, honest: tuple[Keybag, object], *of: object) -> object:
    """Every entry but Alice's is as it should be."""
    bag, signed = honest
    vault, n, header = of[1:]
    other, _ = Keybag.seal_shares(bytes(32), self.recipients, 2, str(vault), int(str(n)), str(header))
    alice = next(r.digest for r in self.recipients if r.name == "alice")
    entries = tuple(o if o.recipient == alice else e for e, o in zip(bag.entries, other.entries, strict=True))
    return Keybag(bag.vault, bag.attempt, entries, "shares"), signed


ROGUES: dict[str, tuple[Callable[..., object], str]] = {
    "a direct keybag": (
        lambda self, honest, vk, vault, n, header: (Keybag.seal(vk, self.recipients, vault, n, header), honest[1]),
        "keybag/1.json: is of mode direct, against the header",
    ),
    "no commitments": (lambda self, honest, *of: (honest[0], None), "commits to 0 components of shares; its header asks for 3"),
    "too few": (
        lambda self, honest, *of: (honest[0], sharing.Commitments(honest[1].vault_key, honest[1].components[:2])),
        "commits to 2 components of shares; its header asks for 3",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ROGUES)
def test_collectors_that_verification_refuses(sites: Sites, source: Path, case: str) -> None:
    """No key is needed to see that a keybag or a takeover is not what the header promises."""
    change, told = ROGUES[case]
    with mock.patch.object(attempt.Attempt, "_seal", _rogue(change)):
        vault = sites.capture(source)
    refused(sites.call("ana", "verify", vault), 10, told)
    refused(sites.open(vault), 10, told)


def test_a_collector_that_sealed_a_wrong_share(sites: Sites, source: Path) -> None:
    """Alice's program names it; Bob and Carol open the vault all the same."""
    with mock.patch.object(attempt.Attempt, "_seal", _rogue(_wrong_for_alice)):
        vault = sites.capture(source)
    assert sites.call("ana", "verify", vault).code == 0
    refused(sites.call("alice", "verify", vault, "--with-key", "alice"), 10, "the share of custodian alice is wrong")
    request = sites.request(vault)
    refused(sites.call("alice", "approve", request, "--yes"), 10, "the share of custodian alice is wrong: component")
    assert sites.open(vault, sites.approve(request, "bob"), sites.approve(request, "carol")).code == 0


def test_a_collector_that_committed_to_another_key(sites: Sites, source: Path) -> None:
    """Every share is as signed, and yet they do not make the vault key that was signed."""
    change = lambda self, honest, *of: (honest[0], sharing.Commitments("ab" * 32, honest[1].components))  # noqa: E731
    with mock.patch.object(attempt.Attempt, "_seal", _rogue(change)):
        vault = sites.capture(source)
    request = sites.request(vault)
    ran = sites.open(vault, sites.approve(request, "bob"), sites.approve(request, "carol"))
    refused(ran, 10, "its shares do not make the vault key that attempt 1 committed to")


@pytest.mark.usefixtures("untouched")
def test_every_changed_byte_is_noticed(
    sites: Sites, vault: str, asked: Path, answers: dict[str, Path], tmp_path: Path, record_proof: Callable[[str], None]
) -> None:
    """A sample of bits of a request, an approval, the keybag and the takeover: never approved, never opened."""
    rng = random.Random(5)
    tried = 0
    objects = sites.store / "vaults" / vault
    for path, command in (
        (asked, lambda copy: sites.call("alice", "approve", copy, "--yes", "-o", tmp_path / "never")),
        (answers["bob"], lambda copy: sites.open(vault, answers["alice"], copy)),
        (objects / "keybag/1.json", None), (objects / "commits/0.dsse.json", None), (objects / "vault.dsse.json", None),
    ):  # fmt: skip
        whole = path.read_bytes()
        for at in sorted(rng.sample(range(len(whole)), 40)):
            changed = whole[:at] + bytes([whole[at] ^ 1 << rng.randrange(8)]) + whole[at + 1 :]
            copy = tmp_path / "changed.json"
            if command:
                copy.write_bytes(changed)
                ran = command(copy)
            else:
                path.chmod(0o600)
                path.write_bytes(changed)
                ran = sites.open(vault, answers["alice"], answers["bob"])
                path.write_bytes(whole)
            assert ran.code in (2, 3, 10, 12), (path, at, ran)
            assert ran.code == 10 or path in (asked, objects / "vault.dsse.json"), (path, at, ran)
            assert "Traceback" not in ran.err
            assert "internal error" not in ran.err
            tried += 1
    assert not (tmp_path / "never").exists()
    record_proof(
        f"dual control: {tried} changed bytes of requests, approvals, keybag, takeover and header, none let pass"
    )


def test_of_two_that_use_a_request_one_opens(tmp_path: Path) -> None:
    """The rename that takes the keys away succeeds once."""
    keys = OneTimeKeys(str(tmp_path / "requests"))
    keys.add("ab" * 32, b"request", [])
    assert list(keys.digests()) == ["ab" * 32]
    assert keys.use_up("ab" * 32) is True
    assert keys.use_up("ab" * 32) is False
    assert keys.request("ab" * 32) is None
    assert os.listdir(tmp_path / "requests") == []


def test_a_request_that_another_command_used_meanwhile(
    sites: Sites, vault: str, asked: Path, answers: dict[str, Path]
) -> None:
    """All is checked, the shares are combined, and yet nothing is opened if the keys went meanwhile."""
    with mock.patch.object(OneTimeKeys, "use_up", return_value=False):
        refused(sites.open(vault, answers["alice"], answers["bob"], to="race"), 12, "the one-time key")
    assert not (sites.path / "race").exists()
