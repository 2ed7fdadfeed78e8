"""The user's YAML block, read into frozen dataclasses or refused with the file, line, path, value and fix.

``load`` reads a file, ``parse`` a block that BentoML has parsed already. Both find every problem before they
raise, so that one run shows all there is to mend.
"""

from bandmaster.config.block import load, parse, read_block
from bandmaster.config.members import SOURCES
from bandmaster.config.records import (
    KEYS,
    POLICIES,
    Config,
    DriftConfig,
    FaultsConfig,
    FeedbackConfig,
    MemberConfig,
    PlansConfig,
    PolicyConfig,
    Source,
)
from bandmaster.config.values import UNITS, quantity
from bandmaster.yaml_reader import ConfigError

__all__ = [
    "KEYS", "POLICIES", "SOURCES", "UNITS", "Config", "ConfigError", "DriftConfig", "FaultsConfig", "FeedbackConfig",
    "MemberConfig", "PlansConfig", "PolicyConfig", "Source", "load", "parse", "quantity", "read_block",
]  # fmt: skip
