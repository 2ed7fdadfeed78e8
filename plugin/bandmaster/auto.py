"""``service: "bandmaster.auto:svc"``: the service named in the orchestration block, orchestrated.

Importing this module reads the block and wraps the service; it is an entry point and imported for nothing else. What
cannot be used is refused here, with exit status 2, before anything has started.
"""

from __future__ import annotations

import sys
from typing import Any

from bandmaster.core import BandmasterError
from bandmaster.serving.discovery import find_block, load_service
from bandmaster.serving.service import wrap


def _build() -> Any:
    try:
        service = wrap(load_service(*find_block()), find_block)
    except BandmasterError as problem:
        print(f"bandmaster: {problem}", file=sys.stderr)
        raise SystemExit(2) from None
    service._caller_module = __name__  # from here on, this is where BentoML finds it
    return service


svc = _build()
