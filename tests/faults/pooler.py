"""PgBouncer in transaction mode between the proxy and a cluster."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator

import anyio

from tests.faults.abilities import PGBOUNCER
from tests.faults.cluster import LIMIT_S, Cluster
from tests.leftovers import LEASH, new_folder
from tests.ports import free_port


@contextlib.asynccontextmanager
async def pooler(cluster: Cluster) -> AsyncIterator[int]:
    """Its port on loopback; three server connections for all clients, so that they are moved about."""
    assert PGBOUNCER is not None
    port = free_port()
    folder = new_folder("pooler")
    folder.chmod(0o755)
    (folder / "ini").write_text(
        f"[databases]\n* = host={cluster.home} port={cluster.port} user=postgres\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
        "pool_mode = transaction\ndefault_pool_size = 3\nserver_login_retry = 1\n"
    )
    # It refuses to be root, and must reach a socket that is root's: nobody in a namespace of its own, as the server is.
    as_nobody = ["unshare", "--user", "--map-user=65534", "--map-group=65534"] if os.geteuid() == 0 else []
    process = subprocess.Popen([*as_nobody, *LEASH, PGBOUNCER, "-q", folder / "ini"], stderr=subprocess.DEVNULL)
    try:
        with anyio.fail_after(LIMIT_S):
            while not await _listens(port):
                await anyio.sleep(0.02)
        yield port
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        shutil.rmtree(folder, ignore_errors=True)


async def _listens(port: int) -> bool:
    try:
        stream = await anyio.connect_tcp("127.0.0.1", port)
    except OSError:
        return False
    await stream.aclose()
    return True
