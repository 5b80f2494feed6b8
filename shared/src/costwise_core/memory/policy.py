"""How short a conversation is kept."""

from dataclasses import dataclass

from costwise_core.errors import ConfigError
from costwise_core.memory.economics import INSTRUCTION_TOKENS

__all__ = ["MemoryPolicy"]


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryPolicy:
    """How a conversation is kept short. The defaults are argued in docs/memory.md.

    Args:
        window: Tokens of conversation that fit in a prompt. Beyond, it is folded whatever it costs.
        tail_tokens: Newest messages of at least so many tokens are always kept; more of them, up
            to three times as many, where that is cheap.
        summary_tokens: The most that a summary may have. It is made shorter where a long one would
            not pay.
        recall_tokens: The most that recalled messages may have in one call.
        recall_share: Share of what a call saves that recall may spend, in [0, 1).
        summariser_window: Tokens that one step of a fold may read.

    Raises:
        ConfigError: if a number is out of range, or the window too small for the rest.

    Example:
        >>> MemoryPolicy(tail_tokens=400).tail_tokens
        400
    """

    window: int = 100_000
    tail_tokens: int = 120
    summary_tokens: int = 480
    recall_tokens: int = 1_000
    recall_share: float = 0.5
    summariser_window: int = 16_000

    def __post_init__(self) -> None:
        for name in ("window", "tail_tokens", "summary_tokens", "summariser_window"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.recall_tokens < 0:
            raise ConfigError(f"recall_tokens must be at least 0, got {self.recall_tokens}.")
        if not 0 <= self.recall_share < 1:
            raise ConfigError(f"recall_share must be in [0, 1), got {self.recall_share}.")
        if self.tail_tokens + self.summary_tokens >= self.window:
            raise ConfigError(
                f"a window of {self.window} tokens must be longer than the tail and the summary "
                f"together, {self.tail_tokens} and {self.summary_tokens}."
            )
        least = 2 * (self.summary_tokens + INSTRUCTION_TOKENS)
        if self.summariser_window < least:
            raise ConfigError(
                f"summariser_window must be at least {least} for summaries of "
                f"{self.summary_tokens} tokens, got {self.summariser_window}."
            )
