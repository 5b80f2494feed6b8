"""A response cache that knows by which recipe, and from which documents, an answer was made."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.outputs import Generation

from costwise_core.cache import Cache, fingerprint
from costwise_core.cache.versions import Documents, Versions
from costwise_core.context import RequestContext
from costwise_core.dedup_lead import Lead
from costwise_core.drive import Flow
from langchain_costwise.cache import ModelCall, Said, SemanticCache, request_context

__all__ = ["Drawn", "StackAnswers"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """What an answer was drawn from.

    Args:
        documents: Ids and versions.
        since: The cache's mark from before they were retrieved.
        sent: The prompt's text, to estimate tokens where the provider reports none.
    """

    documents: Documents
    since: int
    sent: str


class StackAnswers(SemanticCache):
    """A `SemanticCache` inside one corpus and one recipe.

    Args:
        cache: Where answers are kept.
        recipe: Words for whatever shapes an answer beside its prompt and model.
        corpus: Name and version of what is searched; what the request says wins.
        require: As for `SemanticCache`.
        versions: Of the documents seen so far.
    """

    def __init__(
        self,
        cache: Cache,
        *,
        recipe: Sequence[str] = (),
        corpus: str = "",
        require: tuple[str, ...] = (),
    ) -> None:
        super().__init__(cache, require=require)
        self._recipe = fingerprint(*recipe, volatile=()) if recipe else ""
        self._corpus = corpus
        self._versions = Versions()

    def keep_drawn(
        self, call: ModelCall, generations: Sequence[Generation], lead: Lead, drawn: Drawn
    ) -> Flow[None]:
        """Keep an answer together with what it was drawn from."""
        current = yield from self._versions.notice(self.cache, drawn.documents, since=drawn.since)
        if not current:
            self.cache.count_not_stored("outdated")
            return
        yield from self.keep(
            call,
            generations,
            lead,
            documents=drawn.documents,
            since=drawn.since,
            sent=drawn.sent,
        )

    def _request(self, prompt: str, llm_string: str, said: Said) -> Any:
        return super()._request(
            prompt, f"{llm_string}---{self._recipe}" if self._recipe else llm_string, said
        )

    def _context(self, said: Said) -> RequestContext:
        context = request_context(said)
        return context.override({"corpus": context.corpus or self._corpus})
