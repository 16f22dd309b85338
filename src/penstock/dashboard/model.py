"""The reading model: what the pages show of the datasets below one root, from small files and within limits."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import pyarrow.compute as pc

from penstock.core.dataset import Manifest, existing, newest, versions
from penstock.core.storage import S3, Posix, join, store_of
from penstock.dashboard import charts, quarantine, rows, runs
from penstock.dashboard.activity import Activity, looked
from penstock.dashboard.charts import Chart
from penstock.dashboard.finding import Found, datasets
from penstock.dashboard.kept import Kept
from penstock.dashboard.line import Box, boxes
from penstock.dashboard.provenance import Provenance, provenance_of
from penstock.dashboard.standing import Standing, State, standing
from penstock.dashboard.tables import opened
from penstock.errors import PenstockError
from penstock.report import plots, story
from penstock.report.words import last

__all__ = ["Card", "Depth", "Model", "Overview", "Size", "Tried", "Version"]

T = TypeVar("T")

_LEAST_SECONDS = 1.5
_STILL, _FAR = 5, 4
_AT_ONCE = 16
_MOST_RUNS = 20
_MOST_VERSIONS = 20
_MOST_UNITS = 2_000_000
_MOST_REPORT_BYTES = 64 << 20
_TROUBLES = (PenstockError, OSError, ValueError, KeyError)


@dataclass(frozen=True)
class Tried(Generic[T]):
    """What was found, or why it could not be: damage in one place leaves the rest of a page as it is."""

    found: T | None
    trouble: str = ""


def tried(ask: Callable[[], T]) -> Tried[T]:
    """The answer, or the words of its error."""
    try:
        return Tried(ask())
    except _TROUBLES as error:
        return Tried(None, str(error) or type(error).__name__)


@dataclass(frozen=True)
class Size:
    """What the parts table adds up to; *size_bytes* is None when it has too many lines to be read for a page."""

    units: int
    files: int | None
    size_bytes: int | None


@dataclass(frozen=True)
class Card:
    """One dataset in short.

    Attributes:
        name: relative to the root; the root itself is empty.
        title: what it is called in pages.
        activity: of its ledger.
        run: the last run that committed.
        worked: the last one that carried a unit; others found all done.
        report: the name of the dataset or folder with its ``report.html``; None without one.
        planned: how many units the run has in all whose units wait; None where that is not known.
    """

    name: str
    title: str
    uri: str
    standing: Standing
    manifest: Manifest | None
    size: Size | None
    activity: Activity
    run: runs.Told | None
    worked: runs.Told | None
    report: str | None
    looked: float
    trouble: str = ""
    planned: int | None = None

    @property
    def done(self) -> int:
        """Units that are done of those that were planned: the committed ones, and those that wait."""
        committed = self.size.units if self.size and self.ours else 0
        return min(committed + self.activity.units, self.planned or 0)

    @property
    def left_seconds(self) -> float | None:
        """Until all planned units are done, by the rate of the last minute; None where that cannot be told."""
        rate = self.activity.rate(self.looked)
        return (self.planned - self.done) / rate if self.live and self.planned and rate > 0 else None

    @property
    def live(self) -> bool:
        """Whether a run seems to go on."""
        return self.standing.state is State.RUNNING

    @property
    def ours(self) -> bool:
        """Whether the manifest was made with the settings by which the ledger is written now."""
        return bool(self.manifest and self.manifest.fingerprint.startswith(self.activity.fingerprint or "-"))

    @property
    def fingerprint(self) -> str:
        """Of what happened last; empty when nothing did."""
        recorded = self.activity.fingerprint if self.waiting else ""
        return recorded or (self.manifest.fingerprint if self.manifest else "")

    @property
    def waiting(self) -> bool:
        """Whether there are finished units that no version holds."""
        return self.activity.units > 0 and self.standing.state is not State.FINISHED

    @property
    def bad_rows(self) -> int:
        """Rows in quarantine, of the manifest's units and of those that wait."""
        committed = self.manifest.bad_rows if self.manifest else 0
        return committed + (self.activity.bad_rows if self.waiting else 0)

    @property
    def provenance(self) -> Provenance:
        """Of the newest version."""
        return provenance_of(self.manifest.provenance) if self.manifest else Provenance()

    @property
    def boxes(self) -> list[Box]:
        """The line from source to sink, with what each step does now, or did in the last run."""
        now = self.activity.steps(self.looked) if self.waiting else ()
        if now and not self.ours:
            return boxes(Provenance(), now, ())
        return boxes(self.provenance, now, _steps(self.worked) if self.worked else ())


@dataclass(frozen=True)
class Overview:
    """All datasets below a root."""

    cards: Sequence[Card]
    limit: str


@dataclass(frozen=True)
class Version:
    """One version of a dataset."""

    number: int
    rows: int
    bad_rows: int
    fingerprint: str


