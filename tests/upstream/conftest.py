"""What the tests of asking share: certificates that servers present."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Callable

import pytest

Certificate = Callable[..., tuple[ssl.SSLContext, str]]


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """Makes self-signed server certificates: a TLS context to serve with, and the PEM file to trust."""

    def make(name: str = "IP:127.0.0.1", *dates: str) -> tuple[ssl.SSLContext, str]:
        folder = tmp_path_factory.mktemp("tls")
        key, pem = folder / "key.pem", folder / "cert.pem"
        run = [
            "openssl",
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-subj",
            "/CN=test",
        ]
        subprocess.run([*run, "-keyout", key, "-out", folder / "request.pem"], check=True, capture_output=True)
        (folder / "san").write_text(f"subjectAltName={name}\nbasicConstraints=CA:TRUE\n")
        sign = ["openssl", "x509", "-req", "-in", folder / "request.pem", "-signkey", key, "-extfile", folder / "san"]
        subprocess.run([*sign, *(dates or ("-days", "2")), "-out", pem], check=True, capture_output=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem, key)
        return context, str(pem)

    return make
