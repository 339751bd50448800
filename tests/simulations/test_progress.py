"""Progress: few plain lines where nobody watches, one live line where somebody does."""

import io
import logging
import math
import re
from collections.abc import Callable
from typing import Any

import pytest

from simulations.output import Notices
from simulations.output.progress import Progress
from simulations.settings import make_settings
from simulations.training import show

Make = Callable[..., dict[str, Any]]


pytestmark = pytest.mark.usefixtures("pipe")  # for its environment


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Pipe(io.StringIO):
    """Count the flushes: every line must be out at once."""

    flushes = 0

    def flush(self) -> None:
        self.flushes += 1
        super().flush()


def follow(
    record: Make,
    rounds: int,
    pace: float,
    first: int = 0,
    total: int = 0,
    stopped: str | None = None,
    **shown: Any,
) -> list[str]:
    """Run some rounds of `pace` seconds each into a pipe and give the lines."""
    stream, clock = Pipe(), Clock()
    with Progress(stream=stream, clock=clock) as progress:
        progress.start(total or rounds, "digits", **shown)
        for k in range(first, rounds + 1):
            clock.now += pace
            progress.update(record(k), stopped if k == rounds else None)
    lines = stream.getvalue().splitlines()
    assert stream.flushes >= len(lines)
    assert not any(code in stream.getvalue() for code in ("\x1b", "\r", "\b"))
    return lines


def shown_rounds(lines: list[str]) -> list[int]:
    return [int(line.split("round ")[1].split("/")[0]) for line in lines]


def test_fast_rounds_give_a_line_at_every_tenth(record: Make) -> None:
    lines = follow(record, 1000, pace=0.001)
    assert shown_rounds(lines) == list(range(0, 1001, 100))


def test_slow_rounds_give_a_line_each_few_seconds_and_the_last(record: Make) -> None:
    lines = follow(record, 10, pace=7.0)
    assert shown_rounds(lines) == list(range(11))
    lines = follow(record, 5, pace=2.0, total=10_000)
    assert shown_rounds(lines) == [0, 3, 5]


def test_the_last_line_is_the_last_round_and_not_twice(record: Make) -> None:
    assert shown_rounds(follow(record, 7, pace=0.1))[-2:] == [6, 7]
    assert shown_rounds(follow(record, 3, pace=0.1, total=400)) == [0, 3]


def test_a_line_by_hand(record: Make) -> None:
    lines = follow(record, 2, pace=4.0, total=4)
    # round 1: loss 2/2, accuracy 1 - 0.9/2; the second round took 4 s, so three more take 12 s
    assert lines[1] == (
        "digits: round 1/4  loss 1  accuracy 55.00 %  uplink 100 B  8.0 s, 12 s left"
    )


def growing(record: Make) -> Make:
    """Make records of rounds with batches of 2, 4, 8, … on ten clients."""
    return lambda k: record(
        k, batch_size=2**k if k else None, total_samples=10 * (2 ** (k + 1) - 2)
    )


def test_a_run_of_so_many_samples_counts_them(record: Make) -> None:
    """Round 3 ends at 140 of 620 samples; the last 120 of them took 8 s.

    Kills: the share, or the time left, by rounds that nobody will see.
    """
    lines = follow(growing(record), 5, pace=4.0, first=1, total=400, samples=620, batches=True)
    assert "round 1/400  samples 20/620  loss 1  accuracy 55.00 %  batch 2  uplink" in lines[0]
    assert lines[1] == (
        "digits: round 3/400  samples 140/620  loss 0.5  accuracy 77.50 %  batch 8  uplink 300 B  "
        "12 s, 32 s left"
    )
    assert "round 5/400  samples 620/620" in lines[-1] and lines[-1].endswith("  20 s")


def test_the_rounds_may_end_first(record: Make) -> None:
    """One round of two is half, whatever the samples. Kills: the share by samples alone."""
    lines = follow(growing(record), 2, pace=4.0, samples=1e6)
    assert "samples 20/1.00M" in lines[1] and lines[1].endswith("8.0 s, 4.0 s left")


def test_a_batch_size_is_shown_where_a_rule_chooses_it(record: Make) -> None:
    """Kills: `batch 32` in every line of a run whose size is a setting."""
    (*_, last) = follow(growing(record), 3, pace=1.0, batches=True)
    assert "  accuracy 77.50 %  batch 8  uplink 300 B  " in last
    assert not any("batch" in line for line in follow(growing(record), 3, pace=1.0))


def test_a_run_that_reached_its_goal_looks_finished(record: Make) -> None:
    """Kills: `round 3/400` at the end, and a time left."""
    lines = follow(record, 3, pace=0.1, total=400, stopped="loss 0.5 reached 0.7")
    assert shown_rounds(lines[:-1]) == [0]
    assert lines[-1] == (
        "digits: round 3, loss 0.5 reached 0.7  loss 0.5  accuracy 77.50 %  uplink 300 B  0.4 s"
    )


