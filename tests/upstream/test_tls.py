"""Certificates are checked, whoever presents them, and no environment variable changes that."""

from __future__ import annotations

import asyncio
import shutil
import ssl
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
from faults_server import KEY, ROUTE, FaultServer, channel_at, good, limits, response

from poller.core.model import Secret
from poller.errors import AskFailed, AskReason, Misconfigured
from poller.upstream.client import Client

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="the openssl command makes the certificates")

Certificate = Callable[..., tuple[ssl.SSLContext, str]]


async def ask(url: str, ca_file: str | None = None, timeout_s: float = 10.0) -> AskFailed | None:
    client = Client(channel_at(url), limits(ca_file=ca_file, task_timeout_s=timeout_s))
    with anyio.fail_after(30):
        try:
            await client.ask(channel_at(url), ROUTE, ["t1"])
        except AskFailed as failed:
            return failed
        finally:
            await client.aclose()
    return None


async def test_authority_named_in_the_settings_is_trusted(certificate: Certificate) -> None:
    context, pem = certificate()
    async with FaultServer(good, context) as server:
        assert await ask(server.url, pem) is None
        assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"


async def test_self_signed_certificate_is_refused_before_the_key_is_sent(
    certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, pem = certificate()
    monkeypatch.setenv("SSL_CERT_FILE", pem)
    async with FaultServer(good, context) as server:
        failed = await ask(server.url)
        assert server.requests == []
    assert failed is not None
    assert (failed.reason, failed.detail) == (AskReason.TLS, "certificate not trusted")


async def test_certificate_for_another_host_is_refused(certificate: Certificate) -> None:
    context, pem = certificate("DNS:other.test")
    async with FaultServer(good, context) as server:
        failed = await ask(server.url, pem)
        assert server.requests == []
    assert failed is not None
    assert failed.reason is AskReason.TLS


async def test_expired_certificate_is_refused(certificate: Certificate) -> None:
    context, pem = certificate("IP:127.0.0.1", "-days", "-1")
    async with FaultServer(good, context) as server:
        failed = await ask(server.url, pem)
    assert failed is not None
    assert failed.reason is AskReason.TLS


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
async def test_old_tls_is_refused(certificate: Certificate) -> None:
    context, pem = certificate()
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    async with FaultServer(good, context) as server:
        failed = await ask(server.url, pem)
    assert failed is not None
    assert failed.reason in (AskReason.TLS, AskReason.CONNECT)


async def test_server_that_speaks_no_tls_is_a_failure() -> None:
    async def speaks_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(response(b"", "400 Bad Request"))
        writer.close()

    server = await asyncio.start_server(speaks_http, "127.0.0.1", 0)
    async with server:
        failed = await ask(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    assert failed is not None
    assert failed.reason in (AskReason.TLS, AskReason.CONNECT)


async def test_stalled_handshake_ends_with_the_deadline() -> None:
    async with FaultServer(good) as server:  # waits for the end of a request that a ClientHello never has
        failed = await ask(server.url.replace("http:", "https:"), timeout_s=0.3)
    assert failed is not None
    assert failed.reason is AskReason.TIMEOUT


async def test_session_keys_are_written_nowhere(
    certificate: Certificate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    context, pem = certificate()
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    async with FaultServer(good, context) as server:
        assert await ask(server.url, pem) is None
    assert not (tmp_path / "keys").exists()


async def test_tunnel_through_a_proxy_is_checked_and_closed_to_it(certificate: Certificate) -> None:
    context, pem = certificate("DNS:up.test")
    async with FaultServer(good, context) as server:

        async def tunnels(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            seen.append(await reader.readuntil(b"\r\n\r\n"))
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            async with anyio.create_task_group() as both:
                both.start_soon(pump, reader, inner_writer)
                both.start_soon(pump, inner_reader, writer)

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                seen.append(data)
                sink.write(data)
            sink.close()

        seen: list[bytes] = []
        proxy = await asyncio.start_server(tunnels, "127.0.0.1", 0)
        async with proxy:
            address = Secret(f"http://user:pw@127.0.0.1:{proxy.sockets[0].getsockname()[1]}")
            channel = channel_at("https://up.test", proxy=address)
            client = Client(channel, limits(ca_file=pem))
            with anyio.fail_after(30):
                await client.ask(channel, ROUTE, ["t1"])
                await client.aclose()
        (request,) = server.requests
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert "proxy-authorization" not in request.headers
    assert seen[0].startswith(b"CONNECT up.test:443 HTTP/1.1")
    assert KEY.encode() not in b"".join(seen)


@pytest.mark.parametrize("content", [None, "not a certificate"])
def test_authority_file_that_is_none_is_a_configuration_fault(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    with pytest.raises(Misconfigured, match="CUSTOM_PASS_CA_FILE"):
        Client(channel_at("https://up.test"), limits(ca_file=str(file)))
