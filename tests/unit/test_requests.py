"""Requests and approvals as values: read as written, held to the types and bounds of the spec's section 14.1."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from dumpvault.errors import Forged
from dumpvault.formats import dsse, jcs
from dumpvault.formats.dsse import Envelope
from dumpvault.formats.kem import SUITES
from dumpvault.formats.request import Approval, Request, share_info
from kit import KEY, VAULT, get, parent_of, paths, wrong_values

HEADER, DIGEST, ME = "aa" * 32, "bb" * 32, "cc" * 32
KEYS = tuple((suite, SUITES[suite].generate()[1]) for suite in ("p384", "x25519"))
REQUEST = Request(
    VAULT, HEADER, "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", "SHA256:x", "why\nnot", "T-1", (1, 3), KEYS
)
APPROVAL = Approval(
    VAULT, HEADER, DIGEST, "SHA256:x", ME, "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", ((1, b"a"), (3, b"b"))
)
VALUES: dict[str, tuple[Any, Callable[[Envelope], Any]]] = {
    "request": (REQUEST, Request.read),
    "request without a ticket": (replace(REQUEST, ticket=None), Request.read),
    "approval": (APPROVAL, Approval.read),
}


def envelope(statement: dsse.Statement) -> Envelope:
    return dsse.parse(dsse.sign(statement, [KEY]), "the file")


CASES = [(n, p) for n, (v, _) in VALUES.items() for p in paths(v.statement().predicate)]


@pytest.mark.parametrize("name", VALUES)
def test_read_as_written(name: str) -> None:
    value, read = VALUES[name]
    assert read(envelope(value.statement())) == value


@pytest.mark.parametrize(("name", "path"), CASES, ids=str)
def test_fields_are_held_to_their_types(name: str, path: tuple[Any, ...]) -> None:
    """Each field missing, of another type, or joined by one more is refused by the file's name."""
    value, read = VALUES[name]
    statement = value.statement()
    attempts: list[Any] = []
    for wrong in wrong_values(get(statement.predicate, path), nullable=path == ("ticket",)):
        attempts.append(copy.deepcopy(statement.predicate))
        parent_of(attempts[-1], path)[path[-1]] = wrong
    if isinstance(path[-1], str):
        attempts.append(copy.deepcopy(statement.predicate))
        del parent_of(attempts[-1], path)[path[-1]]
        attempts.append(copy.deepcopy(statement.predicate))
        parent_of(attempts[-1], path)["zz"] = 1
    for attempt in attempts:
        with pytest.raises(Forged, match=r"^the file"):
            read(envelope(replace(statement, predicate=attempt)))


@pytest.mark.parametrize("change", [
    {"vault": "x"}, {"reason": ""}, {"reason": " \t\n"}, {"reason": "x" * 4097}, {"ticket": ""}, {"ticket": "x" * 257},
    {"attempts": ()}, {"attempts": (3, 1)}, {"attempts": (1, 1)}, {"attempts": (0,)}, {"attempts": (True,)}, {"keys": ()},
    {"keys": KEYS[::-1]}, {"keys": (KEYS[0], KEYS[0])}, {"keys": (("x25519", b"short"),)}, {"keys": (("rsa", b""),)},
    {"expires": REQUEST.time}, {"expires": "2025-12-31T23:59:59Z"}, {"expires": "2026-02-01T00:00:01Z"},
    {"expires": "2026-02-30T00:00:00Z"},
], ids=str)  # fmt: skip
def test_requests_out_of_bounds(change: dict[str, Any]) -> None:
    with pytest.raises(Forged, match=r"^the file"):
        Request.read(envelope(replace(REQUEST, **change).statement()))


def test_the_longest_request() -> None:
    """31 days to the second, 4096 characters of reason, 256 of ticket."""
    longest = replace(REQUEST, expires="2026-02-01T00:00:00Z", reason="x" * 4096, ticket="x" * 256)
    assert Request.read(envelope(longest.statement())) == longest


@pytest.mark.parametrize("change", [
    {"vault": "x"}, {"header": "x"}, {"request": "AA" * 32}, {"custodian": "alice"}, {"shares": ()},
    {"expires": APPROVAL.time}, {"expires": "2025-01-01T00:00:00Z"},
], ids=str)  # fmt: skip
def test_approvals_out_of_bounds(change: dict[str, Any]) -> None:
    with pytest.raises(Forged, match=r"^the file"):
        Approval.read(envelope(replace(APPROVAL, **change).statement()))


@pytest.mark.parametrize("subject", ["request", "vault.dsse.json", "policy.toml"])
def test_subjects(subject: str) -> None:
    """A request is about a header, an approval about a request, and neither is the other."""
    for value, read, right in ((REQUEST, Request.read, "vault.dsse.json"), (APPROVAL, Approval.read, "request")):
        statement = envelope(replace(value.statement(), subject=subject))
        if subject == right:
            assert read(statement) == value
        else:
            with pytest.raises(Forged, match=r"^the file"):
                read(statement)
    with pytest.raises(Forged, match="urn:dumpvault:approval:v1"):
        Approval.read(envelope(REQUEST.statement()))


def test_expiry_is_a_moment() -> None:
    """Void from that second on, not after it."""
    before, at = datetime(2026, 1, 1, 23, 59, 59, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)
    for value in (REQUEST, APPROVAL):
        assert (value.expired(before), value.expired(at)) == (False, True)


def test_the_info_of_a_share_is_the_text_of_the_spec() -> None:
    """Section 14.1, byte for byte."""
    text = f"dumpvault-approval@v1\np384\n{VAULT}\n3\n{HEADER}\n{DIGEST}\n{ME}\n2026-01-02T00:00:00Z\n"
    assert share_info("p384", 3, APPROVAL) == text.encode()


def test_times_are_compared_as_text() -> None:
    """What ``jcs.time`` reads sorts as text as it does in time, which comparing two expiries relies on."""
    times = ["0001-01-01T00:00:00Z", "1999-12-31T23:59:59Z", "2026-01-02T00:00:00Z", "9999-12-31T23:59:59Z"]
    assert sorted(times, key=jcs.from_time) == sorted(times)
