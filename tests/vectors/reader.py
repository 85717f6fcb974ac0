"""A second reader: verifies and opens a vault, written from docs/spec/vault.md and docs/spec/keys.md alone.

It is here to show that the pages suffice, and to notice when dumpvault and they drift apart; so it shares no code with
dumpvault. It is one file, to be read beside vault.md, whose section numbers stand below. It keeps a whole region in
memory and stops at the first thing that fails, which is all that small test vaults need.
"""

import base64
import hashlib
import hmac
import json
import re
import struct
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import accumulate, combinations, groupby, pairwise
from math import comb
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes, hpke, keywrap
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, mlkem, utils, x25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


class Refused(Exception):
    """An object breaks the format, or is missing; the message begins with its name."""


@dataclass(frozen=True)
class Opened:
    data: bytes  # with zeros where no region is
    dump: bytes | None  # of a flattened stream that is whole: what it describes
    finished: bool  # the verdict of section 13 is "intact"; else it is "incomplete"
    regions: int
    foreign: list[str]
    shredded: int = 0  # regions whose keys an event destroyed
    recorded: bool | None = None  # whether the vault has the event that records the grant, if that was used


@dataclass(frozen=True)
class Answered:
    """What opens a vault under dual control, section 14.1, by the names of files."""

    request: bytes
    approvals: dict[str, bytes]
    keys: dict[str, bytes]  # private halves of the one-time keys
    moment: str  # the time to judge at


def need(holds: object, name: str, why: object) -> None:
    if not holds:
        raise Refused(f"{name}: {why}")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# --- What the objects hold: sections 2, 4.1, 5.1, 6 to 8 and 10 to 12 ---------------------------------------------


def is_base64(text: str) -> bool:
    """Padded, on one line, unused bits zero: just what encoding the decoded bytes gives again."""
    try:
        return base64.b64encode(base64.b64decode(text)).decode() == text
    except ValueError:
        return False


# A shape is an object with just these fields (one whose name ends in ? may be absent), an array [of, least, most],
# (shape, None) for what may be null, a tuple of choices, a type, a pattern, a test of a string, or a literal. All integers
# are numbers of section 1: see `load`.
# fmt: off
MIB, MANY = 2**20, 2**31
ID, DIGEST, QUANTITY, TIME, NAME = map(re.compile, (
    "[0-9a-f]{32}", "[0-9a-f]{64}", "0x(0|[1-9a-f][0-9a-f]{0,15})",
    "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z", "[A-Za-z0-9_][A-Za-z0-9._@-]{0,63}"))
# Section 4.3: how long the public keys and signatures of each key type are.
KEY_TYPES = {"ssh-ed25519": (32, 64), "ecdsa-sha2-nistp384": (97, 96),
             "mldsa65@dumpvault": (1952, 3309), "mldsa87@dumpvault": (2592, 4627)}
KEY = "(?:" + "|".join(KEY_TYPES) + ") [A-Za-z0-9+/]+=*"
P384_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973
STOCK = ("ssh-ed25519", "ecdsa-sha2-nistp384")  # what ssh-keygen knows
SUITES = {  # length of the private key, KEM, KDF
    "xwing": (32, hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256),
    "mlkem1024": (64, hpke.KEM.MLKEM1024, hpke.KDF.HKDF_SHA384),
    "mlkem1024-p384": (112, hpke.KEM.MLKEM1024_P384, hpke.KDF.HKDF_SHA384),
    "p384": (48, hpke.KEM.P384, hpke.KDF.HKDF_SHA384),
    "x25519": (32, hpke.KEM.X25519, hpke.KDF.HKDF_SHA256)}
SUITE, RESULT = tuple(SUITES), ("released", "failed", "unknown")
RANGE = {"offset": QUANTITY, "length": QUANTITY}
ENVELOPE = {"payload": is_base64, "payloadType": "application/vnd.in-toto+json",
            "signatures": [{"keyid": str, "sig": is_base64}, 1, 16]}
SOURCE = {"kind": ("elf", "flattened", "opaque"), "name": str, "size": (QUANTITY, None), "mtime": (QUANTITY, None),
          "identity": (DIGEST, None), "memory": [{**RANGE, "address": QUANTITY}, 0, 1024],
          "elf": ({"class": (32, 64), "endian": ("little", "big"), "machine": int}, None)}
HEADER = {"created": TIME, "tool": str, "host": str, "boot_id": (str, None), "source": SOURCE,
          "region_size": QUANTITY, "frame_size": QUANTITY, "policy": {"name": str, "text": str, "sha256": DIGEST},
          "signers": [{"keyid": str, "key": lambda text: bool(key_blob(text))}, 1, 16],
          "recipients": [{"name": NAME, "suite": SUITE, "sha256": DIGEST}, 1, 128], "quorum?": int}
RECORD = {**RANGE, "index": int, "kind": ("headers", "notes", "memory", "flattened", "opaque"),
          "codec": ("raw", "zstd"), "message": QUANTITY, "blocks": DIGEST, "key": DIGEST,
          "unreadable": [RANGE, 0, MANY]}
SHARES = {"vault_key": DIGEST, "components": [DIGEST, 2, 128]}
BODIES = {"takeover": {"keybag": DIGEST, "boot_id": (str, None), "tool": str, "shares?": SHARES},
          "regions": {"regions": [RECORD, 0, 1024],
                      "releases": [{"method": ("phyp", "fadump"), "start": QUANTITY, "length": QUANTITY}, 0, MANY],
                      "outcomes": [{"commit": int, "release": int, "result": RESULT}, 0, MANY]},
          "adopt": {"through": int}, "ended": {"reason": str}}
MANIFEST = {"finished": TIME, "head": {"commit": int, "sha256": DIGEST}, "size": QUANTITY, "regions": int,
            "sealed": QUANTITY, "unreadable": QUANTITY, "end": ("elf", "flattened", "eof", "size"), "truncated": bool,
            "attempts": [{"attempt": int, "boot_id": (str, None), "regions": int, "bytes": QUANTITY}, 0, MANY]}
REQUEST = {"time": TIME, "expires": TIME, "requester": str, "reason": re.compile(r"(?s)(?=.*\S).{1,4096}"),
           "ticket": (re.compile("(?s).{1,256}"), None), "attempts": [int, 1, MANY],
           "keys": [{"suite": SUITE, "public": is_base64}, 1, 5]}
APPROVAL = {"header": DIGEST, "requester": str, "custodian": DIGEST, "time": TIME, "expires": TIME,
            "shares": [{"attempt": int, "sealed": is_base64}, 1, MANY]}
