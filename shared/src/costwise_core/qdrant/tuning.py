"""Find the cheapest configuration that still finds what users ask for, and say how sure that is."""

import hashlib
import json
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final

from costwise_core.errors import ConfigError
from costwise_core.qdrant.asking import checked_rate
from costwise_core.qdrant.confirming import (
    cheapest,
    confirmed,
    cost_by,
    measured_there,
    summed,
)
from costwise_core.qdrant.extras import edge_module
from costwise_core.qdrant.ground_truth import exact_truth
from costwise_core.qdrant.intervals import least_questions
from costwise_core.qdrant.plan import TuningPlan
from costwise_core.qdrant.prices import QdrantPrices
from costwise_core.qdrant.quantizers import quantizations_of
from costwise_core.qdrant.samples import Questions
from costwise_core.qdrant.sandbox import Sandbox, workshop
from costwise_core.qdrant.search_config import SearchConfig
from costwise_core.qdrant.sources import Asked, Given, Source, source_of
from costwise_core.qdrant.space import Space
from costwise_core.qdrant.sweep import Part, Sweep, Way
from costwise_core.qdrant.sweep_journal import SweepJournal
from costwise_core.qdrant.targets import Inspection
from costwise_core.qdrant.verdict import notes_on, verdict

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["tune"]

_TUNE_SHARE: Final = 1 / 3
_SMALL: Final = 8_000


