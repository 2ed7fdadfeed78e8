"""The durable record of decisions, answers, outcomes, events and snapshots.

``memory`` for replay and tests, ``sqlite`` for serving; ``ids`` signs decision ids, ``seal`` seals snapshots,
``codec`` turns records into bytes, ``rules`` holds what every journal decides the same way.
"""
