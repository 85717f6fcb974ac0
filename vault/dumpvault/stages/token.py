"""Keys that never leave a PKCS#11 token (OASIS PKCS #11 v2.40): made there, found there, used there.

One wrong PIN is one wrong PIN: nothing here tries twice, and what is known to lock the token is not tried at all.
"""

from __future__ import annotations

import hashlib
import os
import threading
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

from dumpvault.errors import BadInput, NoKey, StoreFailed, VaultError
from dumpvault.formats.pkcs11_uri import Pkcs11Uri
from dumpvault.model import TokenHandle

__all__ = ["ALGORITHMS", "Pin", "describe", "find", "generate"]

#: What a token can hold, by purpose.
ALGORITHMS = {"recipient": ("p384",), "signer": ("ed25519", "p384")}
#: The order of P-384's group (SP 800-186).
_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973

#: CKA_EC_PARAMS of Ed25519: the OID of RFC 8410, or PKCS #11 v3.0's name as a PrintableString.
_ED25519 = (bytes.fromhex("06032b6570"), b"\x13\x0cedwards25519")


@dataclass(frozen=True, slots=True)
class Pin:
    """``attended``: a person has just typed it; else it came from a file, and would come again."""

    value: bytes
    attended: bool

    def __repr__(self) -> str:
        return "Pin(…)"


def describe(uri: Pkcs11Uri) -> str:
    """For ``doctor``: the token, found without a PIN. Raises ``NoKey`` where it is not there or must not be tried."""
    token = _token(uri)
    _check_pin_state(token, uri, attended=True)
    return f"token {token.label} ({token.manufacturer_id.strip()}, serial {_text(token.serial)})"


def generate(uri: Pkcs11Uri, purpose: Literal["recipient", "signer"], algorithm: str, pin: Pin) -> TokenHandle:
    """Make a key pair in the token, sensitive and not extractable. Raises ``BadInput`` if the URI's key exists."""
    pkcs11 = _binding()
    session = _login(uri, pin, write=True)
    with _errors(uri):
        if _objects(session, uri, pkcs11.ObjectClass.PRIVATE_KEY):
            raise BadInput(
                f"{uri}: the token holds such a key already",
                "Nothing was changed. Use it with --existing, or name another object.",
            )
        kind, parameters, mechanism = _curve(pkcs11, algorithm)
        domain = session.create_domain_parameters(kind, {pkcs11.Attribute.EC_PARAMS: parameters}, local=True)
        flags = pkcs11.MechanismFlag
        use, public = (flags.DERIVE, flags.DERIVE) if purpose == "recipient" else (flags.SIGN, flags.VERIFY)
        domain.generate_keypair(
            mechanism=mechanism, store=True, label=uri.object or None, id=uri.id or os.urandom(8),
            capabilities=use | public,
            private_template={pkcs11.Attribute.SENSITIVE: True, pkcs11.Attribute.EXTRACTABLE: False},
        )  # fmt: skip
    return find(uri, algorithm, pin)


def find(uri: Pkcs11Uri, algorithm: str, pin: Pin) -> TokenHandle:
    """A handle on the URI's key. Raises ``NoKey`` if it is not there, ``BadInput`` if it is of another kind."""
    pkcs11 = _binding()
    session = _login(uri, pin, write=False)
    with _errors(uri):
        private = _one(_objects(session, uri, pkcs11.ObjectClass.PRIVATE_KEY), uri, "private key")
        kind, parameters, _ = _curve(pkcs11, algorithm)
        shown_curve = bytes(private[pkcs11.Attribute.EC_PARAMS])
        if private.key_type != kind or (shown_curve != parameters and {shown_curve, parameters} != set(_ED25519)):
            raise BadInput(f"{uri}: the token's key is not of the kind {algorithm}", "Name another object.")
        if private[pkcs11.Attribute.EXTRACTABLE] or not private[pkcs11.Attribute.SENSITIVE]:
            raise BadInput(
                f"{uri}: the token would give this key away (CKA_EXTRACTABLE, or not CKA_SENSITIVE)",
                "Make one that stays: 'dumpvault keys new … --token URI' without --existing.",
            )
        shown = _one(_objects(session, uri, pkcs11.ObjectClass.PUBLIC_KEY), uri, "public key")
        public = _octets(bytes(shown[pkcs11.Attribute.EC_POINT]), 32 if algorithm == "ed25519" else 97, uri)
    return _Handle(private, public, algorithm, uri)


