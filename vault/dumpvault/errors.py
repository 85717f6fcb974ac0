"""The one tree of errors: each class has an exit code, each error says what is safe and what to do next."""

from __future__ import annotations

__all__ = [
    "BadInput",
    "Forged",
    "Incomplete",
    "Interrupted",
    "NoKey",
    "PolicyRefused",
    "ReleaseFailed",
    "StoreFailed",
    "Usage",
    "VaultError",
]


class VaultError(Exception):
    """Anything dumpvault refuses or fails to do.

    ``message`` names the object, with a byte offset where one helps. ``hint`` says what is safe and what to do next.
    """

    exit_code = 1
    kind = "failure"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message


class BadInput(VaultError):
    """A source or a file that the user named cannot be used."""

    kind = "bad input"


class Usage(VaultError):
    """The command line or the configuration asks for something that does not exist."""

    exit_code = 2
    kind = "usage"


class Incomplete(VaultError):
    """Objects are missing, or the source ended early. What is there is unharmed."""

    exit_code = 3
    kind = "incomplete"


class Forged(VaultError):
    """Bytes are not what a trusted signer vouched for."""

    exit_code = 10
    kind = "authentication failed"


class PolicyRefused(VaultError):
    """A policy forbids it."""

    exit_code = 11
    kind = "policy refused"


class NoKey(VaultError):
    """A key, passphrase or approval that is needed is not at hand."""

    exit_code = 12
    kind = "missing key"


class StoreFailed(VaultError):
    """A store could not read, or could not write durably."""

    exit_code = 13
    kind = "store failure"


class ReleaseFailed(VaultError):
    """Memory could not be handed back, or must not be."""

    exit_code = 14
    kind = "release failure"


class Interrupted(VaultError):
    """Stopped from outside (Ctrl-C or a signal)."""

    exit_code = 130
    kind = "interrupted"