def tune(
    target: Given,
    queries: Asked,
    k: int = 10,
    recall_target: float = 0.95,
    confidence: float = 0.95,
    prices: QdrantPrices | None = None,
    space: Space | None = None,
    *,
    now: SearchConfig | None = None,
    searches_per_second: float = 0.0,
    folder: Path | str | None = None,
    min_saving: float = 0.05,
    per_second: float = 20.0,
    seed: int = 0,
    progress: bool = True,
) -> TuningPlan:
    """Find the cheapest configuration whose recall is shown to reach a target.

    Vectors are copied into a sandbox, where Qdrant's own engine builds and searches them in child
    processes; nothing is changed where they come from. Settings are chosen with a third of the
    questions and confirmed with the others.

    Args:
        target: A collection, or vectors: a table (n, dims) or a `.npy` file, compared by cosine.
        queries: What users ask: `Questions`, a table of vectors, a `.npy` or `.jsonl` file. A
            number holds out that many of the collection's own vectors, which is optimistic.
        k: How many results the app asks for.
        recall_target: Share of the true k nearest to find, in (0, 1).
        confidence: How sure that must be, in (0, 1).
        prices: What memory and CPU cost; without, a share of memory and of CPU count alike.
        space: What to try.
        now: How the app searches today; the server's defaults if None.
        searches_per_second: How many all month long, to price their CPU.
        folder: Where measurements are kept, so that a sweep that was killed goes on where it
            stopped; nowhere if None.
        min_saving: Share of today's cost below which a change is not worth its risk.
        per_second: Exact searches a second that a server is asked for.
        seed: For every choice by chance.
        progress: Whether what takes over two seconds shows a bar, where tqdm is installed.

    Returns:
        The plan: what to use, what it does, and what was tried.

    Raises:
        ConfigError: if an argument is out of range, the collection is empty, or there are too few
            questions; it says how many are needed.
        VectorError: if a vector is not finite, is all zeros or of the wrong size; it names the row.
        MissingExtraError: if qdrant-edge-py is not installed.
        StoreError: if a collection or the engine fails.

    Example:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> vectors = rng.normal(size=(600, 96)).astype(np.float32)
        >>> asked = vectors[:300] + rng.normal(scale=0.2, size=(300, 96)).astype(np.float32)
        >>> small = Space(efs=(64, 256), quantizations=("int8",), ef_constructs=(100,), ms=(16,))
        >>> plan = tune(vectors, asked, space=small, progress=False)
        >>> plan.reached, plan.tune_questions, len(plan.confirm)
        (True, 100, 200)
    """
    started, cpu_started = time.perf_counter(), time.process_time()
    space = space or Space.default()
    _check(k, recall_target, confidence, min_saving)
    checked_rate(per_second)
    edge_module()
    source = source_of(target, queries, limit=space.sample, seed=seed)
    tune_part, confirm_part = source.questions.split(_TUNE_SHARE, seed)
    _enough(source.questions, confirm_part, recall_target, confidence)
    with _kept(folder) as at, _bar(wanted=progress) as told:
        sandbox = Sandbox(
            at,
            source.vectors,
            distance=source.distance,
            payloads=source.payloads,
            payload_indexes=source.seen.payload_indexes if source.seen and source.payloads else {},
            full_scan_threshold=source.full_scan_threshold,
        )
        sweep = Sweep(
            sandbox=sandbox,
            journal=SweepJournal(
                at / "measured.jsonl" if folder else None, of=_fingerprint(source, seed)
            ),
            space=_possible(space, source.seen),
            today=Way(index=source.base, search=now or SearchConfig()),
            k=k,
            target=recall_target,
            confidence=confidence,
            cost=lambda hot, _, share: hot + share,
            told=told,
        )
        told("comparing everything, for the truth")
        choosing = _part("tune", sweep, source, tune_part)
        [before] = sweep.measured([sweep.today], choosing)
        cost = cost_by(prices, before, source.points, searches_per_second)
        sweep = replace(sweep, cost=cost)
        small, rows = _small(source, choosing, k)
        scores = sweep.run(choosing, small, rows)
        told("confirming")
        confirming = _part("confirm", sweep, source, confirm_part)
        final = confirmed(sweep, scores, confirming)
        found = cheapest(final.finalists, recall_target)
        notes = list(notes_on(source, final, confirming.truth))
        deployed, refuted = None, ""
        if source.target is not None and not source.held_out:
            told("asking the collection itself")
            here = found if found and found.index == source.base else None
            there = measured_there(
                source,
                confirm_part,
                [sweep.today.search, *([here.search] if here else [])],
                k=k,
                confidence=confidence,
                per_second=per_second,
                folder=Path(folder) if folder else None,
            )
            if isinstance(there, str):
                notes.append(f"what is deployed could not be measured: {there}")
            else:
                deployed = there[0]
                if here and (there[1].recall_low or 0.0) < recall_target:
                    found = None
                    refuted = (
                        f"in the sandbox {here.search} was enough, but where the collection is it "
                        f"reached {there[1].recall:.3f}, at least {there[1].recall_low:.3f}"
                    )
        keep, why = verdict(
            final,
            found,
            target=recall_target,
            confidence=confidence,
            min_saving=min_saving,
        )
        if prices is not None and not (prices.vcpu and searches_per_second):
            notes.append(
                "CPU is not in the dollars: give prices with vcpu, and searches_per_second"
            )
        return TuningPlan(
            keep=keep,
            why=refuted or why,
            recommended=found,
            baseline=final.baseline,
            search_only=final.search_only,
            float32=final.float32,
            deployed=deployed,
            tried=tuple(summed([score], sweep) for score in scores),
            k=k,
            recall_target=recall_target,
            confidence=confidence,
            collection=source.name,
            vector=source.seen.selected if source.seen else "",
            points=source.points,
            sampled=len(source.vectors),
            dims=int(source.vectors.shape[1]),
            distance=source.distance,
            rebuild_noise=final.noise,
            confirm=confirm_part,
            tune_questions=len(tune_part),
            notes=tuple(notes),
            tune_cpu_seconds=time.process_time() - cpu_started + sandbox.cpu_seconds,
            tune_wall_seconds=time.perf_counter() - started,
            versions=_versions(source.seen),
            seed=seed,
            priced=prices is not None,
        )


