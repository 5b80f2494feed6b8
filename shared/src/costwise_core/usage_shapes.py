"""The shapes of usage reports: by which fields each is known, and what adds up to what in it.

The reports disagree in what costs money: OpenAI and LangChain count cached tokens inside the input,
Anthropic and Bedrock beside it; OpenAI counts reasoning inside the output, Google and xAI beside
it. So each shape is a row of one table.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

__all__ = ["SHAPES", "WRAPPERS", "Shape"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """One kind of report: how to know it, and the paths of its numbers.

    Several paths of one number add up, so a report that counts cached tokens beside the input names
    them in `input` too. "details[AUDIO].count" stands for the items of a list that say AUDIO.
    `total` is read where some servers count hidden output in the total alone.

    Example:
        >>> Shape(known_by=("sent",), input=("sent", "cached"), output=("said",)).cache_read
        ()
    """

    known_by: tuple[str, ...]
    input: tuple[str, ...]
    output: tuple[str, ...]
    total: tuple[str, ...] = ()
    cache_read: tuple[str, ...] = ()
    cache_write: tuple[str, ...] = ()
    cache_write_1h: tuple[str, ...] = ()
    reasoning: tuple[str, ...] = ()
    audio_input: tuple[str, ...] = ()
    audio_cache_read: tuple[str, ...] = ()
    audio_output: tuple[str, ...] = ()


def _openai(*known_by: str, cache_read: str = "prompt_tokens_details.cached_tokens") -> Shape:
    return Shape(
        known_by=("prompt_tokens", *known_by),
        input=("prompt_tokens",),
        output=("completion_tokens",),
        total=("total_tokens",),
        cache_read=(cache_read,),
        cache_write=("prompt_tokens_details.cache_write_tokens",),
        reasoning=("completion_tokens_details.reasoning_tokens",),
        audio_input=("prompt_tokens_details.audio_tokens",),
        audio_output=("completion_tokens_details.audio_tokens",),
    )


def _google(answer: str, spelt: Callable[[str], str], *known_by: str) -> Shape:
    def audio(part: str) -> tuple[str, ...]:
        return (f"{spelt(f'{part}_tokens_details')}[AUDIO].{spelt('token_count')}",)

    prompt, thoughts = spelt("prompt_token_count"), spelt("thoughts_token_count")
    return Shape(
        known_by=(prompt, *known_by),
        input=(prompt, spelt("tool_use_prompt_token_count")),
        output=(spelt(f"{answer}_token_count"), thoughts),
        cache_read=(spelt("cached_content_token_count"),),
        reasoning=(thoughts,),
        audio_input=audio("prompt"),
        audio_cache_read=audio("cache"),
        audio_output=audio(answer),
    )


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(map(str.capitalize, others))


# The first shape whose `known_by` fields are all there is taken.
SHAPES: Final = (
    # LangChain's UsageMetadata (with a service tier, langchain-openai prefixes the details), and
    # what OpenAI says of speech.
    Shape(
        known_by=("input_tokens", "total_tokens", "input_token_details"),
        input=("input_tokens",),
        output=("output_tokens",),
        total=("total_tokens",),
        cache_read=(
            "input_token_details.cache_read",
            "input_token_details.flex_cache_read",
            "input_token_details.priority_cache_read",
            "input_token_details.cached_tokens",
        ),
        # langchain-anthropic reports writes by lifetime and leaves `cache_creation` at zero then.
        cache_write=(
            "input_token_details.cache_creation",
            "input_token_details.flex_cache_creation",
            "input_token_details.priority_cache_creation",
            "input_token_details.ephemeral_5m_input_tokens",
            "input_token_details.ephemeral_1h_input_tokens",
        ),
        cache_write_1h=("input_token_details.ephemeral_1h_input_tokens",),
        reasoning=(
            "output_token_details.reasoning",
            "output_token_details.flex_reasoning",
            "output_token_details.priority_reasoning",
        ),
        audio_input=("input_token_details.audio", "input_token_details.audio_tokens"),
        audio_cache_read=("input_token_details.cached_tokens_details.audio_tokens",),
        audio_output=("output_token_details.audio", "output_token_details.audio_tokens"),
    ),
    # Anthropic's own; either of the two cache fields may be left out.
    *(
        Shape(
            known_by=("input_tokens", field),
            input=("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"),
            output=("output_tokens",),
            cache_read=("cache_read_input_tokens",),
            cache_write=("cache_creation_input_tokens",),
            cache_write_1h=("cache_creation.ephemeral_1h_input_tokens",),
        )
        for field in ("cache_read_input_tokens", "cache_creation_input_tokens")
    ),
    # OpenAI's responses, and without details LangChain's and Anthropic's shortest forms.
    Shape(
        known_by=("input_tokens", "output_tokens"),
        input=("input_tokens",),
        output=("output_tokens",),
        total=("total_tokens",),
        cache_read=("input_tokens_details.cached_tokens",),
        cache_write=("input_tokens_details.cache_write_tokens",),
        reasoning=(
            "output_tokens_details.reasoning_tokens",
            "output_token_details.reasoning",
        ),
        audio_input=("input_tokens_details.audio_tokens",),
        audio_output=(
            "output_tokens_details.audio_tokens",
            "output_token_details.audio",
        ),
    ),
    # DeepSeek and Moonshot say elsewhere, too, what was cached.
    _openai("prompt_cache_hit_tokens", cache_read="prompt_cache_hit_tokens"),
    _openai("cached_tokens", cache_read="cached_tokens"),
    # OpenAI's chat completions and embeddings, and the many servers that speak like them: Mistral,
    # xAI, vLLM, llama.cpp, Google's compatible endpoint.
    _openai(),
    # Meta's models on Bedrock, which would pass for Google's.
    Shape(
        known_by=("prompt_token_count", "generation_token_count"),
        input=("prompt_token_count",),
        output=("generation_token_count",),
    ),
    # Google's own, as its Python package and as its API spells it; a live session says "response".
    _google("response", str, "response_token_count"),
    _google("response", _camel, "responseTokenCount"),
    _google("candidates", str),
    _google("candidates", _camel),
    # Bedrock's converse, and the headers of its older calls.
    Shape(
        known_by=("inputTokens", "outputTokens"),
        input=("inputTokens", "cacheReadInputTokens", "cacheWriteInputTokens"),
        output=("outputTokens",),
        cache_read=("cacheReadInputTokens",),
        cache_write=("cacheWriteInputTokens",),
        cache_write_1h=("cacheDetails[1h].inputTokens",),
    ),
    Shape(
        known_by=("inputTokenCount", "outputTokenCount"),
        input=("inputTokenCount", "cacheReadInputTokenCount", "cacheWriteInputTokenCount"),
        output=("outputTokenCount",),
        cache_read=("cacheReadInputTokenCount",),
        cache_write=("cacheWriteInputTokenCount",),
    ),
    # Cohere's own: what is billed, which is less than what is read.
    Shape(
        known_by=("billed_units.input_tokens",),
        input=("billed_units.input_tokens",),
        output=("billed_units.output_tokens",),
    ),
    # Ollama's own. It leaves the prompt out when it had it cached: not known, which is not zero.
    Shape(
        known_by=("eval_count", "prompt_eval_count"),
        input=("prompt_eval_count",),
        output=("eval_count",),
    ),
    # llama.cpp's own: of a whole answer, and of its timings, which leave out what was cached.
    Shape(
        known_by=("tokens_evaluated", "tokens_predicted"),
        input=("tokens_evaluated",),
        output=("tokens_predicted",),
    ),
    Shape(
        known_by=("prompt_n", "predicted_n"),
        input=("prompt_n", "cache_n"),
        output=("predicted_n",),
        cache_read=("cache_n",),
    ),
)

WRAPPERS: Final = (
    "usage_metadata",
    "usage",
    "token_usage",
    "usageMetadata",
    "message.usage",
    "response.usage",
    "metadata.usage",
    "delta.usage",
    "meta",
    "amazon-bedrock-invocationMetrics",
    "timings",
)
"""Where in a response or an event a report may be."""
