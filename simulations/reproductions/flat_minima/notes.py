"""What ``reproduce flat-minima`` says: what agrees with the paper, and what does not."""

from __future__ import annotations

import math

from ..base import Result, Results
from .cases import CLIENTS, FINE, GRIDS, ROUGH, STARTS, TARGET
from .tables import converged, grid
from .trade import Runs, trade_off

_SHARP = 1.9  # from this η·λ_GF on rounding may decide on the last steps


def notes(results: Results) -> list[str]:
    """The sentences."""
    known = {name: grid(results, name) for name in (*GRIDS, "opposed")}
    every = [run for runs in known.values() for run in runs]
    if not every:
        return []
    return [
        *_expected(known),
        _federation(every),
        _theory(every),
        *(sentence for name in GRIDS if known[name] for sentence in trade_off(name, known[name])),
        _flatter(every),
        *_opposed(known["opposed"]),
        *_missing(known, results.get("endless")),
    ]


# Numbers ------------------------------------------------------------------------------------------


def _expected(known: dict[str, list[Result]]) -> list[str]:
    """Against what was written down before."""
    compared, off = 0, []
    for name, runs in known.items():
        for run in runs:
            wanted = STARTS[name].expected.get(run["multiple"])
            if wanted is None:
                continue
            compared += 1
            where = f"{STARTS[name].words} at {run['multiple']:g}"
            slack = 2 if run["multiple"] >= _SHARP else 0
            for limit, steps in wanted.steps.items():
                found = run["steps"][(ROUGH, FINE).index(limit)]
                if found != steps:
                    far = None in (found, steps) or abs(found - steps) > slack
                    words = "NOT within" if far else "within"
                    off.append(f"{where} takes {found} steps, not {steps} ({words} ± {slack})")
            if wanted.limit and not _printed(run["norm_square"], wanted.limit):
                off.append(f"{where} ends at λ_∞ = {run['norm_square']:.6g}, not {wanted.limit}")
    if not compared:
        return []
    said = "; ".join(off) or "all steps and all printed digits of λ_∞ are the same"
    return [f"{compared} runs of one client against the values expected: {said}."]


def _printed(value: float, text: str) -> bool:
    return f"{value:.{len(text.partition('.')[2])}f}" == text


def _federation(every: Runs) -> str:
    """Flower against the loop, several clients against one."""
    same = [run for run in every if run["identical"]]
    moved = [run for run in every if run["federated_steps"] != run["steps"]]
    stay = [run for run in every if not run["diverged"]]
    apart = [
        max((run["apart"] for run in stay if (run["multiple"] <= 2) is tame), default=0.0)
        for tame in (True, False)
    ]
    return (
        f"{CLIENTS} clients with targets {TARGET:g} ± 1/4 and ± 3/4, none of whose gradients is "
        f"that of L, through Flower's messages: bit for bit the points of fb.run with the same "
        f"clients in {len(same)} of {len(every)} runs, {sum(r['compared'] for r in same):,} points "
        "(measured, point by point). Their mean is one client's gradient but for rounding: no "
        f"point is off one client's by more than {apart[0]:.1g} up to η·λ_GF = 2, and by more than "
        f"{apart[1]:.1g} beyond, where nothing diverges; the counted steps are one client's in "
        f"{len(every) - len(moved)} of {len(every)} runs"
        + (f", and otherwise {', '.join(_moved(run) for run in moved)}" if moved else "")
        + "."
    )


def _moved(run: Result) -> str:
    one, other = (" / ".join(map(str, run[name])) for name in ("federated_steps", "steps"))
    return f"{one} for {other} ({run['from']} at {run['multiple']:g})"


