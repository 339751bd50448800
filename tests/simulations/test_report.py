"""The report: valid, self-contained, escaped, and its charts show what the runs measured."""

import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from simulations.output.axes import (
    bytes_axis,
    linear_axis,
    log_axis,
    loss_axis,
    round_axis,
    samples_axis,
)
from simulations.output.bias import bias_panel
from simulations.output.charts import DARK, LIGHT
from simulations.output.panels import colour_indices, panels
from simulations.output.report import summary, write_picture, write_report
from simulations.output.rows import comparison_table
from simulations.output.runs import Run

Make = Callable[..., dict[str, Any]]
VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """Check that elements are closed in order; collect what the page holds."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, key, value or "") for key, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, key, value or "") for key, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def report(runs: list[Run], folder: Path) -> tuple[str, Page]:
    text = write_report(runs, folder / "report.html").read_text(encoding="utf-8")
    return text, Page(text)


def test_many_runs_have_four_charts_with_all_curves(tmp_path: Path, six_runs: list[Run]) -> None:
    text, page = report(six_runs, tmp_path)
    assert page.tags["figure"] == 4
    assert page.tags["polyline"] == 4 * 6
    assert page.tags["li"] == 6
    for word in ("43.1x fewer", "diverged", "reference", "97.32 %", "378 MB"):
        assert word in text
    assert "python -m simulations compare digits" in text


def test_the_page_needs_nothing_else(tmp_path: Path, six_runs: list[Run]) -> None:
    text, page = report(six_runs, tmp_path)
    assert "http://" not in text and "https://" not in text
    assert not page.tags.keys() & {"script", "link", "img", "iframe", "object", "embed"}
    assert not any(key in ("src", "href") or key[:2] == "on" for _, key, _ in page.attributes)
    assert not re.search(r"url\(|@import", text)


def test_settings_are_split_into_common_and_different(tmp_path: Path, six_runs: list[Run]) -> None:
    text, _ = report(six_runs, tmp_path)
    different = text.split("Settings that differ")[1].split("</section>")[0]
    common = text.split("Settings in common")[1].split("</section>")[0]
    assert "compressor" in different and "top_k(fraction=0.01)" in different
    assert "optimizer" not in different and "heavy_ball(step_size=0.1, beta=0.1)" in common
    assert "compressor" not in common


def test_every_text_is_escaped(tmp_path: Path, six_runs: list[Run]) -> None:
    evil = "<b>&\"'</script>"
    first = replace(
        six_runs[0],
        name=evil,
        settings={**six_runs[0].settings, evil: evil},
        environment={"command": evil, evil: evil},
    )
    for runs in ([first], [first, six_runs[1]]):
        text, page = report(runs, tmp_path)
        assert not page.tags["b"] and "<b>" not in text and "</script>" not in text
        assert "&lt;b&gt;" in text


def test_one_run_has_its_name_as_title_and_no_ratio(tmp_path: Path, six_runs: list[Run]) -> None:
    text, page = report(six_runs[1:2], tmp_path)
    assert "<h1>top-k + error feedback</h1>" in text
    assert "fewer" not in text and "reference" not in text
    assert page.tags["figure"] == 4 and page.tags["li"] == 0


def test_a_theory_problem_has_no_accuracy_and_a_log_axis(tmp_path: Path, theory_run: Run) -> None:
    text, page = report([theory_run], tmp_path)
    assert "accuracy" not in text.lower()
    assert page.tags["figure"] == 2
    assert all(panel.up.log for panel in panels([theory_run]))
    # a straight line: halving is a constant step on a logarithmic axis
    heights = [panels([theory_run])[1].up.place(0.5**k) or 0 for k in range(41)]
    steps = [low - high for low, high in zip(heights, heights[1:], strict=False)]
    assert max(steps) == pytest.approx(min(steps))


def test_runs_without_numbers_still_have_a_report(tmp_path: Path, record: Make) -> None:
    lost = record(1, train_loss=math.nan, test_loss=None, accuracy=math.nan)
    text, _ = report([Run("empty"), Run("lost", {}, [lost])], tmp_path)
    assert "No round was evaluated." in text and "diverged" in text
    write_picture([Run("empty")], tmp_path / "empty.png")


def test_no_coordinate_is_outside_or_not_a_number(tmp_path: Path, record: Make) -> None:
    losses = [1.0, 1e308, math.inf, 0.0, -1.0, 5e-324, 1e-9]
    records = [record(k, train_loss=loss) for k, loss in enumerate(losses)]
    _, page = report([Run("wild", {}, records)], tmp_path)
    lines = [value for tag, key, value in page.attributes if (tag, key) == ("polyline", "points")]
    assert lines
    numbers = [float(word) for line in lines for word in re.split("[ ,]", line)]
    assert all(math.isfinite(value) for value in numbers)


def test_long_runs_are_thinned_and_keep_their_end(tmp_path: Path, record: Make) -> None:
    run = Run("long", {}, [record(k) for k in range(20_001)])
    text, page = report([run], tmp_path)
    points = [value for _, key, value in page.attributes if key == "points"]
    assert len(text) < 100_000 and all(len(line.split()) <= 401 for line in points)
    ends = {value for tag, key, value in page.attributes if (tag, key) == ("circle", "cx")}
    assert all(line.split()[-1].split(",")[0] in ends for line in points)


def test_the_reference_is_neutral_and_colours_do_not_repeat() -> None:
    runs = [Run(str(i), {"compressor": "identity()" if i == 2 else "sign()"}) for i in range(6)]
    assert colour_indices(runs) == [1, 2, 0, 3, 4, 5]
    assert len(set(LIGHT)) == len(LIGHT) == len(set(DARK)) == len(DARK)


def test_the_summary_names_the_cheapest_run_that_is_good_enough(six_runs: list[Run]) -> None:
    text = summary(comparison_table(six_runs))
    assert "“top-k + error feedback” sends the least: 43.1x fewer bytes" in text
    assert "0.57 percentage points less accurate" in text
    assert summary(comparison_table([six_runs[0], six_runs[5]])).endswith("with “none”.")


def test_axes_by_hand() -> None:
    assert [text for _, text in round_axis([0, 60]).ticks] == [
        "0", "10", "20", "30", "40", "50", "60"
    ]  # fmt: skip
    assert [text for _, text in round_axis([0, 2]).ticks] == ["0", "1", "2"]
    assert [text for _, text in round_axis([3]).ticks] == ["3", "4"]
    assert [text for _, text in bytes_axis("", [900, 1.1e7]).ticks] == [
        "1 kB", "10 kB", "100 kB", "1 MB", "10 MB"
    ]  # fmt: skip
    assert [text for _, text in log_axis("", [1e-12, 1]).ticks] == [
        "10⁻¹²", "10⁻¹⁰", "10⁻⁸", "10⁻⁶", "10⁻⁴", "0.01", "1"
    ]  # fmt: skip
    assert [text for _, text in samples_axis([0, 6e4]).ticks] == ["0", "20k", "40k", "60k"]
    assert [text for _, text in samples_axis([0, 1.5e6]).ticks] == ["0", "500k", "1M", "1.5M"]
    assert linear_axis("", [0.2, 0.999], most=1.0).high == 1.0


@pytest.mark.parametrize("values", [[5.0], [5.0, 5.0], [1e-9, 1e9], [0.3, 0.30001]])
def test_every_axis_shows_its_values_and_has_ticks(values: list[float]) -> None:
    for axis in (linear_axis("", values), log_axis("", values), bytes_axis("", values)):
        places = [axis.place(value) for value in values]
        assert all(place is not None and 0 <= place <= 1 for place in places)
        assert axis.ticks and all(axis.low <= tick <= axis.high for tick, _ in axis.ticks)
        assert len(axis.ticks) <= 12


def test_a_diverging_run_does_not_flatten_the_others() -> None:
    good, bad = [(0.0, 2.0), (9.0, 0.5)], [(0.0, 2.0), (9.0, 1e200)]
    axis = loss_axis("", [good, bad], log=False)
    assert axis.log and axis.high < 300
    assert (axis.place(1e200) or 0) > 1


def test_the_picture_is_a_png_of_the_promised_size(tmp_path: Path, six_runs: list[Run]) -> None:
    named = [replace(six_runs[0], name="$x_1$ <b>"), *six_runs[1:]]
    data = write_picture(named, tmp_path / "new" / "picture.png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = (int.from_bytes(data[i : i + 4], "big") for i in (16, 20))
    assert (width, height) == (1000, 420)


def test_no_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one run"):
        write_report([], tmp_path / "report.html")


# Batch sizes --------------------------------------------------------------------------------------


def batched(run: Run, setting: int | str, sizes: list[int]) -> Run:
    """Give a run the batch sizes of its rounds, each client's of ten."""
    records, seen = [run.rounds[0] | {"batch_size": None, "total_samples": 0}], 0
    for record, size in zip(run.rounds[1:], sizes, strict=False):
        seen += 10 * size
        records.append(record | {"batch_size": size, "total_samples": seen})
    return replace(run, rounds=records, settings={**run.settings, "batch_size": setting})


