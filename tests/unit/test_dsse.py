"""Envelopes: what is signed, how strictly they are read, and whose signatures count (spec, sections 5.1 and 5.2)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dumpvault.errors import Forged
from dumpvault.formats import dsse, jcs
from dumpvault.formats.allowed_signers import ROLES, AllowedSigners, namespace
from dumpvault.formats.dsse import Envelope, Statement, pae, parse, sign
from dumpvault.formats.sshkey import SigningKey
from kit import KEY, OTHER

NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
THIRD = SigningKey(bytes(range(2, 34)))
STATEMENT = Statement("commit", "vault.dsse.json", "ab" * 32, {"a": 1})
NAME = "commits/0.dsse.json"
SIGNED = sign(STATEMENT, [KEY])


def trust(*lines: str) -> AllowedSigners:
    return AllowedSigners("\n".join(lines))


def line(key: SigningKey, *, who: str = "alice", options: str = 'namespaces="dumpvault-commit@v1"') -> str:
    return f"{who} {options} {key.signer.line}"


def test_pae_is_that_of_the_dsse_protocol() -> None:
    """The known vector of the DSSE protocol document."""
    encoded = pae(b"hello world", "http://example.com/HelloWorld")
    assert encoded == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


def test_pae_counts_bytes() -> None:
    """Lengths are those of bytes, as decimals, and an empty payload keeps its space."""
    assert pae(b"") == b"DSSEv1 28 application/vnd.in-toto+json 0 "
    assert pae("é".encode()).endswith(b" 2 \xc3\xa9")


def test_an_envelope_is_read_back() -> None:
    """What is signed is read back: payload, key ids, signatures and the statement."""
    envelope = parse(sign(STATEMENT, [KEY, OTHER]), NAME)
    assert envelope.payload == STATEMENT.encode()
    assert [keyid for keyid, _ in envelope.signatures] == [KEY.signer.keyid, OTHER.signer.keyid]
    assert envelope.statement("commit") == STATEMENT
    assert KEY.signer.verifies(envelope.signatures[0][1], pae(envelope.payload))


def test_the_payload_is_the_statement_of_the_spec() -> None:
    """The payload is byte for byte the form that section 5.1 shows."""
    assert STATEMENT.encode() == (
        b'{"_type":"https://in-toto.io/Statement/v1","predicate":{"a":1},"predicateType":"urn:dumpvault:commit:v1",'
        b'"subject":[{"digest":{"sha256":"' + b"ab" * 32 + b'"},"name":"vault.dsse.json"}]}'
    )


def damage(value: dict[str, Any], how: str) -> None:
    signatures: list[Any] = value["signatures"]
    first = signatures[0]
    changes = {
        "no payload": lambda: value.pop("payload"),
        "no type": lambda: value.pop("payloadType"),
        "no signatures": lambda: value.pop("signatures"),
        "another type": lambda: value.update(payloadType="application/json"),
        "an extra field": lambda: value.update(extra=1),
        "an extra field of a signature": lambda: first.update(cert=""),
        "no key id": lambda: first.pop("keyid"),
        "no sig": lambda: first.pop("sig"),
        "an empty list": signatures.clear,
        "seventeen signatures": lambda: signatures.extend({**first, "keyid": str(i)} for i in range(16)),
        "one key twice": lambda: signatures.append(dict(first)),
        "payload not a string": lambda: value.update(payload=1),
        "payload unpadded": lambda: value.update(payload="AA"),
        "payload URL-safe": lambda: value.update(payload="-_-_"),
        "sig not canonical": lambda: first.update(sig="AB=="),
        "signatures an object": lambda: value.update(signatures={"0": first}),
        "a signature no object": lambda: value.update(signatures=["x"]),
    }
    changes[how]()


@pytest.mark.parametrize("how", [
    "no payload", "no type", "no signatures", "another type", "an extra field", "an extra field of a signature",
    "no key id", "no sig", "an empty list", "seventeen signatures", "one key twice", "payload not a string",
    "payload unpadded", "payload URL-safe", "sig not canonical", "signatures an object", "a signature no object",
])  # fmt: skip
def test_envelopes_of_another_form_are_refused(how: str) -> None:
    """Every departure from section 5.1's envelope is refused, naming the object."""
    value: Any = jcs.decode(SIGNED, "x", 1 << 20)
    damage(value, how)
    with pytest.raises(Forged, match=r"^commits/0\.dsse\.json"):
        parse(jcs.encode(value), NAME)


def test_sixteen_signatures_are_the_most() -> None:
    """Sixteen keys may sign one envelope, as many as a vault has signers."""
    keys = [SigningKey(bytes([i]) * 32) for i in range(16)]
    assert len(parse(sign(STATEMENT, keys), NAME).signatures) == 16


def test_an_envelope_keeps_to_its_limit() -> None:
    """An object larger than its limit is refused unread."""
    with pytest.raises(Forged, match="more than the"):
        parse(SIGNED, NAME, len(SIGNED) - 1)
    parse(SIGNED, NAME, len(SIGNED))