def _possible(space: Space, seen: Inspection | None) -> Space:
    """Leave out what the server's version lacks and what its strict mode forbids."""
    if seen is None or seen.where != "remote":
        return space
    known = quantizations_of(seen.version)
    widest = seen.strict.get("search_max_hnsw_ef") or math.inf
    return replace(
        space,
        quantizations=tuple(name for name in space.quantizations if name in known) or ("none",),
        efs=tuple(ef for ef in space.efs if ef <= widest) or (int(min(widest, *space.efs)),),
        max_oversampling=seen.strict.get("search_max_oversampling") or space.max_oversampling,
    )


def _part(name: str, sweep: Sweep, source: Source, questions: Questions) -> Part:
    """Return questions with what is nearest to them among all vectors of the sandbox."""
    masks: list[NDArray[np.bool_] | None] = [None] * len(questions)
    if questions.filtered:
        masks = sweep.sandbox.allowed(sweep.sandbox.build(sweep.today.index), questions)
    truth = exact_truth(
        source.vectors,
        questions,
        sweep.k,
        distance=source.distance,
        allowed=masks.__getitem__,
    )
    return Part(name=name, questions=questions, truth=truth)


def _small(source: Source, part: Part, k: int) -> tuple[Part | None, int | None]:
    """Return the same questions with what is nearest in a quarter of the vectors."""
    if len(source.vectors) < _SMALL or part.questions.filtered:
        return None, None
    rows = len(source.vectors) // 4
    truth = exact_truth(source.vectors[:rows], part.questions, k, distance=source.distance)
    return Part(name=f"sample-{rows}", questions=part.questions, truth=truth), rows


def _check(k: int, target: float, confidence: float, min_saving: float) -> None:
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= 1_000:
        raise ConfigError(f"k must be a whole number from 1 to 1,000, got {k!r}.")
    for name, value in (("recall_target", target), ("confidence", confidence)):
        if not 0 < value < 1:
            raise ConfigError(
                f"{name} must be between 0 and 1, got {value!r}; for all of it, search exactly."
            )
    if not 0 <= min_saving < 1:
        raise ConfigError(f"min_saving must be from 0 to below 1, got {min_saving!r}.")


def _enough(asked: Questions, confirm: Questions, target: float, confidence: float) -> None:
    needed = least_questions(target, confidence)
    if len(confirm) < needed:
        raise ConfigError(
            f"{len(asked)} different questions cannot show a recall of {target:g} with "
            f"{confidence:.0%} confidence, however good it is: at least "
            f"{math.ceil(needed / (1 - _TUNE_SHARE))} are needed, and more where recall is close "
            "to the target."
        )


def _fingerprint(source: Source, seed: int) -> str:
    digest = hashlib.sha256(source.vectors.tobytes())
    digest.update(source.questions.vectors.tobytes())
    digest.update(json.dumps(source.payloads, sort_keys=True, default=str).encode())
    filters = source.questions.to_dict()["filters"]
    said = [filters, source.distance, source.full_scan_threshold, seed, _versions(None)]
    digest.update(repr(said).encode())
    return digest.hexdigest()


def _versions(seen: Inspection | None) -> dict[str, str]:
    found = {name: version(name) for name in ("costwise-core", "qdrant-edge-py", "numpy")}
    return found | ({"collection": f"{seen.where} {seen.version}"} if seen else {})


@contextmanager
def _kept(folder: Path | str | None) -> Iterator[Path]:
    """Give a folder to work in: the user's, whose shards are deleted, or one that is not kept."""
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="costwise-") as made:
            yield Path(made)
        return
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    yield path
    shutil.rmtree(workshop(path), ignore_errors=True)


@contextmanager
def _bar(*, wanted: bool) -> Iterator[Callable[[str], object]]:
    """Give what shows the steps on a bar, which appears after two seconds."""
    try:
        from tqdm.auto import tqdm  # type: ignore[import-untyped]  # noqa: PLC0415
    except ImportError:
        wanted = False
    if not wanted:
        yield lambda _: None
        return
    with tqdm(desc="tuning", unit="step", delay=2.0, leave=False) as bar:

        def told(words: str) -> None:
            bar.set_postfix_str(words, refresh=False)
            bar.update()

        yield told
