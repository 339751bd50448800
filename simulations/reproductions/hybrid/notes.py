"""What ``reproduce hybrid`` says of its results, whichever way they fall."""

from __future__ import annotations

import itertools
import math

from ..base import Result, Results
from .cases import (
    BATCH,
    EVALUATED,
    EXPERIMENTS,
    FINAL,
    MOMENTUM,
    MULTIPLES,
    PAPER,
    RADIUS,
)
from .choices import Seeds, mean, seeds_of
from .runs import DIVERGED
from .tables import TITLES, network_losses, network_own, network_seeds
from .verdicts import decentralized, star

PUBLISHED = {"logistic": 500, "mlp": 1500}  # T


def notes(results: Results) -> list[str]:
    """What was done, what the paper leaves open, and how the populations compare."""
    found = {name: seeds_of(results, name) for name in EXPERIMENTS}
    present = {name: seeds for name, seeds in found.items() if seeds}
    return [
        *_done(present),
        *(sentence for name, seeds in present.items() for sentence in decentralized(name, seeds)),
        *(sentence for name, seeds in present.items() for sentence in star(name, seeds)),
        *_law(results),
        *_network(results),
    ]


# What was done ------------------------------------------------------------------------------------


def _done(found: dict[str, Seeds]) -> list[str]:
    if not found:
        return []
    told = ", ".join(f"{TITLES[name]} T = {seeds[0]['rounds']}" for name, seeds in found.items())
    paper = ", ".join(f"{TITLES[name]} {PUBLISHED[name]}" for name in found)
    return [
        f"{next(iter(found.values()))[0]['task']}. {told} (the paper's: {paper}; less is for "
        "time). Two copies of the training data, one split iid over the nodes with gradients (FO), "
        "one over those "
        f"without (ZO); means ± standard errors over {_counts(found)} seeds. Losses are the mean "
        f"model's on the first {EVALUATED:,} training examples, accuracies on all the test data, "
        "Γ is the mean squared distance of the nodes' models from their mean. "
        f"A run has diverged if its loss is not finite, or over {DIVERGED:g} times the start's, "
        "when it is measured.",
        f"Not fixed by the paper's text, and ours: momentum m = {MOMENTUM:g} from a buffer of 0, "
        f"on the mean estimate in star form; the forward difference at ν = {RADIUS:g}; a cosine "
        f"from the whole step to {FINAL:g} of it; batches of {BATCH} drawn with replacement, in "
        "the MLP too; torch's usual start, the same for all nodes. In star form one step moves "
        "the model: the hybrid's is that of the many, in (b) .1. Both kinds' steps are multiplied "
        f"alike: the grid is × {', '.join(f'{m:g}' for m in MULTIPLES)}, and a population's own "
        "step is the one with the lowest mean loss at T on its own runs, of those of which none "
        "diverged.",
        "One seed's batches and directions serve all populations, steps and weights, so "
        "differences are taken seed by seed. Directions are by their law: of the first "
        "layer only what the batch sees is drawn for each, and one standard normal matrix for "
        "the rest of their weighted sum, the same for all federations; exact for each but for "
        "rounding, and not for how two of them depend on each other.",
        "(b) takes 8 directions, the fewest of the paper's 8 to 32, for time. In star form few "
        "FO's steps in (b) are multiples of .5, the hybrid's of .1: what is below or above "
        "between them is the steps' doing as well, and with weights of inverse variance, nearly "
        "all on the FO nodes, the steps' alone. Weights by examples give each copy one half.",
    ]


def _counts(found: dict[str, Seeds]) -> str:
    counts = sorted({len(seeds) for seeds in found.values()})
    return " or ".join(map(str, counts))


# The law and the CNN ------------------------------------------------------------------------------


def _law(results: Results) -> list[str]:
    """Drawn directions beside those by their law, at the paper's steps."""
    sentences = []
    for name in EXPERIMENTS:
        seeds = seeds_of(results, name)
        for drawn in seeds_of(results, name, "drawn"):
            if seeds:
                sentences.append(_compared(name, seeds, drawn))
    return sentences


def _compared(name: str, seeds: Seeds, drawn: Result) -> str:
    mark, words = len(drawn["at"]) - 1, []
    for family, run in drawn["families"].items():
        values = [seed["families"][family]["losses"][PAPER][mark] for seed in seeds]
        told, one = mean(values), run["losses"][PAPER][mark]
        same = next(
            (v for v, r in zip(values, seeds, strict=True) if r["seed"] == drawn["seed"]), None
        )
        if told is not None and one is not None and same is not None:
            spread = told.error * math.sqrt(len(values))
            words.append(f"{family} {one:.4f} against {same:.4f} ({spread:.4f})")
    rate = drawn["normals"] / drawn["seconds"] / 1e6
    whole = drawn["normals"] * drawn["rounds"] / drawn["at"][-1]
    return (
        f"{TITLES[name]}, directions really drawn, seed {drawn['seed']}, for {drawn['at'][-1]} of "
        f"its {drawn['rounds']} steps: train loss at the paper's steps, against that by their law "
        f"(standard deviation over the seeds): {', '.join(words)}. {drawn['normals']:.1e} normals "
        f"in {drawn['seconds']:,.0f} s, {rate:.0f} M/s with all that is done with them; all the "
        f"steps would need {whole:.1e}. By their law a seed took "
        f"{max(seed['seconds'] for seed in seeds):,.0f} s at most. Two cores that other programs "
        "shared."
    )


def _network(results: Results) -> list[str]:
    """The CNN: whether it helps that more nodes have gradients."""
    seeds = network_seeds(results)
    if not seeds:
        return []
    first = seeds[0]
    sentences = [
        f"{TITLES['cnn']}, through fb.run_gossip: {first['nodes']} nodes, {first['directions']} "
        f"directions, batches of {first['batch']}, T = {first['rounds']}, {len(seeds)} seeds, the "
        f"first {first['examples']:,} training and {first['tested']:,} test examples. The base "
        f"step, {first['step']:g} for both kinds, is ours, as all of this but the nodes; losses "
        "are the mean over the nodes' data."
    ]
    names, base = list(first["runs"]), first["multiples"].index(1.0)
    for said, own in (("the base step", False), ("each at its own step", True)):
        told = []
        for name in names:
            place = network_own(seeds, name) if own else base
            found = None if place is None else mean(network_losses(seeds, name, place)[-1])
            told.append((name, found))
        words = ", ".join(f"{name} FO {'diverges' if m is None else m}" for name, m in told)
        known = [m.value for _, m in told if m is not None]
        falls = len(known) == len(told) and all(a > b for a, b in itertools.pairwise(known))
        order = "falls with every four more" if falls else "does not fall with every four more"
        sentences.append(f"{TITLES['cnn']}, loss at T, {said}: {words}; it {order}.")
    return sentences