def titles(runs: list[Run]) -> list[str]:
    return [panel.title for panel in panels(runs)]


BYTES_AND_ROUNDS = [
    f"{what} against {column}"
    for what in ("Test accuracy", "Training loss")
    for column in ("uplink bytes", "rounds")
]


def test_runs_that_differ_in_batch_size_are_compared_at_equal_samples(six_runs: list[Run]) -> None:
    """Kills: adaptive batches against the rounds first, of which they need the fewest."""
    grown = batched(six_runs[0], "norm_test(eta=0.5, maximum=64)", [2**k for k in range(1, 7)])
    small, large = (
        batched(run, size, [size] * 6) for run, size in zip(six_runs, (2, 64), strict=False)
    )
    alike = batched(six_runs[1], 2, [2] * 6)
    assert titles([small, alike]) == titles(six_runs) == BYTES_AND_ROUNDS
    samples = ["Test accuracy against samples", *BYTES_AND_ROUNDS, "Test loss against samples"]
    assert titles([small, large]) == samples
    assert titles([grown, small, large]) == [
        samples[0], "Batch size against samples", *samples[1:]
    ]  # fmt: skip
    assert titles([grown]) == [*BYTES_AND_ROUNDS, "Batch size against samples"]


def test_the_curve_of_the_batch_sizes_by_hand(six_runs: list[Run]) -> None:
    """b against the samples that were seen with it. Kills: the round before; a mean so far."""
    grown = batched(six_runs[0], "norm_test(eta=0.5, maximum=64)", [2, 2, 6])
    flat = batched(six_runs[1], 4, [4, 4])
    panel = next(panel for panel in panels([grown, flat]) if "Batch" in panel.title)
    assert [curve.points for curve in panel.curves] == [
        [(20, 2), (40, 2), (100, 6)], [(40, 4), (80, 4)]
    ]  # fmt: skip
    assert panel.up.log and not panel.across.log
    assert [text for _, text in panel.across.ticks] == ["20", "40", "60", "80", "100"]


