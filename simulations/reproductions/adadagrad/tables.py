"""The table of ``reproduce adadagrad``, and the experiments it is made of."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ...output.tables import human_bytes
from ..base import Result, Results

MODELS = {"linear": "logistic", "cnn": "CNN"}
OPTIMIZERS = {"adagrad": "AdaGrad", "adagrad_norm": "AdaGrad-Norm"}
PLACES = {"iid": "iid", "sorted": "label-sorted", "dirichlet": "Dirichlet(0.3)"}
TESTS, COMPRESSION = "tests", "compression"
HEADINGS = (
    *("experiment", "batch size", "rounds", "average b", "samples", "train loss", "test loss"),
    *("test accuracy", "train − test accuracy", "time", "uplink", "downlink", "besides"),
)
Runs = Sequence[Result]  # one for each seed


@dataclass(frozen=True)
class Experiment:
    """Ways to choose b under equal conditions.

    Attributes
    ----------
    kind : str
        The name of its cells without the seed.
    runs : mapping
        Way → its runs, one for each seed.
    maximum : int
        The largest b.
    """

    kind: str
    title: str
    runs: Mapping[str, Runs]
    maximum: int


def comparisons(results: Results) -> list[Experiment]:
    """The five ways at equal samples, the seeds of a setup together."""
    found: dict[str, list[Result]] = {}
    for result in results.values():
        if "seed" in result:
            name = f"{result['task']}-{result['model']}-{result['optimizer']}"
            found.setdefault(name, []).append(result)
    return [
        Experiment(
            name,
            f"{seeds[0]['task']}, {MODELS[seeds[0]['model']]}, {OPTIMIZERS[seeds[0]['optimizer']]}",
            {way: [result["runs"][way] for result in seeds] for way in seeds[0]["runs"]},
            max(b for result in seeds for _, b in result["runs"]["large"]["sizes"]),
        )
        for name, seeds in found.items()
    ]


def probes(results: Results, family: str) -> list[Experiment]:
    """The cells of one family of probes, their seeds taken apart."""
    found = []
    for name, result in results.items():
        if name.startswith(f"{family}-"):
            title = f"{family}, digits, logistic, {PLACES[result['partition']]}"
            runs = {way: _seeds(run) for way, run in result["runs"].items()}
            found.append(Experiment(name, title, runs, result["maximum"]))
    return found


def table(results: Results) -> list[list[str]]:
    """A row per experiment and way: means over the seeds ± standard deviations."""
    lines = [list(HEADINGS)]
    for experiment in comparisons(results):
        lines += [_line(experiment, way, "-") for way in experiment.runs]
    for experiment in probes(results, TESTS):
        lines += [_line(experiment, way, reached(runs)) for way, runs in experiment.runs.items()]
    for experiment in probes(results, COMPRESSION):
        lines += [_line(experiment, way, _moved(runs)) for way, runs in experiment.runs.items()]
    return lines


def _line(experiment: Experiment, way: str, besides: str) -> list[str]:
    runs = experiment.runs[way]
    return [
        *(experiment.title, way, spread([run["rounds"] for run in runs], "{:.0f}".format)),
        spread([run["average"] for run in runs], "{:.1f}".format),
        f"{mean(runs, 'samples'):,.0f}",
        *(spread([run[name] for run in runs], "{:.4f}".format) for name in LOSSES),
        percent([run["test_accuracy"] for run in runs]),
        percent([gap(run) for run in runs]),
        _seconds(runs),
        *(
            human_bytes(mean(runs, name)) if name in runs[0] else "-"
            for name in ("uplink_bytes", "downlink_bytes")
        ),
        besides,
    ]


LOSSES = ("train_loss", "test_loss")


def gap(run: Result) -> float:
    """Train accuracy less test accuracy."""
    return float(run["train_accuracy"] - run["test_accuracy"])


def mean(runs: Runs, name: str) -> float:
    """Over the seeds."""
    return statistics.fmean(run[name] for run in runs)


def spread(values: Sequence[float], write: Callable[[float], str]) -> str:
    """``1.5 ± 0.2``: the mean and the standard deviation."""
    first = write(statistics.fmean(values))
    return first if len(values) < 2 else f"{first} ± {write(statistics.stdev(values))}"


def _seconds(runs: Runs) -> str:
    if "seconds" not in runs[0]:
        return "-"
    return spread([run["seconds"] for run in runs], "{:.0f}".format) + " s"


def percent(shares: Sequence[float]) -> str:
    """``95.12 ± 0.20 %``."""
    return spread([100 * share for share in shares], "{:.2f}".format) + " %"


def ratios(runs: Runs) -> tuple[float, float, float]:
    """The least, the median seed's median and the greatest ‖ĝ‖² over that before compression."""
    least, medians, most = zip(*(run["ratios"] for run in runs), strict=True)
    return min(least), statistics.median(medians), max(most)


def times(runs: Runs) -> str:
    """``× 2.5 (0.26 to 7.9)``: the median and the range of the ratios."""
    least, median, most = (
        f"{ratio:.2g}" if ratio < 100 else f"{ratio:.0f}" for ratio in ratios(runs)
    )
    return f"× {median} ({least} to {most})"


def reached(runs: Runs) -> str:
    """When b was at its maximum: ``maximum after 1,200 samples in 2 of 3 runs``."""
    known = [run["full"] for run in runs if run["full"] is not None]
    if not known:
        return "never at the maximum"
    rest = "" if len(known) == len(runs) else f" in {len(known)} of {len(runs)} runs"
    return f"maximum after {statistics.fmean(known):,.0f} samples{rest}"


def _moved(runs: Runs) -> str:
    return f"‖ĝ‖² {times(runs)}"


def _seeds(run: Result) -> list[Result]:
    """Numbers side by side → one result for each seed."""
    several = {name: value for name, value in run.items() if name not in ("sizes", "early")}
    count = len(next(iter(several.values())))
    made = [{name: values[k] for name, values in several.items()} for k in range(count)]
    for one in made:
        one["sizes"] = run["sizes"]
        one["uplink_bytes"] = one["wire_bits"] / 8
    return made
