"""Other services are asked over connections that are not about to be closed, again where one is lost, and the learner
for no more at a time than it can take.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest
from _bentoml_impl.client import RemoteProxy

from bandmaster import hosting
from bandmaster.config import load
from bandmaster.serving import front as serving_front
from bandmaster.serving import others
from bandmaster.serving.door import Refusal
from bandmaster.serving.front import SETTLED_AT_ONCE, Front
from bandmaster.serving.others import RETRIES, keep_fresh, retried
from bandmaster.serving.signature import Rows
from tests.serving.tiny import made_of, project


class Served:
    """A server of one answer that remembers which connection each request came by, and closes as it is told."""

    def __init__(self) -> None:
        self.came_by: list[object] = []
        self.url = ""

    async def __aenter__(self) -> Served:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                self.came_by.append(writer)
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                await writer.drain()
        writer.close()


async def connections_of_two_calls(pause_s: float) -> int:
    async with Served() as server:
        proxy: RemoteProxy[object] = RemoteProxy(server.url)
        keep_fresh(proxy)
        session = await proxy.to_async._session_manager.get_session()
        for _ in range(2):
            async with session.get("/") as reply:
                assert await reply.text() == "ok"
            await asyncio.sleep(pause_s)
        await proxy.close()
        return len(set(server.came_by))


@pytest.mark.parametrize(("idle_s", "connections"), [(60.0, 1), (0.0, 2)])
def test_a_connection_that_has_idled_is_not_used_again(
    idle_s: float, connections: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(others, "IDLE_S", idle_s)
    assert asyncio.run(connections_of_two_calls(pause_s=0.01)) == connections


@pytest.mark.parametrize("lost", range(RETRIES + 2))
def test_a_call_whose_connection_is_lost_is_made_again_so_often(lost: int) -> None:
    calls: list[str] = []

    async def call(what: str) -> str:
        calls.append(what)
        if len(calls) <= lost:
            raise aiohttp.ClientOSError(104, "Connection reset by peer")
        return "done"

    if lost <= RETRIES:
        assert asyncio.run(retried(call, "settle")) == "done"
        assert calls == ["settle"] * (lost + 1)
    else:
        with pytest.raises(aiohttp.ClientOSError):
            asyncio.run(retried(call, "settle"))


class Busy:
    """A learner that takes up what it is asked, and answers posts once it is ``free``."""

    def __init__(self) -> None:
        self.posts: list[int] = []
        self.free = asyncio.Event()

    async def settle(self, post: int) -> int:
        self.posts.append(post)
        await self.free.wait()
        return post

    async def state(self) -> str:
        return "busy"


@pytest.fixture
def busy(tmp_path: Path) -> Front:
    """Its worker's half, asking a ``Busy`` learner."""
    config = load(project(tmp_path) / "bentofile.yaml")
    front = Front(made_of(config, hosting.host(config)), Rows("classify", (4,)), None)
    front._learner = Busy()
    return front


def test_posts_that_a_busy_learner_has_no_time_for_wait_in_turn_and_those_given_up_are_never_sent(busy: Front) -> None:
    async def post_many() -> None:
        learner = busy._learner
        posts = [asyncio.create_task(busy._have_settled(n)) for n in range(SETTLED_AT_ONCE + 6)]
        assert await busy._ask_learner("state") == "busy"  # which waits for no post
        await asyncio.sleep(0)
        assert learner.posts == list(range(SETTLED_AT_ONCE))
        given_up = posts.pop(SETTLED_AT_ONCE + 1)
        given_up.cancel()
        learner.free.set()
        assert await asyncio.gather(*posts) == learner.posts
        assert learner.posts == [n for n in range(SETTLED_AT_ONCE + 6) if n != SETTLED_AT_ONCE + 1]

    asyncio.run(post_many())


def test_a_post_whose_turn_does_not_come_in_time_is_refused_and_never_sent_and_the_next_one_is_taken(
    busy: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving_front, "TURN_S", 0.0)

    async def post_many() -> None:
        learner = busy._learner
        posts = [asyncio.create_task(busy._have_settled(n)) for n in range(SETTLED_AT_ONCE)]
        await asyncio.sleep(0)
        with pytest.raises(Refusal, match="more feedback comes than the learner takes; send it again") as refused:
            await busy._have_settled(-1)
        assert refused.value.status == 503
        learner.free.set()
        await asyncio.gather(*posts)
        assert await busy._have_settled(-2) == -2
        assert -1 not in learner.posts

    asyncio.run(post_many())
