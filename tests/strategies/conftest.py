import pytest


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


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only where the strategies wait."""
    clock = Clock()
    for module in ("roster", "exchange", "fedbias"):
        monkeypatch.setattr(f"strategies.{module}.time", clock)
    return clock


@pytest.fixture
def warned(caplog):
    """What was logged as a warning so far."""
    caplog.set_level("WARNING", "flwr")
    return lambda: [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
