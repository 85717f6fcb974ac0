"""Entries: what a collector puts counts, and what was changed, misused or not signed does not."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from dumpvault.formats import entry
from dumpvault.formats.allowed_signers import AllowedSigners, line_for
from kit import KEY, OTHER, VAULT

NOW = datetime(2026, 11, 24, tzinfo=UTC)
TRUST = AllowedSigners(line_for("collector@db1", KEY.signer, "collector") + line_for("actor", OTHER.signer, "actor"))
OPENED = entry.Entry(
    event="opened", role="analyst", vault=VAULT, subject=f"vaults/{VAULT}/manifest.dsse.json", digest="0" * 64,
    actor="actor", host="desk", time="2026-11-24T00:00:00Z", ledger="here", purpose="why", seen=entry.Seen(3, "1" * 64),
)  # fmt: skip


def judge(data: bytes) -> entry.Judged:
    return entry.judge(data, "entries/0", "here", TRUST)


def test_a_collector_s_entry_counts_for_its_host_alone() -> None:
    """It may have no ledger, because a collector cannot read; nothing else may."""
    for host, counts in (("db1", True), ("db2", False)):
        of = replace(OPENED, event="collected", role="collector", host=host, ledger=None, seen=None, sha384="2" * 96)
        found = judge(entry.sign(of, [KEY]))
        assert (not found.flag) is counts, found.flag
    assert "another ledger" in judge(entry.sign(replace(OPENED, ledger=None), [OTHER])).flag


def test_an_actor_s_entry_comes_back_as_it_was() -> None:
    found = judge(entry.sign(OPENED, [OTHER]))
    assert not found.flag and found.entry and found.principal == "actor"
    assert replace(found.entry, serial="", detail=None) == OPENED


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (entry.sign(OPENED, [KEY]), "entries/0: collector@db1"),
        (entry.sign(replace(OPENED, ledger="there"), [OTHER]), "entries/0: an entry of another ledger"),
        (entry.sign(replace(OPENED, role="auditor"), [OTHER]), "entries/0: 'opened' is no event of role auditor"),
        (entry.sign(replace(OPENED, vault=None), [OTHER]), "entries/0 names no vault"),
        (entry.sign(OPENED, [OTHER])[:-2], "entries/0"),
        (bytes(entry.LIMIT + 1), "entries/0: 65536 bytes are more than"),
    ],
)  # fmt: skip
def test_what_does_not_count(data: bytes, why: str) -> None:
    assert judge(data).flag.startswith(why)


def test_keys_that_end_are_judged_at_a_moment() -> None:
    """Which moment that is, the ledger says; a revoked key never signs for anything."""
    ended = line_for("actor", OTHER.signer, "actor", datetime(2026, 11, 1, tzinfo=UTC))
    for revoked, flag in (((), ""), ((OTHER.signer.keyid,), "is revoked")):
        trust = AllowedSigners(ended)
        trust.revoke(revoked)
        found = entry.judge(entry.sign(OPENED, [OTHER]), "entries/0", "here", trust)
        assert flag in found.flag and bool(found.flag) == bool(flag)
    found = entry.judge(entry.sign(OPENED, [OTHER]), "entries/0", "here", AllowedSigners(ended))
    assert found.bounded and "was valid only before" in found.expired(NOW)
    assert not found.expired(datetime(2026, 10, 1, tzinfo=UTC))
