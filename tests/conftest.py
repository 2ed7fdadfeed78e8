"""Fast tests first: what is slow says so by its folder."""

from pathlib import Path

from hypothesis import settings

# No test asserts a time, and so no example has a deadline.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

ORDER = (
    "unit",
    "config",
    "contracts",
    "members",
    "serving",
    "journal",
    "replay",
    "cli",
    "statistics",
    "models",
    "end_to_end",
)


def pytest_collection_modifyitems(items):
    def place(item):
        folder = Path(item.path).parent.name
        return ORDER.index(folder) if folder in ORDER else len(ORDER)

    items.sort(key=place)