@dataclass(frozen=True)
class Depth:
    """What the page of one dataset shows beside its card."""

    columns: Sequence[rows.Column]
    sample: Tried[rows.Sample]
    plots: Tried[Sequence[Chart]]
    versions: Tried[Sequence[Version]]
    runs: Sequence[runs.Told]
    provenance: Provenance


class Model:
    """Answers for pages, kept for a while.

    Args:
        root: a folder or ``s3://`` prefix.
        least_seconds: nothing is looked at more often; five times that where nothing goes on, four times on S3.
    """

    def __init__(self, root: str, least_seconds: float = _LEAST_SECONDS) -> None:
        self.root = root.rstrip("/") or "/"
        self._least = least_seconds
        self._found: Kept[Found] = Kept(lambda _: datasets(self.root), lambda _: _STILL * least_seconds)
        self._cards: dict[str, Kept[Card]] = {}

    def overview(self) -> Overview:
        """All datasets, those at work first, then the newest."""
        found = self._found.get()
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            cards = list(pool.map(self._card, found.names))
        return Overview(sorted(cards, key=_order), found.limit)

    def card(self, name: str) -> Card | None:
        """The dataset that is called so; None when the root has none of that very name."""
        return self._card(name) if name in self._found.get().names else None

    def _card(self, name: str) -> Card:
        # setdefault is one step, so two visitors share one answer
        return self._cards.setdefault(name, Kept(functools.partial(self._looked, name), self._rest)).get()

    def _rest(self, card: Card) -> float:
        """How long an answer is kept: requests to S3 take longer and are paid for, and what stands still can wait."""
        far = _FAR if isinstance(store_of(self.root), S3) else 1
        return self._least * far * (1 if card.live else _STILL)

    def _looked(self, name: str, before: Card | None) -> Card:
        uri = join(self.root, name) if name else self.root
        title, known = name or last(self.root) or "/", before.activity if before else None
        try:
            return self._read(name, title, uri, known)
        except _TROUBLES as error:
            stands = Standing(State.UNCOMMITTED, "cannot be read")
            return Card(name, title, uri, stands, None, None, Activity(), None, None, None, time.time(), str(error))

    def _read(self, name: str, title: str, uri: str, known: Activity | None) -> Card:
        activity = looked(uri, known)
        manifest, told = newest(uri), list(runs.told(runs.names(uri)[:_MOST_RUNS], until=runs.Told.worked))
        run, now = (told[0] if told else None), time.time()
        size = _size(uri, manifest.parts_sha256) if manifest else None
        ended = activity.last if manifest and _swept_later(manifest, activity) else runs.ended(run)
        stands = standing(manifest.version if manifest else None, ended, activity, now)
        worked, planned = told[-1] if told else None, runs.planned(uri, activity.fingerprint)
        report = self._report(name)
        return Card(name, title, uri, stands, manifest, size, activity, run, worked, report, now, planned=planned)

    def clusters(self) -> list[str]:
        """The clusters that made datasets here, in words: they are not asked, since anybody can write a manifest."""
        return sorted({words for card in self.overview().cards for words in card.provenance.clusters})

    # --- one dataset -------------------------------------------------------------------------------------

    def depth(self, card: Card) -> Depth:
        """All that the page of a dataset shows of what was committed."""
        manifest = card.manifest
        if manifest is None:
            return _beginning(card)
        return Depth(
            rows.columns(manifest.schema),
            _sample(_Same(manifest)),
            _plots(_Same(manifest), card.worked),
            tried(lambda: list(_versions(card.uri))),
            list(runs.told(runs.names(card.uri)[:_MOST_RUNS])),
            card.provenance,
        )

    def quarantine(self, card: Card, number: int, error: str) -> quarantine.Page:
        """A page of the rows that failed. Raises `PenstockError`."""
        made = card.provenance.parts if card.ours or not card.waiting else ()
        return quarantine.page(card.uri, card.fingerprint, number, error, made)

    def pace(self, card: Card) -> Chart:
        """Units over the last minutes."""
        times = [when for when in card.activity.times.values() if when]
        share = card.activity.units / max(len(card.activity.times), 1)
        return charts.pace("pace", times, share, card.looked)

    # --- reports -----------------------------------------------------------------------------------------

    def _report(self, name: str) -> str | None:
        """Where ``report.html`` lies: beside the dataset's own files, or in a folder above it, down from the root."""
        at = name
        while True:
            if store_of(self.root).entry(join(self.root, at, "report.html") if at else join(self.root, "report.html")):
                return at
            if not at:
                return None
            at = at.rsplit("/", 1)[0] if "/" in at else ""

    def report(self, name: str) -> bytes | None:
        """The report that belongs to the dataset *name*; None without one, or when it is too long for a page."""
        card = self.card(name)
        if card is None or card.report is None:
            return None
        uri = join(self.root, card.report, "report.html") if card.report else join(self.root, "report.html")
        entry = store_of(uri).entry(uri)
        if entry is None or entry.size_bytes > _MOST_REPORT_BYTES or _is_link(uri):
            return None
        return store_of(uri).read(uri)


