"""The pages and the small JSON behind them: an ASGI application that only reads, and loads nothing from elsewhere."""

# No `from __future__ import annotations`: FastAPI reads those of the endpoints, whose types are imported here inside.

import json
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from penstock.dashboard import activity, charts
from penstock.dashboard.gate import Gate, names_of
from penstock.dashboard.jobs import STREAMS, Asked, Known, Scheduler, asked, tail
from penstock.dashboard.kept import Kept
from penstock.dashboard.model import Card, Model, tried
from penstock.dashboard.standing import State
from penstock.errors import PenstockError
from penstock.report.words import FILTERS, count, duration, number

if TYPE_CHECKING:
    import jinja2
    from fastapi import FastAPI
    from fastapi.responses import Response

__all__ = ["application"]

_FILES = {
    "/report.css": ("penstock.report", "page.css", "text/css; charset=utf-8"),
    "/ui.css": ("penstock.dashboard", "ui.css", "text/css; charset=utf-8"),
    "/ui.js": ("penstock.dashboard", "ui.js", "text/javascript; charset=utf-8"),
}
_REPORT_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; sandbox allow-scripts"
)
"""A report lies among the data, so it is shown without any right on this origin: it can ask for nothing."""
_JOBS_SECONDS = 3.0


def application(
    model: Model,
    *,
    host: str = "127.0.0.1",
    token: str = "",
    schedulers: Sequence[Scheduler] = (),
) -> Gate:
    """The dashboard.

    Args:
        model: what is read.
        host: the address at which the server listens; only it, and names of this machine itself, may be asked for.
        token: who asks must show it; empty lets everybody ask.
        schedulers: whose jobs are listed.
    """
    from fastapi import FastAPI

    pages = _Pages(model, schedulers)
    api = FastAPI(title="Penstock", version=version("penstock"), docs_url=None, redoc_url=None, openapi_url=None)
    _add_files(api)
    _add_datasets(api, pages)
    _add_jobs(api, pages)
    _add_live(api, model)
    _add_errors(api, pages)
    open_ = frozenset(_FILES)
    return Gate(api, names_of(host), open_, numbers=host in ("0.0.0.0", "::"), token=token)  # noqa: S104 (compared with)


class _Pages:
    """Templates and what they are filled with."""

    def __init__(self, model: Model, schedulers: Sequence[Scheduler]) -> None:
        self.model, self.schedulers = model, schedulers
        self.jobs: Kept[Asked] = Kept(lambda _: asked(schedulers), lambda _: _JOBS_SECONDS)
        self._templates = _templates()

    def html(self, template: str, status: int = 200, **page: Any) -> "Response":
        from fastapi.responses import HTMLResponse

        text = self._templates.get_template(template).render(root=self.model.root, **page)
        return HTMLResponse(text, status)

    def missing(self, what: str) -> "Response":
        return self.html("missing.html", 404, what=what)

    def job(self, key: str) -> Known | None:
        return next((known for known in self.jobs.get().jobs if known.key == key), None)


