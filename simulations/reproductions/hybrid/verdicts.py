"""Who is below whom in ``reproduce hybrid``, and what the weights of the star form did."""

from __future__ import annotations

import fedbias as fb

from .cases import BOTH, FEW, MANY, MULTIPLES, PAPER, WEIGHTS
from .choices import FORMS, WHEN, Seeds, losses_of, mean, own_step, steps_of, verdict
from .tables import TITLES

_PAIRS = ((BOTH, FEW), (BOTH, MANY), (MANY, FEW))
_SAID = {"uniform": "uniform", "examples": "by examples", "inverse variance": "of inverse variance"}
_STEPS = {"paper's": "at the paper's steps", "own": "each at its own step"}


# Decentralized ------------------------------------------------------------------------------------


def decentralized(name: str, seeds: Seeds) -> list[str]:
    """The three populations, at either choice of steps."""
    required = _required(seeds) if name == "mlp" else []
    return [
        *required,
        *(_orders(name, seeds, "decentralized", way) for way in _STEPS),
        *_spreads(name, seeds),
        _ends(name, seeds),
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


def _ends(name: str, seeds: Seeds) -> str:
    """Which multiples of the paper's steps are too large, and whose own step ends the grid."""
    gone, last = [], []
    for members in FORMS.values():
        for family in members.values():
            places = [k for k in range(len(MULTIPLES)) if None in losses_of(seeds, family, k)[-1]]
            if places:
                gone.append(f"{family} at {', '.join(f'× {MULTIPLES[k]:g}' for k in places)}")
            if own_step(seeds, family) in (0, len(MULTIPLES) - 1):
                last.append(family)
    return (
        f"{TITLES[name]}, diverged with some seed: {'; '.join(gone) or 'nobody'}. "
        f"An own step at an end of the grid: {', '.join(last) or 'nobody'}."
    )


# Star form ----------------------------------------------------------------------------------------


def star(name: str, seeds: Seeds) -> list[str]:
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
            words.append(f"weights {_SAID[weights]} against {'; against '.join(told)}")
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
        f"{TITLES[name]}, star form: the mean estimate's variance at a stationary point (more "
        f"elsewhere), in units of one FO node's, is {few:.3g} with {FEW}, {many:.3g} with {MANY}, "
        f"{both:.3g} with both at equal weights and {best:.3g} with inverse variance. Inverse "
        f"variance gave all FO nodes together {words} of the weight at T/4, T/2 and T (paper's "
        "step)."
    )


def variances(
    first: int, zeroth: int, dim: int, directions: int
) -> tuple[float, float, float, float]:
    """Of few FO, many ZO, and both with uniform weights and with those of inverse variance."""
    k, averaged = fb.theory.variance_ratio(dim, directions), fb.theory.averaged_variance
    return (
        averaged(first, 0, k, "uniform"),
        averaged(0, zeroth, k, "uniform"),
        averaged(first, zeroth, k, "uniform"),
        averaged(first, zeroth, k, "inverse_variance"),
    )
