"""The old messages that matter for a question, found by words, by meaning and by date."""

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from costwise_core.cache.words import asks
from costwise_core.drive import Flow, arun, call, run
from costwise_core.errors import ConfigError, VectorError
from costwise_core.memory.messages import Message
from costwise_core.memory.recall_days import day_of, days_named, nearness
from costwise_core.memory.recall_fitting import fitting, quotable
from costwise_core.memory.recall_lines import Piece, pieces, quoted, speaker
from costwise_core.memory.recall_words import Scores, TurnWords
from costwise_core.text.words import words
from costwise_core.tokens import shared_tokens

if TYPE_CHECKING:
    from costwise_core.protocols import Embedder, TokenCounter

__all__ = ["Recalled", "TurnIndex", "arecall", "recall"]

_PAUSE: Final = 3_600.0
"""Seconds of silence after which a message is no context of the one before it."""
_FOR_A_DATE: Final = 0.6
"""What a message gains that was said on the day that is asked for; the best words give 1, the best
meaning another 1."""
_WITH_NEIGHBOURS: Final = 2
"""So many of the best bring the messages beside them. The others bring them where these fit the
question too, as words of neighbours count in all scores."""
_BACK: Final = 50
"""Messages at the end among which the question is looked for: tool calls may have followed it."""
_MOST_CHARS: Final = 20_000
"""What of a question is read: nobody asks more, and pasted documents are longer."""
_CLEARLY: Final = 0.2
"""How much more of the question an old turn must have than all visible ones for a relevance of 1.
On dialogues of LoCoMo, relevance is at least 0.5 for nine of ten questions about old turns, and for
seven of a hundred of the turns themselves."""
_NO_QUESTION: Final = 0.4


@dataclass(frozen=True, kw_only=True, slots=True)
class Recalled:
    r"""Old messages for one question.

    Args:
        messages: What to quote, oldest first; of long ones only the sentences that matter.
        indexes: Where they stand in the conversation.
        tokens: Of `text`.
        relevance: How far recalling pays, from 0 to 1; see `TurnIndex.relevance`.
        why: One sentence for a person.
        fault: Name of the error's class if the embedder failed and words alone had to do, else "".

    Example:
        >>> Recalled(messages=(Message(role="user", name="Ada", text="Blue.", at=0.0),)).text
        '[1970-01-01]\nAda: Blue.\n'
    """

    messages: tuple[Message, ...] = ()
    indexes: tuple[int, ...] = ()
    tokens: int = 0
    relevance: float = 0.0
    why: str = ""
    fault: str = ""

    @property
    def text(self) -> str:
        """The messages as a prompt quotes them, with speakers and days; what `tokens` counts."""
        return quoted(self.messages)


def recall(
    messages: Sequence[Message],
    question: str,
    *,
    budget_tokens: int,
    until: int | None = None,
    embedder: "Embedder | None" = None,
    counter: "TokenCounter | None" = None,
) -> Recalled:
    """Return the old messages that matter most for a question, within a budget.

    For a conversation that goes on, keep a `TurnIndex`: it reads each message once.

    Args:
        messages: The whole conversation, oldest first, with or without the question at its end.
        question: What the user asks now.
        budget_tokens: The most that the quoted messages may have, speakers and days included.
        until: Index of the first message that the prompt shows anyway; those from here on are
            never recalled. None is behind the last one.
        embedder: Finds what is said in other words; a `CachedEmbedder` embeds no message twice.
        counter: Counts tokens; by default an estimate for any model.

    Raises:
        ConfigError: if the budget or `until` is negative.

    Example:
        >>> talk = [Message(role="user", text="My tent is blue."), Message(role="user", text="Hi!")]
        >>> recall(talk, "Which colour is my tent?", budget_tokens=8).indexes
        (0,)
    """
    index = TurnIndex(embedder=embedder, counter=counter)
    index.extend(messages)
    return index.recall(question, budget_tokens=budget_tokens, until=until)


async def arecall(
    messages: Sequence[Message],
    question: str,
    *,
    budget_tokens: int,
    until: int | None = None,
    embedder: "Embedder | None" = None,
    counter: "TokenCounter | None" = None,
) -> Recalled:
    """Do what `recall` does, without blocking the event loop while texts are embedded.

    Example:
        >>> import asyncio
        >>> talk = [Message(role="user", text="My tent is blue.")]
        >>> asyncio.run(arecall(talk, "Which colour is my tent?", budget_tokens=9)).tokens <= 9
        True
    """
    index = TurnIndex(embedder=embedder, counter=counter)
    index.extend(messages)
    return await index.arecall(question, budget_tokens=budget_tokens, until=until)


