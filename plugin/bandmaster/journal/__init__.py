"""The durable record of decisions, answers, outcomes, events and snapshots.

``memory`` for replay and tests, ``sqlite`` for serving, with its ``schema``, the workers' ``spool``, ``reading`` beside
its owner and the ``places`` of it all; ``ids`` signs decision ids and ``seal`` the ``snapshots``, both with ``keys``;
``codec`` turns records into bytes, ``rules`` holds what every journal decides the same way, ``checkup`` looks one over.
"""
