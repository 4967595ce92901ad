"""How connections come about: aiohttp's pool, and what it lacks.

With a SOCKS proxy on the way the connection is made to the proxy, guarded like any other, and the proxy is told the
name of the upstream and resolves it, ``socks5`` as well as ``socks5h``: so do gateways. Everything above that, TLS
included, is as without one.
"""

from __future__ import annotations

import asyncio
import functools
import socket
from typing import Any, Final, cast

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler
from python_socks import ProxyError, ProxyType
from python_socks.async_.asyncio import Proxy as SocksProxy

from poller.upstream.dial import GuardedResolver, ProxyRefused, dial, guarded_socket
from poller.upstream.target import Proxy

_HEAD_BYTES: Final = 16 * 1024
_ANSWERS_AT_ONCE: Final = 8
"""There is one answer to a request, with a preliminary one before it perhaps, or a few."""


class Connector(aiohttp.TCPConnector):
    """A pool that does not reuse a connection on which something came that nobody asked for, and drops a given up one.

    What came would be taken for the answer to the next request, and all later answers would be off by one. aiohttp
    looks when a connection is given back, but not when it is taken out again.
    """

    def __init__(self, *, resolver: AbstractResolver | None = None, **options: Any) -> None:
        super().__init__(resolver=resolver or GuardedResolver(), socket_factory=guarded_socket, **options)
        self._factory = cast(Any, functools.partial(_Protocol, loop=self._loop))

    async def _get(self, *args: Any, **more: Any) -> Any:
        while (connection := await super()._get(*args, **more)) is not None:
            protocol = connection.protocol
            if protocol is None or not protocol.should_close:
                break
            connection.close()
        return connection

    def _release(self, key: Any, protocol: Any, *, should_close: bool = False) -> None:
        transport = protocol.transport
        if should_close and transport is not None and transport.get_write_buffer_size():
            # Closing it would wait, for ever perhaps, for upstream to read the rest of the request.
            transport.abort()
        super()._release(key, protocol, should_close=should_close)


class _Protocol(ResponseHandler):
    """Gives up on an upstream that sends preliminary answers (1xx) without end.

    They are read as they come, thousands in one turn of the event loop, and every other lane waits for it.
    """

    def data_received(self, data: bytes) -> None:
        if self._payload is not None or len(data) <= _HEAD_BYTES:
            super().data_received(data)
            return
        for start in range(0, len(data), _HEAD_BYTES):
            super().data_received(data[start : start + _HEAD_BYTES])
            if len(self._buffer) > _ANSWERS_AT_ONCE and self.transport is not None:
                self.transport.abort()
                self.set_exception(aiohttp.ClientPayloadError("too many answers"))
                return


class SocksConnector(Connector):
    """A pool of connections that are all made through one SOCKS5 proxy."""

    def __init__(self, proxy: Proxy, **options: Any) -> None:
        super().__init__(resolver=_Unresolved(), **options)
        host, port = proxy.address()
        user, password = proxy.user, proxy.password
        self._proxy = SocksProxy(
            ProxyType.SOCKS5,
            host,
            port,
            username=user.reveal() if user else None,
            password=password.reveal() if password else None,
            rdns=True,
            forward=_Dialler(),
        )

    async def _wrap_create_connection(
        self, *args: Any, addr_infos: list[Any], req: Any, timeout: aiohttp.ClientTimeout, **more: Any
    ) -> Any:
        host, port, *_ = addr_infos[0][4]
        async with asyncio.timeout(timeout.sock_connect):
            try:
                sock = await self._proxy.connect(host, port)
            except TimeoutError:
                raise
            except OSError as error:
                raise aiohttp.ClientProxyConnectionError(req.connection_key, error) from error
            except (ProxyError, ValueError) as error:
                # A ValueError is what garbage in its answer comes to.
                raise ProxyRefused("proxy refused") from error
            return await self._wrap_existing_connection(*args, req=req, timeout=timeout, sock=sock, **more)


class _Unresolved(AbstractResolver):
    """Leaves names to the proxy."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [ResolveResult(hostname=host, host=host, port=port, family=family, proto=0, flags=0)]

    async def close(self) -> None:
        """Nothing is held."""


class _Dialler(SocksProxy):
    """Makes the connection to the proxy itself, in the place of an earlier proxy of a chain."""

    def __init__(self) -> None:
        self._names = GuardedResolver()

    async def connect(
        self, dest_host: str, dest_port: int, timeout: float | None = None, **options: Any
    ) -> socket.socket:
        return await dial(dest_host, dest_port, self._names)
