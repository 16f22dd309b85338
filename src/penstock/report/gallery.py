"""The gallery: a page of its own for a dataset of clips."""

from __future__ import annotations

from pathlib import Path

from penstock.core.dataset import existing
from penstock.report import story
from penstock.report.clips import shelves
from penstock.report.page import written

__all__ = ["build"]

_MOST_BAD_ROWS = 100


def build(root: str, out: Path, title: str = "", most: int = 120) -> Path:
    """Write the page, one HTML file that needs no network.

    Args:
        root: a dataset with ``preview`` (JPEG) and ``id``. Of ``keep`` or ``kept``, ``reason``, ``row``,
            ``duplicate_of``, ``similarity``, times and measures what is there is told.
        out: the HTML file.
        title: its head.
        most: clips shown of each fate, spread evenly over the dataset.

    Raises:
        DatasetError: there is no such dataset.
        SchemaError: it has no previews.
        PenstockError: a package of ``penstock[report]`` is missing.
    """
    manifest, bad = existing(root), _refused(root)
    page = {
        "title": title or f"Gallery of {manifest.uri.rstrip('/').rsplit('/', 1)[-1]}",
        "gallery": shelves(manifest, most),
        "bad": bad[:_MOST_BAD_ROWS],
        "bad_rows": len(bad),
        "drawn": False,
    }
    return written(out, "gallery.html", page)


def _refused(root: str) -> list[story.BadRow]:
    """What was quarantined on the way to the dataset, the first step's first."""
    manifests = [ancestor.manifest for ancestor in reversed(story.lineage(root)) if ancestor.manifest]
    return [bad for manifest in manifests for bad in story.quarantine(manifest, _MOST_BAD_ROWS)]
