"""The one-time keys of a home's own requests: mode 0600, each used once, gone afterwards (spec, section 14.1).

``<request's digest>/`` holds the request as it was sent, and ``<suite>.key``, private key files as in docs/spec/keys.md.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress

from dumpvault.errors import NoKey, StoreFailed
from dumpvault.formats import private_key
from dumpvault.formats.private_key import PrivateKey

__all__ = ["OneTimeKeys"]

_REQUEST = "request.dsse.json"


class OneTimeKeys:
    """The requests below ``directory``, by their digests."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def add(self, digest: str, request: bytes, keys: Sequence[PrivateKey]) -> None:
        """Keep a request and its private keys, all of it or nothing. Raises ``StoreFailed``."""
        new = os.path.join(self._directory, f".{secrets.token_hex(8)}.new")
        try:
            os.makedirs(new, mode=0o700)
            _write(os.path.join(new, _REQUEST), request)
            for key in keys:
                _write(os.path.join(new, f"{key.algorithm}.key"), private_key.unprotected(key))
            _sync(new)
            os.rename(new, os.path.join(self._directory, digest))
            _sync(self._directory)
        except OSError as error:
            shutil.rmtree(new, ignore_errors=True)
            raise StoreFailed(f"{self._directory}: {error.strerror}", "No request was made.") from None

    def request(self, digest: str) -> bytes | None:
        """The request of ``digest``, or None if this home never made it, or it is used or expired."""
        try:
            with open(os.path.join(self._directory, digest, _REQUEST), "rb") as file:
                return file.read()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise NoKey(
                f"{self._directory}: {error.strerror}", "The request that was approved is kept there."
            ) from None

    def digests(self) -> Iterator[str]:
        """The digests of all requests."""
        with suppress(FileNotFoundError):
            yield from (name for name in sorted(os.listdir(self._directory)) if not name.startswith("."))

    def key(self, digest: str, suite: str) -> PrivateKey | None:
        """The private half for ``suite``, or None if there is none. Raises ``BadInput``."""
        path = os.path.join(self._directory, digest, f"{suite}.key")
        try:
            with open(path, "rb") as file:
                found = private_key.parse(file.read(), path)
        except FileNotFoundError:
            return None
        return found if isinstance(found, PrivateKey) else None

    def use_up(self, digest: str) -> bool:
        """Delete a request and its keys; False if somebody else has done that. Of several callers one gets True."""
        used = os.path.join(self._directory, f".{secrets.token_hex(8)}.used")
        try:
            os.rename(os.path.join(self._directory, digest), used)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise StoreFailed(
                f"{self._directory}: {error.strerror}", "The one-time keys could not be deleted, so they are not used."
            ) from None
        shutil.rmtree(used)
        _sync(self._directory)
        return True


def _write(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(fd)


def _sync(directory: str) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
