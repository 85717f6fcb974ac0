"""A timestamp authority: a certificate authority made by openssl, and ``openssl ts -reply`` behind a small HTTP server."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_CONFIG = """\
[tsa]
serial = {folder}/serial
crypto_device = builtin
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256, sha384, sha512
accuracy = secs:1
ordering = no
tsa_name = no
ess_cert_id_chain = no
[eku]
extendedKeyUsage = critical,timeStamping
[middle]
basicConstraints = critical,CA:TRUE
"""


def _openssl(folder: Path, *words: object) -> None:
    subprocess.run(["openssl", *map(str, words)], cwd=folder, check=True, capture_output=True)


class Authority:
    """``middle`` has an intermediate, sent along in OpenSSL's order."""

    def __init__(self, folder: Path, middle: bool = False) -> None:
        folder.mkdir()
        self.folder, self.middle = folder, middle
        self.root = folder / "root.pem"
        (folder / "serial").write_text("01\n")
        (folder / "cnf").write_text(_CONFIG.format(folder=folder))
        new = ("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        _openssl(folder, *new, "-x509", "-days", 9, "-subj", "/CN=root", "-keyout", "root.key", "-out", "root.pem")
        above = "root"
        if middle:
            self._issue(new, "mid", "root", "middle")
            above = "mid"
        self._issue(new, "tsa", above, "eku")

    def _issue(self, new: tuple[str, ...], name: str, by: str, extension: str) -> None:
        _openssl(self.folder, *new, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        _openssl(
            self.folder, "x509", "-req", "-in", f"{name}.csr", "-CA", f"{by}.pem", "-CAkey", f"{by}.key", "-days", 8,
            "-CAcreateserial", "-extfile", "cnf", "-extensions", extension, "-out", f"{name}.pem",
        )  # fmt: skip

    def reply(self, query: bytes) -> bytes:
        (self.folder / "query").write_bytes(query)
        chain = ("-chain", "mid.pem") if self.middle else ()
        _openssl(
            self.folder, "ts", "-reply", "-config", "cnf", "-section", "tsa", "-queryfile", "query", "-signer", "tsa.pem",
            "-inkey", "tsa.key", *chain, "-out", "reply",
        )  # fmt: skip
        return (self.folder / "reply").read_bytes()


@contextmanager
def serve(
    reply: Callable[[bytes], bytes], status: int = 200, kind: str = "application/timestamp-reply"
) -> Iterator[str]:
    """The URL of a server on this machine that answers by ``reply``."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = reply(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Location", "http://127.0.0.1:9/")
            self.end_headers()
            with suppress(OSError):
                self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/tsr"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
