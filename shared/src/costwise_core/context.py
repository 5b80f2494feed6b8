"""What a caller says about one request: whose it is, which corpus, what the question is, no cache.

Frameworks pass neither tenant nor question to a cache, so they travel in a context variable (which
threads started by the frameworks and asyncio tasks inherit) or in the framework's own per-call
config, which wins.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields, replace

from costwise_core.errors import ConfigError, nearest
from costwise_core.types import Scope

__all__ = ["RequestContext", "current_request", "scoped"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestContext:
    """What is known about the request beside its messages.

    Args:
        tenant: Whose data the answer may contain; "" is unknown.
        corpus: Name and version of the corpus; "" is unknown.
        question: The bare question, for prompts that wrap it; "" to find it in the prompt.
        bypass: True to neither look up nor store.
        unoptimised: True to run as if costwise were not there: no cache, nothing left out of the
            prompt, nothing routed. A hold-out sets it; budgets and bills go on.
    """

    tenant: str = ""
    corpus: str = ""
    question: str = ""
    bypass: bool = False
    unoptimised: bool = False

    @property
    def uncached(self) -> bool:
        """Whether to neither look up nor store, for whichever reason."""
        return self.bypass or self.unoptimised

    def override(self, values: Mapping[str, object]) -> "RequestContext":
        """Return a copy with some fields replaced.

        Raises:
            ConfigError: if a name is unknown or a value has the wrong type.

        Example:
            >>> RequestContext(tenant="a").override({"bypass": True}).bypass
            True
        """
        known = {field.name: type(field.default) for field in fields(self)}
        for name, value in values.items():
            if name not in known:
                raise ConfigError(
                    f"unknown request field {name!r}; "
                    f"known are {', '.join(known)}.{nearest(name, known)}"
                )
            if not isinstance(value, known[name]):
                raise ConfigError(
                    f"request field {name!r} must be a {known[name].__name__}, "
                    f"got {type(value).__name__}."
                )
        return replace(self, **values)  # type: ignore[arg-type]

    def complete(self, scope: Scope, require: tuple[str, ...]) -> Scope | str:
        """Add tenant and corpus to a scope, or say what is required and missing.

        Example:
            >>> RequestContext().complete(Scope(), require=("tenant",))
            'no tenant was given and this cache requires one'
        """
        scope = replace(
            scope, tenant=self.tenant or scope.tenant, corpus=self.corpus or scope.corpus
        )
        for name in require:
            if not getattr(scope, name):
                return f"no {name} was given and this cache requires one"
        return scope


_NOTHING = RequestContext()
_current: ContextVar[RequestContext] = ContextVar("costwise_request", default=_NOTHING)


def current_request() -> RequestContext:
    """Return what `scoped` said around this call.

    Example:
        >>> current_request().bypass
        False
    """
    return _current.get()


@contextmanager
def scoped(**values: object) -> Iterator[RequestContext]:
    """Say whose request this is, for everything called inside the block; blocks nest.

    Args:
        **values: Fields of `RequestContext`: `tenant`, `corpus`, `question`, `bypass`,
            `unoptimised`.

    Raises:
        ConfigError: if a name is unknown or a value has the wrong type.

    Example:
        >>> with scoped(tenant="acme"), scoped(corpus="handbook-v7"):
        ...     current_request().tenant, current_request().corpus
        ('acme', 'handbook-v7')
    """
    token = _current.set(_current.get().override(values))
    try:
        yield _current.get()
    finally:
        _current.reset(token)