def _templates() -> "jinja2.Environment":
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(str(files(__package__) / "templates")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= FILTERS
    environment.globals |= {"most_names": activity.MOST_NAMES, "State": State}
    return environment


# --- pages -----------------------------------------------------------------------------------------------


def _add_files(api: "FastAPI") -> None:
    from fastapi.responses import Response

    def page(package: str, name: str, kind: str) -> Callable[[], Response]:
        content = (files(package) / "templates" / name).read_bytes()
        return lambda: Response(content, media_type=kind)

    for path, (package, name, kind) in _FILES.items():
        api.add_api_route(path, page(package, name, kind))


def _add_datasets(api: "FastAPI", pages: _Pages) -> None:
    from fastapi.responses import HTMLResponse, Response

    model = pages.model

    @api.get("/")
    def overview() -> Response:
        found = model.overview()
        return pages.html("overview.html", overview=found, texts=_short, shape=_compact([c.name for c in found.cards]))

    @api.get("/dataset/{name:path}")
    def dataset(name: str) -> Response:
        card = model.card(name)
        if card is None:
            return pages.missing("dataset")
        pace = model.pace(card) if card.live else None
        texts, shape = _texts(card), _compact(_shape(card))
        return pages.html("dataset.html", card=card, depth=model.depth(card), pace=pace, texts=texts, shape=shape)

    @api.get("/quarantine/{name:path}")
    def quarantine(name: str, page: int = 1, error: str = "") -> Response:
        card = model.card(name)
        if card is None:
            return pages.missing("dataset")
        found = tried(lambda: model.quarantine(card, page, error[:200]))
        return pages.html("quarantine.html", card=card, page=found, error=error[:200])

    @api.get("/report/{name:path}")
    def report(name: str) -> Response:
        page = model.report(name)
        if page is None:
            return pages.missing("report")
        return HTMLResponse(page, headers={"content-security-policy": _REPORT_POLICY})


def _add_jobs(api: "FastAPI", pages: _Pages) -> None:
    from fastapi.responses import Response

    @api.get("/jobs")
    def jobs() -> Response:
        named = pages.model.clusters()
        return pages.html("jobs.html", asked=pages.jobs.get(), schedulers=pages.schedulers, named=named)

    @api.get("/jobs/{key}")
    def job(key: str, stream: str = "stdout", item: int = 0) -> Response:
        known = pages.job(key)
        if known is None or stream not in STREAMS or not 0 <= item < known.job.items:
            return pages.missing("job")
        text = tried(lambda: tail(known, stream, item))
        return pages.html("job.html", known=known, stream=stream, item=item, text=text, streams=STREAMS)


def _add_errors(api: "FastAPI", pages: _Pages) -> None:
    from fastapi import Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse, Response
    from starlette.exceptions import HTTPException

    @api.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        return (
            pages.missing("page")
            if error.status_code == 404
            else JSONResponse({"detail": error.detail}, error.status_code)
        )

    @api.exception_handler(RequestValidationError)
    async def wrong(request: Request, error: RequestValidationError) -> Response:
        return JSONResponse({"detail": "a number was needed"}, 422)

    @api.exception_handler(PenstockError)
    async def trouble(request: Request, error: PenstockError) -> Response:
        return pages.html("trouble.html", 503, text=str(error))


# --- what pages ask for again and again ------------------------------------------------------------------


def _add_live(api: "FastAPI", model: Model) -> None:
    from fastapi.responses import JSONResponse, Response

    @api.get("/live")
    def overview() -> dict[str, Any]:
        cards = model.overview().cards
        texts = {f"{key}@{card.name}": text for card in cards for key, text in _short(card).items()}
        return {"shape": [card.name for card in cards], "texts": texts, "states": {c.name: _state(c) for c in cards}}

    @api.get("/live/{name:path}")
    def dataset(name: str) -> Response:
        card = model.card(name)
        if card is None:
            return JSONResponse({"detail": "there is no such dataset"}, 404)
        return JSONResponse(_live(card, model.pace(card) if card.live else None))


def _live(card: Card, pace: charts.Chart | None) -> dict[str, Any]:
    """Numbers for programs, and the texts and drawings that the page puts in their places."""
    now = card.activity
    numbers = {
        "units_in_ledger": now.units if card.waiting else 0,
        "units_planned": card.planned if card.waiting else None,
        "rows_in_ledger": now.rows if card.waiting else 0,
        "bad_rows": card.bad_rows,
        "estimated": now.estimated or not now.exact,
        "units_per_second": round(now.rate(card.looked), 4),
        "last_unit": now.last,
        "version": card.manifest.version if card.manifest else None,
        "rows": card.manifest.rows if card.manifest else None,
    }
    steps = [
        {
            "step": step.step,
            "units": step.units,
            "busy_seconds": round(step.busy_seconds, 4),
            "mean_wait_seconds": round(step.mean_wait_seconds, 4),
        }
        for step in now.steps(card.looked)
    ]
    drawn = {"pace": {"path": pace.path, "up": [[tick.at, tick.text] for tick in pace.up]}} if pace else {}
    return {
        "name": card.name,
        "state": _state(card),
        "looked": card.looked,
        **numbers,
        "steps": steps,
        "texts": _texts(card),
        "charts": drawn,
        "shape": _shape(card),
    }


def _state(card: Card) -> str:
    return card.standing.state.value


def _shape(card: Card) -> list[Any]:
    """What the page must be drawn anew for."""
    version = card.manifest.version if card.manifest else None
    return [_state(card), version, card.waiting, [box.key for box in card.boxes]]


def _compact(shape: list[Any]) -> str:
    """As a browser's ``JSON.stringify`` writes it."""
    return json.dumps(shape, ensure_ascii=False, separators=(",", ":"))


def _short(card: Card) -> dict[str, str]:
    """The texts of a dataset's line in the overview."""
    now = card.activity
    about = "about " if now.estimated or not now.exact else ""
    return {
        "why": card.standing.why,
        "ledger": f"{about}{count(now.units, 'unit')}, {about}{count(now.rows, 'row')}" if card.waiting else "",
        "bad": number(card.bad_rows),
    }


def _progress(card: Card) -> str:
    """How far the run is, as far as it has said how many units there are."""
    if not card.planned:
        return "How many units there are in all is known to the run alone."
    share = f"{number(card.done)} of {number(card.planned)} units are done, {card.done / card.planned:.0%}"
    return f"{share}; about {duration(card.left_seconds)} left." if card.left_seconds is not None else f"{share}."


def _texts(card: Card) -> dict[str, str]:
    """The texts of a dataset's page that change while a run goes on."""
    now, rate = card.activity, card.activity.rate(card.looked)
    about = "about " if now.estimated or not now.exact else ""
    found = {
        **_short(card),
        "units": ("about " if now.estimated else "") + number(now.units),
        "progress": _progress(card),
        "rows": about + number(now.rows),
        "rate": f"{rate:.2f}" if rate < 100 else number(rate),
        "looked": time.strftime("%H:%M:%S UTC", time.gmtime(card.looked)),
    }
    for box in card.boxes:
        found |= {f"{box.key}.units": box.units, f"{box.key}.busy": box.busy, f"{box.key}.wait": box.wait}
    return found
