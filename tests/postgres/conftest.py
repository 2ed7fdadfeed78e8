"""One PostgreSQL for all tests of this folder, a database of its own for each."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from tests.postgres.servers import Postgres, postgres

_number = itertools.count()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    with postgres(tmp_path_factory.mktemp("postgres")) as found:
        yield found


@pytest.fixture
def database(server: Postgres) -> str:
    """The URL of an empty database."""
    return server.database(f"journal{next(_number)}")
