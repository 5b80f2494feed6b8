"""Who is asked: anything that answers a text, and any server that speaks as OpenAI's does."""

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any, Final, Protocol

from costwise_core.errors import ConfigError, CostwiseError
from costwise_core.types import Usage
from costwise_core.usage import usage_of

__all__ = ["Answered", "Asker", "AskingError", "OpenAICompatible"]

_TRY_AGAIN: Final = frozenset({408, 409, 429, 500, 502, 503, 504, 529})
_MOST_BYTES: Final = 20_000_000
_LONGEST_WAIT: Final = 60.0
_AT_HOME: Final = frozenset({"localhost", "127.0.0.1", "::1"})


class AskingError(CostwiseError):
    """A model did not answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """What a model answered.

    Args:
        text: The answer.
        usage: Tokens it cost; None if nobody said.
        finish_reason: In the provider's words; "" if it does not say.
        seconds: Wall time of the call that answered; None leaves it to whoever asked.

    Example:
        >>> Answered(text="391").usage is None
        True
    """

    text: str = field(repr=False)
    usage: Usage | None = None
    finish_reason: str = ""
    seconds: float | None = None


class Asker(Protocol):
    """Answers a text. Called from several threads at once."""

    def ask(self, prompt: str) -> Answered:
        """Return the answer; raise if there is none."""
        ...


class OpenAICompatible:
    """A model behind a URL that speaks OpenAI's chat completions, without any client.

    Args:
        url: Up to and with "/v1"; https, or http on this machine or without a key.
        model: As the server names it.
        key: Sent as a bearer token; "" sends none.
        max_tokens: The longest answer; None leaves it to the server.
        seconds: How long an answer may take.
        attempts: How often one question is tried where trying again may help.

    Raises:
        ConfigError: if the URL is none, or would carry the key in the open.

    Example:
        >>> OpenAICompatible("http://127.0.0.1:8080/v1", "smollm2")
        OpenAICompatible('127.0.0.1:8080', 'smollm2')
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key: str = "",
        max_tokens: int | None = None,
        seconds: float = 120.0,
        attempts: int = 3,
    ) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ConfigError(f"url must be an http or https address with a host, got {url!r}.")
        if key and parts.scheme == "http" and parts.hostname not in _AT_HOME:
            raise ConfigError(f"a key would go to {parts.netloc} in the open; use https.")
        if attempts < 1 or seconds <= 0:
            raise ConfigError(
                f"attempts must be at least 1 and seconds positive, got {attempts} and {seconds}."
            )
        self._url = f"{url.rstrip('/')}/chat/completions"
        self._host = parts.netloc.rpartition("@")[2]
        self._model = model
        self._headers = {"Content-Type": "application/json"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        self._limit = {} if max_tokens is None else {"max_tokens": max_tokens}
        self._seconds = seconds
        self._attempts = attempts

    def ask(self, prompt: str) -> Answered:
        """Return the model's answer.

        Raises:
            AskingError: if there is none; the prompt is not in its words.
        """
        sent = {"messages": [{"role": "user", "content": prompt}], **self._limit}
        body = json.dumps({"model": self._model, **sent}).encode()
        for attempt in range(1, self._attempts + 1):
            began = time.perf_counter()
            try:
                return self._read(self._send(body), time.perf_counter() - began)
            except urllib.error.HTTPError as error:
                error.close()
                why, again = f"status {error.code}", error.code in _TRY_AGAIN
                wait = _seconds_in(error.headers.get("Retry-After"))
            except (OSError, HTTPException) as error:
                # Once it was sent, nobody knows whether it was answered, and paid for.
                why, again, wait = type(error).__name__, _unsent(error), None
            if not again or attempt == self._attempts:
                break
            time.sleep(min(_LONGEST_WAIT, wait if wait is not None else 2.0 ** (attempt - 1)))
        raise AskingError(f"{self._model} at {self._host} did not answer: {why}.")

    def __repr__(self) -> str:
        return f"OpenAICompatible({self._host!r}, {self._model!r})"

    def _send(self, body: bytes) -> bytes:
        request = urllib.request.Request(self._url, data=body, headers=self._headers)  # noqa: S310 - checked
        opener = urllib.request.build_opener(_NoRedirect)
        with opener.open(request, timeout=self._seconds) as reply:
            data: bytes = reply.read(_MOST_BYTES + 1)
        return data

    def _read(self, data: bytes, seconds: float) -> Answered:
        # What is longer is cut off where it was read, and so no JSON.
        try:
            reply: Mapping[str, Any] = json.loads(data)
            choice = reply["choices"][0]
            text = choice["message"].get("content") or ""
            return Answered(
                text=str(text),
                usage=usage_of(reply),
                finish_reason=str(choice.get("finish_reason") or ""),
                seconds=seconds,
            )
        except (AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError):
            raise AskingError(
                f"{self._model} at {self._host} answered in no form that is understood."
            ) from None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Takes a key nowhere else than where it was meant to go."""

    def redirect_request(self, *_: Any) -> None:
        """Follow none."""


def _unsent(error: Exception) -> bool:
    reason = getattr(error, "reason", error)
    return isinstance(reason, ConnectionRefusedError)


def _seconds_in(header: str | None) -> float | None:
    try:
        return max(0.0, float(header)) if header else None
    except ValueError:
        return None
