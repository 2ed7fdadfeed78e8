"""Whoever edits the configuration is killed at any point of it: the overlay is the old one or the new one, never torn.

python -m tests.faults.killed_edits --kills 200
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from bandmaster.edits import Edits, as_mapping, leaves
from tests.faults.command import parser

FILE = """# what answers
args:
  orchestration:   # by Bandmaster
    contract: {accuracy: {weight: 1}}
    members:
      tree:   {}   # fast
      forest: {weight: 2}
    seed: 1
"""

EDITOR = """
import sys
from pathlib import Path
from bandmaster import config
from bandmaster.config_manager import ConfigManager
from bandmaster.edits import Edits
file = Path(sys.argv[1])
manager = ConfigManager(lambda: config.read_block(file), Edits(file.parent / "orchestration.db"))
k = manager.edits.in_force().version
print("ready", flush=True)
while True:
    k += 1
    manager.apply({"seed": k, "members.tree.weight": k, "members.forest.weight": k}, "cli:ann", f"the {k}th")
"""


def killed_at_random(file: Path, kills: int, seed: int = 0) -> int:
    """Kill an editor that edits without a pause so many times; how many edits were made."""
    rng = np.random.default_rng(seed)
    edits = Edits(file.parent / "orchestration.db")
    for _ in range(kills):
        editor = subprocess.Popen([sys.executable, "-c", EDITOR, str(file)], stdout=subprocess.PIPE)
        assert editor.stdout is not None
        assert editor.stdout.readline() == b"ready\n"
        time.sleep(rng.uniform(0.0, 0.1))
        os.kill(editor.pid, signal.SIGKILL)
        editor.wait()
        overlay, history = edits.overlay(), edits.history()
        seeds = {value for _, value in leaves(overlay)}
        assert len(seeds) <= 1, f"a mixture of edits: {overlay}"
        last = history[-1].version if history else 0
        assert [edit.version for edit in history] == list(range(1, last + 1))
        in_force = seeds.pop() if seeds else 0
        assert in_force in (last, last - 1), "neither the newest edit nor the one before"
        assert not history or as_mapping(history[-1].overlay)["seed"] == last
        with edits.editing() as settled:
            assert settled.version == last
        assert dict(edits.overlay()) == (as_mapping(history[-1].overlay) if history else {})
    return last


def main() -> int:
    asked = parser(__doc__, "kills", 200).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bentofile.yaml"
        file.write_text(FILE)
        made = killed_at_random(file, asked.kills, asked.seed)
    print(f"{asked.kills} kills, {made} edits: each overlay the newest one or the one before, each log whole")
    return 0


if __name__ == "__main__":
    sys.exit(main())
