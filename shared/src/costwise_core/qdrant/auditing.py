"""What is wrong with a collection without anybody being told, and what to do about it."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from costwise_core.display_table import as_html
from costwise_core.qdrant.faults import faults
from costwise_core.qdrant.findings import Asked, Finding
from costwise_core.qdrant.search_config import SearchConfig
from costwise_core.qdrant.targets import Inspection, Target

__all__ = ["Audit", "audit"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Audit:
    """What was found in a collection; `print` it for a table.

    Args:
        inspection: What the collection says of itself.
        findings: What is wrong, the worst first.

    Example:
        >>> seen = Inspection(where="remote", collection="docs", version="1.19.0", points=0,
        ...                   vectors=())
        >>> print(Audit(inspection=seen, findings=()))
        docs (Qdrant 1.19.0, 0 points): nothing found
    """

    inspection: Inspection
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether there is no error and no warning."""
        return all(finding.severity == "note" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        seen = self.inspection
        return {
            "collection": seen.collection,
            "where": seen.where,
            "version": seen.version,
            "points": seen.points,
            "indexed_vectors": seen.indexed_vectors,
            "segments": seen.segments,
            "vectors": [asdict(space) for space in seen.vectors],
            "ok": self.ok,
            "findings": [asdict(finding) for finding in self.findings],
        }

    def __str__(self) -> str:
        """Return it as lines of text."""
        if not self.findings:
            return f"{self._about()}: nothing found"
        lines = [f"{self._about()}: {self._counts()}"]
        for finding in self.findings:
            lines += [f"{finding.severity} {finding.code}: {finding.what}", f"  -> {finding.fix}"]
        return "\n  ".join(lines)

    def _repr_html_(self) -> str:
        if not self.findings:
            return as_html(f"{self._about()}: nothing found", [])
        rows = [("", "code", "what", "fix")]
        rows += [(f.severity, f.code, f.what, f.fix) for f in self.findings]
        return as_html(f"{self._about()}: {self._counts()}", rows, left=4)

    def _about(self) -> str:
        seen = self.inspection
        engine = {"remote": "Qdrant", "edge": "qdrant-edge", "local": "Qdrant"}[seen.where]
        return f"{seen.collection} ({engine} {seen.version}, {seen.points:,} points)"

    def _counts(self) -> str:
        counts = [
            (kind, sum(finding.severity == kind for finding in self.findings))
            for kind in ("error", "warning", "note")
        ]
        return ", ".join(f"{n} {kind}{'s' if n > 1 else ''}" for kind, n in counts if n)


def audit(
    target: Target,
    *,
    search: SearchConfig | None = None,
    filters_on: Collection[str] = (),
    score_threshold: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> Audit:
    """Return what is quietly wrong with a collection. It reads its description and nothing else.

    Args:
        target: The collection.
        search: The parameters your queries give; without, faults of queries are only noted.
        filters_on: The payload fields your queries filter on.
        score_threshold: Whether you compare scores to a threshold.
        settings: What you give `create_collection` or `update_collection`, as JSON, since the
            server forgets what it does not understand.

    Raises:
        StoreError: if the collection cannot be read.

    Example:
        >>> from qdrant_client import QdrantClient, models
        >>> from costwise_core.qdrant import LocalTarget
        >>> client = QdrantClient(":memory:")
        >>> space = models.VectorParams(size=2, distance=models.Distance.COSINE)
        >>> done = client.create_collection("docs", vectors_config=space)
        >>> [finding.code for finding in audit(LocalTarget(client, "docs")).findings]
        ['local_mode']
    """
    asked = Asked(
        search=search,
        filters_on=tuple(filters_on),
        score_threshold=score_threshold,
        settings=settings,
    )
    seen = target.inspect()
    return Audit(inspection=seen, findings=faults(seen, asked))
