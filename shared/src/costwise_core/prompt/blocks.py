"""Instructions that are sent only when a request needs them."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, TypeAlias

from costwise_core.drive import Flow, arun, call, run
from costwise_core.errors import ConfigError
from costwise_core.protocols import Embedder
from costwise_core.text.words import words
from costwise_core.tokens import shared_tokens
from costwise_core.types import Matrix, Vector

__all__ = ["Block", "BlockChoice", "BuiltPrompt", "InstructionBlocks", "Like"]

_BETWEEN: Final = "\n\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class Like:
    """A condition: the request means something like one of these.

    Args:
        requests: Such as users make.
        min_cosine: From which similarity on, in (-1, 1]. It depends on the embedder: look at what
            your requests get before you set it.

    Raises:
        ConfigError: if there are no requests or `min_cosine` is out of range.

    Example:
        >>> Like(requests=("I want my money back",), min_cosine=0.5).min_cosine
        0.5
    """

    requests: tuple[str, ...]
    min_cosine: float

    def __post_init__(self) -> None:
        if not self.requests:
            raise ConfigError("requests must name at least one request to compare with.")
        if not -1 < self.min_cosine <= 1:
            raise ConfigError(f"min_cosine must be in (-1, 1], got {self.min_cosine!r}.")


Condition: TypeAlias = tuple[str, ...] | re.Pattern[str] | Callable[[str], bool] | Like


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """A piece of a system prompt, and when it is needed.

    Args:
        name: What it is called in results.
        text: The instructions.
        when: None is always. Words or phrases, of which one must be in the request, in any case and
            inflection; a regular expression to search for; a function of the request; or `Like`.

    Example:
        >>> Block(name="refunds", text="Refunds take a week.", when=("refund", "money back")).name
        'refunds'
    """

    name: str
    text: str
    when: Condition | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockChoice:
    """Whether a block is included, and why."""

    name: str
    included: bool
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class BuiltPrompt:
    """The instructions for one request.

    Args:
        text: What to send.
        steady: How many characters at its beginning are the same for every request: mark the
            provider's cache there.
        choices: What was decided about each block, in the order given.
        tokens: Of `text`.
        tokens_saved: Of the blocks left out.

    Example:
        >>> built = InstructionBlocks([Block(name="role", text="You sell bikes.")]).build("Hello")
        >>> built.text[: built.steady]
        'You sell bikes.'
    """

    text: str
    steady: int
    choices: tuple[BlockChoice, ...]
    tokens: int
    tokens_saved: int


class InstructionBlocks:
    """Builds a system prompt from the blocks that a request needs. Thread-safe.

    What is always needed comes first and the rest in the order given, so that the beginning stays
    the same and a provider can cache it. When a condition cannot be asked (the embedder or a
    function raises), its block is included.

    Args:
        blocks: In the order in which they shall stand.
        embedder: What says how near a request is; only `Like` needs it.
        model: Whose tokens are counted.

    Raises:
        ConfigError: if two blocks have one name, a condition is not understood, or one is `Like`
            and there is no embedder.

    Example:
        >>> blocks = InstructionBlocks([
        ...     Block(name="refunds", text="Refunds take a week.", when=("refund", "money back")),
        ...     Block(name="role", text="You sell bikes."),
        ... ])
        >>> blocks.build("Do you have red bikes?").text
        'You sell bikes.'
        >>> blocks.build("Can I have refunds?").choices[0].why
        "the request has 'refund'"
    """

    def __init__(
        self, blocks: Iterable[Block], *, embedder: Embedder | None = None, model: str = ""
    ) -> None:
        self._blocks = tuple(blocks)
        self._embedder = embedder
        self._model = model
        self._vectors: dict[str, Matrix] = {}
        names = [block.name for block in self._blocks]
        for block in self._blocks:
            if names.count(block.name) > 1:
                raise ConfigError(f"two blocks are called {block.name!r}; a name must be unique.")
            if isinstance(block.when, Like) and embedder is None:
                raise ConfigError(f"block {block.name!r} asks for likeness, so give an embedder.")
            _checked(block)

    def build(self, request: str) -> BuiltPrompt:
        """Return the instructions for a request."""
        return run(self._build(request))

    async def abuild(self, request: str) -> BuiltPrompt:
        """Do what `build` does, without blocking the event loop."""
        return await arun(self._build(request))

    def _build(self, request: str) -> Flow[BuiltPrompt]:
        choices = yield from self._choices(request)
        always = [block.text for block in self._blocks if block.when is None]
        needed = [
            block.text
            for block, choice in zip(self._blocks, choices, strict=True)
            if block.when is not None and choice.included
        ]
        text = _BETWEEN.join([*always, *needed])
        count = shared_tokens().counter(self._model)
        tokens = count(text)
        everything = count(
            _BETWEEN.join([*always, *(b.text for b in self._blocks if b.when is not None)])
        )
        return BuiltPrompt(
            text=text,
            steady=len(_BETWEEN.join(always)),
            choices=tuple(choices),
            tokens=tokens,
            tokens_saved=max(everything - tokens, 0),
        )

    def _choices(self, request: str) -> Flow[list[BlockChoice]]:
        asked: Vector | None = None
        choices = []
        for block in self._blocks:
            try:
                if isinstance(block.when, Like) and self._embedder is not None:
                    if asked is None:
                        asked = (yield from call(self._embedder.embed, [request], "query"))[0]
                    why = yield from self._like(block.name, block.when, self._embedder, asked)
                else:
                    why = _met(block.when, request)
            except Exception as error:  # noqa: BLE001 - an instruction too many harms least
                why = f"its condition raised {type(error).__name__}"
            choices.append(
                BlockChoice(
                    name=block.name, included=bool(why), why=why or "its condition is not met"
                )
            )
        return choices

    def _like(self, name: str, like: Like, embedder: Embedder, asked: Vector) -> Flow[str]:
        if name not in self._vectors:
            made = yield from call(embedder.embed, list(like.requests), "query")
            self._vectors[name] = made
        cosines = (self._vectors[name] @ asked).tolist()
        best = max(range(len(cosines)), key=cosines.__getitem__)
        if cosines[best] < like.min_cosine:
            return ""
        return f"the request is like {like.requests[best]!r} (cosine {cosines[best]:.3f})"


def _checked(block: Block) -> None:
    when = block.when
    if isinstance(when, str) or not (
        when is None or isinstance(when, tuple | re.Pattern | Like) or callable(when)
    ):
        raise ConfigError(
            f"block {block.name!r} must have a tuple of words, a compiled regular expression, a "
            f"function, Like or None as its condition, got {type(when).__name__}."
        )
    if isinstance(when, tuple) and not (when and all(words(word) for word in when)):
        raise ConfigError(f"block {block.name!r} must name words with at least a letter or digit.")


def _met(when: Condition | None, request: str) -> str:
    """Say why a condition is met, "" if it is not."""
    if when is None:
        return "always"
    if isinstance(when, tuple):
        said = words(request)
        word = next((word for word in when if _holds(said, words(word))), None)
        return "" if word is None else f"the request has {word!r}"
    if isinstance(when, re.Pattern):
        found = when.search(request)
        return f"the request has {found[0]!r}" if found else ""
    return "its function says so" if not isinstance(when, Like) and when(request) else ""


def _holds(said: list[str], phrase: list[str]) -> bool:
    return any(said[n : n + len(phrase)] == phrase for n in range(len(said) - len(phrase) + 1))
