"""How jobs on clusters go, from one word of a watcher to the next (`penstock.clusters.watch`)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from penstock.clusters.watch import News
from penstock.core.nouns import JobState, Status

__all__ = ["Change", "Jobs"]


@dataclass(frozen=True)
class Change:
    """A job stands otherwise than before.

    Attributes:
        cluster: kind of its cluster.
        native_id: what the scheduler calls it.
        before: how it stood; None when it is new.
        status: how it stands.
        queued_seconds: from when it was first waited for until it was seen to run, or 0 while it has not.
        running_seconds: from then to its end, or 0.
        time: when this was learned, seconds since 1970.
    """

    cluster: str
    native_id: str
    before: JobState | None
    status: Status
    queued_seconds: float
    running_seconds: float
    time: float

    @property
    def ended(self) -> bool:
        """Whether this attempt is over."""
        return self.status.state.final

    @property
    def outcome(self) -> str:
        """How it ended: ``done``, ``failed``, ``cancelled``, or ``continued`` when it asks to go on."""
        return "continued" if self.status.continues else self.status.state.value


@dataclass(frozen=True)
class _Known:
    status: Status
    since: float
    ran: float | None = None


class Jobs:
    """The jobs that have not ended; each watch that tells of jobs has its own.

    Times are those at which something was learned, so they are right within the watcher's interval.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], _Known] = {}

    def hear(self, news: News) -> Change | None:
        """What has changed; None when nothing has, since several may wait for one job."""
        at = news.cluster, news.native_id
        known = self._known.get(at)
        if known is not None and news.status in (known.status, News.status):
            return None
        before, known = (None, _Known(news.status, news.time)) if known is None else (known.status.state, known)
        known = replace(known, status=news.status)
        if known.ran is None and news.status.state is JobState.RUNNING:
            known = replace(known, ran=news.time)
        self._known[at] = known
        if news.status.state.final:
            del self._known[at]
        return _change(news, known, before)


def _change(news: News, known: _Known, before: JobState | None) -> Change:
    queued = 0.0 if known.ran is None else known.ran - known.since
    ran = news.time - known.ran if known.ran is not None and news.status.state.final else 0.0
    return Change(*(news.cluster, news.native_id, before, news.status), queued, ran, news.time)
