"""How far a benchmark is: a bar where a person looks, else a line now and then."""

import sys
import time
from decimal import Decimal
from threading import Lock
from typing import Final, Protocol, TextIO

from costwise_core.display_table import usd

__all__ = ["Progress", "ProgressBar"]

_WIDTH: Final = 30
_LINES: Final = 10


class Progress(Protocol):
    """Is told of each answer. Called from several threads, one at a time."""

    def __call__(self, *, done: int, of: int, failed: int, spent: Decimal) -> None:
        """Take note of how far it is."""
        ...


class ProgressBar:
    r"""A bar of plain characters.

    Args:
        out: Where it is drawn; standard error if not given.

    Example:
        >>> import io
        >>> out = io.StringIO()
        >>> ProgressBar(out)(done=1, of=2, failed=0, spent=Decimal("0.5"))
        >>> out.getvalue()
        '1 of 2, $0.50\n'
    """

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = sys.stderr if out is None else out
        self._began = time.monotonic()
        self._shown = -1
        self._lock = Lock()

    def __call__(self, *, done: int, of: int, failed: int, spent: Decimal) -> None:
        """Draw it."""
        lost = f", {failed} failed" if failed else ""
        said = f"{done} of {of}{lost}, {usd(spent)}"
        with self._lock:
            if self._out.isatty():
                self._draw(done, of, said)
            elif (step := done * _LINES // max(of, 1)) > self._shown:
                self._shown = step
                self._out.write(f"{said}\n")

    def _draw(self, done: int, of: int, said: str) -> None:
        full = _WIDTH * done // max(of, 1)
        left = (time.monotonic() - self._began) / done * (of - done) if done else 0.0
        bar = f"[{'#' * full}{'.' * (_WIDTH - full)}]"
        ending = "\n" if done >= of else f", {left:.0f} s left"
        self._out.write(f"\r\x1b[K{bar} {said}{ending}")
        self._out.flush()