def test_a_theory_problem_is_compared_at_equal_samples_too(theory_run: Run) -> None:
    """By its distance to the minimum, not by the noise of its batches."""
    known = [record | {"test_loss": 0.5 ** record["round"]} for record in theory_run.rounds]
    run = replace(theory_run, rounds=known)
    assert titles([batched(run, size, [size] * 9) for size in (2, 8)]) == [
        "Test loss against samples",
        "Training loss against uplink bytes",
        "Training loss against rounds",
    ]


def test_the_report_explains_its_batches(tmp_path: Path, six_runs: list[Run]) -> None:
    """Kills: two columns that nobody can read."""
    grown = batched(six_runs[0], "norm_test(eta=0.5, maximum=64)", [2, 2, 8])
    saturated = replace(grown, rounds=[*grown.rounds, grown.rounds[-1] | {"saturated": 3}])
    text, page = report([saturated], tmp_path)
    assert page.tags["figure"] == 5
    for word in ("<td>120</td>", "<td>5</td>", "Average batch: ", "Samples: ", "Saturated: "):
        assert word in text, word
    plain, _ = report(six_runs, tmp_path)
    assert not any(word in plain for word in ("verage batch", "Samples: ", "aturated"))


# Bias ---------------------------------------------------------------------------------------------


def biased(name: str = "clipped", clients: int = 4) -> Run:
    """Record k is about x_{k-1}: measured at x_0, x_2 and x_4."""
    squares = {1: (4.0, 9.0), 3: (2.0, 5.0), 5: (0.0, 1.0)}
    rounds = [
        {"round": k, "train_loss": 1.0, "gradient_norm": 3.0, "applied": 4}
        | dict(zip(("bias_square", "gradient_square"), squares.get(k, (None, None)), strict=True))
        for k in range(7)
    ]
    return Run(name, {"clients": clients}, rounds)


