"""``/etc/dumpvault/crash.conf``: what a crash kernel seals with, as assignments that shell scripts read."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from dumpvault.errors import BadInput

__all__ = ["CrashConf"]

_TEXT = """\
# What the crash kernel seals with; read by shell scripts. Written by 'dumpvault integrate': run that again to change it,
# then build the crash initramfs anew, for it holds a copy of this file and of the keys that are named here.
DUMPVAULT={command}
CAPTURE_OPTIONS="{options}"
STORE={store}
# What must be mounted to reach the store, such as UUID=...; empty if the root file system holds it.
STORE_DEVICE={device}
"""
# Nothing that a shell could take for anything but itself.
_PLAIN = re.compile(r"[A-Za-z0-9@%+=:,./_-]+")


@dataclass(frozen=True, slots=True)
class CrashConf:
    """``command`` and ``store`` are paths as the system after the crash sees them; ``store_device`` may be empty."""

    command: str
    host: str
    signers: tuple[str, ...]
    policy: str
    recipients: tuple[str, ...]
    store: str
    store_device: str
    #: Under dual control, ``KofN:NAME,…`` in the place of recipients; else empty.
    quorum: str = ""

    def __post_init__(self) -> None:
        words = {
            "command": self.command, "host name": self.host, "policy": self.policy,
            "store": self.store, "device": self.store_device or "-", "quorum": self.quorum or "-",
            **{f"signer {name}": name for name in self.signers},
            **{f"recipient {r}": r for r in self.recipients},
        }  # fmt: skip
        for what, word in words.items():
            if not _PLAIN.fullmatch(word):
                raise BadInput(f"{what} {word!r} cannot stand in a script", "Letters, digits and @%+=:,./_- only.")

    @property
    def options(self) -> str:
        """Of ``dumpvault capture``, all but the store."""
        signers = [f"--signer {name}" for name in self.signers]
        parties = [f"--quorum {self.quorum}"] if self.quorum else [f"--recipient {r}" for r in self.recipients]
        return " ".join([*signers, f"--host {self.host} --policy {self.policy}", *parties])

    @property
    def text(self) -> str:
        return _TEXT.format(command=self.command, options=self.options, store=self.store, device=self.store_device)

    @classmethod
    def parse(cls, text: str, name: str) -> CrashConf:
        """Raises ``BadInput`` naming the file."""
        try:
            words = dict(word.split("=", 1) for word in shlex.split(text, comments=True) if "=" in word)
            options = words["CAPTURE_OPTIONS"].split()
            pairs = list(zip(options[::2], options[1::2], strict=True))
            single = dict(pairs)
            if "--signer" not in single:
                raise KeyError("--signer")
            return cls(
                command=words["DUMPVAULT"],
                host=single["--host"],
                signers=tuple(value for option, value in pairs if option == "--signer"),
                policy=single["--policy"],
                recipients=tuple(value for option, value in pairs if option == "--recipient"),
                store=words["STORE"],
                store_device=words["STORE_DEVICE"],
                quorum=single.get("--quorum", ""),
            )
        except (ValueError, KeyError) as error:
            raise BadInput(f"{name}: cannot be read: {error}", "Integrate again, with --replace.") from None