class TurnIndex:
    """Finds the messages of one conversation; extended as it goes on. Thread-safe.

    A message scores by BM25 over its words, its speaker's name and the messages around it
    (`TurnWords`), by the cosine of its embedding to the question's where there is an embedder, and
    by the dates the question names. Each of words and meaning is scaled so that the best message
    has 1, and they are added. A long message is scored and quoted by pieces of some sentences.

    Args:
        embedder: Finds what is said in other words. If it fails, words alone do.
        counter: Counts tokens; by default an estimate for any model.

    Example:
        >>> index = TurnIndex()
        >>> index.extend([Message(role="user", text="My tent is blue.")])
        >>> index.extend([Message(role="assistant", text="Good to know.")])
        >>> len(index), index.recall("Which colour is my tent?", budget_tokens=8).indexes
        (2, (0,))
    """

    def __init__(
        self, *, embedder: "Embedder | None" = None, counter: "TokenCounter | None" = None
    ) -> None:
        self._embedder = embedder
        self._count = counter
        self._messages: list[Message] = []
        self._pieces: list[Piece] = []
        self._opens: list[bool] = []  # whether a piece has nothing to do with the one before it
        self._words = TurnWords()
        self._vectors: NDArray[np.float32] | None = None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._messages)

    def extend(self, messages: Iterable[Message]) -> None:
        """Add the next messages. Nothing is embedded yet: `prepare` does it, or the next recall."""
        with self._lock:
            for message in messages:
                self._add(message)

    def relevance(self, question: str, *, until: int | None = None) -> float:
        """Say how far recalling pays for a question, from 0 to 1, without embedding anything.

        It grows with how much of the question's words, by rarity, one old turn has and no visible
        one; it is less for what asks nothing. Most of a chat needs nothing recalled: below 0.5
        recall is rarely worth what it costs.

        Args:
            question: What the user says now.
            until: As in `recall`.

        Raises:
            ConfigError: if `until` is negative.

        Example:
            >>> index = TurnIndex()
            >>> index.extend([Message(role="user", text="My tent is blue.")])
            >>> index.extend([Message(role="user", text="It rains.")] * 20)
            >>> index.relevance("Which colour is my tent?", until=15), index.relevance("Thanks!")
            (1.0, 0.0)
        """
        question = question[:_MOST_CHARS]
        with self._lock:
            old, shown = self._borders(question, until)
            scores, best = self._words.scores(words(question), stop=shown)
        return _relevance(question, scores, old, best)

    def recall(self, question: str, *, budget_tokens: int, until: int | None = None) -> Recalled:
        """Return the old messages that matter most for a question, within a budget.

        Args:
            question: What the user asks now. A message of the same text at the end is left aside.
            budget_tokens: The most that the quoted messages may have, speakers and days included.
            until: Index of the first message that the prompt shows anyway; those from here on are
                never recalled. None is behind the last one.

        Raises:
            ConfigError: if the budget or `until` is negative.
        """
        return run(self._recall(question, budget_tokens, until))

    async def arecall(
        self, question: str, *, budget_tokens: int, until: int | None = None
    ) -> Recalled:
        """Do what `recall` does, without blocking the event loop while texts are embedded."""
        return await arun(self._recall(question, budget_tokens, until))

    def prepare(self) -> None:
        """Embed what is new, so that the next recall need not: after an answer, say.

        Raises:
            Exception: whatever the embedder raises.
        """
        run(self._embedded())

    async def aprepare(self) -> None:
        """Do what `prepare` does, without blocking the event loop."""
        await arun(self._embedded())

    def _add(self, message: Message) -> None:
        before = self._messages[-1] if self._messages else None
        opens = before is None or _paused(before, message)
        self._messages.append(message)
        if message.role == "system":
            return
        name = words(speaker(message))
        for piece in pieces(message, len(self._messages) - 1):
            self._words.add(words(_text(message, piece)), name, pause=opens)
            self._pieces.append(piece)
            self._opens.append(opens)
            opens = False

    def _borders(self, question: str, until: int | None) -> tuple[int, int]:
        """Return how many pieces are old, and how many there are before the question itself."""
        if until is not None and until < 0:
            raise ConfigError(f"until must be at least 0, got {until}.")
        said = len(self._messages)
        first_shown = said if until is None else min(until, said)
        asked = question.strip()
        newest = range(said - 1, max(first_shown - 1, said - 1 - _BACK, -1), -1)
        end = next((i for i in newest if self._messages[i].text.strip() == asked), said)
        shown = sum(piece.message < end for piece in self._pieces)
        return sum(piece.message < min(first_shown, end) for piece in self._pieces), shown

    def _recall(self, question: str, budget: int, until: int | None) -> Flow[Recalled]:
        if budget < 0:
            raise ConfigError(f"budget_tokens must be at least 0, got {budget}.")
        question = question[:_MOST_CHARS]
        with self._lock:
            old, shown = self._borders(question, until)
            by_words, best = self._words.scores(words(question), stop=shown)
            messages, found, opens = self._messages[:], self._pieces[:old], self._opens[:old]
        relevance = _relevance(question, by_words, old, best)
        if not found or not budget:
            return Recalled(relevance=relevance, why="there is nothing to recall")
        scores, fault = _stretched(by_words[:old]), ""
        how = "by words"
        if self._embedder is not None and question.strip():
            try:
                scores = scores + _stretched((yield from self._by_meaning(question))[:old])
                how = "by words and meaning"
            except Exception as error:  # noqa: BLE001 - words alone are better than no answer
                fault = type(error).__name__
                how = f"by words, as the embedder raised {fault}"
        if named := days_named(question):
            days = [nearness(day_of(messages[piece.message]), named) for piece in found]
            scores = scores + _FOR_A_DATE * np.array(days)
        count = self._count or shared_tokens().counter()
        order = _with_neighbours(np.argsort(-scores, kind="stable"), scores, opens)
        chosen = fitting(messages, (found[at] for at in order), budget, count)
        indexes, kept, tokens = quotable(messages, chosen, budget, count)
        return Recalled(
            messages=kept,
            indexes=indexes,
            tokens=tokens,
            relevance=relevance,
            why=f"{len(kept)} of {found[-1].message + 1} old messages, {how}",
            fault=fault,
        )

    def _by_meaning(self, question: str) -> Flow[Scores]:
        assert self._embedder is not None  # noqa: S101 - for the type checker
        vectors = yield from self._embedded()
        asked = yield from call(self._embedder.embed, [question], "query")
        return np.asarray(vectors @ asked[0], np.float64)

    def _embedded(self) -> Flow[NDArray[np.float32]]:
        """Return one row for each piece there was when it was called, embedding the new ones."""
        with self._lock:
            vectors, known = self._vectors, 0 if self._vectors is None else len(self._vectors)
            new = [
                f"{speaker(self._messages[piece.message])}: "
                f"{_text(self._messages[piece.message], piece)}"
                for piece in self._pieces[known:]
            ]
        if self._embedder is None or not new:
            return np.empty((0, 0), np.float32) if vectors is None else vectors
        rows = np.asarray((yield from call(self._embedder.embed, new, "document")), np.float32)
        if len(rows) != len(new) or not np.isfinite(rows).all():
            raise VectorError(
                f"{self._embedder.name!r} must give one finite row for each of {len(new)} texts."
            )
        vectors = rows if vectors is None else np.vstack((vectors, rows))
        with self._lock:
            if self._vectors is None or len(vectors) > len(self._vectors):
                self._vectors = vectors
        return vectors