def test_the_bias_is_drawn_beside_the_gradient_and_its_floor() -> None:
    """The floor is twice the running mean. Kills: once; the last square; x_k for x_{k-1}."""
    panel = bias_panel(biased())
    assert panel is not None
    gradient, bias, floor, mean = (curve.points for curve in panel.curves)
    assert bias == [(0, 4), (2, 2), (4, 0)]
    assert gradient == [(0, 9), (2, 5), (4, 1)]
    assert floor == [(0, 8), (2, 6), (4, 4)]
    assert mean == [(k - 1, 9) for k in range(7)]


def test_a_sample_of_the_clients_has_no_floor() -> None:
    """Kills: a floor of 0 under clients that send all they have."""
    panel = bias_panel(biased(clients=5))
    assert panel is not None
    assert [len(curve.points) for curve in panel.curves] == [3, 3, 0, 7]


def test_every_run_that_measured_its_bias_has_a_chart(tmp_path: Path, six_runs: list[Run]) -> None:
    text, page = report([*six_runs[:2], biased("one"), biased("two")], tmp_path)
    assert "Bias: one" in text and "Bias: two" in text
    assert page.tags["figure"] == 4 + 2
    assert bias_panel(six_runs[0]) is None
    assert "Bias" not in report(six_runs, tmp_path)[0]


# Sharpness ----------------------------------------------------------------------------------------