def _is_link(uri: str) -> bool:
    """Whether a file is a link: whoever may write here must not choose another file to be shown."""
    return isinstance(store_of(uri), Posix) and Path(uri.removeprefix("file://")).is_symlink()


_RANKS = {State.RUNNING: 0, State.INTERRUPTED: 1, State.UNCOMMITTED: 1, State.FINISHED: 2}


def _order(card: Card) -> tuple[int, float, str]:
    newest_sign = max(card.activity.last or 0.0, runs.ended(card.run) or 0.0)
    return _RANKS[card.standing.state], -newest_sign, card.name


@functools.lru_cache(maxsize=512)
def _size(uri: str, parts_sha256: str) -> Size:
    """Of a parts table, which is named by its content and so never changes."""
    with opened(join(uri, "manifests", f"{parts_sha256}.parquet")) as file:
        units = file.metadata.num_rows
        if units > _MOST_UNITS:
            return Size(units, None, None)
        table = file.read(columns=["path", "size_bytes"])
    sizes = table.group_by("path").aggregate([("size_bytes", "max")])["size_bytes_max"]
    return Size(units, len(sizes), pc.sum(sizes, min_count=0).as_py())


def _swept_later(manifest: Manifest, activity: Activity) -> bool:
    """Whether the records are of units that the manifest holds: a run was ended after its commit, before its sweep."""
    if not activity.units or not manifest.fingerprint.startswith(activity.fingerprint):
        return False
    newest_unit = max(activity.times, key=lambda unit: activity.times[unit])
    return _holds(manifest.uri, manifest.parts_sha256, newest_unit)


@functools.lru_cache(maxsize=512)
def _holds(uri: str, parts_sha256: str, unit: str) -> bool:
    with opened(join(uri, "manifests", f"{parts_sha256}.parquet")) as file:
        return any(pc.any(pc.equal(batch["unit"], unit)).as_py() for batch in file.iter_batches(columns=["unit"]))


def _beginning(card: Card) -> Depth:
    """Of a dataset without a version: the newest part, where it can be read by itself."""
    newest_record = max(card.activity.records.values(), key=lambda record: record.finished, default=None)
    first: Tried[rows.Sample] = Tried(None)
    if newest_record and newest_record.part.path.endswith(".parquet"):
        first = tried(lambda: rows.first(join(card.uri, newest_record.part.path)))
    return Depth(first.found.columns if first.found else (), first, Tried(()), Tried(()), (), Provenance())


@dataclass(frozen=True)
class _Same:
    """A manifest that is compared by its content."""

    manifest: Manifest

    def __hash__(self) -> int:
        return hash((self.manifest.uri, self.manifest.version, self.manifest.parts_sha256))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and hash(self) == hash(other)


@functools.lru_cache(maxsize=64)
def _sample(same: _Same) -> Tried[rows.Sample]:
    return tried(lambda: rows.sample(same.manifest))


@functools.lru_cache(maxsize=64)
def _plots(same: _Same, run: runs.Told | None) -> Tried[Sequence[Chart]]:
    return tried(lambda: list(_charts(same.manifest, run)))


def _charts(manifest: Manifest, run: runs.Told | None) -> Iterator[Chart]:
    lengths = rows.norms(manifest)
    told = _story(run).found if run else None
    if told and told.course:
        yield told.course
    if lengths and len(lengths.values):
        of = f"{len(lengths.values):,} of {manifest.rows:,} rows, from four places of the dataset"
        more = f"; {lengths.endless:,} are not finite" if lengths.endless else ""
        title = f"How long are the vectors of “{lengths.column}”?"
        yield charts.bars("norms", title, f"Euclidean norms of {of}{more}.", lengths.values)


@dataclass(frozen=True)
class _Story:
    """What a run that committed did: its steps, and how fast it went."""

    steps: Sequence[story.StepStory]
    course: Chart | None


@functools.lru_cache(maxsize=256)
def _story(run: runs.Told) -> Tried[_Story]:
    return tried(lambda: _told(run))


def _told(run: runs.Told) -> _Story:
    found = run.run()
    steps = story.steps(found)
    if not steps or max(step.units for step in steps) < 2:
        return _Story(steps, None)
    drawn = plots.throughput("run", found)
    caption = f"A unit counts when it is finished. {run.part}".strip()
    return _Story(steps, charts.course("course", drawn.data[0]["x"], drawn.data[0]["y"], caption))


def _steps(run: runs.Told) -> Sequence[story.StepStory]:
    told = _story(run).found
    return told.steps if told else ()


def _versions(uri: str) -> Iterator[Version]:
    """The newest versions, the newest first."""
    for number in versions(uri)[: -_MOST_VERSIONS - 1 : -1]:
        made = existing(uri, number)
        yield Version(number, made.rows, made.bad_rows, made.fingerprint)
