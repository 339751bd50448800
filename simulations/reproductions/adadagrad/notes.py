"""What ``reproduce adadagrad`` says of its results, whichever way they fall."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from ..base import Result, Results
from .probes import PLAIN
from .steps import best
from .tables import (
    COMPRESSION,
    MODELS,
    OPTIMIZERS,
    PLACES,
    TESTS,
    Experiment,
    Runs,
    comparisons,
    gap,
    mean,
    probes,
    ratios,
    reached,
    spread,
)
from .ways import CLIENTS, ETA, STEPS_SEED

ADAPTIVE = "adaptive"
OPPONENTS = {
    "small": "constant small batches",
    "large": "constant large batches",
    "average": "constant batches of its own average",
    "stage-wise": "stage-wise batches",
}
# What is better when it is lower, run by run.
MEASURES: dict[str, Callable[[Result], float]] = {
    "train loss": lambda run: float(run["train_loss"]),
    "test loss": lambda run: float(run["test_loss"]),
    "test error": lambda run: 1 - float(run["test_accuracy"]),
    "gap of the accuracies": gap,
}


def notes(results: Results) -> list[str]:
    """What was done, how adaptive batches compare, what the tests and compressors do."""
    found = comparisons(results)
    return [
        *_done(found, results),
        *_steps(results),
        *(sentence for way in OPPONENTS if (sentence := against(found, way))),
        *_lowest(found),
        *_growth(found),
        *_tests(probes(results, TESTS)),
        *_compression(probes(results, COMPRESSION)),
    ]


def _done(found: Sequence[Experiment], results: Results) -> list[str]:
    if not found:
        return []
    budgets = {(r["task"], r["model"]): r["budget"] for r in results.values() if "budget" in r}
    shown = ", ".join(
        f"{samples:,} for {task}, {MODELS[model]}" for (task, model), samples in budgets.items()
    )
    return [
        f"{CLIENTS} clients with iid data, reshuffled batches, uniform weights, no compression and "
        f"no decay of the step. b is each client's batch size. All ways see the same number of "
        f"samples, {shown}; a run ends with the round that reaches it, at most one round too late. "
        "Means and standard deviations over the seeds; losses and accuracies are the final "
        "model's, on all the training and all the test data. Time is wall time without evaluation, "
        "on two cores that other programs shared: the seeds of one way differ by up to a factor of "
        f"{_unrest(found):.2g}, so that it says little.",
        f"adaptive is norm_test(eta={ETA:g}) from the small size to the large one: η is the larger "
        "of the paper's two, .5 and .1, as with .1 a round whose gradient is noise multiplies b by "
        "100, more than lies between the two sizes. average is constant at the adaptive run's "
        "samples per client and round; stage-wise doubles b four times in the first half.",
        "The paper's budgets were larger: 6 million samples for MNIST's logistic regression with b "
        "up to 60,000. Its tables could not be compared with.",
    ]


def _unrest(found: Sequence[Experiment]) -> float:
    """How much longer one seed took than another that computes the same number of gradients."""
    times = [[run["seconds"] for run in each.runs["small"]] for each in found]
    return max(max(seconds) / min(seconds) for seconds in times)


def _steps(results: Results) -> list[str]:
    """Which step sizes, from what."""
    chosen = []
    for result in results.values():
        if "losses" in result:
            grid = ", ".join(f"{step}: {loss:.3g}" for step, loss in result["losses"].items())
            title = f"{result['task']}, {MODELS[result['model']]}, "
            after = f"after {result['samples']:,} samples"
            optimizer = OPTIMIZERS[result["optimizer"]]
            chosen.append(f"{title}{optimizer} {best(result):g} {after} ({grid})")
    if not chosen:
        return []
    return [
        "One step size α for all the ways, which favours constant small batches if any: of a grid, "
        f"the one with which these have the least train loss, early in a run with seed "
        f"{STEPS_SEED}. In brackets the grid: {'; '.join(chosen)}."
    ]


def against(found: Sequence[Experiment], way: str) -> str:
    """One sentence: adaptive against another way over all the experiments."""
    both = [
        (each.runs[ADAPTIVE], each.runs[way])
        for each in found
        if way in each.runs and ADAPTIVE in each.runs
    ]
    if not both:
        return ""
    amounts = ", ".join(
        f"{word} × {_factor(both, name)}"
        for word, name in (("rounds", "rounds"), ("uplink", "uplink_bytes"), ("time", "seconds"))
    )
    counts = ", ".join(f"{name} {_counted(both, name)}" for name in MEASURES)
    return (
        f"Adaptive against {OPPONENTS[way]}, median of {len(both)} experiments (range): {amounts}. "
        "In how many it is lower with every seed / higher with every seed / neither: "
        f"{counts}."
    )


def _factor(both: Sequence[tuple[Runs, Runs]], name: str) -> str:
    factors = [mean(one, name) / mean(other, name) for one, other in both]
    return f"{statistics.median(factors):.2g} ({min(factors):.2g} to {max(factors):.2g})"


def _counted(both: Sequence[tuple[Runs, Runs]], name: str) -> str:
    """How often adaptive is lower with all the seeds, higher with all of them, or neither."""
    signs = [order(one, other, MEASURES[name]) for one, other in both]
    return f"{signs.count(-1)} / {signs.count(1)} / {signs.count(0)}"


def order(one: Runs, other: Runs, measure: Callable[[Result], float]) -> int:
    """−1 if ``one`` is lower with every seed, 1 if it is higher with every seed, otherwise 0."""
    pairs = [(measure(a), measure(b)) for a, b in zip(one, other, strict=True)]
    if all(a < b for a, b in pairs):
        return -1
    return int(all(a > b for a, b in pairs))


def _lowest(found: Sequence[Experiment]) -> list[str]:
    """Which way has the least mean of each measure, experiment by experiment."""
    sentences = []
    for name, measure in MEASURES.items():
        winners = {
            each.title: min(each.runs, key=lambda way: _mean(each.runs[way], measure))
            for each in found
        }
        if winners:
            count = list(winners.values()).count(ADAPTIVE)
            listed = "; ".join(f"{title}: {way}" for title, way in winners.items())
            sentences.append(
                f"Lowest {name} on average: adaptive in {count} of {len(winners)} ({listed})."
            )
    return sentences


def _mean(runs: Runs, measure: Callable[[Result], float]) -> float:
    return statistics.fmean(map(measure, runs))


def _growth(found: Sequence[Experiment]) -> list[str]:
    """When the adaptive runs have come to the largest size."""
    words = []
    for each in found:
        runs = each.runs.get(ADAPTIVE, [])
        shares = [
            next((x for x, b in run["sizes"] if b == each.maximum), run["samples"]) / run["samples"]
            for run in runs
        ]
        sizes = spread([run["average"] for run in runs], "{:.0f}".format)
        words.append(f"{each.title}: {100 * statistics.fmean(shares):.0f} % (average b {sizes})")
    if not words:
        return []
    return [
        "The share of its samples that an adaptive run sees before b is at the large size, 100 % "
        f"if never: {'; '.join(words)}."
    ]


def _tests(found: Sequence[Experiment]) -> list[str]:
    if not found:
        return []
    sentences = [
        "tests: ten clients, AdaGrad, every test with η = ϑ = ν = .5 unless it says so, b from "
        f"{found[0].runs['norm_test'][0]['sizes'][0][1]} to {found[0].maximum}. Label-sorted: each "
        "client has one digit alone."
    ]
    for way in found[0].runs:
        words = []
        for each in found:
            runs = each.runs[way]
            words.append(f"{_place(each)} average b {mean(runs, 'average'):.0f}, {reached(runs)}")
        sentences.append(f"{way}: {'; '.join(words)}.")
    return sentences


def _compression(found: Sequence[Experiment]) -> list[str]:
    """What a compressor makes of ‖ĝ‖², and of the sizes that follow from it."""
    sentences = []
    for each in found:
        words = []
        for way, runs in each.runs.items():
            least, median, most = ratios(runs)
            moved = f"× {median:.2g} ({least:.2g} to {most:.2g}), " if way != PLAIN else ""
            words.append(f"{way} {moved}average b {mean(runs, 'average'):.0f}")
        sentences.append(
            "What compression makes of ‖ĝ‖² under the norm test, over that of the same batches' "
            f"mean before it, median (range over rounds and seeds), {_place(each)}: "
            f"{'; '.join(words)}."
        )
    return sentences


def _place(each: Experiment) -> str:
    return PLACES[each.kind.split("-")[1]]
