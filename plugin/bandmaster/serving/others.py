"""Other services of the bento: named, depended on, and asked."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import aiohttp
import bentoml
from _bentoml_impl.client import RemoteProxy
from _bentoml_sdk.service.dependency import Dependency

from bandmaster.config import Config, MemberConfig
from bandmaster.core import BandmasterError
from bandmaster.members.bento import Ask, BentoMember
from bandmaster.members.loop import LOOP
from bandmaster.serving.discovery import import_service

_log = logging.getLogger("bandmaster.others")

KEPT = {"max_requests": 10**9, "max_age": 1e9}
"""BentoML's client drops calls in flight after 100 requests, or five minutes, unless told otherwise."""

IDLE_S = 0.5
"""No connection is used again that has idled for so long. Servers close those that have for some seconds, five unless
told otherwise, and a busy one does so before it looks whether a request has come: that is lost, and the next one too,
as the longest idle is taken first."""

RETRIES = 2
"""How often a call of another service is tried again whose connection is lost."""

CLOSED_IN_S = 5.0


async def retried(call: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
    """Call another service; anew where the connection was lost, so that it must do no harm to do that twice."""
    for _ in range(RETRIES):
        try:
            return await call(*arguments)
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as problem:
            _log.info("another service is asked again: %s", problem)
    return await call(*arguments)


def keep_fresh(proxy: RemoteProxy[Any]) -> None:
    """Let a proxy that has not been called yet drop connections that have idled for ``IDLE_S``. BentoML's has no
    setting for that.
    """
    sessions = proxy.to_async._session_manager
    make = sessions._make_client

    def made() -> aiohttp.ClientSession:
        session: aiohttp.ClientSession = make()
        if session.connector is not None:
            session.connector._keepalive_timeout = IDLE_S
        return session

    sessions._make_client = made


def depended_on(config: Config, name: str) -> dict[str, Dependency[Any]]:
    """What the service ``name`` needs of others for its members, by the attributes that hold it.

    Raises ``BandmasterError`` where a member's service, or its method, is not there.
    """
    found: dict[str, Dependency[Any]] = {}
    for member in config.members:
        if member.bento is None:
            continue
        place = f"{config.source.name}: {config.source.path}.members.{member.name}"
        service = import_service(member.bento.service, f"{place}.bento")
        if service.name == name:
            raise BandmasterError(f"{place}.bento: is the service that is orchestrated; name another one")
        if member.bento.method not in service.apis:
            known = ", ".join(service.apis) or "none"
            raise BandmasterError(
                f"{place}.method: {service.name} has no API method {member.bento.method!r}; it has {known}"
            )
        service.config.setdefault("runner_connection", KEPT)
        found[_attribute(member)] = bentoml.depends(service)
    return found


def _attribute(member: MemberConfig) -> str:
    return f"bandmaster_member_{member.name}"


class Others:
    """The services that members are, as one process asks them. Their connections belong to ``LOOP``."""

    def __init__(self, service: Any = None, config: Config | None = None) -> None:
        """``service`` is the running one that has what it ``depended_on`` by ``config``; without one there are none."""
        self._proxies: list[RemoteProxy[Any]] = []
        members = config.members if config is not None else ()
        self._asks = {m.bento: self._asking(service, _attribute(m)) for m in members if m.bento}

    def connect(self, members: Iterable[Any]) -> None:
        """Let those of them that are other services be asked."""
        for member in members:
            if isinstance(member, BentoMember) and member.called in self._asks:
                member.connect(self._asks[member.called])

    def _asking(self, service: Any, attribute: str) -> Ask:
        found = getattr(service, attribute)
        if not isinstance(found, RemoteProxy):  # under --development and in tests BentoML makes the service here
            return lambda method, rows: getattr(found.to_async, method)(rows)
        # The connections of the proxy that BentoML has made belong to the server's event loop.
        theirs, on = found.to_async, getattr(type(service), attribute).on
        proxy = RemoteProxy(theirs.url, service=on, media_type=theirs.media_type)
        keep_fresh(proxy)
        self._proxies.append(proxy)
        return lambda method, rows: retried(proxy.to_async.call, method, rows)

    def close(self) -> None:
        """Close the connections."""
        if self._proxies:
            LOOP.run(self._closed(), CLOSED_IN_S)

    async def _closed(self) -> None:
        for proxy in self._proxies:
            await proxy.close()
