"""What ``reproduce hybrid`` says of its results, whichever way they fall."""

from __future__ import annotations

import itertools
import math

from ..base import Result, Results
from .cases import (
    BATCH,
    BOTH,
    EVALUATED,
    EXPERIMENTS,
    FEW,
    FINAL,
    MANY,
    MOMENTUM,
    MULTIPLES,
    PAPER,
    RADIUS,
    WEIGHTS,
)
from .choices import FORMS, WHEN, Seeds, losses_of, mean, own_step, seeds_of, steps_of, verdict
from .runs import DIVERGED
from .tables import TITLES, network_losses, network_own, network_seeds

PUBLISHED = {"logistic": 500, "mlp": 1500}  # T
_PAIRS = ((BOTH, FEW), (BOTH, MANY), (MANY, FEW))
_STEPS = {"paper's": "at the paper's steps", "own": "each at its own step"}


def notes(results: Results) -> list[str]:
    """What was done, what the paper leaves open, and how the populations compare."""
    found = {name: seeds_of(results, name) for name in EXPERIMENTS}
    present = {name: seeds for name, seeds in found.items() if seeds}
    return [
        *_done(present),
        *(sentence for name, seeds in present.items() for sentence in _experiment(name, seeds)),
        *(sentence for name, seeds in present.items() for sentence in _star(name, seeds)),
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
        f"{next(iter(found.values()))[0]['task']}. {told} (the paper's: {paper}). Two copies of "
        "the training data, one split iid over the nodes with gradients (FO), one over those "
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
        "One seed's batches, directions and matchings serve all populations, steps and weights, so "
        "differences are taken seed by seed. Directions are by their exact law: of the first "
        "layer only what the batch sees is drawn for each, and one standard normal matrix for "
        "the rest of their weighted sum.",
    ]


def _counts(found: dict[str, Seeds]) -> str:
    counts = sorted({len(seeds) for seeds in found.values()})
    return " or ".join(map(str, counts))


# Decentralized ------------------------------------------------------------------------------------


def _experiment(name: str, seeds: Seeds) -> list[str]:
    """The three populations, at either choice of steps."""
    required = _required(seeds) if name == "mlp" else []
    return [
        *required,
        *(_orders(name, seeds, "decentralized", way) for way in _STEPS),
        *_spreads(name, seeds),
        _divergent(name, seeds),
    ]


def _losses(seeds: Seeds, family: str, way: str) -> list[list[float | None]]:
    place = steps_of(seeds, family)[way]
    if place is None:
        return [[None] * len(seeds)] * len(WHEN)
    return losses_of(seeds, family, place)


def _required(seeds: Seeds) -> list[str]:
    """In (b) the hybrid shall be below few FO at T/4."""
    words = []
    for way, said in _STEPS.items():
        told = verdict(_losses(seeds, BOTH, way)[0], _losses(seeds, FEW, way)[0])
        words.append(f"{said} it is {'TRUE' if told.startswith('below') else 'NOT TRUE'}: {told}")
    return [
        "Expected of (b), the hybrid below few FO by more than two standard errors at T/4: "
        f"{'; '.join(words)}."
    ]


def _orders(name: str, seeds: Seeds, form: str, way: str) -> str:
    """Who is below whom at T/4, T/2 and T."""
    members = FORMS[form]
    words = []
    for one, other in _PAIRS:
        pairs = zip(
            WHEN,
            _losses(seeds, members[one], way),
            _losses(seeds, members[other], way),
            strict=True,
        )
        told = ", ".join(f"{when} {verdict(a, b)}" for when, a, b in pairs)
        words.append(f"{one} against {other}: {told}")
    return f"{TITLES[name]}, {form}, {_STEPS[way]}: {'; '.join(words)}."


def _spreads(name: str, seeds: Seeds) -> list[str]:
    """Whether the nodes come together, at each population's own step."""
    words = []
    for family in FORMS["decentralized"].values():
        place = own_step(seeds, family)
        if place is not None:
            three = [
                mean([result["families"][family]["spreads"][place][k] for result in seeds])
                for k in (0, -1)
            ]
            if None not in three:
                early, late = (each.value for each in three if each)
                words.append(f"{family} {early:.2g} → {late:.2g}")
    if not words:
        return []
    return [f"{TITLES[name]}, Γ from T/4 to T, each at its own step: {', '.join(words)}."]


def _divergent(name: str, seeds: Seeds) -> str:
    """Which multiples of the paper's steps are too large."""
    words = []
    for members in FORMS.values():
        for family in members.values():
            gone = [
                f"× {multiple:g}"
                for place, multiple in enumerate(MULTIPLES)
                if None in losses_of(seeds, family, place)[-1]
            ]
            words += [f"{family} at {', '.join(gone)}"] if gone else []
    return f"{TITLES[name]}, diverged with some seed: {'; '.join(words) or 'nobody'}."


# Star form ----------------------------------------------------------------------------------------


def _star(name: str, seeds: Seeds) -> list[str]:
    """The weightings against each other and against either population alone."""
    sentences = [_variances(name, seeds)]
    members = FORMS["star"]
    for way, said in _STEPS.items():
        words = []
        for weights in WEIGHTS:
            losses = _losses(seeds, members[f"{BOTH}, {weights}"], way)
            told = [
                f"{other} {', '.join(f'{when} {verdict(a, b)}' for when, a, b in pairs)}"
                for other in (FEW, MANY)
                for pairs in [zip(WHEN, losses, _losses(seeds, members[other], way), strict=True)]
            ]
            words.append(f"{weights} weights against {'; against '.join(told)}")
        sentences.append(
            f"{TITLES[name]}, star form, {said}, the hybrid with {'. With '.join(words)}."
        )
    return sentences


def _variances(name: str, seeds: Seeds) -> str:
    """What the weights should do, and what weight the nodes with gradients were given."""
    nodes, dim = seeds[0]["nodes"], seeds[0]["dim"]
    few, many, both, best = variances(nodes[0], nodes[1], dim, seeds[0]["directions"])
    shares = [result["families"]["star inverse variance"]["shares"][PAPER] for result in seeds]
    told = [mean(column) for column in zip(*shares, strict=True)]
    words = ", ".join("-" if each is None else f"{100 * each.value:.1f} %" for each in told)
    return (
        f"{TITLES[name]}, star form: the mean estimate's variance, in units of one FO node's, "
        f"should be {few:.3g} with {FEW}, {many:.3g} with {MANY}, {both:.3g} with both at equal "
        f"weights and {best:.3g} with inverse variance. Inverse variance gave all FO nodes "
        f"together {words} of the weight at T/4, T/2 and T (paper's step)."
    )


def variances(
    first: int, zeroth: int, dim: int, directions: int
) -> tuple[float, float, float, float]:
    """1/n_1, k/n_0, (n_1 + k·n_0)/n² and 1/(n_1 + n_0/k), k = 1 + (d + 1)/rv."""
    ratio, nodes = 1 + (dim + 1) / directions, first + zeroth
    equal = (first + ratio * zeroth) / nodes**2
    return 1 / first, ratio / zeroth, equal, 1 / (first + zeroth / ratio)


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