@pytest.mark.parametrize("change", [
    {"_type": "https://in-toto.io/Statement/v0.1"}, {"_type": None}, {"predicateType": "urn:dumpvault:header:v1"},
    {"predicateType": "urn:dumpvault:commit:v2"}, {"subject": []}, {"subject": {}}, {"extra": 1},
    {"subject": [{"digest": {"sha256": "ab" * 32}, "name": "a"}] * 2},
    {"subject": [{"digest": {"sha256": "AB" * 32}, "name": "a"}]},
    {"subject": [{"digest": {"sha256": "ab" * 32, "sha512": "ab" * 64}, "name": "a"}]},
    {"subject": [{"digest": {"sha256": "ab" * 32}, "name": "a", "uri": ""}]},
    {"subject": [{"digest": {"sha256": "ab" * 32}}]}, {"subject": [{"name": "a"}]},
], ids=str)  # fmt: skip
def test_statements_of_another_form_are_refused(change: dict[str, Any]) -> None:
    """Another type, another number of subjects and every extra or missing field of a statement are refused."""
    value: Any = jcs.decode(STATEMENT.encode(), "x", 1 << 20)
    value.update(change)
    with pytest.raises(Forged, match=r"^commits/0\.dsse\.json"):
        Envelope(NAME, jcs.encode(value), ()).statement("commit")


def test_a_good_signature_counts() -> None:
    """One signature by a key with the role makes the envelope good, and its key id is returned."""
    assert parse(SIGNED, NAME).check("commit", trust(line(KEY)), NOW) == (KEY.signer.keyid,)


@pytest.mark.parametrize("options", [
    "", 'namespaces=""', 'namespaces="dumpvault-header@v1"', 'namespaces="dumpvault-commit@v2"',
    'namespaces="dumpvault-*@v1"', 'namespaces="*"', 'namespaces="DUMPVAULT-COMMIT@V1"',
    'namespaces="dumpvault-commit@v1",cert-authority', 'cert-authority,namespaces="dumpvault-commit@v1"',
])  # fmt: skip
def test_roles_are_what_a_line_names_literally(options: str) -> None:
    """A key has no role without namespaces=, by patterns, by another spelling, or on a cert-authority line."""
    with pytest.raises(Forged, match=r"^commits/0\.dsse\.json: no trusted signature"):
        parse(SIGNED, NAME).check("commit", trust(line(KEY, options=options)), NOW)


def test_each_statement_has_its_own_role() -> None:
    """A key of one role signs nothing of another: collector statements and officer statements do not mix."""
    statements = [s.removeprefix("dumpvault-").removesuffix("@v1") for s in ROLES["collector"] + ROLES["officer"]]
    for signed in statements:
        envelope = parse(sign(Statement(signed, "x", "ab" * 32, {}), [KEY]), NAME)
        for listed in statements:
            listing = trust(line(KEY, options=f'namespaces="{namespace(listed)}"'))
            if listed == signed:
                assert envelope.check(signed, listing, NOW)
            else:
                with pytest.raises(Forged, match="may not sign"):
                    envelope.check(signed, listing, NOW)


def test_an_unlisted_key_is_no_signer() -> None:
    """A signature by a key that the trust file does not list counts for nothing."""
    with pytest.raises(Forged, match="is not in allowed_signers"):
        parse(SIGNED, NAME).check("commit", trust(line(OTHER)), NOW)
    with pytest.raises(Forged, match="no trusted signature"):
        parse(SIGNED, NAME).check("commit", trust(), NOW)


def broken(data: bytes, which: int) -> Envelope:
    envelope = parse(data, NAME)
    signatures = list(envelope.signatures)
    keyid, signature = signatures[which]
    signatures[which] = (keyid, signature[:-1] + bytes([signature[-1] ^ 1]))
    return Envelope(NAME, envelope.payload, tuple(signatures))


def test_other_signatures_are_passed_over() -> None:
    """Unlisted and roleless keys neither make nor break an envelope, even if their signatures do not verify."""
    data = sign(STATEMENT, [OTHER, KEY, THIRD])
    listing = trust(line(KEY), line(THIRD, options='namespaces="dumpvault-header@v1"'))
    for envelope in (parse(data, NAME), broken(data, 0), broken(data, 2)):
        assert envelope.check("commit", listing, NOW) == (KEY.signer.keyid,)


@pytest.mark.parametrize("which", [0, 1])
def test_a_failing_signature_of_a_key_with_the_role_spoils_the_envelope(which: int) -> None:
    """Two keys have the role: both must verify, in whichever order they stand."""
    data = sign(STATEMENT, [KEY, OTHER])
    listing = trust(line(KEY), line(OTHER, who="bob"))
    assert len(parse(data, NAME).check("commit", listing, NOW)) == 2
    with pytest.raises(Forged, match=r"^commits/0\.dsse\.json: the signature of .* does not verify"):
        broken(data, which).check("commit", listing, NOW)


