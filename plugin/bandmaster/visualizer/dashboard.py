"""What the dashboard asks for, and its page: read from a journal and its chronicle, beside whoever writes them."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from http import HTTPStatus
from importlib import resources
from pathlib import Path

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from bandmaster.core import BandmasterError
from bandmaster.edits import Edits
from bandmaster.journal.reading import JournalReader, Reading, Recorded
from bandmaster.visualizer.chronicle import Courses, Extent, Window, chronicle_file, read_courses, read_extent
from bandmaster.visualizer.explained import explain
from bandmaster.visualizer.summary import summary

FRESH_S, DEAR_FRESH_S = 1.0, 2.0
"""For so long one answer serves everybody who asks the same; and one that takes long to make, which tells of the points
of a curve and of lists that are longer than anybody reads in that time."""

MOST_DECISIONS = 200
"""Decisions on one page of their list."""

STREAM_S, HEARTBEAT_S = 60.0, 15.0
"""How long a stream lasts before the browser opens another, so that none holds up a server that is to stop; and how
often one shows that it is alive while nothing happens."""

PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}
"""Of the page and what belongs to it: nothing from elsewhere, and no script or style but from files."""

MEDIA = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}

Answer = Callable[[Request], Awaitable[Response]]


class NotThereError(BandmasterError):
    """What was asked for does not exist."""


class Shown(Courses, frozen=True):
    """What a window shows, and what that says, in sentences."""

    summary: list[str]


class Covers(Extent, frozen=True):
    """What there is to see, and whether it is of a running service, which has a state and can be told what to do."""

    live: bool


class Views:
    """Answers what the page asks of one journal. Reading goes on in threads, for several who ask the same once."""

    def __init__(self, journal: Path, *, live: bool = False, read: Callable[[], Reading] | None = None) -> None:
        """``journal`` is the file beside which its chronicle and its edits lie; ``read`` opens the journal, where that
        is no file.
        """
        self.journal, self._live, self._read = journal, live, read or partial(JournalReader, journal)
        self._known: dict[object, tuple[float, asyncio.Future[bytes]]] = {}

    def routes(self, guarded: Callable[[Answer], Answer]) -> list[BaseRoute]:
        """``guarded`` lets pass whoever may look, and turns what is raised into an answer."""
        views: Mapping[str, Answer] = {
            "/about": self.about,
            "/series": self.series,
            "/events": self.events,
            "/decisions": self.decisions,
            "/decisions/{id}": self.decision,
            "/edits": self.edits,
            "/stream": self.stream,
        }
        return [
            Route("/", page),
            Route("/static/{name}", static),
            *(Route(path, guarded(view)) for path, view in views.items()),
        ]

    async def about(self, request: Request) -> Response:
        """``GET /orchestration/about``: from when to when there is anything, and of whom."""

        def read() -> Covers:
            extent = read_extent(self.journal)
            return Covers(**{name: getattr(extent, name) for name in extent.__struct_fields__}, live=self._live)

        return await self._shared("about", read)

    async def series(self, request: Request) -> Response:
        """``GET /orchestration/series?from=…&to=…&policy=…&profile=…``: what a window shows."""
        asked = request.query_params
        window = Window(*_span(asked), asked.get("policy"), asked.get("profile"))

        def read() -> Shown:
            courses = read_courses(self.journal, window)
            return Shown(courses.at, courses.step, courses.series, summary(courses))

        return await self._shared(window, read, DEAR_FRESH_S)

    async def events(self, request: Request) -> Response:
        """``GET /orchestration/events?from=…``: the alarms since then."""
        since = _number(request.query_params, "from", -math.inf)

        def read() -> object:
            with self._read() as journal:
                return [{"name": e.name, "at": e.at, "cause": e.cause} for e in journal.events(since)]

        return await self._shared(("events", since), read)

    async def decisions(self, request: Request) -> Response:
        """``GET /orchestration/decisions?before=…&limit=…``: the newest decisions."""
        before = _number(request.query_params, "before", math.inf)
        limit = int(_number(request.query_params, "limit", 50.0))
        if not 1 <= limit <= MOST_DECISIONS:
            raise BandmasterError(f"limit: {limit} must lie in 1 … {MOST_DECISIONS}")

        def read() -> object:
            with self._read() as journal:
                return [_line(found) for found in journal.newest(limit, before)]

        return await self._shared(("decisions", before, limit), read, DEAR_FRESH_S)

    async def decision(self, request: Request) -> Response:
        """``GET /orchestration/decisions/{id}``: all that is recorded of one."""
        id_ = request.path_params["id"]

        def read() -> object:
            with self._read() as journal:
                found = journal.find(id_)
            if found is None:
                raise NotThereError(f"no decision {id_[:64]!r} is recorded; it may be on its way, or have been removed")
            return explain(found, _classes(self.journal))

        return await self._shared(("decision", id_), read)

    async def edits(self, request: Request) -> Response:
        """``GET /orchestration/edits``: what was changed of the configuration, by whom and why."""
        return await self._shared("edits", lambda: Edits(self.journal).history())

    async def stream(self, request: Request) -> Response:
        """``GET /orchestration/stream``: an event whenever there is something new to ask for."""
        return StreamingResponse(self._ticks(), media_type="text/event-stream", headers=PAGE_HEADERS)

    async def _ticks(self) -> AsyncIterator[str]:
        seen, told, end = None, 0.0, time.monotonic() + STREAM_S
        while (now := time.monotonic()) < end:
            if (version := _version(self.journal)) != seen:
                seen, told = version, now
                yield f"event: news\ndata: {json.dumps(version)}\n\n"
            elif now - told >= HEARTBEAT_S:
                told = now
                yield ": nothing new\n\n"
            await asyncio.sleep(FRESH_S)

    async def _shared(self, key: object, read: Callable[[], object], fresh_s: float | None = None) -> Response:
        """The answer as JSON; that of another who asked the same just now, if there was one."""
        now = time.monotonic()
        self._known = {k: kept for k, kept in self._known.items() if now < kept[0]}
        if key not in self._known:
            reading = asyncio.ensure_future(asyncio.to_thread(lambda: msgspec.json.encode(read())))
            self._known[key] = (now + (FRESH_S if fresh_s is None else fresh_s), reading)
        body = await asyncio.shield(self._known[key][1])
        return Response(body, media_type="application/json")


def _line(found: Recorded) -> dict[str, object]:
    """A decision in the list of them."""
    decision, answer = found.decision, found.answer
    return {
        "id": decision.id,
        "at": decision.at,
        "policy": decision.policy,
        "profile": decision.profile,
        "plan": decision.plan,
        "propensity": decision.propensity,
        "confidence": float(answer.confidence.mean()),
        "members": [said.name for said in answer.ran],
        "failed": [said.name for said in answer.ran if said.error is not None],
        "probed": decision.probed,
        "reward": found.reward.value if found.reward else None,
    }


def _classes(journal: Path) -> tuple[int | str, ...]:
    try:
        about = read_extent(journal).about
    except BandmasterError:  # without a chronicle classes are told by their numbers
        about = None
    return about.classes if about else ()


def _version(journal: Path) -> list[int]:
    """Another whenever the chronicle, the journal or the edits have been written."""
    found = []
    for path in (chronicle_file(journal), journal, Edits(journal).log):
        for file in (path, path.with_name(f"{path.name}-wal")):
            try:
                found.append(file.stat().st_mtime_ns)
            except FileNotFoundError:
                found.append(0)
    return found


def _span(asked: Mapping[str, str]) -> tuple[float, float]:
    end = _number(asked, "to", time.time())
    return _number(asked, "from", end - 3600.0), end


def _number(asked: Mapping[str, str], name: str, default: float) -> float:
    given = asked.get(name)
    if given is None:
        return default
    try:
        number = float(given)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise BandmasterError(f"{name}: {given[:64]!r} is no number; send Unix time in seconds, as in 1700000000")
    return number


# ---- The page ------------------------------------------------------------------------------------------------


async def page(request: Request) -> Response:
    """The page itself, which holds nothing but where to ask."""
    return _file("index.html")


async def static(request: Request) -> Response:
    """A file that belongs to the page."""
    return _file(request.path_params["name"])


def _file(name: str) -> Response:
    folder = resources.files("bandmaster.visualizer") / "static"
    if name not in {entry.name for entry in folder.iterdir() if entry.is_file()}:
        return Response(status_code=HTTPStatus.NOT_FOUND)
    media = MEDIA.get(Path(name).suffix, "text/plain")
    return Response((folder / name).read_bytes(), media_type=media, headers=PAGE_HEADERS)
