"""`costwise-core whatif`: the calculators on the command line."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeAlias

from costwise_core.prices import PriceBook, shared_prices
from costwise_core.whatif.estimate import Estimate, Load
from costwise_core.whatif.hosting import SelfHosting, self_host
from costwise_core.whatif.savings import (
    batch_share,
    output_length,
    prompt_cache_share,
    response_cache_share,
    routing_mix,
)
from costwise_core.whatif.tiers import TierReport, dominated_tiers

__all__ = ["whatif_command"]

_Answer: TypeAlias = Estimate | SelfHosting | TierReport


def whatif_command(argv: Sequence[str]) -> int:
    """Run `costwise-core whatif`, and return its exit status.

    Args:
        argv: What follows "whatif".

    Returns:
        0.

    Raises:
        CostwiseError: if an argument is wrong or a price is not known.

    Example:
        >>> whatif_command(["tiers", "gpt-4o-mini", "gpt-4o"])
        Each model has something that speaks for it
          model        input  cached  output
          gpt-4o-mini  $0.15  $0.075   $0.60
          gpt-4o       $2.50   $1.25  $10.00
          dominated: a better model costs no more for input, cached input and output
        0
    """
    given = _parser().parse_args(argv)
    book = PriceBook.from_file(given.prices) if given.prices else shared_prices()
    answer = _ASKED[given.what](given, book)
    shown = json.dumps(answer.to_dict(), indent=2) if given.json else str(answer)
    sys.stdout.write(f"{shown}\n")
    return 0


def _load(given: argparse.Namespace) -> Load:
    return Load(
        requests=given.requests,
        input_tokens=given.input,
        output_tokens=given.output,
        period=given.period,
    )


_ASKED: Final[dict[str, Callable[[argparse.Namespace, PriceBook], _Answer]]] = {
    "mix": lambda given, book: routing_mix(
        _load(given), dict(given.mix), baseline=given.model, prices=book
    ),
    "cache": lambda given, book: response_cache_share(
        _load(given),
        given.model,
        hit_rate=given.hit_rate,
        overhead_usd=given.overhead,
        prices=book,
    ),
    "prompt-cache": lambda given, book: prompt_cache_share(
        _load(given), given.model, prefix_tokens=given.prefix, warm=given.warm, prices=book
    ),
    "batch": lambda given, book: batch_share(
        _load(given), given.model, share=given.share, prices=book
    ),
    "output": lambda given, book: output_length(
        _load(given), given.model, output_tokens=given.to, prices=book
    ),
    "self-host": lambda given, book: self_host(
        _load(given),
        given.model,
        usd_per_hour=given.usd_per_hour,
        tokens_per_second=given.tokens_per_second,
        busy=given.busy,
        prices=book,
    ),
    "tiers": lambda given, book: dominated_tiers(given.models, prices=book),
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="costwise-core whatif", description="What a change would do to the bill."
    )
    parser.add_argument("--prices", type=Path, help="a price file of your own (.toml or .json)")
    parser.add_argument("--json", action="store_true", help="write JSON instead of a table")
    kinds = parser.add_subparsers(dest="what", required=True)

    def kind(name: str, text: str) -> argparse.ArgumentParser:
        one = kinds.add_parser(name, help=text, description=text)
        one.add_argument("--requests", type=int, required=True, help="in a period")
        one.add_argument("--input", type=int, required=True, help="tokens sent with each")
        one.add_argument("--output", type=int, required=True, help="tokens produced for each")
        one.add_argument("--period", choices=("day", "month"), default="month")
        one.add_argument("--model", required=True, help="what answers now")
        return one

    mix = kind("mix", "some requests go to other models")
    mix.add_argument(
        "--mix", type=_pair, nargs="+", required=True, metavar="MODEL=SHARE", help="weakest first"
    )
    cache = kind("cache", "stored answers serve some requests")
    cache.add_argument("--hit-rate", type=float, required=True)
    cache.add_argument("--overhead", default="0", help="dollars a request for the cache itself")
    prompt = kind("prompt-cache", "the provider caches the beginning of each prompt")
    prompt.add_argument("--prefix", type=int, required=True, help="tokens that begin alike")
    prompt.add_argument("--warm", type=float, required=True, help="share that finds it cached")
    batch = kind("batch", "some requests can wait")
    batch.add_argument("--share", type=float, required=True)
    output = kind("output", "answers have another length")
    output.add_argument("--to", type=int, required=True, help="tokens produced for each then")
    host = kind("self-host", "machines of your own")
    host.add_argument("--usd-per-hour", required=True)
    host.add_argument("--tokens-per-second", type=float, required=True, help="of output, in all")
    host.add_argument("--busy", type=float, default=0.6, help="share of the time with work")
    tiers = kinds.add_parser("tiers", help="models that a better one undercuts")
    tiers.add_argument("models", nargs="+", help="the weakest first")
    return parser


def _pair(text: str) -> tuple[str, float]:
    model, equals, share = text.rpartition("=")
    try:
        return model, float(share) if equals else float("nan")
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not MODEL=SHARE") from error
