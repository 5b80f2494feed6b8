"""`make demo`: a stream of real questions through a RAG app, plain and with costwise."""

import argparse
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from tqdm.auto import tqdm

from costwise_core import PriceBook
from demo.apps import FRAMEWORKS
from demo.model import Endpoint, local_model, named_model
from demo.report import as_html, as_text
from demo.run import Run, ask_all, load


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument(
        "--model",
        default="local",
        help="local (SmolLM2-135M on this machine) or openai:NAME at an OpenAI-compatible endpoint",
    )
    parser.add_argument("--base-url", help="endpoint of openai:NAME (default: OPENAI_BASE_URL)")
    parser.add_argument("--price", help="model whose price tokens are billed at", default=None)
    parser.add_argument("--framework", choices=[*FRAMEWORKS, "both"], default="both")
    parser.add_argument("--limit", type=int, default=None, help="ask only the first N questions")
    parser.add_argument("--report", type=Path, default=Path("out/demo.html"))
    return parser.parse_args()


def endpoint_of(args: argparse.Namespace) -> tuple[AbstractContextManager[Endpoint], str]:
    if args.model == "local":
        return local_model(), args.price or "openai:gpt-4o-mini"
    provider, _, name = args.model.partition(":")
    if provider != "openai" or not name:
        raise SystemExit(f"--model is local or openai:NAME, got {args.model!r}")
    return nullcontext(named_model(name, args.base_url)), args.price or f"openai:{name}"


def runs(args: argparse.Namespace) -> Iterator[Run]:
    passages, requests = load()
    requests = requests[: args.limit]
    names = list(FRAMEWORKS) if args.framework == "both" else [args.framework]
    opened, price = endpoint_of(args)
    with opened as endpoint, tempfile.TemporaryDirectory() as folder:
        book = PriceBook(
            alias={} if price == f"openai:{endpoint.model}" else {endpoint.model: price}
        )
        with tqdm(total=2 * len(names) * len(requests), unit="question") as bar:
            for name in names:
                for mode in ("plain", "costwise"):
                    bar.set_description(f"{name}, {mode}")
                    cache = Path(folder) / f"{name}.db" if mode == "costwise" else None
                    with FRAMEWORKS[name](passages, endpoint, book, cache) as app:
                        yield ask_all(name, mode, app, requests, bar.update)


def main() -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    args = arguments()
    done = list(runs(args))
    _, price = endpoint_of(args)
    print(as_text(done, price=price))
    args.report.parent.mkdir(parents=True, exist_ok=True)
    args.report.write_text(as_html(done, price=price), encoding="utf-8")
    print(f"\nThe same with every question, as a page: {args.report}")


if __name__ == "__main__":
    main()