RUNS = [{"attempt": int, "first": int, "last": int}, 1, 65536]
LISTED = {"name": NAME, "suite": SUITE, "sha256": DIGEST}
KEYS = [{"attempt": int, "commit": int, "sha256": (DIGEST, None)}, 0, 65536]
EVENTS = {"release": {"method": ("phyp", "fadump"), "result": RESULT},
          "shred": {"reason": str, "regions": (list, None), "keys": KEYS},
          "rewrap": {"recipients": [LISTED, 1, 128], "keybags": [{"attempt": int, "sha256": DIGEST}, 1, 65536], "keys": KEYS},
          "grant": {"recipient": LISTED, "regions": RUNS, "file": DIGEST}}
GRANT = {"header": DIGEST, "event": int, "recipient": LISTED, "regions": RUNS, "sealed": is_base64, "time": TIME}
PRIVATE = {"format": "dumpvault-private@v1", "name": NAME, "purpose": "recipient", "algorithm": SUITE,
           "public": is_base64, "protection": {"kind": "none"}, "secret": is_base64}  # keys.md
# fmt: on


def check(value: Any, shape: Any, at: str) -> None:
    """Hold a value against its shape. Fields are taken in the shape's order, `format` first, so that a later format is
    refused as such (section 16)."""
    match shape:
        case dict():
            need(isinstance(value, dict), at, "is not an object")
            for field, inner in shape.items():
                key = field.removesuffix("?")
                if key in value or key == field:
                    need(key in value, at, f"lacks {key}")
                    check(value[key], inner, f"{at}/{key}")
            unknown = value.keys() - {field.removesuffix("?") for field in shape}
            need(not unknown, at, f"has unknown fields: {unknown}")
        case list():
            of, least, most = shape
            need(isinstance(value, list) and least <= len(value) <= most, at, f"is not an array of {least} to {most}")
            for i, item in enumerate(value):
                check(item, of, f"{at}/{i}")
        case (inner, None):
            if value is not None:
                check(value, inner, at)
        case tuple():
            need(type(value) is type(shape[0]) and value in shape, at, f"is not one of {shape}")
        case type():
            need(type(value) is shape, at, f"is not of type {shape.__name__}")
        case re.Pattern():
            need(isinstance(value, str) and shape.fullmatch(value), at, "is malformed")
        case _ if callable(shape):
            need(isinstance(value, str) and shape(value), at, "is malformed")
        case _:
            need(type(value) is type(shape) and value == shape, at, f"is not {shape!r}")


def load(name: str, data: bytes, shape: Any, canonical: bool = False) -> Any:
    """Section 2: read one JSON text strictly and hold it against its shape."""

    def number(text: str) -> int:
        if not re.fullmatch("0|[1-9][0-9]{0,9}", text) or int(text) >= 2**31:
            raise ValueError(f"{text[:20]} is not a number of section 1")
        return int(text)

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("duplicate key")
        return dict(pairs)

    try:
        text = data.decode()
        # The depth is taken before parsing, which would recurse; possessive, so that a lone quote costs nothing.
        brackets = re.findall(r"[][{}]", re.sub(r'"(?:[^"\\]++|\\.)*+"', "", text))
        if max(accumulate(1 if bracket in "[{" else -1 for bracket in brackets), default=0) > 16:
            raise ValueError("more than 16 levels of nesting")
        value = json.loads(text, object_pairs_hook=once, parse_int=number, parse_float=number, parse_constant=number)
        # RFC 8785, as all field names are ASCII. Encoding fails on a lone surrogate.
        again = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
    except ValueError as error:
        raise Refused(f"{name}: {error}") from None
    check(value, shape, f"{name}#")
    need(not canonical or again == data, name, "not in RFC 8785 form")
    return value


# --- Who may sign: sections 4.3 and 5 -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Pin:
    """A line of the trust file. None among the hosts stands for all of them."""

    blob: bytes
    roles: list[str]
    hosts: set[str | None]


def strings(blob: bytes) -> Iterable[bytes]:
    """The RFC 4251 strings that a blob consists of."""
    while blob:
        end = 4 + int.from_bytes(blob[:4])
        if len(blob) < end:
            raise ValueError("truncated SSH string")
        yield blob[4:end]
        blob = blob[end:]


def fingerprint(blob: bytes) -> str:
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def key_blob(text: str) -> bytes:
    """Section 4.3: the key blob of a public key as it is written; empty if it is none."""
    try:
        kind, encoded = text.split(" ")
        parts = list(strings(base64.b64decode(encoded)))
        curve = [b"nistp384"] if kind == "ecdsa-sha2-nistp384" else []
        good = is_base64(encoded) and parts[:-1] == [kind.encode(), *curve] and len(parts[-1]) == KEY_TYPES[kind][0]
        if good and curve:
            good = parts[-1][0] == 4
            ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), parts[-1])
    except (ValueError, KeyError):
        return b""
    return base64.b64decode(encoded) if good else b""


def pins(allowed_signers: str) -> list[Pin]:
    """Section 5.2. A line that has no role, is not valid now or cannot be understood gives nothing."""

    def moment(text: str) -> float:  # ssh-keygen(1): local time, unless a Z follows
        digits, zone = text.removesuffix("Z"), UTC if text.endswith("Z") else None
        form = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}.get(len(digits), "")
        return datetime.strptime(digits, form).replace(tzinfo=zone).timestamp()

    found = []
    for line in allowed_signers.split("\n"):
        fields = re.fullmatch(rf'\s*([^\s#"][^\s"]*)\s+((?:[^\s"]|"[^"]*")+)\s+({KEY})(\s.*)?', line)
        pairs = re.findall('([A-Za-z-]+)="([^"]*)"(?:,|$)', fields[2]) if fields else []
        options = {key.lower(): value for key, value in pairs}
        # Whatever stands beside these three options, each given once, is cert-authority or not understood.
        known = len(options) == len(pairs) and options.keys() <= {"namespaces", "valid-after", "valid-before"}
        blob = key_blob(fields[3]) if fields else b""
        if not fields or not blob or not known or fields[2] != ",".join(f'{key}="{value}"' for key, value in pairs):
            continue
        try:
            after, before = options.get("valid-after", "19800101"), options.get("valid-before", "99980101")
            valid = moment(after) <= time.time() <= moment(before)
        except ValueError:
            continue
        roles = options.get("namespaces", "").split(",") if valid else []
        hosts = {part.split("@", 1)[1] if "@" in part else None for part in fields[1].split(",")}
        found.append(Pin(blob, roles, hosts))
    return found