def _theory(every: Runs) -> str:
    """Identities, the product formula and the rate."""
    there = [run for run in every if converged(run)]
    gap = max((abs(run["product"] - run["norm_square"]) for run in there), default=math.nan)
    rates = [abs(run["rate"][0] - run["rate"][1]) for run in there if run["rate"]]
    ends = [abs(run["sharpness"][1] - run["norm_square"]) for run in there]
    return (
        f"Along all of Flower's points (ε, λ, Q) follow the recursion to "
        f"{max(run['identity'] for run in every):.0e} of 1 + λ. Of the {len(there)} runs that "
        f"converge, λ_∞ is the product formula's to {gap:.0e} and the sharpness there to "
        f"{max(ends, default=math.nan):.0e}; |ε⁺/ε| at |ε| = 1e-8 is |1 − ηλ_∞| to "
        f"{max(rates, default=math.nan):.0e}."
    )


# Flatter ------------------------------------------------------------------------------------------


def _flatter(every: Runs) -> str:
    """Flatter, and of lower norm, than the flow."""
    there = [run for run in every if converged(run)]
    promised = [run for run in there if run["bounded"]]
    kept = [run for run in promised if run["norm_square"] <= run["flow"] * (1 + 1e-12)]
    other = [run for run in there if not run["bounded"]]
    below = [run for run in other if run["norm_square"] <= run["flow"]]
    least = min((run["norm_square"] / run["flow"] for run in kept), default=math.nan)
    return (
        f"λ is the sharpness of a minimum and the squared norm of (a, b) in one, so flatter is of "
        f"lower norm. With η|ε| ≤ √2 throughout, λ_∞ ≤ λ_GF in {len(kept)} of {len(promised)} "
        f"runs, down to {least:.3f} of it (the norm to {math.sqrt(least):.3f}). Where η|ε| > √2 "
        f"somewhere, in {len(below)} of {len(other)}: the condition is sufficient, not necessary."
    )


def _opposed(runs: Runs) -> list[str]:
    return [
        f"From {STARTS['opposed'].words} with η = {run['step_size']:g}, η|ε_0| = {run['move']:.4f} "
        f"> √2: λ_∞ = {run['norm_square']:.3f} and λ_GF = {run['flow']:.3f}. Without the condition "
        "gradient descent may end sharper than its flow."
        for run in runs
        if converged(run) and not run["bounded"] and run["norm_square"] > run["flow"]
    ]


# What does not converge ---------------------------------------------------------------------------


def _missing(known: dict[str, list[Result]], long: Result | None) -> list[str]:
    said = []
    for name, runs in known.items():
        flattest = 2 * abs(TARGET)
        gone = [run for run in runs if not converged(run)]
        diverged = [run for run in gone if run["diverged"]]
        stay = [run for run in gone if not run["diverged"]]
        repelled = [run for run in stay if run["step_size"] * flattest > 2]
        others = [run for run in stay if run not in repelled]
        stuck = [run for run in runs if converged(run) and run["steps"][1] is None]
        words = []
        if repelled:
            words.append(f"{_places(repelled)}, where η·2|Φ| > 2 and every minimum repels")
        if others:
            words.append(f"{_places(others)}, though the flattest minimum attracts")
        if diverged:
            said.append(f"From {STARTS[name].words} runs diverge at {_places(diverged)}.")
        if words:
            most = stay[0]["rounds"]
            said.append(
                f"From {STARTS[name].words}, {most} steps do not get to |ε| < 1e-12 at "
                f"{'; at '.join(words)}."
            )
        if stuck:
            said.append(
                f"From {STARTS[name].words} runs get to |ε| < 1e-12 but not to 1e-14 at "
                f"{_places(stuck)}: rounding does not let them."
            )
    if long:
        where = f"{STARTS[long['start']].words} at {long['multiple']:g}"
        said.append(
            f"From {where}, {long['rounds']:,} steps: no entry exceeds {long['largest']:.3f}, |ε| "
            f"is never below {long['least']:.1e}."
        )
    return said


def _places(runs: Runs) -> str:
    return ", ".join(f"{run['multiple']:g}" for run in runs)
