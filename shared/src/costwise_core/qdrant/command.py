"""`costwise-core qdrant`: estimate, audit, tune, apply, roll back and watch on the command line.

A server's URL may come from `QDRANT_URL`. Its key comes from `QDRANT_API_KEY` and from nowhere
else, since everybody on a machine sees its arguments. Neither is ever shown.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from costwise_core.errors import ConfigError
from costwise_core.qdrant.extras import client_package
from costwise_core.qdrant.index_config import IndexConfig
from costwise_core.qdrant.prices import QdrantPrices
from costwise_core.qdrant.quantizers import QUANTIZATIONS
from costwise_core.qdrant.search_config import SearchConfig
from costwise_core.qdrant.targets import Target

__all__ = ["qdrant_command"]


def qdrant_command(argv: Sequence[str]) -> int:
    """Run `costwise-core qdrant`, and return its exit status.

    Args:
        argv: What follows "qdrant".

    Returns:
        0 if all is well; 1 if an audit has findings, a plan falls short, a change was taken back or
        a watch found that the promise no longer holds; 2 if a watch could not measure.

    Raises:
        CostwiseError: if it could not be done, or an argument is wrong.

    Example:
        >>> qdrant_command("estimate --points 1000000 --dims 384 --quantization int8".split())
        ... # doctest: +ELLIPSIS
        Memory to run fastest: 123% of what it is
        ...
          the original vectors stay cached: quantization adds memory and saves none
        0
    """
    given, rest = _parser().parse_known_args(argv)
    if rest:  # the parser would repeat all of it, and it may be a key
        raise ConfigError(f"unknown argument {rest[0].partition('=')[0][:20]!r}; see --help.")
    run: Callable[[argparse.Namespace], int] = _DO[given.what]
    return run(given)


# --- what is done -------------------------------------------------------------------------------


def _estimate(given: argparse.Namespace) -> int:
    from costwise_core.qdrant.sizing import estimate  # noqa: PLC0415
    from costwise_core.qdrant.sizing_change import SizingChange  # noqa: PLC0415

    options: dict[str, Any] = {
        "payload_bytes": given.payload_bytes,
        "payload_index_bytes": given.payload_index_bytes,
        "headroom": given.headroom,
    }
    now, copies, segments = IndexConfig(), 1, 1
    points, dims = given.points, given.dims
    if _names_target(given):
        with _target(given) as target:
            seen = target.inspect()
        now, copies, segments = seen.vector.index, seen.replication, max(1, seen.segments)
        points, dims = points or seen.points, dims or seen.vector.size
        options |= {"datatype": seen.vector.datatype, "payload": seen.payload}
    if points is None or dims is None:
        raise ConfigError("give --points and --dims, or a collection (--url, --edge or --local).")
    then = _changed(now, given)
    options |= {"replication": given.replication or copies, "segments": given.segments or segments}
    prices = _prices(given)
    before = estimate(points, dims, now, prices, **options)
    after = estimate(points, dims, then, prices, **options)
    _show(before if then == now else SizingChange(before=before, after=after), given)
    return 0


def _audit(given: argparse.Namespace) -> int:
    from costwise_core.qdrant.auditing import audit  # noqa: PLC0415

    search = SearchConfig(hnsw_ef=given.ef, rescore=given.rescore, oversampling=given.oversampling)
    with _target(given) as target:
        found = audit(
            target,
            search=None if search == SearchConfig() else search,
            filters_on=given.filters_on,
            score_threshold=given.score_threshold,
            settings=_json(given.settings) if given.settings else None,
        )
    _show(found, given)
    return 0 if found.ok else 1


def _tune(given: argparse.Namespace) -> int:
    from costwise_core.qdrant.tuning import tune  # noqa: PLC0415

    queries = int(given.queries) if given.queries.isdigit() else given.queries
    options = {
        "k": given.k,
        "recall_target": given.recall,
        "confidence": given.confidence,
        "prices": _prices(given),
        "folder": given.folder,
        "per_second": given.per_second,
        "searches_per_second": given.searches_per_second,
        "seed": given.seed,
        "progress": not given.json,
    }
    if given.vectors:
        plan = tune(given.vectors, queries, **options)
    else:
        with _target(given) as target:
            plan = tune(target, queries, **options)
    if given.out:
        plan.save(given.out)
    sys.stdout.write(f"{plan.to_json() if given.json else plan}\n")
    return 0 if plan.reached else 1


def _apply(given: argparse.Namespace) -> int:
    from costwise_core.qdrant.applying import apply  # noqa: PLC0415
    from costwise_core.qdrant.plan import TuningPlan  # noqa: PLC0415

    with _target(given) as target:
        done = apply(
            TuningPlan.load(given.plan),
            target,
            mode=given.mode,
            dry_run=not given.do,
            journal=given.journal,
            alias=given.alias,
            snapshot=given.snapshot,
            disk_free=given.disk_free,
            per_second=given.per_second,
            said=_progress(given),
        )
    _show_applied(done, given)
    return 1 if done.state == "rolled back" else 0


def _rollback(given: argparse.Namespace) -> int:
    from costwise_core.qdrant.applying import rollback  # noqa: PLC0415

    with _target(given) as target:
        done = rollback(given.journal, target, alias=given.alias, said=_progress(given))
    _show_applied(done, given)
    return 0


def _watch(given: argparse.Namespace) -> int:
    from costwise_core.qdrant.plan import TuningPlan  # noqa: PLC0415
    from costwise_core.qdrant.watching import watch  # noqa: PLC0415

    with _target(given) as target:
        found = watch(target, TuningPlan.load(given.plan), per_second=given.per_second)
    _show(found, given)
    return found.exit_code


_DO: Final[dict[str, Callable[[argparse.Namespace], int]]] = {
    "estimate": _estimate,
    "audit": _audit,
    "tune": _tune,
    "apply": _apply,
    "rollback": _rollback,
    "watch": _watch,
}


# --- what it is done to -------------------------------------------------------------------------


def _names_target(given: argparse.Namespace) -> bool:
    return bool(given.collection or given.edge or given.local)


@contextmanager
def _target(given: argparse.Namespace) -> Iterator[Target]:
    """Open the collection that was named, and close it."""
    if given.edge:
        from costwise_core.qdrant.target_edge import EdgeTarget  # noqa: PLC0415

        with EdgeTarget(given.edge, given.vector) as shard:
            yield shard
        return
    if not given.collection:
        raise ConfigError("name a collection: --collection NAME with --url URL, or --edge FOLDER.")
    url = given.url or os.environ.get("QDRANT_URL")
    if not given.local and not url:
        raise ConfigError("say where the server is: --url URL, or QDRANT_URL in the environment.")
    client = _client(given.local, url, given.timeout)
    try:
        yield _opened(client, given)
    finally:
        client.close()


def _opened(client: Any, given: argparse.Namespace) -> Target:
    from costwise_core.qdrant.target_local import LocalTarget  # noqa: PLC0415
    from costwise_core.qdrant.target_remote import RemoteTarget  # noqa: PLC0415

    kind = LocalTarget if given.local else RemoteTarget
    return kind(client, given.collection, given.vector)


def _client(local: Path | None, url: str | None, timeout: int) -> Any:
    if local is not None and not local.is_dir():
        raise ConfigError(f"there is no folder {os.fspath(local)!r}.")
    package = client_package()
    try:
        if local is not None:
            return package.QdrantClient(path=os.fspath(local))
        key = os.environ.get("QDRANT_API_KEY")
        return package.QdrantClient(url, api_key=key, timeout=timeout, check_compatibility=False)
    except Exception as error:  # noqa: BLE001 - the client raises what it meets
        # The message may hold the URL, and that a password.
        where = "the folder cannot be opened" if local else "that is no URL of a server"
        raise ConfigError(f"{where} ({type(error).__name__}).") from None


# --- what was given, and what is shown ----------------------------------------------------------


def _prices(given: argparse.Namespace) -> QdrantPrices | None:
    named = {"--ram-gib": given.ram_gib, "--disk-gib": given.disk_gib}
    if given.vcpu is None and not any(named.values()):
        return None
    if missing := [name for name, price in named.items() if price is None]:
        raise ConfigError(f"to count dollars, give {missing[0]} too.")
    return QdrantPrices(ram_gib=given.ram_gib, disk_gib=given.disk_gib, vcpu=given.vcpu)


def _changed(now: IndexConfig, given: argparse.Namespace) -> IndexConfig:
    names = ("m", "ef_construct", "quantization", "originals", "quantized", "graph")
    fields = {name: getattr(given, name) for name in names if getattr(given, name) is not None}
    if "originals" in fields:
        fields["vectors"] = fields.pop("originals")
    return IndexConfig.from_dict({**now.to_dict(), **fields})


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is no JSON file ({type(error).__name__}).") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{path} must hold an object, not a {type(found).__name__}.")
    return found


def _show(found: Any, given: argparse.Namespace) -> None:
    shown = json.dumps(found.to_dict(), indent=2, default=dict) if given.json else str(found)
    sys.stdout.write(f"{shown}\n")


def _show_applied(done: Any, given: argparse.Namespace) -> None:
    said = {
        "state": done.state,
        "why": done.why,
        "collection": done.collection,
        "search": done.search.to_dict(),
        "steps": [{"name": step.name, "says": step.says} for step in done.steps],
        "notes": list(done.notes),
        "spare": done.spare,
    }
    sys.stdout.write(f"{json.dumps(said, indent=2) if given.json else done}\n")


def _progress(given: argparse.Namespace) -> Callable[[str], None]:
    def said(text: str) -> None:
        if not given.json:
            sys.stderr.write(f"{text}\n")

    return said


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="costwise-core qdrant",
        description="What a Qdrant collection costs, what is wrong with it, and how to make it "
        "cheaper. The server's key is read from QDRANT_API_KEY.",
    )
    kinds = parser.add_subparsers(dest="what", required=True)

    def kind(name: str, text: str) -> argparse.ArgumentParser:
        one = kinds.add_parser(name, help=text, description=text)
        one.add_argument("--json", action="store_true", help="write JSON instead of text")
        one.add_argument("--url", help="of the server; QDRANT_URL if not given")
        one.add_argument("--edge", type=Path, help="the folder of an edge shard instead")
        one.add_argument("--local", type=Path, help="a folder of qdrant-client's local mode")
        one.add_argument("--collection", help="its name")
        one.add_argument("--vector", default="", help="the name of the vector, if it has one")
        one.add_argument("--timeout", type=int, default=60, help="seconds to wait for the server")
        return one

    _estimate_arguments(kind("estimate", "what it takes in memory, on disk and in dollars"))
    _audit_arguments(kind("audit", "what is quietly wrong with it"))
    _tune_arguments(kind("tune", "find the cheapest settings that keep the recall"))
    apply = kind("apply", "make it what a plan says; says what it would do unless --do is given")
    apply.add_argument("plan", type=Path, help="what tune wrote with --out")
    apply.add_argument("--do", action="store_true", help="change it, and not only say how")
    apply.add_argument("--mode", choices=("patch", "shadow"), default="patch")
    apply.add_argument("--snapshot", action="store_true", help="save the collection first")
    apply.add_argument("--disk-free", type=int, help="bytes free on the server's disk")
    rollback = kind("rollback", "undo what a journal says was done")
    for one in (apply, rollback):
        one.add_argument("--journal", type=Path, required=one is rollback, help="what was done")
        one.add_argument("--alias", help="what apps call the collection")
    watch = kind("watch", "measure a plan's promise again")
    watch.add_argument("plan", type=Path, help="what tune wrote with --out")
    for one in (apply, watch):
        one.add_argument("--per-second", type=float, default=20.0, help="exact searches at most")
    return parser


def _estimate_arguments(one: argparse.ArgumentParser) -> None:
    one.add_argument("--points", type=int, help="how many; those of the collection if not given")
    one.add_argument("--dims", type=int, help="dimensions of a vector")
    one.add_argument("--quantization", choices=tuple(QUANTIZATIONS))
    one.add_argument("--m", type=int)
    one.add_argument("--ef-construct", type=int)
    one.add_argument("--originals", choices=("cached", "cold"), help="where the originals lie")
    for part in ("quantized", "graph"):
        one.add_argument(f"--{part}", choices=("pinned", "cached", "cold"), help="where it lies")
    one.add_argument("--replication", type=int, help="copies")
    one.add_argument("--segments", type=int)
    one.add_argument("--payload-bytes", type=float, default=0, help="of a point, as JSON")
    one.add_argument("--payload-index-bytes", type=float, default=0, help="of what is indexed")
    one.add_argument("--headroom", type=float, default=0.2, help="share to keep free")
    _price_arguments(one)


def _audit_arguments(one: argparse.ArgumentParser) -> None:
    one.add_argument("--ef", type=int, help="hnsw_ef of your queries")
    one.add_argument("--rescore", action=argparse.BooleanOptionalAction, help="in your queries")
    one.add_argument("--oversampling", type=float, help="of your queries")
    one.add_argument("--filters-on", nargs="+", default=(), metavar="FIELD")
    one.add_argument("--score-threshold", action="store_true", help="your queries have one")
    one.add_argument("--settings", type=Path, help="what you create the collection with, as JSON")


def _tune_arguments(one: argparse.ArgumentParser) -> None:
    one.add_argument("--vectors", type=Path, help="a .npy file instead of a collection")
    one.add_argument(
        "--queries", required=True, help="a .npy or .jsonl file, or a number of points to hold out"
    )
    one.add_argument("--k", type=int, default=10, help="how many results your app asks for")
    one.add_argument("--recall", type=float, default=0.95, help="share of the true k to find")
    one.add_argument("--confidence", type=float, default=0.95)
    one.add_argument("--folder", type=Path, help="where measurements are kept, to go on later")
    one.add_argument("--out", type=Path, help="where to write the plan")
    one.add_argument("--per-second", type=float, default=20.0, help="exact searches at most")
    one.add_argument("--searches-per-second", type=float, default=0.0, help="to price their CPU")
    one.add_argument("--seed", type=int, default=0)
    _price_arguments(one)


def _price_arguments(one: argparse.ArgumentParser) -> None:
    one.add_argument("--ram-gib", help="dollars a month for a GiB of memory")
    one.add_argument("--disk-gib", help="dollars a month for a GiB of disk")
    one.add_argument("--vcpu", help="dollars a month for a virtual CPU")
