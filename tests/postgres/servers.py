"""Real PostgreSQL servers for tests: each with a folder and a port of its own, killed and started again at will."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import sql

from bandmaster.demo import free_port

DEADLINE_S = 30.0


class Postgres:
    """A server that belongs to this test. Its data lies in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._data, self._log = folder / "data", folder / "postgres.log"
        self._bin = _programs()
        self._as = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []  # it will not run as root
        self.port = free_port()
        folder.mkdir(parents=True, exist_ok=True)
        if self._as:
            shutil.chown(folder, "postgres")
        self._run("initdb", "-D", str(self._data), "-U", "ann", "--auth=trust", "-E", "UTF8", "--no-sync")
        self.start()

    @property
    def pid(self) -> int:
        """The process whose children all others of it are."""
        return int((self._data / "postmaster.pid").read_text().split()[0])

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://ann@127.0.0.1:{self.port}/{database}"

    def database(self, name: str) -> str:
        """Make an empty database; its URL."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return self.url(name)

    def start(self) -> None:
        options = f"-c listen_addresses=127.0.0.1 -c port={self.port} -c unix_socket_directories= -c max_connections=50"
        self._run("pg_ctl", "-D", str(self._data), "-l", str(self._log), "-o", options, "-w", "start")

    def kill(self) -> None:
        """``kill -9`` of all of it, as when its machine dies."""
        postmaster = self.pid
        children = subprocess.run(["pgrep", "-P", str(postmaster)], capture_output=True, text=True, check=False)
        for pid in (postmaster, *map(int, children.stdout.split())):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        end = time.monotonic() + DEADLINE_S
        while _alive(postmaster):
            assert time.monotonic() < end, "PostgreSQL outlives kill -9"
            time.sleep(0.02)
        (self._data / "postmaster.pid").unlink(missing_ok=True)

    def stop(self) -> None:
        if (self._data / "postmaster.pid").exists():
            self._run("pg_ctl", "-D", str(self._data), "-m", "immediate", "-w", "stop")

    def _run(self, program: str, *arguments: str) -> None:
        # Every time: another session of pytest closes the folder that it shares with this one.
        for above in self._data.parents if self._as else ():
            if above.owner() == "root" and above != Path(above.anchor):
                above.chmod(above.stat().st_mode | 0o011)
        command = [*self._as, str(self._bin / program), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", timeout=DEADLINE_S)
        assert done.returncode == 0, f"{program}: {done.stdout}{done.stderr}"


@contextmanager
def postgres(folder: Path) -> Iterator[Postgres]:
    server = Postgres(folder)
    try:
        yield server
    finally:
        server.stop()


def _programs() -> Path:
    if found := shutil.which("initdb"):
        return Path(found).parent
    there = sorted(Path("/usr/lib/postgresql").glob("*/bin"))  # where Debian has them
    assert there, "no PostgreSQL here; `make debian` installs one"
    return there[-1]


def _alive(pid: int) -> bool:
    try:
        return "zombie" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False
