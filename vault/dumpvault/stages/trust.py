"""The trust directory and the private keys beside it: ``recipients/*.pub``, ``allowed_signers`` (keys/README.md).

A private key is looked for as a systemd credential first, then in the home's own directory (docs/spec/keys.md).
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import suppress
from typing import Literal

from dumpvault.errors import BadInput, NoKey, StoreFailed
from dumpvault.formats import private_key
from dumpvault.formats.allowed_signers import AllowedSigners, revoked_keyids
from dumpvault.formats.private_key import LockedKey, PrivateKey, TokenKey
from dumpvault.formats.recipient import NAME, Recipient

__all__ = ["Folder", "TrustDirectory", "check_secret_file", "read_text"]

#: Where a public encryption key stands: who opens vaults alone, and who holds a share under dual control.
Folder = Literal["recipients", "custodians"]

_PUBLIC_LIMIT = 1 << 20
_NO_NAME = "Letters, digits, '.', '_', '-' and '@', at most 64, not beginning with '.'."


def read_text(path: str, what: str) -> str:
    """A small text file; raises ``BadInput`` naming it."""
    try:
        with open(path, "rb") as file:
            data = file.read(_PUBLIC_LIMIT + 1)
        if len(data) > _PUBLIC_LIMIT:
            raise BadInput(f"{path}: too large for {what}", f"At most {_PUBLIC_LIMIT} bytes.")
        return data.decode()
    except UnicodeDecodeError:
        raise BadInput(f"{path} is not text, so it is not {what}", "Name another file.") from None
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}", f"It should hold {what}.") from None


class TrustDirectory:
    """``public`` holds what may be shown to anyone, ``private`` the secret halves.

    ``credentials`` is the directory of systemd's credentials, if this is a service that was given some.
    """

    def __init__(self, public: str, private: str, credentials: str | None = None) -> None:
        self.public = public
        self.private = private
        self.credentials = credentials

    @property
    def allowed_signers_path(self) -> str:
        return os.path.join(self.public, "allowed_signers")

    @property
    def revoked_keys_path(self) -> str:
        return os.path.join(self.public, "revoked_keys")

    @property
    def retired_path(self) -> str:
        """Recipients that nothing is sealed to any more."""
        return os.path.join(self.public, "retired")

    def allowed_signers(self, path: str | None = None) -> AllowedSigners:
        """The trust file of this home, or the one at ``path``, less what this home's ``revoked_keys`` lists.

        Raises ``BadInput``; ``NoKey`` if there is none.
        """
        where = path or self.allowed_signers_path
        if not path and not os.path.exists(where):
            raise NoKey(
                f"{where} does not exist, so no signature can be trusted",
                "Import the site's signers (dumpvault keys import), or name a file with --allowed-signers.",
            )
        trust = AllowedSigners(read_text(where, "an allowed_signers list"), where)
        trust.revoke(self.revoked())
        trust.authorities = self.authorities()
        return trust

    def authorities(self) -> list[bytes]:
        """The certificates of timestamp authorities, ``tsa/*.pem``. Raises ``BadInput`` for a file that cannot be read."""
        directory = os.path.join(self.public, "tsa")
        names = sorted(os.listdir(directory)) if os.path.isdir(directory) else []
        return [
            read_text(os.path.join(directory, name), "a certificate").encode()
            for name in names
            if name.endswith(".pem")
        ]

    def revoked(self) -> frozenset[str]:
        """The key ids of revoked signers. Raises ``BadInput`` if the list is there and cannot be read in full."""
        path = self.revoked_keys_path
        if not os.path.lexists(path):
            return frozenset()
        try:
            return revoked_keyids(read_text(path, "a list of revoked keys"), path)
        except ValueError as error:
            raise BadInput(str(error), "Nothing is trusted until it is corrected.") from None

    def recipient(self, wanted: str, folder: Folder = "recipients") -> Recipient:
        """A recipient, or custodian, by name, or by the path of its file. Raises ``NoKey`` or ``BadInput``."""
        path = self._public_path(wanted, folder)
        what = folder.removesuffix("s")
        if "/" in wanted or not os.path.exists(path):
            if not os.path.exists(wanted):
                known = ", ".join(sorted(r.name for r in self.recipients(folder))) or "none"
                raise NoKey(
                    f"no {what} {wanted!r} in {os.path.join(self.public, folder)}",
                    f"Known: {known}. Make one with 'dumpvault keys new {what} NAME', or name a .pub file.",
                )
            path = wanted
        found = Recipient.parse(read_text(path, "a recipient"), path)
        if any(retired.digest == found.digest for retired in self.retired()):
            raise NoKey(
                f"recipient {wanted} ({found.digest[:16]}…) is retired: it opens old vaults, and nothing is sealed to it",
                "Name its successor. 'dumpvault keys list' shows what there is.",
            )
        return found

    def recipients(self, folder: Folder = "recipients") -> Iterator[Recipient]:
        """All recipients, or custodians, of the directory that can be sealed to."""
        return self._all_in(os.path.join(self.public, folder))

    def retired(self) -> Iterator[Recipient]:
        """All recipients that were rotated or revoked."""
        return self._all_in(self.retired_path)

    def _all_in(self, directory: str) -> Iterator[Recipient]:
        if os.path.isdir(directory):
            for name in sorted(os.listdir(directory)):
                if name.endswith(".pub"):
                    path = os.path.join(directory, name)
                    # What is not asked for by name must not keep the rest from being used.
                    with suppress(BadInput):
                        yield Recipient.parse(read_text(path, "a recipient"), path)

    def known(self) -> dict[str, frozenset[str]]:
        """The names under which the directory holds public encryption keys, custodians' too, with their digests."""
        found: dict[str, frozenset[str]] = {}
        for folder in ("recipients", "custodians"):
            directory = os.path.join(self.public, folder)
            for name in sorted(os.listdir(directory)) if os.path.isdir(directory) else ():
                path = os.path.join(directory, name)
                if name.endswith(".pub"):
                    with suppress(BadInput):
                        key = Recipient.parse(read_text(path, "a recipient"), path)
                        found[key.name] = found.get(key.name, frozenset()) | {key.digest}
        return found

    def add_recipient(self, recipient: Recipient, folder: Folder = "recipients") -> str:
        """Write its public half; returns the path. Raises ``BadInput`` if the name is taken by another key."""
        path = self._public_path(recipient.name, folder)
        self._write(path, recipient.line.encode(), 0o644)
        return path

    def replace_recipient(self, recipient: Recipient, folder: Folder) -> None:
        """Put another public half in the place of its name's, whole or not at all."""
        self._replace(self._public_path(recipient.name, folder), recipient.line)

    def remove_recipient(self, name: str, folder: Folder) -> None:
        """Nothing is sealed to that name any more."""
        os.unlink(self._public_path(name, folder))
        _sync(os.path.join(self.public, folder))

    def retire(self, recipient: Recipient) -> None:
        """Keep a public half as one that nothing is sealed to any more."""
        self._write(os.path.join(self.retired_path, f"{recipient.name}.pub"), recipient.line.encode(), 0o644)

    def add_signer(self, line: str, principal: str) -> str:
        """Append a line to ``allowed_signers``; a line that stands there already is left alone."""
        path = self.allowed_signers_path
        text = read_text(path, "an allowed_signers list") if os.path.exists(path) else ""
        if line in text.splitlines(keepends=True):
            return path
        if any(key.principal == principal for key in AllowedSigners(text, path).keys):
            raise BadInput(f"{path} lists a signer {principal!r} already", "Choose another name, or remove its line.")
        self._replace(path, text + ("" if text.endswith("\n") or not text else "\n") + line)
        return path

    def write_signers(self, text: str) -> None:
        """Put a changed list in the place of ``allowed_signers``, whole or not at all."""
        self._replace(self.allowed_signers_path, text)

    def revoke(self, entry: str) -> None:
        """Append ``entry``, whole lines, to ``revoked_keys``."""
        path = self.revoked_keys_path
        text = read_text(path, "a list of revoked keys") if os.path.exists(path) else ""
        self._replace(path, text + ("" if text.endswith("\n") or not text else "\n") + entry)

    def private_path(self, name: str) -> str:
        if not NAME.fullmatch(name):
            raise BadInput(f"{name!r} is no key name", _NO_NAME)
        return os.path.join(self.private, f"{name}.key")

    def add_private(self, name: str, data: bytes) -> str:
        """Write a private half's file, mode 0600; returns the path."""
        path = self.private_path(name)
        self._write(path, data, 0o600)
        return path

    def replace_private(self, name: str, data: bytes) -> None:
        """Put another private half in the place of ``name``'s, whole or not at all."""
        self._replace(self.private_path(name), data.decode(), 0o600)

    def remove(self, path: str) -> None:
        """Take back a file that was just written."""
        os.unlink(path)

    def private_keys(self) -> list[PrivateKey | LockedKey]:
        """All private keys of the home that can be read; what cannot is left out."""
        found = []
        for name in self.private_names():
            with suppress(BadInput, NoKey):
                found.append(self.private_key(name))
        return found

    def private_names(self) -> list[str]:
        names = set()
        for directory in (self.credentials, self.private):
            if directory and os.path.isdir(directory):
                names |= {name.removesuffix(".key") for name in os.listdir(directory) if name.endswith(".key")}
        return sorted(name for name in names if NAME.fullmatch(name))

    def private_key(self, wanted: str) -> PrivateKey | LockedKey:
        """A private key by name or path. Raises ``NoKey`` or ``BadInput``."""
        credential = self.credential(f"{wanted}.key") if NAME.fullmatch(wanted) else None
        path = credential or (wanted if "/" in wanted else self.private_path(wanted))
        if not os.path.exists(path):
            raise NoKey(
                f"no private key {wanted!r} in {self.private}",
                f"Held here: {', '.join(self.private_names()) or 'none'}.",
            )
        facts = check_secret_file(path, credential=credential is not None)
        key = private_key.parse(read_text(path, "a private key").encode(), path)
        if isinstance(key, TokenKey) and facts.st_uid not in (0, os.geteuid()):
            raise NoKey(
                f"{path} belongs to another user, and names a module that would be run",
                "Copy it, look at its module-path, and name the copy.",
            )
        return key

    def credential(self, name: str) -> str | None:
        """The path of a systemd credential, if this service has it."""
        path = os.path.join(self.credentials, name) if self.credentials else None
        return path if path and os.path.lexists(path) else None

    def _public_path(self, name: str, folder: Folder) -> str:
        return os.path.join(self.public, folder, f"{name}.pub")

    def _write(self, path: str, data: bytes, mode: int) -> None:
        """A new file, durable; the same bytes again are fine, other bytes are not."""
        if os.path.exists(path):
            with open(path, "rb") as file:
                if file.read() == data:
                    return
            raise BadInput(f"{path} exists with another key", "Nothing is overwritten. Choose another name.")
        self._write_new(path, data, mode)
        _sync(os.path.dirname(path))

    def _replace(self, path: str, text: str, mode: int = 0o644) -> None:
        temporary = f"{path}.{secrets.token_hex(4)}.new"
        self._write_new(temporary, text.encode(), mode)
        try:
            os.replace(temporary, path)
        except OSError as error:
            os.unlink(temporary)
            raise StoreFailed(f"{path}: {error.strerror}", "It is as it was.") from None
        _sync(os.path.dirname(path))

    def _write_new(self, path: str, data: bytes, mode: int) -> None:
        try:
            os.makedirs(os.path.dirname(path), mode=0o700 if mode == 0o600 else 0o755, exist_ok=True)
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        except OSError as error:
            raise StoreFailed(f"{path}: {error.strerror}", "No key was added.") from None
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(fd)
        except OSError as error:
            os.unlink(path)
            raise StoreFailed(f"{path}: {error.strerror}", "No key was added.") from None


def check_secret_file(path: str, *, credential: bool = False) -> os.stat_result:
    """Raise ``NoKey`` if others may read it, ``BadInput`` if it is no file.

    A credential's group bits are the mask of an access list that systemd writes for the service's own user.
    """
    try:
        facts = os.stat(path)
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}", "It should hold a secret of yours.") from None
    if not stat.S_ISREG(facts.st_mode):
        raise BadInput(f"{path} is no regular file", "A secret is read from a file.")
    if facts.st_mode & (0o007 if credential else 0o077):
        raise NoKey(
            f"{path} can be read by others (mode {facts.st_mode & 0o777:04o}), so it is not used",
            f"If it has not leaked: chmod 600 {path}",
        )
    return facts


def _sync(directory: str) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
