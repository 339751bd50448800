"""What ``reproduce adadagrad`` says of its results, whichever way they fall."""

from __future__ import annotations

from collections.abc import Sequence

from ..base import Results
from .probes import PLAIN
from .steps import best
from .tables import (
    COMPRESSION,
    MODELS,
    OPTIMIZERS,
    PLACES,
    TESTS,
    Experiment,
    comparisons,
    mean,
    probes,
    reached,
    times,
)
from .verdicts import OPPONENTS, against, growth, lowest, verdict
from .ways import CLIENTS, ETA, STEPS_SEED


def notes(results: Results) -> list[str]:
    """What was done, how adaptive batches compare, what the tests and compressors do."""
    found = comparisons(results)
    if _shortened(results):
        return ["Shortened: the ways see different numbers of samples, so nothing is compared."]
    return [
        *_done(found, results),
        *_steps(results),
        *verdict(found),
        *(sentence for way in OPPONENTS if (sentence := against(found, way))),
        *lowest(found),
        *growth(found),
        *_tests(probes(results, TESTS)),
        *_compression(probes(results, COMPRESSION)),
    ]


def _shortened(results: Results) -> bool:
    return any(
        run["samples"] < result["budget"]
        for result in results.values()
        if "seed" in result
        for run in result["runs"].values()
    )


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
        "samples per client and round; stage-wise doubles b four times in the first half. Batches "
        "without repetition have (1 − b/n) times the noise that the test counts: .64 at b = 128 on "
        "digits, 1 nearly on the others.",
        "The paper's budgets were larger: 6 million samples for MNIST's logistic regression with b "
        "up to 60,000. Its tables could not be compared with.",
    ]


def _unrest(found: Sequence[Experiment]) -> float:
    """How much longer one seed took than another that computes the same number of gradients."""
    alike = [each.runs[way] for each in found for way in ("small", "large", "stage-wise")]
    seconds = [[run["seconds"] for run in runs] for runs in alike]
    return float(max(max(several) / min(several) for several in seconds))


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


def _tests(found: Sequence[Experiment]) -> list[str]:
    if not found:
        return []
    sentences = [
        "tests, and compression below: ten clients, softmax regression from 0, AdaGrad with a step "
        "of .1, every test with η = ϑ = ν = .5 unless it says so, b from "
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
            moved = f"{times(runs)}, " if way != PLAIN else ""
            words.append(f"{way} {moved}average b {mean(runs, 'average'):.0f}")
        sentences.append(
            "What compression makes of ‖ĝ‖² under the norm test, over that of the same batches' "
            f"mean before it, median (range over rounds and seeds), {_place(each)}: "
            f"{'; '.join(words)}."
        )
    return sentences


def _place(each: Experiment) -> str:
    return PLACES[each.kind.split("-")[1]]