def _paused(before: Message, message: Message) -> bool:
    if before.at is None or message.at is None:
        return False
    return message.at - before.at > _PAUSE


def _text(message: Message, piece: Piece) -> str:
    return message.text[piece.start : piece.end]


def _stretched(scores: Scores) -> Scores:
    top = scores.max(initial=0.0)
    return scores / top if top > 0 else scores


def _relevance(question: str, scores: Scores, old: int, best: float) -> float:
    if best <= 0:
        return 0.0
    gain = float(scores[:old].max(initial=0.0) - scores[old:].max(initial=0.0)) / best
    weight = 1.0 if asks(question) else _NO_QUESTION
    return min(max(gain, 0.0) / _CLEARLY, 1.0) * weight


def _with_neighbours(
    order: NDArray[np.intp], scores: Scores, opens: Sequence[bool]
) -> Iterator[int]:
    """Yield places, best first, without those that have nothing of the question."""
    seen: set[int] = set()
    for rank, best in enumerate(map(int, order)):
        if scores[best] <= 0:
            return
        around = [best]
        if rank < _WITH_NEIGHBOURS:
            around += [best - 1] if not opens[best] else []
            around += [best + 1] if best + 1 < len(opens) and not opens[best + 1] else []
        yield from (at for at in around if at not in seen)
        seen.update(around)
