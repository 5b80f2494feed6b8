"""What each finding is called, how it is counted, and what it rests on."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from costwise_core.replaying.choices import Dominated
from costwise_core.replaying.context import Trimmed
from costwise_core.replaying.repeats import WrongShare

__all__ = [
    "FORMULAS",
    "TITLES",
    "why_batch",
    "why_context",
    "why_exact",
    "why_near",
    "why_routed",
]

TITLES: Final[Mapping[str, str]] = {
    "dominated_model": "Replace dominated models",
    "context": "Leave out context",
    "history": "Fold history",
    "output": "Cap long answers",
    "prompt_cache": "Use the prompt cache",
    "batch": "Send in batches",
    "near_repeats": "Cache near-repeats",
    "exact_repeats": "Cache exact repeats",
}

FORMULAS: Final[Mapping[str, str]] = {
    "dominated_model": "price of the call - price of the same tokens on the other model",
    "context": "price - price with passages cut to the share that the compressor kept of a sample",
    "history": "price - price with the history that the memory planner would have sent; folds are "
    "extracts, which no model writes, and recall spends all it may",
    "output": "tokens of an answer beyond the cap x output price",
    "prompt_cache": "tokens of a prefix sent within five minutes before x (input - cached price), "
    "less what writing them costs more",
    "batch": "price - batch price",
    "near_repeats": "price of the calls that an answer to a similar question would have served",
    "exact_repeats": "price of the calls whose question was answered before in the same scope",
}


def why_exact(hits: int, refused: Counter[str], *, ledger: bool) -> str:
    """Say how many repeats there are, and what kept others from being any."""
    if ledger:
        return (
            f"{hits:,} prompts were sent before to the letter; what a cache's policy would keep "
            "out cannot be seen in a ledger"
        )
    kept_out = ", ".join(f"{reason} {count:,}" for reason, count in refused.most_common(4))
    kept = f"; not reusable by policy: {kept_out}" if kept_out else ""
    return (
        f"{hits:,} calls asked the same in the same scope (tenant, model, prompt, passages){kept}"
    )


def why_near(hits: int, embedder: str, wrong: WrongShare, *, ledger: bool) -> str:
    """Say how near-repeats were found, and how their answers compare."""
    if ledger:
        return "a ledger keeps no questions"
    how = (
        f"cosine of {embedder} and guards"
        if embedder
        else "same content words and guards; an embedder would find more"
    )
    if wrong.share is None:
        return f"{hits:,} calls, by {how}" + ("; no two answers to compare" if hits else "")
    return (
        f"{hits:,} calls, by {how}; the log's own answers differ in {wrong.differ:,} of "
        f"{wrong.compared:,} pairs, and in {wrong.same_differ:,} of {wrong.same_compared:,} pairs "
        "of the very same question"
    )


def why_context(found: Trimmed, calls: int, *, ledger: bool) -> str:
    """Say what was compressed, and whether the answers are still in what is left."""
    if ledger:
        return "a ledger keeps no passages"
    if not calls:
        return "no passages were found in the prompts, or only short ones"
    if not found.share:
        return (
            f"{found.answered:,} of the sampled answers take words over from their passages, too "
            "few to say how much could go; calibrate_share does it with labelled questions"
        )
    if found.share >= 1:
        return f"no share keeps what 95 % of {found.answered:,} answers took from their passages"
    return (
        f"asked to keep {found.share:g} of the tokens, the compressor keeps "
        f"{found.kept_share:.0%}, and with them what at least {found.recall_least:.1%} of the "
        f"answers took over from their passages ({found.answered:,} sampled, 95 % confidence)"
    )


def why_routed(found: Sequence[Dominated], ceiling: str) -> str:
    """Say which models are dominated and by what evidence, or what it would take to know."""
    if found:
        return "; ".join(one.why for one in found)
    return (
        "nothing in the log says how good answers are, so no model can be called dominated; give "
        f"models=[weakest, ..., best], or log a mark from 0 to 1{ceiling}"
    )


def why_batch(waiting: Mapping[str, bool], *, features: bool) -> str:
    """Say which features can wait, and who says so."""
    if not waiting:
        told = "every feature has users" if features else "the log names no features"
        return f"{told}; name what can wait with can_wait=[feature]"
    named = [name for name, given in waiting.items() if given]
    guessed = [name for name, given in waiting.items() if not given]
    parts = [f"you say that {_list(named)} can wait"] if named else []
    if guessed:
        parts.append(f"no call of {_list(guessed)} names a user, as others do")
    return "; ".join(parts)


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
