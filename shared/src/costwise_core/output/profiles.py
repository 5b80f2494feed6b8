"""What the answer to a task looks like: how long it may be, how it ends, how it is asked for."""

from dataclasses import dataclass
from typing import Final

from costwise_core.errors import ConfigError

__all__ = ["ANSWER", "CLASSIFY", "EXTRACT", "SUMMARISE", "OutputProfile", "is_cut_off"]

_LARGER: Final = 4
# What a model that thinks before it answers is given besides: its thoughts count as output.
_THOUGHTS: Final = 4_096
_CUT_OFF: Final = frozenset({"length", "max_tokens", "max_output_tokens", "model_length"})


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputProfile:
    """What the answers to one kind of task look like.

    `dataclasses.replace(ANSWER, max_tokens=250)` makes one of your own; `suggest_max_tokens` says
    what your ledger speaks for.

    Args:
        name: What it is called in answers.
        max_tokens: The longest answer that is asked for.
        longest: The longest answer of the second try, where the first was cut off; None is four
            times `max_tokens`, and `max_tokens` itself is no second try.
        instruction: Is added to the system prompt; "" adds nothing.
        stop: Texts that end an answer.
        json: True where the answer is a JSON object; models with a switch for that are told so.

    Raises:
        ConfigError: if a length is not positive, or `longest` is less than `max_tokens`.

    Example:
        >>> tags = OutputProfile(name="tags", max_tokens=32, instruction="Give three tags.")
        >>> tags.cap(), tags.cap(again=True)
        (32, 128)
    """

    name: str
    max_tokens: int
    longest: int | None = None
    instruction: str = ""
    stop: tuple[str, ...] = ()
    json: bool = False

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ConfigError(f"max_tokens must be at least 1, got {self.max_tokens}.")
        if self.longest is not None and self.longest < self.max_tokens:
            raise ConfigError(
                f"longest must be at least max_tokens ({self.max_tokens}), got {self.longest}; "
                "give max_tokens for no second try."
            )

    def cap(self, *, again: bool = False, thoughts: int | None = 0) -> int:
        """Return how many tokens a call may produce.

        Args:
            again: True for the second try.
            thoughts: Tokens that the model may think before it answers, out of the same allowance;
                None for one that thinks as long as it likes.

        Example:
            >>> CLASSIFY.cap(), CLASSIFY.cap(thoughts=1_024), CLASSIFY.cap(thoughts=None)
            (16, 1040, 4112)
        """
        longest = self.max_tokens * _LARGER if self.longest is None else self.longest
        if thoughts is None:
            thoughts = _THOUGHTS * (_LARGER if again and longest > self.max_tokens else 1)
        return (longest if again else self.max_tokens) + thoughts

    def stops(self, *, blank: bool = True, thinks: bool = False) -> list[str]:
        r"""Return the texts that end an answer, as far as a model takes them.

        Args:
            blank: False for a model that refuses texts of nothing but blanks, as Claude does.
            thinks: True for a model that thinks before it answers; they take none.

        Example:
            >>> CLASSIFY.stops(), CLASSIFY.stops(blank=False)
            (['\n'], [])
        """
        return [] if thinks else [text for text in self.stop if blank or text.strip()]


CLASSIFY: Final = OutputProfile(
    name="classify",
    max_tokens=16,
    stop=("\n",),
    instruction="Reply with the label alone: no explanation, no punctuation, on one line.",
)
"""One label out of several."""

EXTRACT: Final = OutputProfile(
    name="extract",
    max_tokens=256,
    json=True,
    instruction=(
        "Reply with one JSON object that holds what was asked for and nothing else: no prose, no "
        "code fence. Use null for what the text does not say."
    ),
)
"""Facts out of a text, as JSON."""

ANSWER: Final = OutputProfile(
    name="answer",
    max_tokens=400,
    instruction=(
        "Answer directly, in as few words as a complete answer takes. Do not repeat the question, "
        "announce what you will say, or sum up at the end."
    ),
)
"""A question, answered in prose."""

SUMMARISE: Final = OutputProfile(
    name="summarise",
    max_tokens=300,
    instruction=(
        "Summarise in at most six sentences. Keep names, figures and decisions; leave out examples "
        "and asides. Begin with the most important point, without an introduction."
    ),
)
"""A long text, made short."""


def is_cut_off(reason: str) -> bool:
    """Tell from a finish reason, in any provider's words, whether an answer hit its cap.

    Example:
        >>> [is_cut_off(reason) for reason in ("length", "MAX_TOKENS", "stop", "")]
        [True, True, False, False]
    """
    return reason.lower().removeprefix("finish_reason_") in _CUT_OFF
