"""What this machine can do to the daemon, and why not, where it cannot."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.cache.server import BINARY
from tests.faults.cluster import Cluster
from tests.faults.plan import WEIGHTS

PGBOUNCER = os.environ.get("POLLER_TEST_PGBOUNCER") or shutil.which("pgbouncer", path="/usr/sbin:/usr/bin")
_LIBRARIES = (
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
)
FAKETIME = os.environ.get("POLLER_TEST_FAKETIME") or next((path for path in _LIBRARIES if Path(path).exists()), None)


def abilities(cluster: Cluster) -> tuple[frozenset[str], dict[str, str]]:
    """The faults that can be made here, ``pooler`` and ``redis`` where there is one, and reasons for what cannot."""
    missing = {}
    if PGBOUNCER is None:
        missing["pooler"] = "no pgbouncer (Debian: pgbouncer; POLLER_TEST_PGBOUNCER names one)"
    if not BINARY:
        missing["redis"] = "no redis-server (Debian: redis-server)"
    if FAKETIME is None:
        missing["clock"] = "no libfaketime (Debian: libfaketime; POLLER_TEST_FAKETIME names it)"
    if not cluster.is_bounded:
        missing["full_disk"] = "mounting a small tmpfs takes root"
    if not cluster.has("pg_basebackup"):
        missing["fail_over"] = "no pg_basebackup beside the server's binaries"
    return frozenset({"pooler", "redis", *WEIGHTS} - missing.keys()), missing
