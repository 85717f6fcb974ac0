"""PKCS#11 URIs (RFC 7512): which token, which key in it, and through which module it is reached."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote_to_bytes

from dumpvault.errors import BadInput

__all__ = ["Pkcs11Uri"]

_PATH = ("token", "serial", "manufacturer", "model", "object", "id", "type")
_QUERY = ("module-path", "pin-source")
_EXAMPLE = "Like this: 'pkcs11:token=site;object=vault?module-path=/usr/lib/softhsm/libsofthsm2.so'"
_ATTRIBUTE = re.compile(r"([a-z-]+)=([A-Za-z0-9\-._~:\[\]@!$'()*+,=/%]*)")


@dataclass(frozen=True, slots=True)
class Pkcs11Uri:
    """``id`` is bytes, the rest text; what the URI does not say is empty. ``pin_source`` is a path."""

    token: str
    serial: str
    object: str
    id: bytes
    module: str
    pin_source: str = ""

    @classmethod
    def parse(cls, text: str, where: str) -> Pkcs11Uri:
        """Read a URI; ``where`` names what holds it. Raises ``BadInput``, which never repeats a PIN."""
        if "pin-value" in text:
            raise BadInput(
                f"{where}: a PIN does not belong into a PKCS#11 URI, which others can read",
                "Leave pin-value out; name a file of mode 0600 with pin-source, or enter the PIN when asked.",
            )
        found: dict[str, bytes] = {}
        if not text.startswith("pkcs11:"):
            raise BadInput(f"{where}: {text!r} is no PKCS#11 URI", _EXAMPLE)
        path, _, query = text.removeprefix("pkcs11:").partition("?")
        for part, known in ((path.split(";"), _PATH), (query.split("&") if query else [], _QUERY)):
            for attribute in part:
                match = _ATTRIBUTE.fullmatch(attribute)
                if match is None or match[1] not in known or match[1] in found:
                    raise BadInput(
                        f"{where}: {attribute!r} stands twice or is not read in a PKCS#11 URI",
                        f"Known: {', '.join((*_PATH, *_QUERY))}. {_EXAMPLE}",
                    )
                found[match[1]] = unquote_to_bytes(match[2])
        try:
            words = {name: value.decode() for name, value in found.items() if name != "id"}
        except UnicodeDecodeError:
            raise BadInput(f"{where}: the PKCS#11 URI is not UTF-8", _EXAMPLE) from None
        uri = cls(
            words.get("token", ""), words.get("serial", ""), words.get("object", ""), found.get("id", b""),
            words.get("module-path", ""), words.get("pin-source", "").removeprefix("file://").removeprefix("file:"),
        )  # fmt: skip
        if not (uri.token or uri.serial) or not (uri.object or uri.id) or not uri.module.startswith("/"):
            raise BadInput(
                f"{where}: the PKCS#11 URI must name a token (token or serial), a key in it (object or id) and the module "
                "(module-path, absolute)",
                _EXAMPLE,
            )
        if words.get("type", "private") != "private":
            raise BadInput(f"{where}: the PKCS#11 URI names a {words['type']}, not a private key", _EXAMPLE)
        return uri

    def __str__(self) -> str:
        path = {"token": self.token, "serial": self.serial, "object": self.object}
        parts = [f"{name}={quote(value, safe='')}" for name, value in path.items() if value]
        if self.id:
            parts.append("id=" + "".join(f"%{byte:02X}" for byte in self.id))
        query = [f"module-path={quote(self.module)}"]
        if self.pin_source:
            query.append(f"pin-source=file:{quote(self.pin_source)}")
        return f"pkcs11:{';'.join(parts)}?{'&'.join(query)}"
