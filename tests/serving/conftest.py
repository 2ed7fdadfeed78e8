"""What serving tests share."""

from __future__ import annotations

import pytest

from bandmaster import build
from bandmaster.config import Config


@pytest.fixture
def hosted(config: Config) -> build.Hosted:
    return build.host(config)
