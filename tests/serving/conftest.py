"""What serving tests share."""

from __future__ import annotations

import pytest

from bandmaster import hosting
from bandmaster.config import Config


@pytest.fixture
def hosted(config: Config) -> hosting.Hosted:
    return hosting.host(config)