def test_a_changed_payload_is_refused() -> None:
    """The payload is what was signed, to the byte."""
    envelope = parse(SIGNED, NAME)
    with pytest.raises(Forged, match="does not verify"):
        Envelope(NAME, envelope.payload + b" ", envelope.signatures).check("commit", trust(line(KEY)), NOW)


def test_a_signature_without_the_encoding_is_refused() -> None:
    """A signature over the bare payload, or over another payload type, does not verify."""
    payload = STATEMENT.encode()
    for data in (payload, pae(payload, "application/json")):
        envelope = Envelope(NAME, payload, ((KEY.signer.keyid, KEY.sign(data)),))
        with pytest.raises(Forged, match="does not verify"):
            envelope.check("commit", trust(line(KEY)), NOW)


def test_only_pinned_keys_count() -> None:
    """Section 13: a key with the role that the header does not list makes no commit good."""
    envelope = parse(sign(STATEMENT, [KEY, OTHER]), NAME)
    listing = trust(line(KEY), line(OTHER, who="bob"))
    assert envelope.check("commit", listing, NOW, pinned={OTHER.signer.keyid}) == (OTHER.signer.keyid,)
    with pytest.raises(Forged, match="is not a signer of this vault"):
        envelope.check("commit", listing, NOW, pinned={THIRD.signer.keyid})
    with pytest.raises(Forged, match="is not a signer of this vault"):
        envelope.check("commit", listing, NOW, pinned=())


def test_a_failing_signature_of_an_unpinned_key_is_passed_over() -> None:
    """Section 5.2: only signatures that count must verify; a key that the header does not list does not count."""
    listing = trust(line(KEY), line(OTHER, who="bob"))
    envelope = broken(sign(STATEMENT, [KEY, OTHER]), 1)
    assert envelope.check("commit", listing, NOW, pinned={KEY.signer.keyid}) == (KEY.signer.keyid,)
    with pytest.raises(Forged, match="does not verify"):
        envelope.check("commit", listing, NOW)


@pytest.mark.parametrize(("who", "host", "counts"), [
    ("alice", "db1", True), ("alice", None, True), ("alice@db1", "db1", True), ("alice@db1", "db2", False),
    ("alice@db1", "db1.example", False), ("alice@db1.example", "db1", False), ("alice@DB1", "db1", False),
    ("bob@db2,alice@db1", "db1", True), ("*@db1", "db2", False), ("alice@*", "db1", False), ("a@b@c", "b@c", True),
])  # fmt: skip
def test_a_host_bound_key_counts_for_its_host_only(who: str, host: str | None, counts: bool) -> None:
    """Where the principal is name@host, the vault's header must state exactly that host."""
    envelope, listing = parse(SIGNED, NAME), trust(line(KEY, who=who))
    if counts:
        assert envelope.check("commit", listing, NOW, host=host)
    else:
        with pytest.raises(Forged, match=f"this is host {host}"):
            envelope.check("commit", listing, NOW, host=host)


def test_validity_is_obeyed() -> None:
    """A key counts from valid-after on and before valid-before, judged at the moment asked for."""
    options = 'namespaces="dumpvault-commit@v1",valid-after="20261123120000Z",valid-before="20261124Z"'
    listing, envelope = trust(line(KEY, options=options)), parse(SIGNED, NAME)
    start, end = NOW, datetime(2026, 11, 24, tzinfo=UTC)
    for moment, counts in (
        (start - timedelta(seconds=1), False), (start, True), (end - timedelta(seconds=1), True), (end, False),
    ):  # fmt: skip
        if counts:
            assert envelope.check("commit", listing, moment)
        else:
            with pytest.raises(Forged, match=r"is valid only from|was valid only before"):
                envelope.check("commit", listing, moment)


def test_a_key_on_two_lines_has_what_either_gives() -> None:
    """One key may stand on several lines, each with its own roles and times."""
    listing = trust(
        line(KEY, options='namespaces="dumpvault-header@v1"'),
        line(KEY, options='namespaces="dumpvault-commit@v1",valid-before="20200101Z"'),
        line(KEY, who="late"),
    )
    assert parse(SIGNED, NAME).check("commit", listing, NOW)


@given(st.integers(0, len(SIGNED) - 1), st.integers(1, 255))
def test_any_changed_byte_of_an_envelope_is_refused(at: int, change: int) -> None:
    """An envelope with one byte changed is refused by reading, by its signature, or by its statement."""
    changed = bytearray(SIGNED)
    changed[at] ^= change
    with pytest.raises(Forged):
        envelope = parse(bytes(changed), NAME)
        envelope.check("commit", trust(line(KEY)), NOW)
        envelope.statement("commit")


def test_the_limit_is_that_of_the_spec() -> None:
    """Section 15: 1 MiB for headers, manifests and events."""
    assert dsse.LIMIT == 1 << 20
