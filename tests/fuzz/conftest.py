"""Says how many inputs were tried."""

from __future__ import annotations

import pytest
from fuzz_settings import INPUTS


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A line for each kind of input."""
    for name, count in INPUTS.items():
        terminalreporter.write_line(f"{name}: {count:,} inputs")
