"""Other budgets, set up as their documentation shows; `make peers` installs them.

floe-guard by its own reserve and settle, in memory and in SQLite (a UTC day), and by its LangChain
handler, which checks before a call and records after it. token-copilot by its LangChain handler,
the way it has. Both handlers are told exact usage, and the LangChain model's limit on its answer.
"""

import importlib.util
import threading
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from costwise_core.errors import BudgetExceededError

VERSIONS = ("floe-guard", "token-copilot", "langchain-core")

Pay = Callable[[], None]
Gate = Callable[[int, int, int, Pay], None]
"""Makes one call of so many tokens sent, at most and really produced; pays once it is sent.

Raises `BudgetExceededError` if the call was refused before it was paid.
"""


def floe_guard(limit: Decimal, model: str, path: str) -> Gate:
    """Return floe-guard's reserve and settle, shared through a SQLite file if there is a path."""
    from floe_guard import BudgetExceeded, BudgetGuard, SqliteStore

    shared: dict[str, Any] = {"window": "utc-day", "store": SqliteStore(path)} if path else {}
    guard = BudgetGuard(float(limit), on_block=lambda *_: None, **shared)

    def gate(sent: int, most: int, produced: int, pay: Pay) -> None:
        try:
            held = guard.reserve(guard.estimate_call(model, sent, most))
        except BudgetExceeded as error:
            raise _refused(error) from error
        pay()
        guard.settle(model, sent, produced, reserved=held)

    return gate


def floe_guard_handler(limit: Decimal, model: str, path: str) -> Gate:  # noqa: ARG001
    """Return a LangChain model that floe-guard's handler watches."""
    from floe_guard import BudgetExceeded, BudgetGuard
    from floe_guard.integrations.langchain import budget_guard_callback_handler

    guard = BudgetGuard(float(limit), on_block=lambda *_: None)
    return _watched(model, budget_guard_callback_handler(guard), BudgetExceeded)


def token_copilot(limit: Decimal, model: str, path: str) -> Gate:  # noqa: ARG001
    """Return a LangChain model that token-copilot's handler watches."""
    from token_copilot.langchain import TokenCoPilotCallback
    from token_copilot.tracking.budget import BudgetExceededError as Exceeded

    return _watched(model, TokenCoPilotCallback(budget_limit=float(limit)), Exceeded)


def _watched(model: str, handler: Any, exceeded: type[Exception]) -> Gate:
    import logging

    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import AIMessage
    from langchain_core.outputs import ChatGeneration, ChatResult

    # It logs each refusal.
    logging.getLogger("langchain_core.callbacks.manager").setLevel(logging.CRITICAL)
    now = threading.local()

    class Model(BaseChatModel):
        model_name: str
        max_tokens: int

        @classmethod
        def is_lc_serializable(cls) -> bool:
            return True

        @property
        def _llm_type(self) -> str:
            return "benchmark"

        def _generate(self, *_: Any, **__: Any) -> ChatResult:
            now.paid = True
            now.pay()
            used = {"prompt_tokens": now.sent, "completion_tokens": now.produced}
            answer = ChatGeneration(message=AIMessage(content="yes"))
            output = {"token_usage": used, "model_name": self.model_name}
            return ChatResult(generations=[answer], llm_output=output)

    def gate(sent: int, most: int, produced: int, pay: Pay) -> None:
        now.sent, now.produced, now.pay, now.paid = sent, produced, pay, False
        chat = Model(model_name=model, max_tokens=most, callbacks=[handler])
        try:
            chat.invoke("tok " * sent)  # four characters, as both estimate a token
        except exceeded as error:
            if not now.paid:
                raise _refused(error) from error

    return gate


def _refused(error: Exception) -> BudgetExceededError:
    return BudgetExceededError(str(error), budget="peer")


PEERS: dict[str, Callable[[Decimal, str, str], Gate]] = {
    "floe-guard": floe_guard,
    "floe-guard handler": floe_guard_handler,
    "token-copilot handler": token_copilot,
}


def installed() -> list[str]:
    """Return the peers that can be measured here, and say which cannot."""
    found = []
    for name in PEERS:
        module = name.partition(" ")[0].replace("-", "_")
        if importlib.util.find_spec(module) is None:
            print(f"{name} is not measured: no {module} here (make peers)")
        else:
            found.append(name)
    return found