class _Handle:
    """``model.TokenHandle``. A token's session is not for two threads at once."""

    def __init__(self, private: Any, public: bytes, algorithm: str, uri: Pkcs11Uri) -> None:
        self._private = private
        self._public = public
        self._algorithm = algorithm
        self._uri = uri
        self._lock = threading.Lock()

    @property
    def public(self) -> bytes:
        return self._public

    def ecdh(self, point: bytes) -> bytes:
        pkcs11 = _binding()
        with self._lock, _errors(self._uri):
            derived = self._private.derive_key(
                pkcs11.KeyType.GENERIC_SECRET, 384, mechanism=pkcs11.Mechanism.ECDH1_DERIVE,
                mechanism_param=(pkcs11.KDF.NULL, None, point),
                template={pkcs11.Attribute.SENSITIVE: False, pkcs11.Attribute.EXTRACTABLE: True},
            )  # fmt: skip
            shared = bytes(derived[pkcs11.Attribute.VALUE])
            derived.destroy()
        if len(shared) != 48:
            raise VaultError(f"{self._uri}: the token derived {len(shared)} bytes, not 48", "It cannot be used so.")
        return shared

    def sign(self, data: bytes) -> bytes:
        pkcs11 = _binding()
        with self._lock, _errors(self._uri):
            if self._algorithm == "ed25519":
                return bytes(self._private.sign(data, mechanism=pkcs11.Mechanism.EDDSA))
            signature = bytes(self._private.sign(hashlib.sha384(data).digest(), mechanism=pkcs11.Mechanism.ECDSA))
        # (r, s) and (r, n - s) both verify; the one with the lower s is the one spelling.
        s = int.from_bytes(signature[48:])
        return signature[:48] + min(s, _ORDER - s).to_bytes(48)


# --- sessions ---------------------------------------------------------------------------------------------------------

#: By module, serial and whether it may write.
_sessions: dict[tuple[str, bytes, bool], Any] = {}


def _login(uri: Pkcs11Uri, pin: Pin, *, write: bool) -> Any:
    token = _token(uri)
    place = (uri.module, token.serial, write)
    if place in _sessions:
        return _sessions[place]
    text: str | None = None
    if (uri.module, token.serial, not write) not in _sessions:  # one login serves all sessions of a process
        _check_pin_state(token, uri, attended=pin.attended)
        try:
            text = pin.value.decode()
        except UnicodeDecodeError:
            raise NoKey(f"token {token.label}: the PIN is not UTF-8", "It was not tried.") from None
    with _errors(uri):
        _sessions[place] = token.open(user_pin=text, rw=write)
    return _sessions[place]


def _check_pin_state(token: Any, uri: Pkcs11Uri, *, attended: bool) -> None:
    """Raise ``NoKey`` where another wrong PIN would lock the token, or could come again and again from a file."""
    flags = _binding().TokenFlag
    if token.flags & flags.USER_PIN_LOCKED:
        raise NoKey(f"token {token.label}: its PIN is locked", "Its security officer can set a new one.")
    if token.flags & flags.USER_PIN_FINAL_TRY:
        raise NoKey(
            f"token {token.label}: one more wrong PIN would lock it, so none was tried",
            "Enter the right one once with the token's own program.",
        )
    if token.flags & flags.USER_PIN_COUNT_LOW and not attended:
        raise NoKey(
            f"token {token.label}: a wrong PIN was entered before, so the one in the file was not tried",
            "A program that is run again would lock the token. Enter the right PIN once by hand: "
            f"pkcs11-tool --module {uri.module} --token-label '{token.label}' --login --list-objects",
        )


