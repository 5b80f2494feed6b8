"""LlamaIndex's LLMs in a benchmark of models."""

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.llms.llm import LLM

from costwise_core.bench_models.asking import Answered
from llamaindex_costwise._ending import finish_reason
from llamaindex_costwise._usage import reported_usage

__all__ = ["LLMAsker"]


class LLMAsker:
    """An LLM for `benchmark_models`: it is asked by `chat`, or by `complete` if it does not chat.

    Args:
        llm: The LLM.

    Example:
        >>> from llama_index.core.llms import MockLLM
        >>> LLMAsker(MockLLM(max_tokens=2)).ask("What is RAG?").text
        'text text'
    """

    def __init__(self, llm: LLM) -> None:
        self._llm = llm

    def ask(self, prompt: str) -> Answered:
        """Return the LLM's answer; whatever it raises is raised."""
        if self._llm.metadata.is_chat_model:
            chat = self._llm.chat([ChatMessage(role="user", content=prompt)])
            text, raw, usage = chat.message.content or "", chat.raw, reported_usage(chat)
        else:
            done = self._llm.complete(prompt)
            text, raw, usage = done.text, done.raw, reported_usage(done)
        return Answered(text=text, usage=usage, finish_reason=finish_reason(raw))
