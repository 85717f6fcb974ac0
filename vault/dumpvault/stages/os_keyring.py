"""The keyring of the user's session, through ``keyring``, with none but backends that are known to keep secrets secret.

``keyring`` takes whatever backend is installed: one that stores in the clear comes with packages such as keyrings.alt,
and from then on stands in the chain of backends that is the default.
"""

from __future__ import annotations

import importlib
from typing import Any

from dumpvault.errors import NoKey, StoreFailed

__all__ = ["ALLOWED", "allowed_backend", "delete", "fetch", "keep", "name_of"]

#: Module and class. Each keeps secrets encrypted under the session's own unlocking, in a process other than this one.
ALLOWED = (
    ("keyring.backends.SecretService", "Keyring"),
    ("keyring.backends.libsecret", "Keyring"),
    ("keyring.backends.kwallet", "DBusKeyring"),
    ("keyring.backends.kwallet", "DBusKeyringKWallet4"),
)
_CHAIN = ("keyring.backends.chainer", "ChainerBackend")
_SERVICE = "dumpvault"
_ELSE = "Or keep the key in a file: --passphrase-file, or a passphrase that is asked for."


def allowed_backend() -> Any:
    """The backend that ``keyring`` would use, if it is allowed, and its every part too. Raises ``NoKey`` naming it."""
    try:
        import keyring

        backend: Any = keyring.get_keyring()
        parts = backend.backends if _is(backend, _CHAIN) else [backend]
    except Exception as error:  # noqa: BLE001 - a backend that the user configured may raise anything
        raise NoKey(f"the keyring cannot be used: {error}", f"'dumpvault keys doctor' says more. {_ELSE}") from None
    refused = [name_of(part) for part in parts if not any(_is(part, wanted) for wanted in ALLOWED)]
    if refused or not parts:
        of = f", part of {name_of(backend)}," if _is(backend, _CHAIN) else ""
        raise NoKey(
            f"the keyring backend {', '.join(refused) or 'of an empty chain'}{of} is not one that dumpvault trusts with a key",
            "Choose one that it does: PYTHON_KEYRING_BACKEND=keyring.backends.SecretService.Keyring, or kwallet's. "
            + _ELSE,
        )
    return backend


def name_of(backend: object) -> str:
    """The class, as it is named in keyring's configuration."""
    return f"{type(backend).__module__}.{type(backend).__qualname__}"


def keep(account: str, secret: str) -> None:
    """Store and read back. Raises ``NoKey``, or ``StoreFailed`` if it is not kept."""
    backend = allowed_backend()
    _call(backend, "set_password", account, secret)
    if _call(backend, "get_password", account) != secret:
        raise StoreFailed(f"{name_of(backend)} did not keep the key", "No key was made.")


def fetch(account: str, name: str) -> str:
    """What is stored for the key ``name``. Raises ``NoKey``."""
    backend = allowed_backend()
    found = _call(backend, "get_password", account)
    if found is None:
        raise NoKey(
            f"{name}: {name_of(backend)} has no entry {account!r} of service {_SERVICE!r}",
            "It is in the keyring of another user or machine, or was deleted there.",
        )
    return str(found)


def delete(account: str) -> None:
    """Take back what was just stored. Raises ``NoKey``."""
    _call(allowed_backend(), "delete_password", account)


def _call(backend: Any, what: str, *arguments: str) -> Any:
    from keyring.errors import KeyringLocked

    try:
        return getattr(backend, what)(_SERVICE, *arguments)
    except KeyringLocked:
        raise NoKey(f"{name_of(backend)} is locked", "Unlock it in your session, and try again.") from None
    except Exception as error:  # noqa: BLE001 - D-Bus and each backend raise errors of their own
        told = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise NoKey(f"{name_of(backend)} could not be used: {told}", f"Is it unlocked? {_ELSE}") from None


def _is(backend: object, wanted: tuple[str, str]) -> bool:
    """By identity of the class itself: a name can be borrowed, and a subclass may store where it likes."""
    module, name = wanted
    if type(backend).__module__ != module:
        return False
    return type(backend) is getattr(importlib.import_module(module), name, None)
