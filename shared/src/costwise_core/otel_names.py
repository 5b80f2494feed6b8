"""Names of OpenTelemetry's conventions for generative AI, pinned here and nowhere else.

As of November 2026 they live in open-telemetry/semantic-conventions-genai and have no release; the
constants in `opentelemetry-semantic-conventions` are marked as moved. Dollars are in no convention
yet (a proposal is open), so everything of ours is under `costwise.` and experimental: those names
may change with any version.
"""

from typing import Final

# --- spans --------------------------------------------------------------------------------------
OPERATION: Final = "gen_ai.operation.name"
PROVIDER: Final = "gen_ai.provider.name"
REQUEST_MODEL: Final = "gen_ai.request.model"
RESPONSE_MODEL: Final = "gen_ai.response.model"
CONVERSATION: Final = "gen_ai.conversation.id"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
CACHE_READ_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
CACHE_WRITE_TOKENS: Final = "gen_ai.usage.cache_creation.input_tokens"
REASONING_TOKENS: Final = "gen_ai.usage.reasoning.output_tokens"

OPERATIONS: Final = {"completion": "text_completion", "embedding": "embeddings"}
"""What the conventions call an operation, where that is not what the ledger calls it."""

# --- metrics ------------------------------------------------------------------------------------
TOKEN_USAGE: Final = "gen_ai.client.token.usage"  # noqa: S105 - tokens of text
TOKEN_TYPE: Final = "gen_ai.token.type"  # noqa: S105
DURATION: Final = "gen_ai.client.operation.duration"
TOKEN_BOUNDS: Final = (
    1, 4, 16, 64, 256, 1_024, 4_096, 16_384, 65_536, 262_144, 1_048_576, 4_194_304, 16_777_216,
    67_108_864,
)  # fmt: skip
"""The buckets that the conventions ask for; likewise `DURATION_BOUNDS`, in seconds."""
DURATION_BOUNDS: Final = (
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
)  # fmt: skip

# --- ours, experimental -------------------------------------------------------------------------
COST: Final = "costwise.cost.usd"
SAVED: Final = "costwise.saved.usd"
"""On a span with a stage behind it, as in "costwise.saved.usd.response_cache"."""
STAGE: Final = "costwise.stage"
TAG: Final = "costwise.tag."
TIER: Final = "costwise.cache.tier"
OVERHEAD: Final = "costwise.overhead"
ESTIMATED: Final = "costwise.usage.estimated"
PROMPT_HASH: Final = "costwise.prompt.hash"
CALLS: Final = "costwise.calls"
UNPRICED: Final = "costwise.calls.unpriced"
