"""Rows of runs: the numbers by hand, the words, and the two ways of printing."""

import io
import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from simulations.output.printing import print_table
from simulations.output.rows import comparison_table
from simulations.output.runs import Run
from simulations.output.seeds import mean_run
from simulations.output.tables import (
    human_batch,
    human_bytes,
    human_count,
    human_ratio,
    human_seconds,
    text_table,
)

Make = Callable[..., dict[str, Any]]


def run_that_sent(record: Make, name: str, compressor: str, sent: int) -> Run:
    records = [record(0), record(5, total_uplink_bytes=sent, lost=2, refused=1)]
    return Run(name, {"compressor": compressor}, records, {"duration": 61.0})


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (1234, "1.23 kB"),
        (9_994, "9.99 kB"),
        (9_996, "10.0 kB"),
        (99_960, "100 kB"),
        (999_499, "999 kB"),
        (999_600, "1.00 MB"),
        (1_230_000, "1.23 MB"),
        (43_100_000_000, "43.1 GB"),
        (10**18, "1000 PB"),
    ],
)
def test_bytes_have_three_digits_and_decimal_units(count: int, text: str) -> None:
    assert human_bytes(count) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (999, "999"), (1000, "1.00k"), (30_240, "30.2k"), (6e6, "6.00M"), (None, "-")],
)
def test_counts_have_three_digits(count: float | None, text: str) -> None:
    """Kills: «6000000», «6.00MB»."""
    assert human_count(count) == text


