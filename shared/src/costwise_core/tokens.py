"""Token counts: exact where the tokenizer's file is already on this machine, else marked estimates.

Nothing is ever downloaded. Two tokenizers (o200k_base and cl100k_base) cover OpenAI's models; their
files come with llama-index-core. No current tokenizer of the other providers can be had offline, so
their counts are estimated by script and corrected by what the provider reports afterwards.
"""

import base64
import hashlib
import importlib.util
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tiktoken import Encoding

    from costwise_core.protocols import TokenCounter

__all__ = ["TokenCount", "Tokens", "count_tokens", "shared_tokens"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenCount:
    """A number of tokens and how it was found.

    Args:
        tokens: How many.
        estimated: True unless the model's own tokenizer counted.
        how: One phrase for a person.

    Example:
        >>> count_tokens("", "claude-haiku-4-5")
        TokenCount(tokens=0, estimated=True, how='by script')
    """

    tokens: int
    estimated: bool
    how: str


class Tokens:
    """Counts tokens and learns from providers' reports. Thread-safe; reads files on first use only.

    Args:
        folder: Where to look for tokenizer files first, named as tiktoken names them in its cache
            folder. Afterwards come the folder in `TIKTOKEN_CACHE_DIR` and the files that
            llama-index-core brings, if it is installed.

    Example:
        >>> tokens = Tokens()
        >>> tokens.count("Retrieval-augmented generation", "claude-haiku-4-5").estimated
        True
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self._folder = None if folder is None else Path(folder)
        self._corrections: dict[str, _Correction] = {}
        self._lock = threading.Lock()

    def count(self, text: str, model: str = "") -> TokenCount:
        """Count the tokens of a text for a model; never raises for any text.

        Special tokens written out in the text count as the plain text they are.

        Args:
            text: Any text, of any length.
            model: As the provider names it, with or without "provider:" in front.
        """
        model = _bare(model)
        name = _encoding_name(model)
        encoding = self._encoding(name) if name else None
        if encoding is not None:
            tokens, cut = _encode(encoding, text)
            if not cut:
                return TokenCount(tokens=tokens, estimated=False, how=name)
            return TokenCount(
                tokens=tokens, estimated=True, how=f"{name}, long runs without a space cut"
            )
        with self._lock:
            correction = self._corrections.get(model, _Correction())
        if not correction.reports:
            how = "by script" if not name else f"by script, as no {name} file is here"
        else:
            how = f"by script, corrected by {correction.reports} reports"
        # A text that is not empty has at least one token.
        tokens = max(round(_by_script(text) * correction.factor), 1 if text else 0)
        return TokenCount(tokens=tokens, estimated=True, how=how)

    def calibrate(self, model: str, text: str, reported: int) -> None:
        """Learn from a provider's own count of a text, so that later estimates are nearer.

        The correction is the running mean of reported over estimated tokens, later an exponentially
        weighted one, each ratio held between 1/4 and 4. Short texts, where the provider's message
        frame outweighs the text, teach nothing; nor does a model that is counted exactly.

        Args:
            model: As given to `count`.
            text: Everything that was sent (or received), joined.
            reported: The tokens the provider says that was.
        """
        estimate = _by_script(text)
        if estimate < _TEACHES or reported <= 0:
            return
        model = _bare(model)
        with self._lock:
            old = self._corrections.get(model, _Correction())
            self._corrections[model] = old.after(reported / estimate)

    def counter(self, model: str = "") -> "TokenCounter":
        """Return a function from text to its number of tokens for this model.

        Example:
            >>> Tokens().counter("claude-haiku-4-5")("")
            0
        """
        return lambda text: self.count(text, model).tokens

    def _encoding(self, name: str) -> "Encoding | None":
        for folder in self._folders():
            encoding = _load(name, folder)
            if encoding is not None:
                return encoding
        return None

    def _folders(self) -> Iterator[Path]:
        if self._folder is not None:
            yield self._folder
        if named := os.environ.get("TIKTOKEN_CACHE_DIR"):
            yield Path(named)
        if (bundled := _llama_index_folder()) is not None:
            yield bundled


def count_tokens(text: str, model: str = "") -> TokenCount:
    """Count the tokens of a text for a model, with the process's shared `Tokens`.

    Example:
        >>> count_tokens("").tokens
        0
    """
    return shared_tokens().count(text, model)


@cache
def shared_tokens() -> Tokens:
    """Return the `Tokens` that everything in this process counts with unless given another.

    Example:
        >>> shared_tokens() is shared_tokens()
        True
    """
    return Tokens()


# --- exact counts -------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Tokenizer:
    file: str  # sha1 of the address tiktoken would download from: its name in tiktoken's cache
    sha256: str  # of the content
    pattern: str  # how a text is taken apart before byte pairs are merged


_UPPER: Final = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER: Final = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_ENDING: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"

# Published with tiktoken (MIT), which would look in no file but download when it finds none.
_TOKENIZERS: Final = {
    "o200k_base": _Tokenizer(
        file="fb374d419588a4632f3f557e76b4b70aebbca790",
        sha256="446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
        pattern="|".join(
            (
                rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_ENDING}?",
                rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_ENDING}?",
                r"\p{N}{1,3}",
                r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
                r"\s*[\r\n]+",
                r"\s+(?!\S)",
                r"\s+",
            )
        ),
    ),
    "cl100k_base": _Tokenizer(
        file="9b5ad71b2ce5302211f9c61530b329a4922fc6a4",
        sha256="223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
        pattern="|".join(
            (
                r"'(?i:[sdmt]|ll|ve|re)",
                r"[^\r\n\p{L}\p{N}]?+\p{L}++",
                r"\p{N}{1,3}+",
                r" ?[^\s\p{L}\p{N}]++[\r\n]*+",
                r"\s++$",
                r"\s*[\r\n]",
                r"\s+(?!\S)",
                r"\s",
            )
        ),
    ),
}

_MODELS: Final = (
    (
        re.compile(r"(ft:)?(gpt-4o|gpt-4\.[15]|gpt-[5-9]|chatgpt-4o|o[134](-|$)|gpt-oss)"),
        "o200k_base",
    ),
    (re.compile(r"(ft:)?(gpt-4(-|$)|gpt-3\.?5|text-embedding-(3|ada-002))"), "cl100k_base"),
)


def _bare(model: str) -> str:
    """Return the model's name without a provider in front ("openai:", "openai/", "azure/")."""
    name = model.lower().rsplit("/", 1)[-1]
    head, colon, tail = name.partition(":")
    return tail if colon and head.isalpha() and head != "ft" else name


@lru_cache(maxsize=1024)
def _encoding_name(model: str) -> str:
    return next((name for pattern, name in _MODELS if pattern.match(model)), "")


@cache
def _llama_index_folder() -> Path | None:
    # Found without importing it, which would take seconds.
    spec = importlib.util.find_spec("llama_index")
    for root in spec.submodule_search_locations or () if spec else ():
        folder = Path(root, "core", "_static", "tiktoken_cache")
        if folder.is_dir():
            return folder
    return None


_loading = threading.Lock()
_loaded: dict[tuple[str, Path], "Encoding | None"] = {}


def _load(name: str, folder: Path) -> "Encoding | None":
    """Build a tokenizer from a folder, once; None when its file is missing or damaged."""
    key = (name, folder)
    if key not in _loaded:
        with _loading:
            if key not in _loaded:
                _loaded[key] = _read(_TOKENIZERS[name], name, folder)
    return _loaded[key]


def _read(tokenizer: _Tokenizer, name: str, folder: Path) -> "Encoding | None":
    try:
        content = (folder / tokenizer.file).read_bytes()
        from tiktoken import Encoding  # noqa: PLC0415 - only when there is something to load
    except (OSError, ImportError):
        return None
    if hashlib.sha256(content).hexdigest() != tokenizer.sha256:
        return None
    pairs = (line.split() for line in content.splitlines() if line)
    ranks = {base64.b64decode(token): int(rank) for token, rank in pairs}
    # Built by hand: `tiktoken.get_encoding` falls back to the network. No special tokens, because
    # what a user writes is text even when it spells one.
    return Encoding(name, pat_str=tokenizer.pattern, mergeable_ranks=ranks, special_tokens={})


_WINDOW: Final = 100_000
"""Characters encoded at once: a million blanks in one piece crash tiktoken."""

_WORD_BORDER: Final = re.compile(r"(?<=[^\W_])(?= [^\W_])")


def _encode(encoding: "Encoding", text: str) -> tuple[int, bool]:
    """Return the number of tokens and whether a cut may have changed it."""
    tokens, start, harmed = 0, 0, False
    while len(text) - start > _WINDOW:
        end = start + _WINDOW
        # Both patterns begin a new piece at a blank between two words, so a cut there is exact.
        borders = [match.start() for match in _WORD_BORDER.finditer(text, end - 1000, end)]
        harmed = harmed or not borders
        end = borders[-1] if borders else end
        tokens += len(encoding.encode_ordinary(text[start:end]))
        start = end
    return tokens + len(encoding.encode_ordinary(text[start:])), harmed


# --- estimates ----------------------------------------------------------------------------------

_DENSE: Final = re.compile(  # Hangul, kana, Han and their full-width forms: about a token each
    "[\u1100-\u11ff\u2e80-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]"
)
_ASCII_PER_TOKEN: Final = (
    3.5  # prose has 4 to 5, chat and sums under 3.5: rather too many than too few
)
_OTHER_PER_TOKEN: Final = 2.0
_TEACHES: Final = 50.0


def _by_script(text: str) -> float:
    if text.isascii():
        return len(text) / _ASCII_PER_TOKEN
    ascii_ = len(text.encode("ascii", "ignore"))
    dense = len(_DENSE.findall(text))
    return ascii_ / _ASCII_PER_TOKEN + dense + (len(text) - ascii_ - dense) / _OTHER_PER_TOKEN


@dataclass(frozen=True, slots=True)
class _Correction:
    factor: float = 1.0
    reports: int = 0

    def after(self, ratio: float) -> "_Correction":
        ratio = min(max(ratio, 0.25), 4.0)
        weight = max(1 / (self.reports + 1), 0.1)
        return _Correction(self.factor + weight * (ratio - self.factor), self.reports + 1)
