"""An upstream that costs next to nothing: every id is processing at 50 %. Runs as its own process; prints its port."""

from __future__ import annotations

import asyncio
import re

_IDS = re.compile(rb'"((?:[^"\\]|\\.)*)"')
_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


class Upstream(asyncio.Protocol):
    """HTTP/1.1 with keep-alive, as far as our own client speaks it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._bytes = b""

    def data_received(self, data: bytes) -> None:
        self._bytes += data
        while (end := self._bytes.find(b"\r\n\r\n")) >= 0:
            length = _LENGTH.search(self._bytes, 0, end)
            total = end + 4 + (int(length[1]) if length else 0)
            if len(self._bytes) < total:
                return
            body, self._bytes = self._bytes[end + 4 : total], self._bytes[total:]
            ids = _IDS.findall(body)[1:]
            items = b",".join(b'{"task_id":"%s","status":"processing","progress":"50%%"}' % each for each in ids)
            answer = b'{"code":0,"message":"success","data":[%s]}' % items
            head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(answer)
            self._transport.write(head + answer)  # type: ignore[attr-defined]


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
