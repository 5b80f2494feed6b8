"""Alerts sent to an address: time-boxed, retried, and never in the way of a request."""

import json
import logging
import random
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from email.message import Message
from http.client import HTTPException
from typing import IO, Final

from costwise_core.alerts.alert import Alert
from costwise_core.alerts.worker import Worker
from costwise_core.errors import ConfigError

__all__ = ["Webhook", "log_alert"]

_log: Final = logging.getLogger("costwise.alerts")
_ROOM: Final = 100
_TRY_AGAIN: Final = frozenset({408, 425, 429, 500, 502, 503, 504})


def log_alert(alert: Alert) -> None:
    """Write an alert to the logger "costwise.alerts", as a warning.

    The record has the whole alert under `costwise`, for handlers that write JSON.

    Example:
        >>> from costwise_core import Alerts
        >>> alerts = Alerts(log_alert)
    """
    _log.warning("%s", alert, extra={"costwise": alert.to_dict()})


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST would arrive as a GET without its body, and look delivered."""

    def redirect_request(
        self,
        req: urllib.request.Request,  # noqa: ARG002 - urllib's signature
        fp: IO[bytes],  # noqa: ARG002
        code: int,  # noqa: ARG002
        msg: str,  # noqa: ARG002
        headers: Message,  # noqa: ARG002
        newurl: str,  # noqa: ARG002
    ) -> None:
        return None


class Webhook:
    """Sends alerts as JSON to an address, from a daemon thread of its own. Thread-safe.

    An attempt that fails in a way that may pass (no connection, time-out, status 408, 425, 429 or
    5xx of a busy server) is made again, waiting twice as long each time. So a receiver may see one
    alert twice; `key` tells. At most 100 alerts wait; more are dropped, and counted. Proxies are
    taken from the environment, redirects are not followed.

    Args:
        url: An http or https address. It may hold a secret, so it is never logged or shown.
        headers: Sent with each request, such as {"Authorization": "Bearer ..."}.
        seconds: How long the connection, and each wait for an answer, may take.
        attempts: How often one alert is tried.
        pause: Seconds before the second attempt.

    Raises:
        ConfigError: if an argument is wrong.

    Example:
        >>> hook = Webhook("https://hooks.example.com/services/T0/B0/secret")
        >>> hook, hook.delivered, hook.failed, hook.dropped
        (Webhook('hooks.example.com'), 0, 0, 0)
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        seconds: float = 5.0,
        attempts: int = 4,
        pause: float = 1.0,
    ) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ConfigError("url must be an http or https address with a host.")
        if seconds <= 0 or attempts < 1 or pause < 0:
            raise ConfigError(
                "seconds must be positive, attempts at least 1 and pause at least 0, got "
                f"{seconds!r}, {attempts!r} and {pause!r}."
            )
        self._host = parts.hostname
        self._url = url
        self._headers = {"Content-Type": "application/json", **(headers or {})}
        self._seconds = seconds
        self._attempts = attempts
        self._pause = pause
        self._worker = Worker(self._deliver, room=_ROOM)
        self.delivered = 0
        """Alerts that the receiver took."""
        self.failed = 0
        """Alerts that were given up, after the last attempt or a refusal."""

    @property
    def dropped(self) -> int:
        """Alerts that found no room."""
        return self._worker.dropped

    def __call__(self, alert: Alert) -> bool:
        """Send an alert soon; False, at once, if it was dropped."""
        return self._worker.put(alert)

    def flush(self, seconds: float = 10.0) -> bool:
        """Wait until all alerts are delivered or given up; False if that takes longer."""
        return self._worker.flush(seconds)

    def __repr__(self) -> str:
        return f"Webhook({self._host!r})"

    def _deliver(self, alert: Alert) -> None:
        body = json.dumps(alert.to_dict(), allow_nan=False).encode()
        why = ""
        for attempt in range(self._attempts):
            if attempt:
                wait = self._pause * 2 ** (attempt - 1)
                time.sleep(wait * random.uniform(0.8, 1.2))  # noqa: S311 - not a secret
            why, again = self._send(body)
            if not why:
                self.delivered += 1
                return
            if not again:
                break
        self.failed += 1
        _log.warning("an alert could not be sent to %s: %s", self._host, why)

    def _send(self, body: bytes) -> tuple[str, bool]:
        """Return what went wrong, "" for nothing, and whether trying again may help."""
        request = urllib.request.Request(self._url, data=body, headers=self._headers)  # noqa: S310 - checked
        opener = urllib.request.build_opener(_NoRedirect)
        try:
            with opener.open(request, timeout=self._seconds):
                return "", False
        except urllib.error.HTTPError as error:
            error.close()
            return f"status {error.code}", error.code in _TRY_AGAIN
        except (OSError, HTTPException) as error:
            return type(error).__name__, True
