"""How many inputs the fuzz tests try: few and always the same in CI, many and new ones with ``make fuzz``."""

from __future__ import annotations

import os
from collections import Counter

from hypothesis import HealthCheck, settings

SECONDS = float(os.environ.get("HMS_TUNE_FUZZ_SECONDS", "0"))
"""How long each test goes on; 0: a fixed number of fixed inputs."""

INPUTS: Counter[str] = Counter()
"""How many of each kind were tried."""

settings.register_profile(
    "fuzz",
    derandomize=not SECONDS,
    max_examples=10**9 if SECONDS else 30,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
