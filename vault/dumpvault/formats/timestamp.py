"""RFC 3161 timestamps over any bytes, judged offline: bytes, trusted authorities and a moment in, an ``Anchor`` out.

What lies where, and what a timestamp proves, is docs/spec/vault.md, section 12.5. Requests and replies are
``rfc3161-client``'s (extra ``dumpvault[timestamp]``), which is imported only when there is a timestamp.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from dumpvault.errors import BadInput, Forged, NoKey

__all__ = ["LIMIT", "Anchor", "check", "path", "request"]

#: The most bytes that a reply may have.
LIMIT = 65536
_HASHES = {"2.16.840.1.101.3.4.2.1": "sha256", "2.16.840.1.101.3.4.2.2": "sha384", "2.16.840.1.101.3.4.2.3": "sha512"}


@dataclass(frozen=True, slots=True, order=True)
class Anchor:
    """Bytes existed at ``time`` at the latest, says ``source``: a timestamp authority, or a ledger's witness."""

    time: datetime
    source: str


def path(data: bytes) -> str:
    """Where a reply stands in its vault."""
    return f"timestamps/{hashlib.sha256(data).hexdigest()[:32]}.tsr"


def request(data: bytes) -> tuple[bytes, int]:
    """A TimeStampReq (RFC 3161, section 2.4.1) over SHA-512 of ``data``, with a nonce, asking for the certificate."""
    _require_extra()
    from rfc3161_client import TimestampRequestBuilder

    made = TimestampRequestBuilder().data(data).build()
    assert made.nonce is not None
    return made.as_bytes(), made.nonce


def check(
    reply: bytes, data: bytes, authorities: Sequence[bytes], now: datetime, name: str, nonce: int | None = None
) -> Anchor:
    """What a TimeStampResp says of ``data``, if one of ``authorities`` (PEM, one or more certificates each) made it.

    Its certificates must have been valid at its own time, not now. The anchor's time is that time and its accuracy, and
    never later than ``now``. Raises ``Forged`` for what proves nothing, ``NoKey`` without authorities or the extra,
    ``BadInput`` where an authority cannot be read.
    """
    _require_extra()
    from cryptography import x509
    from rfc3161_client import VerificationError, VerifierBuilder, decode_timestamp_response

    roots = []
    for pem in authorities:
        try:
            roots += x509.load_pem_x509_certificates(pem)
        except ValueError as error:
            raise BadInput(f"keys/tsa: a certificate cannot be read: {error}", "Correct or remove it.") from None
    if not roots:
        raise NoKey(
            f"{name}: no timestamp authority is trusted here", "Put its root into keys/tsa/NAME.pem of the home."
        )
    if len(reply) > LIMIT:
        raise _bad(name, f"{len(reply)} bytes are more than a timestamp has")
    try:
        response = decode_timestamp_response(_sorted_certificates(reply))
        if response.status != 0:
            said = "; ".join(map(str, response.status_string)) or f"status {response.status}"
            raise _bad(name, f"the authority refused: {said}")
        info = response.tst_info
        algorithm = _HASHES.get(info.message_imprint.hash_algorithm.dotted_string)
        if algorithm is None:
            raise _bad(
                name, f"hash {info.message_imprint.hash_algorithm.dotted_string} is not SHA-256, SHA-384 or SHA-512"
            )
        if info.message_imprint.message != hashlib.new(algorithm, data).digest():
            raise _bad(name, "it is over other bytes")
        builder = VerifierBuilder(roots=roots, nonce=nonce)
        builder.build().verify(response, info.message_imprint.message)
        accuracy = info.accuracy
        time = info.gen_time.astimezone(UTC)
        if accuracy is not None:
            micros = (accuracy.millis or 0) * 1000 + (accuracy.micros or 0)
            time += timedelta(seconds=accuracy.seconds or 0, microseconds=micros)
        signer = next(iter(response.signed_data.signer_infos))
        return Anchor(min(time, now), f"RFC 3161, by a key that {signer.issuer.rfc4514_string()} certified")
    except VerificationError as error:
        raise _bad(name, str(error)) from None
    except (ValueError, OverflowError, TypeError, x509.ExtensionNotFound) as error:
        raise _bad(name, f"it cannot be read: {str(error)[:200]}") from None


def _require_extra() -> None:
    from importlib.util import find_spec

    if find_spec("rfc3161_client") is None:
        raise NoKey("timestamps need rfc3161-client, which is not installed", "Run: pip install 'dumpvault[timestamp]'")


def _bad(name: str, why: str) -> Forged:
    return Forged(
        f"{name}: no good timestamp: {why}", "It proves nothing here. Ask for another with 'dumpvault timestamp'."
    )


def _sorted_certificates(reply: bytes) -> bytes:
    """The reply with its certificates in DER's order for a SET, which OpenSSL does not keep and rfc3161-client demands.

    No signature covers that order (RFC 5652, section 5.1). Raises ``ValueError`` for what is no TimeStampResp.
    """
    outer = _element(reply, 0)
    if outer[2] != len(reply):
        raise ValueError("bytes after its end, or too few")
    at = _element(reply, outer[1])[2]  # past the status
    if at >= outer[2]:
        return reply  # a refusal has no token
    token = _element(reply, at)
    signed = _element(reply, _element(reply, _element(reply, token[1])[2])[1])  # past the type, in its [0]
    at = signed[1]
    while at < signed[2]:
        tag, start, end = _element(reply, at)
        if tag == 0xA0:
            parts, inner = [], start
            while inner < end:
                after = _element(reply, inner)[2]
                parts.append(reply[inner:after])
                inner = after
            return reply[:start] + b"".join(sorted(parts)) + reply[end:]
        at = end
    return reply


def _element(data: bytes, at: int) -> tuple[int, int, int]:
    """(tag, start of the content, its end) of the DER element at ``at``."""
    if at + 2 > len(data):
        raise ValueError("it ends early")
    tag, length, start = data[at], data[at + 1], at + 2
    if length & 0x80:
        count = length & 0x7F
        if not 1 <= count <= 3:
            raise ValueError("a length that is no DER")
        length, start = int.from_bytes(data[start : start + count]), start + count
    if start + length > len(data):
        raise ValueError("it ends early")
    return tag, start, start + length
