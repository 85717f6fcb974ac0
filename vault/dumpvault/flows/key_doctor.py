"""Where the private halves of a home are, and whether they can be reached; whether the trust files are in order.

No PIN or passphrase is asked for or tried, and nothing is written.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime, timedelta

from dumpvault.errors import VaultError
from dumpvault.flows.crash_kernel import Check
from dumpvault.flows.site import Site
from dumpvault.formats.private_key import KeyringKey, LockedKey, PassphraseKey, PrivateKey, TokenKey

__all__ = ["examine", "exit_code"]

_SOON = timedelta(days=30)


def examine(site: Site, now: datetime) -> Iterator[Check]:
    """Every check; those that fail say what to do."""
    yield from _directory(site)
    names = site.trust.private_names()
    keys: list[PrivateKey | LockedKey] = []
    for name in names:
        try:
            key = site.trust.private_key(name)
            keys.append(key)
            yield Check(f"private half {name}", "ok", f"{key.purpose}, {_kept(key)}")
        except VaultError as error:
            yield _failed(f"private half {name}", error)
    if not names:
        yield Check("private halves", "not applicable", f"none in {site.trust.private}")
    yield from _credentials(site)
    yield from _keyring([key for key in keys if isinstance(key, KeyringKey)])
    for key in keys:
        if isinstance(key, TokenKey):
            yield from _token(key)
    yield from _signers(site, now)


def exit_code(checks: list[Check]) -> int:
    """0 if none failed; the code of those that did, or 1 where they differ."""
    codes = {check.exit_code for check in checks if check.state == "failed"}
    return 0 if not codes else codes.pop() if len(codes) == 1 else 1


def _kept(key: PrivateKey | LockedKey) -> str:
    match key:
        case PassphraseKey():
            return "locked by a passphrase (argon2id)"
        case KeyringKey():
            return "in the session's keyring"
        case TokenKey():
            return f"in token {key.uri.token or key.uri.serial}"
    return "unprotected: its file mode is all that protects it"


def _directory(site: Site) -> Iterator[Check]:
    path = site.trust.private
    if not os.path.isdir(path):
        return
    mode = os.stat(path).st_mode & 0o777
    if mode & 0o022:
        yield Check(
            "private directory", "failed", f"{path}: others may write there (mode {mode:04o})", f"chmod 700 {path}"
        )
    elif mode & 0o077:
        yield Check(
            "private directory", "warning", f"{path}: others may look there (mode {mode:04o})", f"chmod 700 {path}"
        )
    else:
        yield Check("private directory", "ok", f"{path}, mode {mode:04o}")


def _credentials(site: Site) -> Iterator[Check]:
    path = site.trust.credentials
    if not path:
        return
    if not os.path.isdir(path):
        yield Check(
            "credentials", "failed", f"$CREDENTIALS_DIRECTORY is {path}, which is no directory", "Unset it.", 12
        )
        return
    used = sorted(name for name in os.listdir(path) if name.endswith((".key", ".passphrase", ".pin")))
    yield Check("credentials", "ok", f"{path}: {', '.join(used) or 'nothing that is used'}")


def _keyring(keys: list[KeyringKey]) -> Iterator[Check]:
    from dumpvault.stages import os_keyring

    try:
        yield Check("keyring", "ok", f"{os_keyring.name_of(os_keyring.allowed_backend())}")
    except VaultError as error:
        if keys:
            yield _failed("keyring", error)
        else:
            yield Check("keyring", "not applicable", f"no key is kept in one; {error.message}")
        return
    for key in keys:
        try:
            key.unlock(os_keyring.fetch(key.account, key.name))
            yield Check(f"keyring entry of {key.name}", "ok", "it is there, and the right one")
        except VaultError as error:
            yield _failed(f"keyring entry of {key.name}", error)


def _token(key: TokenKey) -> Iterator[Check]:
    from dumpvault.stages import token

    try:
        yield Check(f"token of {key.name}", "ok", token.describe(key.uri))
    except VaultError as error:
        yield _failed(f"token of {key.name}", error)


def _signers(site: Site, now: datetime) -> Iterator[Check]:
    if not os.path.exists(site.trust.allowed_signers_path):
        yield Check("allowed_signers", "warning", f"there is none in {site.trust.public}", "Nothing can be verified.")
        return
    try:
        trust = site.trust.allowed_signers()
    except VaultError as error:
        yield _failed("allowed_signers", error)
        return
    for problem in trust.problems:
        yield Check("allowed_signers", "warning", problem, "Correct the line.")
    revoked = sum(entry.revoked for entry in trust.keys)
    yield Check("allowed_signers", "ok", f"{len(trust.keys)} signers, {revoked} of them revoked")
    for entry in trust.keys:
        if entry.valid_before and not entry.revoked and now <= entry.valid_before < now + _SOON:
            found = f"{entry.principal} is valid only before {entry.valid_before:%Y-%m-%d}"
            yield Check("validity", "warning", found, f"dumpvault keys rotate {entry.principal}")


def _failed(name: str, error: VaultError) -> Check:
    return Check(name, "failed", error.message, error.hint, error.exit_code)
