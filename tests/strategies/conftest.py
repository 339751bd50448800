from importlib import import_module
from pkgutil import iter_modules

import pytest

import strategies


class Clock:
    """A clock that only sleeping moves, and that notes how long it was slept."""

    def __init__(self):
        self.now, self.naps = 1000.0, []

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        assert seconds >= 0
        self.naps.append(seconds)
        self.now += max(seconds, 1e-3)


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Time that passes only where the strategies wait: no test waits, none depends on time."""
    clock = Clock()
    for found in iter_modules(strategies.__path__):
        module = import_module(f"strategies.{found.name}")
        if hasattr(module, "time"):
            monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def warned(caplog):
    """What was logged as a warning so far."""
    caplog.set_level("WARNING", "flwr")
    return lambda: [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