def test_without_accuracies_the_test_loss_is_shown(record: Make) -> None:
    """Kills: a distance to the minimum that rounds.jsonl alone knows."""
    stream = Pipe()
    with Progress(stream=stream) as progress:
        progress.start(1, "least squares")
        progress.update(record(1, accuracy=None))
    assert "round 1/1  loss 1  test loss 1.05  uplink 100 B" in stream.getvalue()


def test_the_time_left_of_a_resumed_run_counts_only_its_own_rounds(record: Make) -> None:
    lines = follow(record, 100, pace=2.0, first=91)
    assert "round 91/100" in lines[0] and "left" not in lines[0]
    assert lines[1].endswith("8.0 s, 12 s left") and "round 94/100" in lines[1]
    assert lines[-1].endswith("20 s") and "round 100/100" in lines[-1]


def test_values_stay_until_a_round_has_new_ones(record: Make) -> None:
    stream = Pipe()
    with Progress(stream=stream) as progress:
        progress.start(2, "x")
        progress.update(record(0, accuracy=0.5))
        progress.update(record(1, accuracy=None))
        progress.update(record(2, accuracy=None, train_loss=math.nan))
    lines = stream.getvalue().splitlines()
    assert all("accuracy 50.00 %" in line for line in lines)
    assert "loss diverged" in lines[2]


def test_a_comparison_says_which_cell_it_is_at(record: Make) -> None:
    stream = Pipe()
    with Progress(cells=2, stream=stream) as progress:
        for name in ("none", "[b]top-k"):
            progress.start(1, name)
            progress.update(record(1))
    lines = stream.getvalue().splitlines()
    assert [line.split(":")[0] for line in lines] == ["[1/2] none", "[2/2] [b]top-k"]


def test_an_interrupted_run_leaves_its_last_round(record: Make) -> None:
    stream = Pipe()
    with pytest.raises(KeyboardInterrupt), Progress(stream=stream) as progress:
        progress.start(100, "x")
        progress.update(record(0))
        progress.update(record(1))
        raise KeyboardInterrupt
    assert shown_rounds(stream.getvalue().splitlines()) == [0, 1]


def test_a_terminal_has_a_live_line_and_keeps_the_last(record: Make, terminal: io.StringIO) -> None:
    with Progress(cells=3, stream=terminal) as progress:
        progress.start(4, "[b]x")
        for k in range(5):
            progress.update(record(k))
    *live, last = terminal.getvalue().rstrip("\n").split("\n")
    assert "\x1b[?25l" in live[0] and "━" in "".join(live)
    assert last.endswith("s") and "[1/3] [b]x: round 4/4  loss 0.4" in last
    assert terminal.getvalue().count("\x1b[?25h") == 1  # the cursor is given back


