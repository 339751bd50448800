"""A report on one or many runs: one HTML file that needs nothing else, not even a script."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from .bias import bias_charts
from .charts import DARK, LIGHT, dash, palette, svg
from .page import page, pairs, section, shared, table, write_value
from .panels import colour_indices, panels
from .picture import write_picture
from .rows import Row, comparison_table
from .runs import Run, absolute, write_text
from .tables import human_accuracy, human_ratio, text_table

__all__ = ["write_picture", "write_report"]


def write_report(runs: Sequence[Run], path: str | Path, title: str | None = None) -> Path:
    """Write the report on some runs.

    Parameters
    ----------
    runs : sequence of Run
        One or more, in the order in which they shall appear.
    path : str or Path
        The HTML file; returned as an absolute path.
    title : str, optional
        The heading; otherwise the name of the one run, or how many runs are compared.
    """
    if not runs:
        raise ValueError("a report needs at least one run")
    heading = title or (runs[0].name if len(runs) == 1 else f"{len(runs)} runs compared")
    rows = comparison_table(runs)
    names = _names(runs)
    sections = [
        section("Results", _results(rows, names)),
        section("Curves", _charts(runs, names)),
        section("Bias", bias_charts(runs)),
        *_settings(runs, names),
        section("Environment", _environment(runs)),
    ]
    light, dark = (palette(colours, max(5, len(runs) + 1)) for colours in (LIGHT, DARK))
    style = f"{light}\n@media(prefers-color-scheme:dark){{{dark}}}\n"
    target = absolute(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target, page(heading, summary(rows), style, sections))
    return target


def summary(rows: Sequence[Row]) -> str:
    """Say in a sentence or two what the rows show."""
    reference = next(row for row in rows if row.reference)
    if len(rows) == 1:
        words = f"{reference.rounds} rounds"
        if reference.accuracy is not None:
            words += f", final test accuracy {human_accuracy(reference.accuracy)}"
        return f"{words}."
    words = f"Bytes sent are compared with “{reference.name}”."
    rivals = [row for row in rows if _close(row, reference)]
    if not rivals or reference.accuracy is None:
        return words
    rival = max(rivals, key=lambda row: row.ratio or 0)
    points = 100 * ((rival.accuracy or 0) - reference.accuracy)
    return (
        f"{words} Of the runs that end at most one percentage point less accurate, “{rival.name}” "
        f"sends the least: {human_ratio(rival)} bytes, {abs(points):.2f} percentage points "
        f"{'less' if points < 0 else 'more'} accurate."
    )


def _close(row: Row, reference: Row) -> bool:
    if row.accuracy is None or reference.accuracy is None or (row.ratio or 0) <= 1:
        return False
    return row.accuracy >= reference.accuracy - 0.01


def _results(rows: Sequence[Row], names: Sequence[str]) -> str:
    headings, *lines = text_table(rows)
    note = "Uplink: the packets that the clients sent, in bytes as measured."
    if "best" in headings:
        note += " Accuracy: on the test set, at the last evaluation and at the best one."
    if "missing" in headings:
        note += " Missing: replies lost or refused."
    if "saturated" in headings:
        note += " Saturated: replies whose vector was longer than its preset radius."
    if "sharpness" in headings:
        note += (
            " Sharpness: λ̂, the largest eigenvalue found of the mean loss's Hessian, when last "
            "measured (±: its standard error over a sample of the clients, or of several seeds "
            "their standard deviation)"
        )
        note += "; ηλ: times the step size that followed." if "ηλ" in headings else "."
    if "measuring" in headings:
        note += " Measuring: what was sent both ways for it, which is not in the uplink."
    if "unmeasured" in headings:
        note += " Unmeasured: rounds in which that failed; rounds.jsonl says why."
    if "average batch" in headings:
        note += " Average batch: what each client was asked for, over the rounds."
    if "samples" in headings:
        note += " Samples: the examples that all the steps were made of."
    shown = table(headings, names, [line[1:] for line in lines], "numbers full")
    return f'{shown}<p class="note soft">{note}</p>'


def _charts(runs: Sequence[Run], names: Sequence[str]) -> str:
    shown = panels(runs)
    figures = [
        f"<figure><figcaption>{panel.title}</figcaption>{svg(panel)}</figure>" for panel in shown
    ]
    if not figures:
        return '<p class="soft">No round was evaluated.</p>'
    items = "".join(f"<li>{name}</li>" for name in names)
    legend = f'<ul class="legend">{items}</ul>' if len(runs) > 1 else ""
    notes = "".join(f'<p class="note soft">{p.note}</p>' for p in shown if p.note)
    return f'{legend}<div class="charts">{"".join(figures)}</div>{notes}'


def _names(runs: Sequence[Run]) -> list[str]:
    """Give the runs' names as HTML, each behind a piece of its curve where there are many."""
    if len(runs) == 1:
        return [escape(runs[0].name)]
    return [
        f'<svg class="key c{i}" aria-hidden="true"><line x1="0" y1="5" x2="22" y2="5"{dash(i)}/>'
        f"</svg>{escape(run.name)}"
        for i, run in zip(colour_indices(runs), runs, strict=True)
    ]


def _settings(runs: Sequence[Run], names: Sequence[str]) -> list[str]:
    settings = [run.settings for run in runs]
    same, different = shared(settings)
    cells = [[write_value(mapping, key) for key in different] for mapping in settings]
    apart = table(["run", *different], names, cells, "full") if different else ""
    together = pairs(settings[0], same)
    title = "Settings in common" if len(runs) > 1 else "Settings"
    return [section("Settings that differ", apart), section(title, together)]


def _environment(runs: Sequence[Run]) -> str:
    known = [run.environment for run in runs if run.environment]
    same, different = shared(known)
    commands = dict.fromkeys(str(found["command"]) for found in known if found.get("command"))
    lines = "\n".join(f"<pre><code>{escape(command)}</code></pre>" for command in commands)
    varied = {
        key: ", ".join(dict.fromkeys(write_value(found, key) for found in known))
        for key in (*same, *different)
        if key not in ("command", "duration")
    }
    return lines + pairs(varied, list(varied))
