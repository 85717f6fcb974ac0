"""Ed25519 signers and SSHSIG, held against the real ssh-keygen (spec, sections 4.3 and 5.3)."""

from __future__ import annotations

import base64
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from dumpvault.formats.sshkey import Signer, sshsig, verify_sshsig
from kit import KEY, OTHER

NAMESPACE = "dumpvault-manifest@v1"
MESSAGE = b'{"_type":"https://in-toto.io/Statement/v1"}'
ARMORED = sshsig(KEY, NAMESPACE, MESSAGE)


@pytest.fixture(scope="module")
def keygen() -> str:
    tool = shutil.which("ssh-keygen")
    if not tool:
        pytest.skip("NOT TESTED: no ssh-keygen here")
    return tool


def run(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(arguments, input=stdin, capture_output=True, check=False)


def verify(keygen: str, folder: Path, signer: Signer, namespace: str, message: bytes) -> int:
    (folder / "allowed").write_text(f'alice namespaces="{namespace}" {signer.line}\n')
    (folder / "sig").write_bytes(ARMORED)
    return run(
        keygen, "-Y", "verify", "-f", str(folder / "allowed"), "-I", "alice", "-n", namespace,
        "-s", str(folder / "sig"), stdin=message,
    ).returncode  # fmt: skip


def test_ssh_keygen_accepts_our_signature(keygen: str, tmp_path: Path) -> None:
    """Stock ssh-keygen -Y verify accepts what sshsig writes, and refuses it for other bytes, keys and namespaces."""
    assert verify(keygen, tmp_path, KEY.signer, NAMESPACE, MESSAGE) == 0
    assert verify(keygen, tmp_path, KEY.signer, NAMESPACE, MESSAGE + b"\n") != 0
    assert verify(keygen, tmp_path, OTHER.signer, NAMESPACE, MESSAGE) != 0
    assert verify(keygen, tmp_path, KEY.signer, "file", MESSAGE) != 0


@pytest.mark.parametrize("message", [b"", MESSAGE, bytes(range(256)) * 300], ids=len)
def test_we_accept_the_signature_of_ssh_keygen(keygen: str, tmp_path: Path, message: bytes) -> None:
    """What stock ssh-keygen -Y sign writes verifies here, and gives the signer that made it."""
    key = tmp_path / "key"
    assert run(keygen, "-q", "-t", "ed25519", "-N", "", "-C", "a comment", "-f", str(key)).returncode == 0
    (tmp_path / "m").write_bytes(message)
    assert run(keygen, "-Y", "sign", "-f", str(key), "-n", NAMESPACE, str(tmp_path / "m")).returncode == 0
    signer = verify_sshsig((tmp_path / "m.sig").read_bytes(), NAMESPACE, message)
    assert signer == Signer.from_line((tmp_path / "key.pub").read_text())
    with pytest.raises(ValueError, match="does not verify"):
        verify_sshsig((tmp_path / "m.sig").read_bytes(), NAMESPACE, message + b"x")


def test_the_key_id_is_openssh_s_fingerprint(keygen: str, tmp_path: Path) -> None:
    """ssh-keygen -l prints the same fingerprint for the line that we write."""
    (tmp_path / "key.pub").write_text(KEY.signer.line + "\n")
    printed = run(keygen, "-l", "-f", str(tmp_path / "key.pub")).stdout.decode().split()
    assert printed[1] == KEY.signer.keyid
    assert "=" not in KEY.signer.keyid


@pytest.mark.parametrize("options", [("-Ohashalg=sha256",), ("-t", "rsa"), ("-t", "ecdsa")], ids=str)
def test_other_algorithms_are_refused(keygen: str, tmp_path: Path, options: tuple[str, ...]) -> None:
    """An SSHSIG with SHA-256, or by an RSA or ECDSA key, is no signature of this format."""
    key, kind = tmp_path / "key", options if options[0] == "-t" else ("-t", "ed25519")
    assert run(keygen, "-q", *kind, "-N", "", "-f", str(key)).returncode == 0
    (tmp_path / "m").write_bytes(MESSAGE)
    extra = options if options[0] != "-t" else ()
    assert run(keygen, "-Y", "sign", *extra, "-f", str(key), "-n", NAMESPACE, str(tmp_path / "m")).returncode == 0
    with pytest.raises(ValueError, match=r"sha512|ssh-ed25519"):
        verify_sshsig((tmp_path / "m.sig").read_bytes(), NAMESPACE, MESSAGE)


def test_the_signature_names_its_signer() -> None:
    """verify_sshsig returns the key that made the signature."""
    assert verify_sshsig(ARMORED, NAMESPACE, MESSAGE) == KEY.signer
    assert sshsig(KEY, NAMESPACE, MESSAGE) == ARMORED


@pytest.mark.parametrize("namespace", ["", "file", "dumpvault-manifest@v2", "dumpvault-header@v1", NAMESPACE + "\0"])
def test_another_namespace_is_refused(namespace: str) -> None:
    """A signature counts in the namespace it was made in, and in no other."""
    with pytest.raises(ValueError, match="not made in the namespace"):
        verify_sshsig(ARMORED, namespace, MESSAGE)


def test_a_flipped_bit_anywhere_is_refused() -> None:
    """Any one bit of the armored signature changed, armor lines included, is refused with ValueError."""
    for at in range(len(ARMORED)):
        for bit in range(8):
            changed = bytearray(ARMORED)
            changed[at] ^= 1 << bit
            with pytest.raises(ValueError):
                verify_sshsig(bytes(changed), NAMESPACE, MESSAGE)


def test_a_flipped_bit_of_the_blob_is_refused() -> None:
    """The same inside the armor: every bit of the decoded blob counts."""
    blob = base64.b64decode(b"".join(ARMORED.splitlines()[1:-1]))
    for at in range(len(blob)):
        for bit in range(8):
            changed = bytearray(blob)
            changed[at] ^= 1 << bit
            with pytest.raises(ValueError):
                verify_sshsig(armor(bytes(changed)), NAMESPACE, MESSAGE)


def armor(blob: bytes, width: int = 70) -> bytes:
    text = base64.b64encode(blob).decode()
    lines = [text[i : i + width] for i in range(0, len(text), width)]
    return "\n".join(["-----BEGIN SSH SIGNATURE-----", *lines, "-----END SSH SIGNATURE-----", ""]).encode()


BLOB = base64.b64decode(b"".join(ARMORED.splitlines()[1:-1]))


@pytest.mark.parametrize("armored", [
    armor(BLOB, 76), armor(BLOB, 64), armor(BLOB, 1 << 20), ARMORED[:-1], ARMORED + b"\n", b"\n" + ARMORED,
    ARMORED.replace(b"\n", b"\r\n"), ARMORED.replace(b"\n", b"\n\n", 2), b" " + ARMORED, ARMORED + ARMORED, b"",
    ARMORED.replace(b"SSH SIGNATURE", b"PGP SIGNATURE"), armor(BLOB + b"\0"), armor(BLOB[:-1]), armor(b""),
    armor(BLOB + struct.pack(">I", 0)), ARMORED.decode().replace("A", "А").encode(),
], ids=range(17))  # fmt: skip
def test_only_the_canonical_armor_is_accepted(armored: bytes) -> None:
    """Other line widths, line ends, white space, trailing bytes and cut-off blobs are refused."""
    with pytest.raises(ValueError):
        verify_sshsig(armored, NAMESPACE, MESSAGE)


def test_the_armor_helper_is_the_canonical_one() -> None:
    """What the tests above rearrange is what sshsig writes."""
    assert armor(BLOB) == ARMORED


def test_a_public_key_line_is_read_back() -> None:
    """A signer's line, with or without a comment, is read as the same key with the same key id."""
    for text in (KEY.signer.line, KEY.signer.line + " alice@host", KEY.signer.line + "\n"):
        signer = Signer.from_line(text)
        assert (signer, signer.keyid, hash(signer)) == (KEY.signer, KEY.signer.keyid, hash(KEY.signer))
    assert Signer.from_line(OTHER.signer.line) != KEY.signer


def blob_line(*parts: bytes, kind: str = "ssh-ed25519", tail: bytes = b"") -> str:
    blob = b"".join(struct.pack(">I", len(p)) + p for p in parts) + tail
    return f"{kind} {base64.b64encode(blob).decode()}"


@pytest.mark.parametrize("line", [
    "", "ssh-ed25519", "ssh-rsa AAAA", "ssh-ed25519 !!!!", "ssh-ed25519 AAAA", "ssh-ed25519 AAA",
    blob_line(b"ssh-ed25519", bytes(31)), blob_line(b"ssh-ed25519", bytes(33)), blob_line(b"ssh-rsa", bytes(32)),
    blob_line(b"ssh-ed25519"), blob_line(b"ssh-ed25519", bytes(32), b""), blob_line(b"ssh-ed25519", bytes(32), tail=b"\0"),
    blob_line(b"ssh-ed25519", bytes(32), kind="ssh-rsa"), blob_line(b"ssh-ed25519", tail=b"\xff\xff\xff\xff"),
])  # fmt: skip
def test_other_public_key_lines_are_refused(line: str) -> None:
    """Other key types, lengths that lie, trailing bytes and bad base64 are refused with ValueError."""
    with pytest.raises(ValueError):
        Signer.from_line(line)


@pytest.mark.parametrize("length", [0, 63, 65, 128])
def test_signatures_of_another_length_do_not_verify(length: int) -> None:
    """A signature that is not 64 bytes is false, not an error."""
    assert KEY.signer.verifies(KEY.sign(b"x"), b"x")
    assert not KEY.signer.verifies((KEY.sign(b"x") * 2)[:length], b"x")