def measured(run: Run, spread: float = 0.0, steps: float = 0.5, **last: float | None) -> Run:
    """Give a run's rounds steps, and λ̂ = 1, 3, 9 in rounds 1, 3 and 5; ``last`` is of round 6."""
    rounds = [run.rounds[0]]
    for k, record in enumerate(run.rounds[1:7], start=1):
        found: dict[str, Any] = {"step_size": steps, "stability_limit": 2 / steps}
        if k % 2:
            found |= {"sharpness": 3.0 ** (k // 2), "sharpness_spread": spread}
        rounds.append(record | found)
    rounds[-1] |= last
    return replace(run, rounds=rounds)


SHARPNESS = "Sharpness against rounds, dashed: the stability limit"


def test_the_sharpness_is_drawn_beside_its_limit(six_runs: list[Run]) -> None:
    """Record k is about x_{k-1} and the step from there; who measured nothing has no curve.

    Kills: x_k; a limit to nothing; a limit in another colour; no bars, or half of them.
    """
    shown = panels([measured(six_runs[0], spread=0.25), six_runs[1], measured(six_runs[2])])
    panel = next(panel for panel in shown if panel.title == SHARPNESS)
    limit, first, other, second = panel.curves
    assert first.points == second.points == [(0, 1), (2, 3), (4, 9)]
    assert limit.points == other.points == [(k, 4) for k in range(6)]
    assert [curve.limit for curve in panel.curves] == [True, False, True, False]
    assert limit.index == first.index != second.index == other.index
    assert first.bars == [(0, 0.75, 1.25), (2, 2.75, 3.25), (4, 8.75, 9.25)]
    assert second.bars == [] and panel.up.log and panel.up.high > 9.25


def test_the_sharpness_comes_second_and_only_where_it_was_measured(six_runs: list[Run]) -> None:
    """Bytes to measure it are not in the uplink. Kills: an empty chart; uplink bytes first."""
    first, second = (measured(run) for run in six_runs[:2])
    found = [BYTES_AND_ROUNDS[1], SHARPNESS, BYTES_AND_ROUNDS[0], *BYTES_AND_ROUNDS[2:]]
    assert titles([first]) == titles([six_runs[2], first, second]) == found
    unlimited = replace(first, rounds=[r | {"stability_limit": None} for r in first.rounds])
    assert titles([unlimited])[1] == "Sharpness against rounds"
    failed = replace(first, rounds=[r | {"sharpness": None} for r in first.rounds])
    downhill = replace(first, rounds=[r | {"sharpness": -1.0} for r in first.rounds])
    assert titles([failed]) == BYTES_AND_ROUNDS
    assert SHARPNESS in titles([downhill])  # its limit has a place there
    bare = replace(downhill, rounds=[r | {"stability_limit": None} for r in downhill.rounds])
    assert not any("Sharpness" in title for title in titles([bare]))


def test_step_sizes_are_drawn_where_they_change(six_runs: list[Run]) -> None:
    """Kills: a flat line in every report; the step of the round before."""
    still = measured(six_runs[0])
    moved = measured(six_runs[1], step_size=0.25)
    assert not any("Step" in title for title in titles([still, measured(six_runs[1], steps=1.0)]))
    panel = panels([still, moved])[-1]
    assert panel.title == "Step size against rounds" and panel.up.log
    assert panel.curves[1].points == [(k, 0.25 if k == 5 else 0.5) for k in range(6)]


def test_the_report_says_what_is_dashed_and_what_measuring_cost(
    tmp_path: Path, six_runs: list[Run]
) -> None:
    """Kills: a second line that nobody can read; points that a long line hides; hidden bytes."""
    run = measured(six_runs[0], spread=0.25, sharpness_bytes=1500)
    text, page = report([run], tmp_path)
    assert page.tags["polyline"] == 4 + 2 and page.tags["circle"] == 4 + 3
    assert text.count('<g class="limit c1">') == 1
    (bars,) = [v for tag, k, v in page.attributes if (tag, k) == ("path", "d") and v.count("V") > 2]
    assert bars.count("M") == 3
    for word in ("Dashed: ", "Bars: ", "<td>9 ± 0.25</td>", "4.5 of 2", "1.50 kB", "Measuring: "):
        assert word in text, word
    assert not any(word in report(six_runs, tmp_path)[0] for word in ("Dashed", "harpness", "ηλ"))


def test_an_error_bar_ends_with_its_axis(tmp_path: Path, six_runs: list[Run]) -> None:
    """λ̂ = 1 ± 3 has no lower end on a logarithmic axis. Kills: a bar without a place, or none."""
    _, page = report([measured(six_runs[0], spread=3.0)], tmp_path)
    (bars,) = [v for tag, k, v in page.attributes if (tag, k) == ("path", "d") and v.count("V") > 2]
    heights = re.findall(r" (-?[\d.]+)V(-?[\d.]+)", bars)
    assert all(0 <= float(top) < float(end) <= 242 for top, end in heights)  # the chart's height
    assert len(heights) == 3 and float(heights[0][1]) == 242


def test_the_picture_draws_limits_and_bars(tmp_path: Path, six_runs: list[Run]) -> None:
    """Kills: a picture of λ̂ without what it may be."""
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from simulations.output.picture import _plot

    axes: Axes = Figure().add_subplot()
    _plot(axes, panels([measured(six_runs[0], spread=0.25)])[1])
    limit, curve, *bars = axes.lines
    assert limit.get_linestyle() == "--" and curve.get_linestyle() == "-"
    assert limit.get_color() == curve.get_color() and curve.get_marker() == "o"
    assert [list(bar.get_ydata()) for bar in bars] == [[0.75, 1.25], [2.75, 3.25], [8.75, 9.25]]
    assert limit.get_label().startswith("_")  # no second name in the legend