def _token(uri: Pkcs11Uri) -> Any:
    pkcs11 = _binding()
    if not os.path.isfile(uri.module):
        raise NoKey(f"{uri.module}: no such PKCS#11 module", "Install the token's module, or correct module-path.")
    try:
        tokens = [
            token
            for slot in pkcs11.lib(uri.module).get_slots(token_present=True)
            if (token := slot.get_token()).flags & pkcs11.TokenFlag.TOKEN_INITIALIZED
            and (not uri.token or token.label == uri.token)
            and (not uri.serial or _text(token.serial) == uri.serial)
        ]
    except (pkcs11.PKCS11Error, RuntimeError, OSError) as error:
        raise NoKey(f"{uri.module}: {_told(error)}", "Is it a PKCS#11 module, and its reader at work?") from None
    wanted = " ".join(filter(None, (uri.token, uri.serial and f"serial {uri.serial}")))
    if not tokens:
        raise NoKey(f"no token {wanted} in {uri.module}", "Insert it, or correct the key's PKCS#11 URI.")
    if len(tokens) > 1:
        raise NoKey(f"{len(tokens)} tokens {wanted} in {uri.module}", "Name one by its serial.")
    return tokens[0]


def _objects(session: Any, uri: Pkcs11Uri, kind: object) -> list[Any]:
    attribute = _binding().Attribute
    wanted = {attribute.CLASS: kind}
    if uri.object:
        wanted[attribute.LABEL] = uri.object
    if uri.id:
        wanted[attribute.ID] = uri.id
    return list(session.get_objects(wanted))


def _one(found: list[Any], uri: Pkcs11Uri, what: str) -> Any:
    if not found:
        raise NoKey(f"{uri}: no such {what} in the token", "Was it deleted there, or is this another token?")
    if len(found) > 1:
        raise NoKey(f"{uri}: {len(found)} {what}s in the token fit", "Name one by its id.")
    return found[0]


def _curve(pkcs11: ModuleType, algorithm: str) -> tuple[Any, bytes, Any]:
    """Key type, CKA_EC_PARAMS and the mechanism that makes such keys."""
    from pkcs11.util import ec

    if algorithm == "ed25519":
        return pkcs11.KeyType.EC_EDWARDS, _ED25519[0], pkcs11.Mechanism.EC_EDWARDS_KEY_PAIR_GEN
    named: bytes = ec.encode_named_curve_parameters("secp384r1")
    return pkcs11.KeyType.EC, named, pkcs11.Mechanism.EC_KEY_PAIR_GEN


def _octets(value: bytes, length: int, uri: Pkcs11Uri) -> bytes:
    """CKA_EC_POINT: a DER OCTET STRING, which some tokens leave out."""
    if value[:2] == bytes((4, length)) and len(value) == length + 2:
        return value[2:]
    if len(value) != length:
        raise BadInput(f"{uri}: the token shows a public key of {len(value)} bytes", "It is of another kind.")
    return value


# --- the binding and its errors ---------------------------------------------------------------------------------------


def _binding() -> ModuleType:
    try:
        import pkcs11
    except ImportError:
        raise NoKey("tokens need the package python-pkcs11", "pip install 'dumpvault[pkcs11]'") from None
    return pkcs11


class _errors:  # noqa: N801 - a context manager, used as a word
    """What a token says, as what a person can act on."""

    def __init__(self, uri: Pkcs11Uri) -> None:
        self._uri = uri

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> Literal[False]:
        pkcs11 = _binding()
        if not isinstance(error, pkcs11.PKCS11Error):
            return False
        where = f"token {self._uri.token or self._uri.serial}"
        if isinstance(error, (pkcs11.PinIncorrect, pkcs11.PinInvalid, pkcs11.PinLenRange)):
            raise NoKey(
                f"{where}: wrong PIN", "It was tried once and is not tried again; a few more would lock the token."
            ) from None
        if isinstance(error, (pkcs11.PinLocked, pkcs11.PinExpired, pkcs11.UserPinNotInitialized)):
            raise NoKey(f"{where}: {_told(error)}", "Its security officer can set a new PIN.") from None
        if isinstance(error, (pkcs11.TokenWriteProtected, pkcs11.SessionReadOnly, pkcs11.DeviceMemory)):
            raise StoreFailed(f"{where}: {_told(error)}", "No key was made.") from None
        raise NoKey(
            f"{where}: {_told(error)}", "The token refused; 'dumpvault keys doctor' says what is there."
        ) from None


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _text(serial: bytes | str) -> str:
    return (serial if isinstance(serial, str) else serial.decode(errors="replace")).strip(" \0")
