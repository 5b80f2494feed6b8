"""What everybody who opens a shard of qdrant-edge needs: one owner per folder, and plain errors."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from costwise_core.errors import StoreUnavailableError

__all__ = ["calmly", "locked"]


def calmly(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call the engine, and turn a panic of it, which no `except Exception` stops, into an error.

    Example:
        >>> calmly(len, "four")
        4
    """
    try:
        return function(*arguments)
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise RuntimeError("the engine panicked") from None


def locked(folder: Path) -> sqlite3.Connection:
    """Claim a folder until the connection is closed or the process dies, on any system.

    Raises:
        StoreUnavailableError: if another process or object has it, or it cannot be made.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     lock = locked(Path(folder))
        ...     try:
        ...         locked(Path(folder))
        ...     except StoreUnavailableError:
        ...         print("taken")
        ...     lock.close()
        taken
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        db = sqlite3.connect(
            folder / "owner.lock", timeout=0, isolation_level=None, check_same_thread=False
        )
    except (OSError, sqlite3.Error) as error:
        raise StoreUnavailableError(f"{folder} cannot be used: {error}.") from error
    try:
        db.execute("BEGIN EXCLUSIVE")
    except sqlite3.Error as error:
        db.close()
        raise StoreUnavailableError(f"{folder} is in use by another process.") from error
    return db
