"""The trust directory and the private keys beside it: ``recipients/*.pub``, ``allowed_signers`` (keys/README.md)."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import suppress

from dumpvault.errors import BadInput, NoKey, StoreFailed
from dumpvault.formats import private_key
from dumpvault.formats.allowed_signers import AllowedSigners
from dumpvault.formats.private_key import LockedKey, PrivateKey
from dumpvault.formats.recipient import NAME, Recipient

__all__ = ["TrustDirectory", "read_text"]

_PUBLIC_LIMIT = 1 << 20


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
    """``public`` holds what may be shown to anyone, ``private`` the secret halves."""

    def __init__(self, public: str, private: str) -> None:
        self.public = public
        self.private = private

    @property
    def allowed_signers_path(self) -> str:
        return os.path.join(self.public, "allowed_signers")

    def allowed_signers(self, path: str | None = None) -> AllowedSigners:
        """The trust file of this home, or the one at ``path``. Raises ``BadInput``; ``NoKey`` if there is none."""
        where = path or self.allowed_signers_path
        if not path and not os.path.exists(where):
            raise NoKey(
                f"{where} does not exist, so no signature can be trusted",
                "Import the site's signers (dumpvault keys import), or name a file with --allowed-signers.",
            )
        return AllowedSigners(read_text(where, "an allowed_signers list"), where)

    def recipient(self, wanted: str) -> Recipient:
        """A recipient by name, or by the path of its file. Raises ``NoKey`` or ``BadInput``."""
        path = self._public_path(wanted)
        if "/" in wanted or not os.path.exists(path):
            if not os.path.exists(wanted):
                known = ", ".join(sorted(r.name for r in self.recipients())) or "none"
                raise NoKey(
                    f"no recipient {wanted!r} in {os.path.join(self.public, 'recipients')}",
                    f"Known: {known}. Make one with 'dumpvault keys new recipient NAME', or name a .pub file.",
                )
            path = wanted
        return Recipient.parse(read_text(path, "a recipient"), path)

    def recipients(self) -> Iterator[Recipient]:
        """All recipients of the directory."""
        directory = os.path.join(self.public, "recipients")
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

    def add_recipient(self, recipient: Recipient) -> str:
        """Write its public half; returns the path. Raises ``BadInput`` if the name is taken by another key."""
        path = self._public_path(recipient.name)
        self._write(path, recipient.line.encode(), 0o644)
        return path

    def add_signer(self, line: str, principal: str) -> str:
        """Append a line to ``allowed_signers``; a line that stands there already is left alone."""
        path = self.allowed_signers_path
        text = read_text(path, "an allowed_signers list") if os.path.exists(path) else ""
        if line in text.splitlines(keepends=True):
            return path
        if any(key.principal == principal for key in AllowedSigners(text, path).keys):
            raise BadInput(f"{path} lists a signer {principal!r} already", "Choose another name, or remove its line.")
        temporary = f"{path}.{secrets.token_hex(4)}.new"
        self._write_new(temporary, (text + ("" if text.endswith("\n") or not text else "\n") + line).encode(), 0o644)
        os.replace(temporary, path)
        _sync(os.path.dirname(path))
        return path

    def private_path(self, name: str) -> str:
        if not NAME.fullmatch(name):
            raise BadInput(
                f"{name!r} is no key name",
                "Letters, digits, '.', '_', '-' and '@', at most 64, not beginning with '.'.",
            )
        return os.path.join(self.private, f"{name}.key")

    def add_private(self, key: PrivateKey, passphrase: bytes | None) -> str:
        """Write a private half, mode 0600, locked if there is a passphrase; returns the path."""
        path = self.private_path(key.name)
        data = private_key.unprotected(key) if passphrase is None else private_key.lock(key, passphrase)
        self._write(path, data, 0o600)
        return path

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
        if not os.path.isdir(self.private):
            return []
        names = (name.removesuffix(".key") for name in os.listdir(self.private) if name.endswith(".key"))
        return sorted(name for name in names if NAME.fullmatch(name))

    def private_key(self, wanted: str) -> PrivateKey | LockedKey:
        """A private key by name or path. Raises ``NoKey`` or ``BadInput``."""
        path = wanted if "/" in wanted else self.private_path(wanted)
        if not os.path.exists(path):
            raise NoKey(
                f"no private key {wanted!r} in {self.private}",
                f"Held here: {', '.join(self.private_names()) or 'none'}.",
            )
        mode = os.stat(path).st_mode & 0o077
        if mode:
            raise NoKey(
                f"{path} can be read by others (mode {os.stat(path).st_mode & 0o777:04o}), so it is not used",
                f"If it has not leaked: chmod 600 {path}",
            )
        return private_key.parse(read_text(path, "a private key").encode(), path)

    def _public_path(self, name: str) -> str:
        return os.path.join(self.public, "recipients", f"{name}.pub")

    def _write(self, path: str, data: bytes, mode: int) -> None:
        """A new file, durable; the same bytes again are fine, other bytes are not."""
        if os.path.exists(path):
            with open(path, "rb") as file:
                if file.read() == data:
                    return
            raise BadInput(f"{path} exists with another key", "Nothing is overwritten. Choose another name.")
        self._write_new(path, data, mode)
        _sync(os.path.dirname(path))

    def _write_new(self, path: str, data: bytes, mode: int) -> None:
        try:
            os.makedirs(os.path.dirname(path), mode=0o700 if mode == 0o600 else 0o755, exist_ok=True)
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
            with os.fdopen(fd, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(fd)
        except OSError as error:
            raise StoreFailed(f"{path}: {error.strerror}", "No key was added.") from None


def _sync(directory: str) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
