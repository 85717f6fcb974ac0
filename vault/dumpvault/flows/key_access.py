"""From a private key that is not at hand to one that is: a passphrase, the session's keyring, a token and its PIN.

A passphrase or PIN is looked for in the file that was named, then among systemd's credentials (NAME.passphrase, NAME.pin),
then, for a PIN, in the file that the key's URI names (pin-source), and then asked for. None is looked for in the
environment or taken from an argument, which others can read.
"""

from __future__ import annotations

from collections.abc import Callable

from dumpvault.errors import BadInput, NoKey
from dumpvault.flows.site import Site
from dumpvault.formats.pkcs11_uri import Pkcs11Uri
from dumpvault.formats.private_key import KeyringKey, LockedKey, PassphraseKey, PrivateKey, TokenKey
from dumpvault.stages.trust import check_secret_file

__all__ = ["find_pin", "read_secret", "unlock_key"]

Ask = Callable[[str], bytes]


def unlock_key(site: Site, key: LockedKey, file: str | None, ask: Ask) -> PrivateKey:
    """``file`` is what the user named, ``ask`` prompts a person. Raises ``NoKey`` or ``BadInput``."""
    if isinstance(key, PassphraseKey):
        place = file or site.trust.credential(f"{key.name}.passphrase")
        return key.unlock(read_secret(place) if place else ask(f"Passphrase of {key.name}"))
    if isinstance(key, KeyringKey):
        from dumpvault.stages import os_keyring

        return key.unlock(os_keyring.fetch(key.account, key.name))
    assert isinstance(key, TokenKey)
    from dumpvault.stages import token

    pin = token.Pin(*find_pin(site, key.name, key.uri, file, ask))
    handle = token.find(key.uri, key.algorithm, pin)
    if handle.public != key.public:
        raise BadInput(
            f"{key.where}: the token's key is another one", "It was exchanged in the token, or the file was."
        )
    return PrivateKey(key.name, key.purpose, key.algorithm, handle)


def find_pin(site: Site, name: str, uri: Pkcs11Uri, file: str | None, ask: Ask) -> tuple[bytes, bool]:
    """The PIN for key ``name``, and whether a person typed it just now. Raises ``NoKey``."""
    place = file or site.trust.credential(f"{name}.pin")
    if not place and uri.pin_source:
        check_secret_file(uri.pin_source)
        place = uri.pin_source
    if place:
        return read_secret(place), False
    return ask(f"PIN of token {uri.token or uri.serial}"), True


def read_secret(path: str) -> bytes:
    """The first line of a file. Raises ``NoKey``."""
    try:
        with open(path, "rb") as file:
            line = file.readline(65536).rstrip(b"\r\n")
    except OSError as error:
        raise NoKey(f"{path}: {error.strerror}", "The passphrase is needed to go on.") from None
    if not line:
        raise NoKey(f"{path}: its first line is empty", "A passphrase must stand there.")
    return line
