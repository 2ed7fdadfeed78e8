"""The switch that has the baseline answer alone: a file beside the journal, which every worker looks for."""

from __future__ import annotations

from pathlib import Path

from bandmaster.core import BandmasterError
from bandmaster.files import naming, write_text


class Pin:
    """While its file is there, no policy's choice answers, in no worker, from the next request on."""

    def __init__(self, journal: Path) -> None:
        """``journal`` is the journal's database."""
        self.path = journal.with_name(f"{journal.name}.pin")

    def __bool__(self) -> bool:
        """Whether it is set; asked at every request. What cannot be looked for counts as there."""
        try:
            self.path.stat()
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return True

    @property
    def why(self) -> str | None:
        """What whoever set it wrote; ``None`` where it is not set."""
        try:
            return self.path.read_text(encoding="utf-8", errors="replace").strip()
        except FileNotFoundError:
            return None
        except OSError as problem:
            return str(problem)

    def set(self, why: str) -> None:
        """Raises ``BandmasterError`` where there is no folder for it, or it cannot be written."""
        if not self.path.parent.is_dir():
            raise BandmasterError(f"{self.path.parent}: is no folder, so that no service can have its journal there")
        write_text(self.path, why)

    def clear(self) -> bool:
        """Whether it had been set. Raises ``BandmasterError`` where it cannot be removed."""
        with naming(self.path):
            try:
                self.path.unlink()
            except FileNotFoundError:
                return False
        return True
