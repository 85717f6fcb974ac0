"""A recipient's public half: one line of text (spec, section 4.1)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dumpvault.errors import BadInput
from dumpvault.formats import jcs
from dumpvault.formats.kem import SUITES, KemSuite, recipient_digest

__all__ = ["NAME", "Recipient"]

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@-]{0,63}")


@dataclass(frozen=True, slots=True)
class Recipient:
    """A public encryption key with the name its site gives it."""

    name: str
    suite: KemSuite
    public: bytes

    @property
    def digest(self) -> str:
        return recipient_digest(self.public)

    @property
    def line(self) -> str:
        return f"dumpvault-{self.suite.name} {jcs.b64encode(self.public)} {self.name}\n"

    @classmethod
    def parse(cls, text: str, where: str) -> Recipient:
        """Read a public key file; ``where`` names it. Raises ``BadInput`` saying what stands there instead."""
        hint = "A recipient is one line, 'dumpvault-<suite> <base64> <name>', as 'dumpvault keys export' prints it."
        if "dumpvault-private@v1" in text:
            raise BadInput(
                f"{where} is a private key, not a recipient", "Export its public half; keep this one secret."
            )
        words = text.split()
        if len(words) != 3 or len(text.strip().splitlines()) != 1 or not words[0].startswith("dumpvault-"):
            what = "an SSH signing key" if words[:1] and words[0].startswith("ssh-") else "not a recipient key"
            raise BadInput(f"{where} is {what}", hint)
        suite = SUITES.get(words[0].removeprefix("dumpvault-"))
        if suite is None:
            raise BadInput(f"{where}: unknown kind of recipient {words[0]!r}", f"Known: {', '.join(SUITES)}.")
        if not NAME.fullmatch(words[2]):
            raise BadInput(f"{where}: {words[2]!r} is no name", hint)
        try:
            public = jcs.b64decode(words[1])
            suite.check_public(public)
        except ValueError as error:
            raise BadInput(f"{where}: the {suite.name} key is damaged: {error}", "Fetch it again.") from None
        return cls(words[2], suite, public)