def test_average_batches() -> None:
    """Kills: «32.0» for a size that never changed."""
    assert [human_batch(size) for size in (32, 2.25, 17.96, None)] == ["32", "2.2", "18", "-"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (7620, "2 h 07 min"),
        (None, "-"),
        (math.nan, "-"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert human_seconds(seconds) == text


def test_ratios_by_hand_against_the_uncompressed_run_wherever_it_stands(record: Make) -> None:
    rows = comparison_table(
        [
            run_that_sent(record, "a", "top_k(fraction=0.01)", 10_000),
            run_that_sent(record, "b", "identity()", 431_000),
            run_that_sent(record, "c", "half()", 862_000),
            run_that_sent(record, "d", "sign()", 431_000),
            run_that_sent(record, "e", "sign()", 0),
        ]
    )
    assert [row.ratio for row in rows] == [43.1, 1.0, 0.5, 1.0, None]
    assert [row.reference for row in rows] == [False, True, False, False, False]
    words = ["43.1x fewer", "reference", "2.0x more", "the same", "-"]
    assert [human_ratio(row) for row in rows] == words


def test_without_an_uncompressed_run_the_first_is_the_reference(record: Make) -> None:
    rows = comparison_table(
        [run_that_sent(record, "a", "half()", 500), run_that_sent(record, "b", "sign()", 400)]
    )
    assert [row.reference for row in rows] == [True, False]
    assert human_ratio(rows[1]) == "1.25x fewer"


def test_a_row_by_hand(record: Make) -> None:
    records = [
        record(0, accuracy=0.1, train_loss=2.3),
        record(1, accuracy=0.9, train_loss=0.5, lost=1),
        record(2, accuracy=0.8, train_loss=0.6, refused=2, total_uplink_bytes=777),
        record(3, accuracy=None, train_loss=None, total_uplink_bytes=888, seconds=9.0),
    ]
    (row,) = comparison_table([Run("r", {}, records)])
    assert (row.accuracy, row.best_accuracy, row.loss) == (0.8, 0.9, 0.6)
    assert (row.uplink_bytes, row.rounds, row.seconds, row.missing) == (888, 3, 9.0, 3)


def test_a_run_that_diverged_does_not_show_its_last_good_loss(record: Make) -> None:
    records = [record(0), record(1), record(2, train_loss=math.inf, accuracy=0.1)]
    (row,) = comparison_table([Run("r", {}, records)])
    assert row.loss is not None and math.isnan(row.loss)
    headings, line = text_table([row])
    assert line[headings.index("train loss")] == "diverged"


def test_columns_that_say_nothing_are_left_out(theory_run: Run, six_runs: list[Run]) -> None:
    assert text_table(comparison_table([theory_run]))[0] == [
        "run", "train loss", "uplink", "rounds", "time"
    ]  # fmt: skip
    assert text_table(comparison_table(six_runs))[0] == [
        "run", "accuracy", "best", "train loss", "uplink", "bytes sent", "missing", "rounds", "time"
    ]  # fmt: skip


def batched(record: Make, name: str, setting: int | str, sizes: list[int | None]) -> Run:
    """Make a run of ten clients whose batches had these sizes; None is all of 50 examples."""
    seen, records = 0, [record(0, total_samples=0, batch_size=None)]
    for k, size in enumerate(sizes, start=1):
        seen += 10 * (size or 50)
        records.append(record(k, total_samples=seen, batch_size=size))
    return Run(name, {"batch_size": setting}, records)


def test_average_batch_and_samples_by_hand(record: Make) -> None:
    """(2 + 4 + 12)/3; round 0 has no batch. Kills: the last size; a mean with the start in it."""
    (row,) = comparison_table([batched(record, "a", "norm_test(eta=0.5, maximum=12)", [2, 4, 12])])
    assert (row.average_batch, row.samples, row.ruled) == (6, 180, True)
    headings, line = text_table([row])
    assert line[headings.index("average batch")] == "6"
    assert line[headings.index("samples")] == "180"


def test_batch_and_samples_are_shown_where_they_say_something(record: Make) -> None:
    """Kills: two columns of the same number; a comparison that hides who saw more."""
    same, more, other = (batched(record, "x", size, [size] * 2) for size in (4, 8, 4))
    whole = batched(record, "x", 0, [None, None])
    rule = batched(record, "x", "norm_test(eta=0.5, maximum=12)", [4, 4])  # it never failed

    def shown(*runs: Run) -> list[str]:
        headings = text_table(comparison_table(runs))[0]
        return [heading for heading in headings if heading in ("average batch", "samples")]

    assert shown(same) == shown(whole) == shown(same, other) == []
    both = ["average batch", "samples"]
    assert shown(rule) == shown(same, rule) == shown(same, more) == shown(same, whole) == both
    assert shown(same, batched(record, "x", 4, [4])) == ["samples"]
    headings, *lines = text_table(comparison_table([same, whole]))
    assert [line[headings.index("average batch")] for line in lines] == ["4", "-"]


def test_saturated_replies_are_counted(record: Make) -> None:
    """Kills: preset ranges that were too small, known to rounds.jsonl alone."""
    run = Run("x", {}, [record(0), record(1, saturated=2), record(2, saturated=1)])
    headings, line = text_table(comparison_table([run]))
    assert line[headings.index("saturated")] == "3" and "missing" not in headings


def sharp(record: Make, **last: Any) -> Run:
    """Make a run that measured the sharpness in rounds 1 and 3, where ``last`` is of round 3."""
    step: dict[str, Any] = {"step_size": 0.25, "stability_limit": 8.0, "unmeasured": None}
    found: dict[str, Any] = {"sharpness": 6.0, "sharpness_spread": 0.0, "sharpness_bytes": 700}
    rounds = [record(0), record(1, **step, **found | {"sharpness": 2.0}), record(2, **step)]
    return Run("x", {}, [*rounds, record(3, **step | found | last), record(4, **step)])


def test_the_sharpness_by_hand(record: Make) -> None:
    """ηλ̂ = 6/4 of 8/4. Kills: the first reading; λ̂ of the limit; bytes of one measurement."""
    (row,) = comparison_table([sharp(record)])
    assert (row.sharpness, row.step_sharpness, row.stability) == (6, 1.5, 2)
    assert (row.sharpness_bytes, row.unmeasured) == (1400, 0)
    headings, line = text_table([row])
    shown = dict(zip(headings, line, strict=True))
    assert (shown["sharpness"], shown["ηλ"], shown["measuring"]) == ("6", "1.5 of 2", "1.40 kB")
    assert "unmeasured" not in shown and shown["uplink"] == "400 B"


def test_a_reading_that_failed_leaves_the_last_one(record: Make) -> None:
    """Kills: a failure that rounds.jsonl alone knows; its bytes for nothing."""
    gone = {"sharpness": None, "sharpness_spread": None, "unmeasured": "client 2: no answer"}
    headings, line = text_table(comparison_table([sharp(record, **gone)]))
    shown = dict(zip(headings, line, strict=True))
    assert (shown["sharpness"], shown["unmeasured"], shown["measuring"]) == ("2", "1", "1.40 kB")


def test_a_sharpness_without_a_limit_has_no_step(record: Make) -> None:
    """Of Adam's steps. Kills: ηλ̂ of steps for which it means nothing."""
    unlimited = [r | {"stability_limit": None} for r in sharp(record).rounds]
    free = Run("free", {}, unlimited)
    assert "ηλ" not in text_table(comparison_table([free]))[0]
    headings, *lines = text_table(comparison_table([sharp(record), free, Run("none")]))
    shown = [[line[headings.index(name)] for name in ("sharpness", "ηλ")] for line in lines]
    assert shown == [["6", "1.5 of 2"], ["6", "-"], ["-", "-"]]


def test_the_sharpness_of_several_seeds(record: Make) -> None:
    """λ̂ = 6 and 9, ηλ̂ = 1.5 and 1.125. Kills: the mean step times the mean λ̂, each seed's own

    spread, and a reason that is taken for a number.
    """
    other = sharp(
        record, sharpness=9.0, sharpness_spread=0.5, step_size=0.125, stability_limit=16.0
    )
    mean = mean_run([sharp(record, sharpness_spread=0.5), other])
    (row,) = comparison_table([mean])
    assert row.sharpness == 7.5 and row.sharpness_spread == pytest.approx(4.5**0.5)
    assert (row.step_sharpness, row.stability, row.sharpness_bytes) == (1.3125, 2, 1400)
    failed = sharp(record, sharpness=None, sharpness_spread=None, unmeasured="no answer")
    for runs in ([sharp(record), failed], [failed, sharp(record)]):
        (row,) = comparison_table([mean_run(runs)])
        assert (row.sharpness, row.sharpness_spread, row.unmeasured) == (2, 0, 0.5)


def test_the_step_of_a_seed_without_a_reading_is_not_left_out(record: Make) -> None:
    """Kills: ηλ̂ of one seed under the name of two."""
    (row,) = comparison_table(
        [mean_run([sharp(record), replace(sharp(record), rounds=[record(0)])])]
    )
    assert (row.sharpness, row.step_sharpness, row.stability) == (None, None, None)
    assert row.sharpness_bytes == 700


def test_a_narrow_terminal_keeps_the_sharpness(
    six_runs: list[Run], terminal: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kills: a line longer than the terminal; what measuring cost in place of what it found."""
    found: dict[str, Any] = {"sharpness": 4.604, "step_sharpness": 1.9, "stability": 2.0}
    rows = [replace(row, **found, sharpness_bytes=3.45e7) for row in comparison_table(six_runs)]
    for width, kept in ((140, "sharpness ηλ measuring"), (88, "sharpness ηλ"), (76, "sharpness")):
        monkeypatch.setenv("COLUMNS", str(width))
        terminal.seek(0)
        terminal.truncate()
        print_table(rows, terminal)
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
        assert max(map(len, text.splitlines())) <= width and "…" not in text
        shown = {"sharpness", "ηλ", "measuring"} & set(text.split())
        assert shown == set(kept.split()), width


def test_a_run_without_rounds_has_a_row() -> None:
    assert text_table(comparison_table([Run("empty")]))[1] == ["empty", "-", "0 B", "0", "-"]


def test_plain_tables_are_aligned_and_have_no_escape_codes(
    six_runs: list[Run], pipe: io.StringIO
) -> None:
    print_table(comparison_table(six_runs), pipe)
    lines = pipe.getvalue().splitlines()
    assert len(lines) == 7 and len({len(line) for line in lines}) == 1
    assert "\x1b" not in pipe.getvalue()
    assert "43.1x fewer" in lines[2] and lines[2].startswith("top-k + error feedback")


@pytest.mark.parametrize(
    ("width", "missing", "spread", "batch"),
    [
        (104, "", None, None),
        (80, "best time", None, None),
        (60, "best time rounds uplink", None, None),
        (112, "", 0.0125, None),
        (90, "best time", 0.0125, None),
        (128, "", None, 17.4),
        (80, "best time samples rounds", None, 17.4),
        (60, "best time samples rounds average uplink", None, 17.4),
    ],
)
def test_a_narrow_terminal_shows_every_number_whole(
    six_runs: list[Run],
    terminal: io.StringIO,
    monkeypatch: pytest.MonkeyPatch,
    width: int,
    missing: str,
    spread: float | None,
    batch: float | None,
) -> None:
    """Kills: «accura…», numbers broken in two, lines longer than the terminal."""
    monkeypatch.setenv("COLUMNS", str(width))
    rows = comparison_table(six_runs)
    rows = [replace(row, loss_spread=spread, accuracy_spread=spread) for row in rows]
    rows = [replace(row, average_batch=batch, samples=6e4, ruled=bool(batch)) for row in rows]
    print_table(rows, terminal)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    assert "…" not in text and max(map(len, text.splitlines())) <= width
    for column in zip(*text_table(rows), strict=True):
        shown = set(column[0].split()) <= set(text.split())
        assert shown == (column[0].split()[0] not in missing.split()), column[0]
        assert not shown or column[0] == "run" or all(cell in text for cell in column[1:])
    assert {word for row in rows for word in row.name.split()} <= set(text.split())


def test_a_terminal_gets_a_drawn_table_with_names_as_they_are(
    record: Make, terminal: io.StringIO
) -> None:
    rows = comparison_table([run_that_sent(record, name, "", 9) for name in ("[red]x", "y")])
    print_table(rows, terminal)
    assert "\x1b[" in terminal.getvalue() and "┃" in terminal.getvalue()
    assert "[red]x" in terminal.getvalue()