def test_the_last_line_fits_a_narrow_terminal(
    record: Make, terminal: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kills: a line that the terminal breaks in the middle of a word."""
    monkeypatch.setenv("COLUMNS", "80")
    with Progress(cells=6, stream=terminal) as progress:
        for name in ("FedAvg", "Top-2 %, error feedback, seed 4"):
            progress.start(4, name)
            progress.update(record(4))
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    lines = [line for line in re.split(r"[\r\n]", text) if ": round 4/4" in line]
    assert lines == [
        "[1/6] FedAvg: round 4/4  loss 0.4  accuracy 82.00 %  uplink 400 B  0.0 s",
        "[2/6] Top-2 %, error feedback, seed 4: round 4/4  accuracy 82.00 %  uplink 400 B",
    ]
    assert "[2/6] Top-2 %, erro…" in text  # beside the live bar: a quarter of the width


def test_the_live_line_shows_what_fits(
    record: Make, terminal: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kills: words cut by an ellipsis, a line that wraps, a last line longer than the terminal."""
    texts = {}
    for width in (60, 80, 100, 160):
        monkeypatch.setenv("COLUMNS", str(width))
        terminal.seek(0)
        terminal.truncate()
        with Progress(stream=terminal) as progress:
            progress.start(9, "a name as long as this", samples=620, batches=True)
            progress.update(growing(record)(4))
            progress.update(growing(record)(5), "samples 620 reached 620")
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
        lines = texts[width] = [line.rstrip() for line in re.split(r"[\r\n]+", text) if line]
        assert max(map(len, lines)) <= width, width
        assert not any("…" in line[width // 4 :] for line in lines)
    full = "loss 0.3333  accuracy 85.00 %  batch 32  uplink 500 B"
    assert texts[160][-1] == (
        f"a name as long as this: round 5, samples 620 reached 620  {full}  0.0 s"
    )
    assert full in "".join(texts[160][:-1])
    assert texts[80][-1] == (
        "a name as long as this: round 5, samples 620 reached 620  accuracy 85.00 %"
    )
    assert texts[60][-1] == "a name as long as this: round 5, samples 620 reached 620"


def sharp(record: Make) -> Make:
    """Make records of rounds that measured the sharpness after an even number of them."""
    return lambda k: record(
        k,
        stability_limit=20.0 if k else None,
        sharpness=12.3 + k if k % 2 else None,
    )


def test_the_sharpness_stands_beside_its_limit(record: Make) -> None:
    """The last reading. Kills: a limit to nothing in every line; a reading of one round alone."""
    lines = follow(sharp(record), 4, pace=7.0)
    assert "λ̂" not in lines[0] and "limit" not in lines[0]
    assert "  accuracy 55.00 %  λ̂ 13.3  limit 20  uplink 100 B" in lines[1]
    assert "λ̂ 13.3  limit 20" in lines[2] and "λ̂ 15.3  limit 20" in lines[3]
    plain = follow(lambda k: record(k, stability_limit=20.0), 4, pace=7.0)
    assert not any("limit" in line for line in plain)


def test_a_measurement_says_that_it_goes_on(record: Make) -> None:
    """Before there is a time left. Kills: minutes after round 0 that look like a hang."""
    lines = follow(sharp(record), 4, pace=7.0, measures=lambda rounds: rounds % 2 == 0)
    assert lines[0].endswith("  7.0 s, measuring λ̂")
    assert not any("measuring" in line for line in lines[1:])
    assert lines[2].endswith(" s left")
    assert "measuring" not in "".join(follow(sharp(record), 4, pace=7.0))


def test_the_live_line_says_that_a_measurement_goes_on(record: Make, terminal: io.StringIO) -> None:
    """Kills: a time left that stands still; a run that measures when it is over."""
    clock, said = Clock(), []
    with Progress(stream=terminal, clock=clock) as progress:
        progress.start(4, "x", measures=lambda rounds: rounds % 2 == 0)
        for k in range(5):
            clock.now += 4
            terminal.seek(0)
            terminal.truncate()
            progress.update(sharp(record)(k))
            progress._live._bar.refresh()
            said.append("measuring λ̂" in terminal.getvalue())
            assert said[-1] or ("s left" in terminal.getvalue()) == (0 < k < 4)
    assert said == [True, False, True, False, False]


def test_a_run_tells_progress_when_it_measures() -> None:
    """Kills: a first measurement that nobody announces."""
    stream = Pipe()
    for values in ({"sharpness": "lanczos(every=3)"}, {}):
        with Progress(stream=stream) as progress:
            show(progress, make_settings({"rounds": 9, **values}), "x")
            for rounds in range(10):
                progress.update({"round": rounds})
                due = bool(values) and rounds in (0, 3, 6)
                assert (progress._measuring() == "measuring λ̂") == due, rounds


def test_the_limit_is_left_out_first_and_the_sharpness_last(
    record: Make, terminal: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kills: a line without accuracy for the sake of a limit."""
    for width, shown in (
        (72, "loss 1  accuracy 55.00 %  λ̂ 13.3  uplink 100 B"),
        (60, "accuracy 55.00 %  λ̂ 13.3  uplink 100 B"),
        (46, "accuracy 55.00 %  λ̂ 13.3"),
        (40, "accuracy 55.00 %"),
    ):
        monkeypatch.setenv("COLUMNS", str(width))
        with Progress(stream=terminal) as progress:
            progress.start(1, "digits")
            progress.update(sharp(record)(1))
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
        last = re.split(r"[\r\n]+", text.rstrip())[-1]
        assert last.removesuffix("  0.0 s") == f"digits: round 1/1  {shown}", width


def test_warnings_stand_above_the_live_line(
    record: Make, terminal: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kills: a handler that remembers the stream, and writes into the line that is shown."""
    monkeypatch.setattr("sys.stderr", terminal)
    log = logging.Logger("x")
    log.addHandler(Notices())
    with Progress(stream=terminal) as progress:
        progress.start(4, "x")
        progress.update(record(1))
        log.warning("client %s was refused", 3)
        log.info("not worth a line")
        # the live line is erased first, and drawn again below
        assert "\x1b[2Kwarning: client 3 was refused" in terminal.getvalue()
    assert "not worth" not in terminal.getvalue()


def test_a_dumb_terminal_gets_plain_lines(
    record: Make, terminal: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    with Progress(stream=terminal) as progress:
        progress.start(1, "x")
        progress.update(record(1))
    assert "\x1b" not in terminal.getvalue() and "round 1/1" in terminal.getvalue()


def test_no_color_has_no_colours(
    record: Make, terminal: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    with Progress(stream=terminal) as progress:
        progress.start(1, "x")
        progress.update(record(1))
    assert not any(f"\x1b[{code}" in terminal.getvalue() for code in ("31", "32", "33", "38", "9"))


def test_update_before_start_is_refused(record: Make) -> None:
    with pytest.raises(RuntimeError, match="update needs start first"):
        Progress(stream=Pipe()).update(record(0))
