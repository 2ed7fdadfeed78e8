"""Of many like messages one a minute is written, and says how many were not."""

import logging

from bandmaster.seldom import Seldom


def test_one_message_in_a_while_is_written_and_says_how_many_were_kept_back(caplog):
    now = [0.0]
    seldom = Seldom(logging.getLogger("test"), every_s=60.0, clock=lambda: now[0])
    for second in (0, 1, 59, 60, 61, 200):
        now[0] = float(second)
        seldom.error("full: %s", second)
    assert caplog.messages == [
        "full: 0",
        "full: 60 (2 such messages since the last)",
        "full: 200 (1 such messages since the last)",
    ]
