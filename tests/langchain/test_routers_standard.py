"""LangChain's own suites over each router, with models that call tools and stream."""

from typing import Any

from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from costwise_core import Judgement
from langchain_costwise import Cascade, CostRouter, Fallback
from langchain_costwise.testing import ScriptedChatModel


class Never:
    """Finds every answer wanting."""

    blocking = False

    def judge(self, ask: Any, answer: Any) -> Judgement:
        return Judgement(score=0.0, why="never good enough")


class Always:
    """Finds every answer good."""

    blocking = False

    def judge(self, ask: Any, answer: Any) -> Judgement:
        return Judgement(score=1.0, why="good enough")


class Down(ScriptedChatModel):
    """Is overloaded."""

    def _answer(self, *_: Any) -> Any:
        raise TimeoutError


def pair(cheap: type[ScriptedChatModel] = ScriptedChatModel) -> dict[str, Any]:
    return {"small": cheap(), "large": ScriptedChatModel(model_name="scripted-9")}


class _Chat:
    model_override_value = "scripted-2"
    standard_chat_model_params: dict[str, Any] = {}  # noqa: RUF012


class _Router(_Chat):
    chat_model_class = CostRouter

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"models": pair()}


class _Kept(_Chat):
    chat_model_class = Cascade

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"models": pair(), "judge": Always()}


class _Escalated(_Chat):
    chat_model_class = Cascade

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"models": pair(), "judge": Never()}


class _Committed(_Chat):
    chat_model_class = Cascade

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"models": pair(), "judge": Always(), "stream_mode": "commit"}


class _Fallback(_Chat):
    chat_model_class = Fallback

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"models": pair(Down)}


class TestRouterUnit(_Router, ChatModelUnitTests): ...


class TestCascadeUnit(_Kept, ChatModelUnitTests): ...


class TestFallbackUnit(_Fallback, ChatModelUnitTests): ...


class TestRouter(_Router, ChatModelIntegrationTests): ...


class TestCascadeKept(_Kept, ChatModelIntegrationTests): ...


class TestCascadeEscalated(_Escalated, ChatModelIntegrationTests): ...


class TestCascadeCommitted(_Committed, ChatModelIntegrationTests): ...


class TestFallback(_Fallback, ChatModelIntegrationTests): ...