def verify(name: str, blob: bytes, signature: bytes, message: bytes) -> None:
    """Section 4.3: one signature in its one spelling."""
    kind, *_, public = strings(blob)
    need(len(signature) == KEY_TYPES[kind.decode()][1], name, "a signature has the wrong length")
    try:
        match kind:
            case b"ssh-ed25519":
                ed25519.Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
            case b"ecdsa-sha2-nistp384":
                r, s = int.from_bytes(signature[:48]), int.from_bytes(signature[48:])
                need(
                    0 < r < P384_ORDER and 0 < s <= (P384_ORDER - 1) // 2,
                    name,
                    "a signature is not in its one spelling",
                )
                point = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), public)
                point.verify(utils.encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA384()))
            case b"mldsa65@dumpvault":
                mldsa.MLDSA65PublicKey.from_public_bytes(public).verify(signature, message)
            case _:
                mldsa.MLDSA87PublicKey.from_public_bytes(public).verify(signature, message)
    except InvalidSignature:
        raise Refused(f"{name}: a signature does not verify") from None


def verify_sshsig(name: str, armored: bytes, message: bytes, by: set[bytes]) -> None:
    """Section 5.3, by OpenSSH's PROTOCOL.sshsig."""
    armor = re.fullmatch(b"-----BEGIN SSH SIGNATURE-----\n([A-Za-z0-9+/=\n]+)\n-----END SSH SIGNATURE-----\n?", armored)
    try:
        blob = base64.b64decode(armor[1]) if armor else b""
        key, namespace, reserved, algorithm, signature = strings(blob.removeprefix(b"SSHSIG\0\0\0\1"))
        kind, raw = strings(signature)
    except ValueError as error:
        raise Refused(f"{name}: {error}") from None
    said = (blob[:10], namespace, algorithm)
    wanted = (b"SSHSIG\0\0\0\1", b"dumpvault-manifest@v1", b"sha512")
    need(said == wanted, name, "wrong version, key type, namespace or hash")
    need(key in by, name, "not by a signer of the manifest")
    need(kind.decode() in STOCK and next(iter(strings(key))) == kind, name, "not a signature of the key's type")
    if kind == b"ecdsa-sha2-nistp384":
        numbers = list(strings(raw))
        values = [int.from_bytes(number) for number in numbers]
        shortest = [value.to_bytes(value.bit_length() // 8 + 1) for value in values]
        need(len(values) == 2 and numbers == shortest and max(values) < 2**384, name, "not two mpints of P-384")
        raw = b"".join(value.to_bytes(48) for value in values)
    covered = (namespace, reserved, algorithm, hashlib.sha512(message).digest())
    verify(name, key, raw, b"SSHSIG" + b"".join(len(field).to_bytes(4) + field for field in covered))


# --- Verifying: section 13 ----------------------------------------------------------------------------------------


class Region:
    """A record of a commit, in numbers."""

    def __init__(self, commit: int, attempt: int, record: dict[str, Any]) -> None:
        self.commit, self.attempt, self.record = commit, attempt, record
        self.name, self.id = f"regions/{attempt}/{record['index']}.sealed", (attempt, record["index"])
        self.start, self.length, self.message = (int(record[key], 16) for key in ("offset", "length", "message"))
        self.end = self.start + self.length
        self.size = self.message + 32 * -(-self.message // 262144)  # with a digest for each block of the message
        gaps = ((int(gap["offset"], 16), int(gap["length"], 16)) for gap in record["unreadable"])
        self.unreadable = [range(start, start + length) for start, length in gaps]


class Vault:
    """A vault under verification; `known` collects the objects that a pinned signer vouches for."""

    def __init__(self, store: Path, vault: str, allowed_signers: str) -> None:
        need(ID.fullmatch(vault), vault, "not the id of a vault")
        self.id, self.root, self.pins = vault, store / "vaults" / vault, pins(allowed_signers)
        self.known: set[str] = set()
        self.takeovers: dict[int, dict[str, Any]] = {}  # by attempt
        self.keybags: dict[int, dict[str, bytes]] = {}  # of attempts that hold regions: messages by recipient
        self.commits: list[str] = []  # their digests
        self.regions: list[Region] = []
        # Section 12.1: what counts, by attempt and by commit; who can open; what is destroyed, as (attempt, index).
        self.bags: dict[int, tuple[str, str]] = {}
        self.keys: dict[int, tuple[str, str | None]] = {}
        self.recipients: set[tuple[str, str]] = set()
        self.rewrapped: set[int] = set()
        self.shredded: set[tuple[int, int]] = set()
        self.superseded: set[str] = set()
        self.events: list[tuple[str, Any]] = []  # their types and bodies

    def find(self, name: str, limit: int) -> bytes | None:
        """An object that may be absent. It counts as known until something tells otherwise."""
        path = self.root / name
        if not path.is_file():
            return None
        need(path.stat().st_size <= limit, name, f"longer than {limit} bytes")
        self.known.add(name)
        return path.read_bytes()

    def get(self, name: str, limit: int) -> bytes:
        data = self.find(name, limit)
        if data is None:
            raise Refused(f"{name}: missing")
        return data

    def good(self, name: str, data: bytes, role: str, pinned: bool = True) -> tuple[bytes, set[bytes]]:
        """Section 5.2: the payload, and the keys whose signatures make the envelope good for the role."""
        envelope = load(name, data, ENVELOPE, canonical=True)
        payload, media = base64.b64decode(envelope["payload"]), envelope["payloadType"].encode()
        encoded = b"DSSEv1 %d %b %d %b" % (len(media), media, len(payload), payload)
        signatures = {entry["keyid"]: base64.b64decode(entry["sig"]) for entry in envelope["signatures"]}
        need(len(signatures) == len(envelope["signatures"]), name, "a key id stands twice")
        pins = (pin for pin in self.pins if f"dumpvault-{role}@v1" in pin.roles and pin.hosts & {None, self.host})
        holders = {pin.blob for pin in pins if fingerprint(pin.blob) in signatures}
        holders = {blob for blob in holders if not pinned or fingerprint(blob) in self.signers}
        for blob in holders:
            verify(name, blob, signatures[fingerprint(blob)], encoded)
        need(holders, name, f"not signed by a key that may sign a {role}")
        return payload, holders

    def statement(self, name: str, payload: bytes, kind: str, subject: Any, of: Any, predicate: Any) -> Any:
        """Section 5.1: the predicate of a payload that must be a statement of this kind about this subject."""
        shape = {
            "_type": "https://in-toto.io/Statement/v1",
            "predicateType": f"urn:dumpvault:{kind}:v1",
            "predicate": {"format": 1, "vault": self.id, **predicate},
            "subject": [{"name": subject, "digest": {"sha256": of}}, 1, 1],
        }
        return load(name, payload, shape)["predicate"]

    def read_header(self) -> None:
        """Step 1. Whom to trust depends on the host it states: it is read before the signature over it is checked."""
        name = "vault.dsse.json"
        data = self.get(name, MIB)
        payload = base64.b64decode(load(name, data, ENVELOPE)["payload"])
        self.header = header = self.statement(name, payload, "header", "policy.toml", DIGEST, HEADER)
        self.digest, self.host = sha256(data), header["host"]
        self.signers = {entry["keyid"] for entry in header["signers"]}
        self.good(name, data, "header")
        policy = sha256(header["policy"]["text"].encode())
        need(header["policy"]["sha256"] == policy, name, "wrong digest of the policy")
        self.statement(name, payload, "header", "policy.toml", policy, HEADER)
        blobs = [key_blob(entry["key"]) for entry in header["signers"]]
        keys = [entry["keyid"] for entry in header["signers"]]
        need([fingerprint(blob) for blob in blobs] == keys, name, "a signer's key id is not its key's")
        need(len(set(keys)) == len(keys), name, "a signer stands twice")
        self.blobs = dict(zip(keys, blobs, strict=True))
        self.stock = any(next(iter(strings(blob))).decode() in STOCK for blob in blobs)
        custodians = [entry["sha256"] for entry in header["recipients"]]
        self.quorum, self.components = header.get("quorum"), 0
        if self.quorum is not None:  # section 7.1
            self.components = comb(len(custodians), self.quorum - 1) if 2 <= self.quorum <= len(custodians) else 0
            need(0 < self.components <= 128, name, "no quorum of its custodians")
            need(len(set(custodians)) == len(custodians), name, "two custodians with one key")
        self.region_size, self.frame_size = int(header["region_size"], 16), int(header["frame_size"], 16)
        need(self.region_size % 4096 == 0 and 4096 <= self.region_size <= 2**28, name, "region_size out of bounds")
        need(self.frame_size.bit_count() == 1 and 4096 <= self.frame_size <= 2**20, name, "frame_size out of bounds")

    def read_chain(self, head: int | None) -> None:
        """Step 2, up to the manifest's head; without a manifest up to the tip, which may be foreign."""
        attempt, previous, names, releases = 0, self.digest, set(), []
        while head is None or len(self.commits) <= head:
            number = len(self.commits)
            name = f"commits/{number}.dsse.json"
            try:
                data = self.find(name, 8 * MIB) if head is None else self.get(name, 8 * MIB)
                if data is None:
                    return
                payload, _ = self.good(name, data, "commit")
            except Refused:
                if head is not None or (self.root / f"commits/{number + 1}.dsse.json").exists():
                    raise
                self.known.discard(name)
                return
            shape = {"number": number, "previous": previous, "attempt": int, "time": TIME, "kind": tuple(BODIES)}
            about = ("vault.dsse.json", self.digest)
            commit = self.statement(name, payload, "commit", *about, {**shape, "body": dict})
            kind, body = commit["kind"], commit["body"]
            check(body, BODIES[kind], f"{name}#/predicate/body")
            rises = commit["attempt"] > attempt
            need(rises if kind == "takeover" else commit["attempt"] == attempt > 0, name, "not its attempt's turn")
            need(kind != "adopt" or body["through"] < number, name, "adopts what is not before it")
            attempt, previous = commit["attempt"], sha256(data)
            self.commits.append(previous)
            if kind == "takeover":
                self.takeovers[attempt] = body
                count = len(body["shares"]["components"]) if "shares" in body else 0
                need(count == self.components, name, "not as many commitments as its header asks for")
            for record in body.get("regions", ()):
                region = Region(number, attempt, record)
                need(region.name not in names, name, f"{region.name} stands in the chain already")
                self.check_record(name, region)
                self.regions.append(region)
                names.add(region.name)
            releases.append(len(body.get("releases", ())))
            for outcome in body.get("outcomes", ()):
                of = outcome["commit"]
                need(of < number and outcome["release"] < releases[of], name, "an outcome of no release")

    def check_record(self, name: str, region: Region) -> None:
        """What section 9 says of a slice, and section 10 of its record."""
        need(0 < region.length <= self.region_size and region.end < 2**64, name, f"length of {region.name}")
        need(region.start % 4096 == 0, name, f"offset of {region.name}")
        edges = [edge for gap in region.unreadable for edge in (gap.start, gap.stop)]
        ascending = all(a <= b for a, b in pairwise([region.start, *edges, region.end]))
        need(ascending, name, f"unreadable ranges of {region.name}")

    def read_manifest(self) -> bool:
        """Steps 2 to 4, 7 and 8; true if so far nothing is missing. The manifest comes before the chain, since commits
        beyond its head are foreign and need not be good (section 11)."""
        name = "manifest.dsse.json"
        data = self.find(name, MIB)
        if data is None:
            self.read_chain(None)
        else:
            payload, _ = self.good(name, data, "manifest")
            manifest = self.statement(name, payload, "manifest", re.compile("commits/.*"), DIGEST, MANIFEST)
            self.read_chain(manifest["head"]["commit"])
        ordered = sorted(self.regions, key=lambda region: region.start)
        for before, after in pairwise(ordered):
            need(before.end <= after.start, after.name, f"overlaps {before.name}")
        self.end = ordered[-1].end if ordered else 0
        self.count_keys()
        if data is None:
            need(not (self.root / "events/0.dsse.json").exists(), "events/0.dsse.json", "an event without a manifest")
            return False

        attempts = []
        for attempt, body in self.takeovers.items():
            lengths = [region.length for region in self.regions if region.attempt == attempt]
            counts = {"regions": len(lengths), "bytes": hex(sum(lengths))}
            attempts.append({"attempt": attempt, "boot_id": body["boot_id"], **counts})
        need(manifest["attempts"] == attempts, name, "attempts differ from the chain's")
        need(sum(region.length for region in ordered) == self.end, name, "its regions leave gaps")
        head = {"commit": len(self.commits) - 1, "sha256": self.commits[-1]}
        shape = {
            **MANIFEST,
            "head": head,
            "regions": len(ordered),
            "size": hex(self.end),
            "sealed": hex(sum(region.size for region in ordered)),
            "unreadable": hex(sum(len(gap) for region in ordered for gap in region.unreadable)),
        }
        about = (f"commits/{head['commit']}.dsse.json", head["sha256"])
        self.statement(name, payload, "manifest", *about, shape)

        plain = self.find("manifest.json", MIB)
        sidecar = self.find("manifest.json.sig", MIB) if self.stock else b""
        need(plain in (None, payload), "manifest.json", "differs from the manifest's payload")
        if sidecar is not None and self.stock:
            signatures = load(name, data, ENVELOPE)["signatures"]
            by = {self.blobs[entry["keyid"]] for entry in signatures if entry["keyid"] in self.blobs}
            verify_sshsig("manifest.json.sig", sidecar, payload, by)
        self.read_events(sha256(data))
        return plain is not None and sidecar is not None and not manifest["truncated"]

    def count_keys(self) -> None:
        """Sections 7 and 8: the key objects that count before any event."""
        for attempt in sorted({region.attempt for region in self.regions}):
            self.bags[attempt] = f"keybag/{attempt}.json", self.takeovers[attempt]["keybag"]
        for attempt in self.takeovers.keys() - self.bags.keys():
            # Nobody needs this keybag; it is foreign, should it not be the one that the takeover names.
            name = f"keybag/{attempt}.json"
            if sha256(self.find(name, MIB) or b"") != self.takeovers[attempt]["keybag"]:
                self.known.discard(name)
        for region in self.regions:
            self.keys[region.commit] = f"keys/{region.attempt}/{region.commit}.json", None
        self.recipients = {(entry["sha256"], entry["suite"]) for entry in self.header["recipients"]}

    def read_events(self, manifest: str) -> None:
        """Step 8."""
        previous, number = manifest, 0
        while (data := self.find(name := f"events/{number}.dsse.json", 8 * MIB)) is not None:
            kind, payload = self.good_event(name, data)
            event = {"number": number, "previous": previous, "time": TIME, "body": EVENTS[kind]}
            body = self.statement(name, payload, kind, "manifest.dsse.json", manifest, event)["body"]
            if kind == "shred":
                self.shred(name, number, body)
            elif kind == "rewrap":
                self.rewrap(name, number, body)
            elif kind == "grant":
                self.expand(name, body["regions"])
            self.events.append((kind, body))
            previous, number = sha256(data), number + 1
        later = (re.fullmatch(r"(0|[1-9][0-9]*)\.dsse\.json", path.name) for path in (self.root / "events").glob("*"))
        lost = any(found and int(found[1]) > number and self.is_event(f"events/{found[0]}") for found in later)
        need(not lost, f"events/{number}.dsse.json", "missing")

    def good_event(self, name: str, data: bytes) -> tuple[str, bytes]:
        """The type and payload of an event that is good for its type's role. The type is read before the signature is
        checked, as the header's host is."""
        payload = base64.b64decode(load(name, data, ENVELOPE)["payload"])
        shape = {"_type": str, "predicate": dict, "predicateType": str, "subject": list}
        stated = load(name, payload, shape)["predicateType"]
        kind = next((kind for kind in EVENTS if stated == f"urn:dumpvault:{kind}:v1"), "")
        need(kind, name, "an event of unknown type")
        return kind, self.good(name, data, kind, pinned=kind == "release")[0]

    def is_event(self, name: str) -> bool:
        """Whether an event of this vault stands here, beyond a number that is missing; what else may is foreign."""
        try:
            data = (self.root / name).read_bytes()
            need(len(data) <= 8 * MIB, name, "longer than 8 MiB")
            _, payload = self.good_event(name, data)
        except Refused:
            return False
        return bool(json.loads(payload)["predicate"].get("vault") == self.id)

    def expand(self, name: str, runs: list[dict[str, int]]) -> list[tuple[int, int]]:
        """The regions of runs, which ascend, none touching the next, and name regions of commits."""
        check(runs, RUNS, name)
        known, found = {region.id for region in self.regions}, []
        for run in runs:
            need(run["last"] - run["first"] in range(len(known)), name, "runs do not ascend, or are too long")
            found += [(run["attempt"], index) for index in range(run["first"], run["last"] + 1)]
        ascending = all((a["attempt"], a["last"] + 1) < (b["attempt"], b["first"]) for a, b in pairwise(runs))
        need(ascending and known >= set(found), name, "runs do not ascend, or name what no commit does")
        return found

    def shred(self, name: str, number: int, body: dict[str, Any]) -> None:
        everything = body["regions"] is None
        known = {region.id for region in self.regions}
        gone = known - self.shredded if everything else set(self.expand(name, body["regions"]))
        need(0 < len(body["reason"]) <= 4096 and body["reason"].strip(), name, "no reason")
        need(gone and not gone & self.shredded, name, "shreds nothing, or something twice")
        self.shredded |= gone
        if everything:
            need(not body["keys"], name, "keeps keys")
            self.superseded |= {held[0] for held in [*self.bags.values(), *self.keys.values()]}
            self.bags, self.keys = {}, {}
            return
        touched = sorted({region.commit for region in self.regions if region.id in gone})
        need([key["commit"] for key in body["keys"]] == touched, name, "not the commits that it touches")
        for key in body["keys"]:
            left = any(r.commit == key["commit"] and r.id not in self.shredded for r in self.regions)
            need(left == (key["sha256"] is not None), name, "keys where there are none, or none where there are")
            self.replace(name, number, key)

    def rewrap(self, name: str, number: int, body: dict[str, Any]) -> None:
        after = [(entry["sha256"], entry["suite"]) for entry in body["recipients"]]
        need(len({digest for digest, _ in after}) == len(after), name, "a recipient twice")
        need([bag["attempt"] for bag in body["keybags"]] == sorted(self.bags), name, "not the keybags that count")
        removed = {digest for digest, _ in self.recipients} - {digest for digest, _ in after}
        need(body["keys"] or not removed or not self.keys, name, "removes somebody without new vault keys")
        listed = [key["commit"] for key in body["keys"]]
        need(listed in ([], sorted(self.keys)), name, "not the keys objects that count")
        for bag in body["keybags"]:
            attempt, digest = bag["attempt"], bag["sha256"]
            self.superseded.add(self.bags[attempt][0])
            self.bags[attempt] = f"keybag/{attempt}.{number}-{digest[:16]}.json", digest
        for key in body["keys"]:
            need(key["sha256"] is not None, name, "drops keys")
            self.replace(name, number, key)
            self.rewrapped.add(key["commit"])
        self.recipients = set(after)

    def replace(self, name: str, number: int, key: dict[str, Any]) -> None:
        """Section 12.1: another keys object, or none, counts for a commit."""
        commit, attempt, digest = key["commit"], key["attempt"], key["sha256"]
        need(any((r.commit, r.attempt) == (commit, attempt) for r in self.regions), name, "not the commit's attempt")
        self.superseded.add(self.keys.pop(commit)[0])
        if digest is not None:
            self.keys[commit] = f"keys/{attempt}/{commit}.{number}-{digest[:16]}.json", digest

    def read_keybag(self, attempt: int) -> dict[str, bytes]:
        """Step 5: what is sealed to each recipient."""
        name, digest = self.bags[attempt]
        data = self.get(name, MIB)
        need(sha256(data) == digest, name, "not the one that its takeover, or the last rewrap, names")
        entries = [{"recipient": DIGEST, "suite": SUITE, "sealed": is_base64}, 1, 128]
        mode = "direct" if self.quorum is None else "shares"
        shape = {"format": 1, "vault": self.id, "attempt": attempt, "mode": mode, "entries": entries}
        bag = load(name, data, shape, canonical=True)["entries"]
        who = [(entry["recipient"], entry["suite"]) for entry in bag]
        need(all(a < b for (a, _), (b, _) in pairwise(who)), name, "not ordered by recipient")
        need(set(who) == self.recipients, name, "does not name exactly the recipients")
        return {entry["recipient"]: base64.b64decode(entry["sealed"]) for entry in bag}

    def read_keys(self, commit: int, regions: list[Region]) -> dict[str, bytes]:
        """Step 5: the wrapped key of each region of a commit that has one left, by the region's name."""
        attempt, (name, digest) = regions[0].attempt, self.keys[commit]
        keys = [{"region": int, "wrapped": is_base64}, len(regions), len(regions)]
        shape = {"format": 1, "vault": self.id, "attempt": attempt, "commit": commit, "keys": keys}
        data = self.get(name, 8 * MIB)
        need(digest in (None, sha256(data)), name, "not the one that its event names")
        listed = load(name, data, shape, canonical=True)["keys"]
        wrapped = {}
        for region, entry in zip(regions, listed, strict=True):
            key = wrapped[region.name] = base64.b64decode(entry["wrapped"])
            need(entry["region"] == region.record["index"], name, "does not name its commit's regions in their order")
            signed = commit in self.rewrapped or sha256(key) == region.record["key"]
            need(len(key) == 40 and signed, name, f"not the key of {region.name}")
        return wrapped

    def read_grant(self, data: bytes, private_key_file: bytes) -> tuple[dict[tuple[int, int], bytes], bool]:
        """Section 12.4: the data keys of its regions, by (attempt, index), and whether its record is there."""
        name, manifest = "grant", sha256(self.get("manifest.dsse.json", MIB))
        suite, private_key, me = read_private_key("private key", private_key_file)
        need(len(data) <= 8 * MIB, name, "longer than 8 MiB")
        payload, _ = self.good(name, data, "grant", pinned=False)
        about = ("grant-file", "manifest.dsse.json", manifest)
        grant = self.statement(name, payload, *about, {**GRANT, "header": self.digest})
        to, regions = grant["recipient"], self.expand(name, grant["regions"])
        need((to["sha256"], to["suite"]) == (me, suite), name, "not for this private key")
        record = ("grant", {"recipient": to, "regions": grant["regions"], "file": sha256(data)})
        recorded = grant["event"] < len(self.events)
        need(not recorded or self.events[grant["event"]] == record, name, "not the one that its event records")
        info = lines("dumpvault-grant@v1", suite, self.id, self.digest, manifest, me)
        keys = unseal(name, suite, private_key, base64.b64decode(grant["sealed"]), info)
        need(len(keys) == 32 * len(regions), name, "keys of the wrong length")
        return {region: keys[32 * i :][:32] for i, region in enumerate(regions)}, recorded

    def read_message(self, region: Region) -> bytes:
        """Step 6. Blocks are compared before decryption: a holder of the data key could forge chunks (section 14)."""
        data, message = self.get(region.name, region.size), region.message
        need(len(data) == region.size, region.name, "wrong size")
        blocks = [data[at : min(at + 262144, message)] for at in range(0, message, 262144)]
        need(sha256(data[message:]) == region.record["blocks"], region.name, "wrong block list")
        found = b"".join(hashlib.sha256(block).digest() for block in blocks)
        need(found == data[message:], region.name, "wrong block")
        return data[:message]


# --- Opening: section 14 ------------------------------------------------------------------------------------------


def recipient(suite: str, secret: bytes) -> tuple[Any, bytes]:
    """Section 4.1: a private key as HPKE takes it, and the bytes of its public key."""
    if suite == "x25519":
        x = x25519.X25519PrivateKey.from_private_bytes(secret)
        return x, x.public_key().public_bytes_raw()
    if suite == "p384":
        p = ec.derive_private_key(int.from_bytes(secret), ec.SECP384R1())
        return p, p.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    if suite == "mlkem1024":
        m = mlkem.MLKEM1024PrivateKey.from_seed_bytes(secret)
        return m, m.public_key().public_bytes_raw()
    if suite == "mlkem1024-p384":
        (m, m_public), (p, p_public) = recipient("mlkem1024", secret[:64]), recipient("p384", secret[64:])
        return hpke.MLKEM1024P384PrivateKey(m, p), m_public + p_public
    seed = hashlib.shake_256(secret).digest(96)
    m768, (x, x_public) = mlkem.MLKEM768PrivateKey.from_seed_bytes(seed[:64]), recipient("x25519", seed[64:])
    return hpke.MLKEM768X25519PrivateKey(m768, x), m768.public_key().public_bytes_raw() + x_public


def read_private_key(name: str, data: bytes) -> tuple[str, Any, str]:
    """keys.md: suite, private key and recipient digest; of the protections only `none`."""
    need(data.endswith(b"\n"), name, "does not end in a newline")
    fields = load(name, data[:-1], PRIVATE, canonical=True)
    suite, secret = fields["algorithm"], base64.b64decode(fields["secret"])
    need(len(secret) == SUITES[suite][0], name, "a secret of the wrong length")
    try:
        key, public = recipient(suite, secret)
    except ValueError as error:
        raise Refused(f"{name}: {error}") from None
    need(public == base64.b64decode(fields["public"]), name, "its public half is not that of its secret")
    return suite, key, sha256(public)


def lines(*fields: object) -> bytes:
    """The form of all contexts: each field ended by a newline."""
    return "".join(f"{field}\n" for field in fields).encode()


def decrypt(name: str, message: bytes, dek: bytes, context: bytes) -> bytes:
    """Section 9: one message of c2sp.org/chunked-encryption, Cobblestone-256."""
    salt, commitment, body = message[:24], message[24:56], message[56:]
    info = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0" + salt + context
    derived = HKDFExpand(hashes.SHA512(), 32 + 12 + 32, info).derive(dek)
    need(hmac.compare_digest(derived[44:], commitment), name, "the key commitment differs")
    need(len(body) % 16400 >= 16, name, "no message is of this length")  # the last chunk is shorter than the others
    aead, nonce = AESGCM(derived[:32]), int.from_bytes(derived[32:44])
    chunks = [body[at : at + 16400] for at in range(0, len(body), 16400)]
    try:
        return b"".join(aead.decrypt((nonce ^ k).to_bytes(12), chunk, None) for k, chunk in enumerate(chunks))
    except InvalidTag:
        raise Refused(f"{name}: a chunk is not authentic") from None


def frame_header(name: str, frame: bytes) -> tuple[int, int]:
    """RFC 8878 section 3.1.1.1: window and content size of a frame that has no dictionary id."""
    need(len(frame) > 5 and frame[:4] == b"\x28\xb5\x2f\xfd", name, "not a zstd frame")
    size, single, reserved, dictionary = frame[4] >> 6, frame[4] >> 5 & 1, frame[4] >> 3 & 1, frame[4] & 3
    width = (single, 2, 4, 8)[size]
    need(width and not reserved and not dictionary, name, "a frame with a dictionary id or without a content size")
    start = 5 if single else 6
    content = int.from_bytes(frame[start : start + width], "little") + (256 if width == 2 else 0)
    base = 1 << 10 + (frame[5] >> 3)
    return content if single else base + base // 8 * (frame[5] & 7), content


def decode(name: str, stream: bytes, length: int, frame_size: int) -> tuple[bytes, bytes]:
    """Section 9.1: frames, what stands between them and the seek table, and nothing else; a size is believed only once
    it was compared."""
    count = -(-length // frame_size)
    table = at = len(stream) - (8 * count + 17)
    need(at > 0, name, "too short for its seek table")
    start, end = struct.unpack_from("<II", stream, at), struct.unpack_from("<IBI", stream, len(stream) - 9)
    need(start == (0x184D2A5E, 8 * count + 9) and end == (count, 0, 0x8F92EAB1), name, "wrong seek table")
    entries = list(struct.iter_unpack("<II", stream[at + 8 : -9]))
    need(sum(packed for packed, _ in entries) <= at, name, "the seek table does not add up")
    plain, at = [], 0
    for i, (packed, unpacked) in enumerate(entries):
        size = min(frame_size, length - frame_size * i)
        need(unpacked == size and packed <= frame_size + 4096, name, f"wrong entry {i} in the seek table")
        frame, at = stream[at : at + packed], at + packed
        window, content = frame_header(name, frame)
        need(content == size and window <= frame_size, name, f"wrong content size or window of frame {i}")
        decoder = zstd.ZstdDecompressor()
        try:
            data = decoder.decompress(frame, size + 1)
        except zstd.ZstdError as error:
            raise Refused(f"{name}: frame {i}: {error}") from None
        need(decoder.eof and not decoder.unused_data and len(data) == size, name, f"wrong end of frame {i}")
        plain.append(data)
    return b"".join(plain), stream[at:table]


@dataclass(frozen=True)
class Index:
    """Section 9.3: what the index of a slice says; entries as (byte of the slice, target, length)."""

    state: int
    entries: list[tuple[int, int, int]]


def read_index(name: str, frame: bytes, start: int, data: bytes) -> Index:
    """Section 9.3: the index of the slice ``data`` at byte ``start`` of a flattened stream, held against the slice."""
    n, rest = divmod(len(frame) - 16, 12)
    need(0 <= n <= 65536 and not rest, name, "no index has this length")
    magic, size, state, first = struct.unpack_from("<IIII", frame)
    need((magic, size) == (0x184D2A5D, 8 + 12 * n) and state <= 3, name, "not an index")
    targets, lengths = struct.unpack_from(f"<{n}Q", frame, 16), struct.unpack_from(f"<{n}I", frame, 16 + 8 * n)
    entries, end = [], first
    for target, length in zip(targets, lengths, strict=True):
        need(length and target + length < 2**63, name, "an entry that no record has")
        at = end + 16 if entries else first
        entries.append((at, target, length))
        end = at + length
    behind = len(data) - end
    if not n:
        need(first == 0 and (state or len(data) <= (16 if start else 4112)), name, "an index that lacks entries")
    else:
        need(state < 3 and behind >= (16 if state else 0), name, "entries that end too late")
        need(state or behind <= 16, name, "an index that lacks entries")
        need(first <= 16 if start else first == 4112, name, "a wrong place for its first entry")
    if state < 3 and (n or not start):
        found, at = (entries[:1], first + lengths[0]) if first < 16 and n else ([], first - 16 if n else 4096)
        follows = 0
        while at + 16 <= len(data) and not follows:
            target, length = struct.unpack_from(">QQ", data, at)
            if length < 1 or target + length >= 2**63:
                follows = 1 if target == length == 2**64 - 1 else 2
                continue
            at += 16
            if at < len(data):
                found.append((at, target, min(length, len(data) - at)))
            at += length
        need((found, follows) == (entries, state), name, "an index that its bytes contradict")
    return Index(state, entries)


def reassemble(stream: bytes | bytearray, indexes: list[tuple[int, str, Index]]) -> bytes | None:
    """Section 9.3: the dump that a stream describes, from the indexes of adjacent slices; None if it is not whole."""
    dump, state, end, goes_on = bytearray(), 0, 4096, None
    for start, name, index in indexes:
        if index.state == 3:
            return None
        need(not state or (index.state == state and not index.entries), name, "records behind the last one")
        if index.entries and not state:
            at, target, _ = index.entries[0]
            continued = end == start and at == 0 and target == goes_on
            need(continued or end + 16 == start + at, name, "its records do not follow on those before")
        elif not state:
            need(end + 16 != start, name, "lacks the data of the record before")
        for at, target, length in index.entries:
            dump.extend(bytes(max(0, target + length - len(dump))))
            dump[target : target + length] = stream[start + at : start + at + length]
            end, goes_on = start + at + length, target + length
        state = index.state
    return bytes(dump) if state == 1 else None


def unseal(name: str, suite: str, key: Any, sealed: bytes, info: bytes) -> bytes:
    """Section 4.1: one HPKE message."""
    try:
        return hpke.Suite(*SUITES[suite][1:], hpke.AEAD.AES_256_GCM).decrypt(sealed, key, info=info)
    except (InvalidTag, ValueError) as error:
        raise Refused(f"{name}: cannot be opened: {error!r}") from None


def direct(reading: Vault, private_key_file: bytes) -> dict[int, bytes]:
    """Section 14, step 2: VK of each attempt that holds regions, by a recipient's key."""
    suite, private_key, me = read_private_key("private key", private_key_file)
    keys = {}
    for attempt, bag in reading.keybags.items():
        name = reading.bags[attempt][0]
        need(me in bag, name, "the private key is not a recipient's")
        info = lines("dumpvault-keybag@v1", suite, reading.id, attempt, reading.digest, me)
        keys[attempt] = unseal(name, suite, private_key, bag[me], info)
    return keys


def approved(reading: Vault, answered: Answered) -> dict[int, bytes]:
    """Section 14.1: the same by approvals. Its numbered conditions stand beside what checks them."""
    vault, header, moment = reading.id, reading.digest, answered.moment
    listed = {entry["sha256"]: entry["suite"] for entry in reading.header["recipients"]}
    onetime = dict(read_private_key(name, data)[:2] for name, data in answered.keys.items())
    payload, by = reading.good("request", answered.request, "request", pinned=False)  # 2
    request = reading.statement("request", payload, "request", "vault.dsse.json", header, REQUEST)
    need(request["requester"] in {fingerprint(blob) for blob in by}, "request", "not signed by its requester")
    made, void = (datetime.strptime(request[field], "%Y-%m-%dT%H:%M:%SZ") for field in ("time", "expires"))
    need(0 < (void - made).total_seconds() <= 31 * 86400, "request", "made for no time, or too long")
    need(moment < request["expires"], "request", "expired")  # 3
    suites = [entry["suite"] for entry in request["keys"]]
    need(suites == sorted(set(listed.values())), "request", "not one key for each suite")
    need(set(request["attempts"]) >= set(reading.keybags), "request", "not for all attempts that hold regions")  # 7

    digest, seen, used = sha256(answered.request), {}, {fingerprint(blob) for blob in by}  # 4
    for name, data in answered.approvals.items():
        payload, by = reading.good(name, data, "approval", pinned=False)  # 1
        shape = {**APPROVAL, "header": header, "requester": request["requester"]}  # 1, 4
        approval = reading.statement(name, payload, "approval", "request", digest, shape)  # 2
        custodian, expires = approval["custodian"], approval["expires"]
        need(approval["time"] < expires <= request["expires"] and moment < expires, name, "expired, or too long")  # 3
        need(custodian in listed and custodian not in seen, name, "by no custodian, or by one twice")  # 5
        need(not used & {fingerprint(blob) for blob in by}, name, "signed with a key that was used already")  # 4, 5
        used |= {fingerprint(blob) for blob in by}
        attempts = [share["attempt"] for share in approval["shares"]]
        need(attempts == request["attempts"], name, "not a share for each attempt")
        suite, seen[custodian] = listed[custodian], {}
        for share in approval["shares"]:
            info = (suite, vault, share["attempt"], header, digest, custodian, expires)
            message, bound = base64.b64decode(share["sealed"]), lines("dumpvault-approval@v1", *info)
            seen[custodian][share["attempt"]] = (name, unseal(name, suite, onetime[suite], message, bound))
    need(len(seen) >= reading.quorum, "approvals", "too few")  # 6

    keys, sets = {}, list(combinations(range(len(listed)), len(listed) - reading.quorum + 1))
    for attempt in reading.keybags:
        signed, components = reading.takeovers[attempt]["shares"], {}
        for custodian, shares in seen.items():  # 8
            name, share = shares[attempt]
            held = [number for number, members in enumerate(sets) if sorted(listed).index(custodian) in members]
            need(len(share) == 32 * len(held), name, "a share of the wrong length")
            for at, number in enumerate(held):
                component = components[number] = share[32 * at : 32 * at + 32]
                committed = sha256(lines("dumpvault-component@v1", vault, attempt, number) + component)
                need(committed == signed["components"][number], name, "a component that was not committed to")
        vk = bytes(32)
        for component in components.values():
            vk = bytes(a ^ b for a, b in zip(vk, component, strict=True))
        committed = sha256(lines("dumpvault-vault-key@v1", vault, attempt) + vk)
        need(committed == signed["vault_key"], reading.bags[attempt][0], "shares of another vault key")
        keys[attempt] = vk
    return keys


def unwrapped(reading: Vault, alive: list[Region], opened_with: bytes | Answered) -> dict[str, bytes]:
    """Steps 2 and 3 of section 14: the data keys of regions, by the regions' names."""
    for attempt in reading.bags:
        reading.keybags[attempt] = reading.read_keybag(attempt)
    under_dual_control = reading.quorum is not None
    need(isinstance(opened_with, Answered) == under_dual_control, "keybag/1.json", "opens with something else")
    vks = approved(reading, opened_with) if isinstance(opened_with, Answered) else direct(reading, opened_with)
    keks: dict[int, bytes] = {}
    for attempt, vk in vks.items():
        need(len(vk) == 32, reading.bags[attempt][0], "a vault key of the wrong length")
        keks[attempt] = HKDF(hashes.SHA512(), 32, b"", lines("dumpvault-kek@v1", reading.id, attempt)).derive(vk)
    found: dict[str, bytes] = {}
    for commit, regions in groupby(alive, lambda region: region.commit):
        for name, wrapped in reading.read_keys(commit, held := list(regions)).items():
            try:
                found[name] = keywrap.aes_key_unwrap(keks[held[0].attempt], wrapped)
            except keywrap.InvalidUnwrap:
                raise Refused(f"{name}: its key does not unwrap") from None
    return found


def read_vault(
    store: Path, vault: str, allowed_signers: str, opened_with: bytes | Answered, grant: bytes | None = None
) -> Opened:
    """Verify and open a vault with a private key file or by approvals, or what a grant gives that key, or refuse the
    first object that fails."""
    reading = Vault(store, vault, allowed_signers)
    reading.read_header()
    whole = reading.read_manifest()

    alive = [region for region in reading.regions if region.id not in reading.shredded]
    recorded = None
    if grant is not None:
        given, recorded = reading.read_grant(grant, opened_with)
        alive = [region for region in alive if region.id in given]
        deks = {region.name: given[region.id] for region in alive}
    else:
        deks = unwrapped(reading, alive, opened_with)

    data = bytearray(reading.end)
    indexes: list[tuple[int, str, Index]] = []
    for region in reading.regions:
        if region not in alive:
            if grant is None:
                reading.read_message(region)
            continue
        name, kind, codec = region.name, region.record["kind"], region.record["codec"]
        context = ("dumpvault-region@v1", vault, region.attempt, region.record["index"], kind, region.record["offset"])
        plain = decrypt(name, reading.read_message(region), deks[name], lines(*context, codec))
        if codec == "zstd":
            plain, behind = decode(name, plain, region.length, reading.frame_size)
        else:
            plain, behind = plain[: region.length], plain[region.length :]
        need(len(plain) == region.length, name, "does not open to the length of its region")
        if kind == "flattened":
            indexes.append((region.start, name, read_index(name, behind, region.start, plain)))
        else:
            need(not behind, name, "bytes that belong to nothing")
        data[region.start : region.end] = plain

    present = (path.relative_to(reading.root).as_posix() for path in reading.root.rglob("*") if not path.is_dir())
    indexes.sort(key=lambda item: item[0])
    dump = reassemble(data, indexes) if whole and len(indexes) == len(reading.regions) > 0 else None
    foreign = sorted(set(present) - reading.known - reading.superseded) if grant is None else []
    return Opened(bytes(data), dump, whole, len(reading.regions), foreign, len(reading.shredded), recorded)
