"""What tells prompts apart in the ledger, which keeps no text: two short hashes."""

import hashlib
from typing import Final

__all__ = ["PREFIX", "prefix_hash", "prompt_hash", "prompt_hashes"]

PREFIX: Final = 4_000
"""Characters of a prompt's beginning, about 1,000 tokens: less no provider caches."""


def prompt_hash(prompt: str, model: str, tenant: str = "") -> str:
    """Return 16 hexadecimal digits that are equal for equal prompts of one tenant to one model.

    Tenants have hashes of their own, so that a ledger never tells that two asked the same. A hash
    is no secret: whoever guesses the prompt can check the guess.

    Returns:
        The hash, or "" for an empty prompt.

    Example:
        >>> prompt_hash("What is RAG?", "gpt-4o")
        'f38c87c8e7af086d'
        >>> prompt_hash("What is RAG?", "gpt-4o", "acme") == prompt_hash("What is RAG?", "gpt-4o")
        False
    """
    return prompt_hashes(prompt, model, tenant)[0]


def prefix_hash(prompt: str, model: str, tenant: str = "") -> str:
    """Return the hash of a prompt's first `PREFIX` characters, or "" if it has fewer.

    Example:
        >>> rules = "Answer from the passages. " * 200
        >>> prefix_hash(rules + "When?", "gpt-4o") == prefix_hash(rules + "Where?", "gpt-4o")
        True
    """
    return prompt_hashes(prompt, model, tenant)[1]


def prompt_hashes(prompt: str, model: str, tenant: str = "") -> tuple[str, str]:
    """Return `prompt_hash` and `prefix_hash`, reading the prompt once for both.

    Example:
        >>> prompt_hashes("What is RAG?", "gpt-4o")
        ('f38c87c8e7af086d', '')
    """
    if not prompt:
        return "", ""
    start = f"{len(tenant)} {len(model)} {tenant}{model}{prompt[:PREFIX]}"
    digest = hashlib.blake2b(start.encode("utf-8", "surrogatepass"), digest_size=8)
    prefix = digest.hexdigest() if len(prompt) >= PREFIX else ""
    digest.update(prompt[PREFIX:].encode("utf-8", "surrogatepass"))
    return digest.hexdigest(), prefix
