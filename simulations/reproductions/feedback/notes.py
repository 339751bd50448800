"""What ``reproduce feedback`` says of its results, and what it recommends."""

from __future__ import annotations

from collections.abc import Sequence

from ..base import Result, Results
from .cases import FEEDBACKS, SETTINGS, SHARES
from .rule import BITS, COMPRESSOR, DIFFERENT, Choice, chosen, divergent, judged, ranking
from .runs import TINY, mean_gap
from .tables import WORDS, entry, number

_STEPS = {"1": "the tuned step", "1/4": "a quarter of the tuned step"}
_PARTIAL = tuple(name for name in SETTINGS if name != "full")
_TUNED = ("1",)


def notes(results: Results) -> list[str]:
    """What the columns are, the rule, what it says, and what it does not look at."""
    return [
        "Entries: (f − f*)/(f(x_0) − f*), the median over the last tenth of at most "
        f"{_rounds(results)} rounds, geometric mean over five seeds, with gradient descent at the "
        "step 2/(L+μ) that is tuned for no compression, then at a quarter of it. A run ends at "
        f"{number(TINY)}. f: a floor, the last third of the rounds did not halve the gap; "
        "diverges (in some of the five runs): it ends above its start or far away.",
        f"How much clients differ: ‖∇f_m(x*)‖ is {_heterogeneity(results)} of ‖∇f_m(x_0)‖ (root "
        "mean squares). A digit is told from the other nine, and every client has one digit or "
        "nearly. All feedbacks send the same number of bits; the scale of each packet is in them.",
        "The rule, fixed before the cells were computed: of all feedbacks at one of the two steps "
        f"for all cells of clients that differ with {COMPRESSOR} at {BITS[0]} to {BITS[-1]} bits, "
        "those that never diverge, and of these the one with the least geometric mean of the gaps.",
        recommended(results),
        *_by_situation(results),
        *_one_bit(results),
        *(_divergences(results, share) for share in SHARES),
        _floors(results),
        *_nesterov(results),
        *_lattices(results),
    ]


def recommended(results: Results) -> str:
    """What the rule says of the default."""
    choice = chosen(results)
    if choice is None:
        return (
            "By the rule strategies.differential_quantization has no feedback to default to: each "
            "diverges somewhere at either step."
        )
    same = chosen(results, shares=_TUNED)
    return (
        f"By the rule strategies.differential_quantization defaults to "
        f"feedback={FEEDBACKS[choice.feedback]!r}: over clients that differ {_said(choice)}. "
        f"At the tuned step alone it would be {_name(same)}."
    )


def _by_situation(results: Results) -> list[str]:
    """The same rule for a part of the cells, with all that are as good by it but slower."""
    situations = {
        "clients that differ and all take part, nothing lost": (DIFFERENT, ("full",)),
        "clients that differ, of which some are silent": (DIFFERENT, _PARTIAL),
        "one client": (("alone",), tuple(SETTINGS)),
    }
    found = []
    for words, (problems, settings) in situations.items():
        if not judged(results, problems, settings):
            continue
        choice, best = chosen(results, problems, settings), "every feedback diverges somewhere"
        if choice is not None:
            others = ranking(results, problems, settings, tuple(SHARES))
            alike = [c.feedback for c in others if c.rank[0] == choice.rank[0] and c != choice]
            best = _said(choice) + (f", the fastest; as low are {_list(alike)}" if alike else "")
        found.append(f"For {words}, the same rule: {best}.")
    return found


def _one_bit(results: Results) -> list[str]:
    """What is left of a bit an entry at the tuned step, where nobody is silent."""
    found = []
    for result in results.values():
        if result["bits"] == 1 and result["setting"] == "full":
            words = [f"{name} {entry(result['runs'][name]['1'])}" for name in FEEDBACKS]
            found.append(f"{WORDS[result['problem']]}: {', '.join(words)}")
    if not found:
        return []
    return [f"At 1 bit and the tuned step, all taking part, nothing lost: {'; '.join(found)}."]


def _divergences(results: Results, share: str) -> str:
    """Who diverged where, feedback by feedback."""
    words = []
    for feedback in FEEDBACKS:
        names = divergent(results, feedback, share)
        more = [name for name in names if results[name]["bits"] > 1]
        low = [f"{len(names) - len(more)} at 1 bit"] if len(names) > len(more) else []
        where = f" ({', '.join(low + more)})" if names else ""
        words.append(f"{feedback} in {len(names)}{where}")
    return f"A run diverged at {_STEPS[share]}, of {len(results)} cells: with {'; '.join(words)}."


def _floors(results: Results) -> str:
    """How often a feedback ends on a floor, by whether all took part."""
    words = []
    for feedback in FEEDBACKS:
        counts = []
        for settings in (("full",), _PARTIAL):
            cells = judged(results, DIFFERENT, settings)
            runs = [cell["runs"][feedback][share] for cell in cells for share in SHARES]
            counts.append(f"{sum(run['floor'] for run in runs)} of {len(runs)}")
        words.append(f"{feedback} {counts[0]} and {counts[1]}")
    return (
        "Floors at 2 to 4 bits where clients differ, with all taking part and nothing lost, and "
        f"otherwise: {', '.join(words)}."
    )


def _nesterov(results: Results) -> list[str]:
    """Nesterov's method with the parameters tuned for no compression."""
    cells = [c for c in judged(results, DIFFERENT, tuple(SETTINGS)) if _accelerated(c)]
    if not cells:
        return []
    words = [
        f"{name} {_together([cell['runs'][name]['nesterov'] for cell in cells])}"
        for name in FEEDBACKS
    ]
    return [
        "Nesterov's method as tuned for no compression, where clients differ, at 2 to 4 bits: "
        f"{', '.join(words)}."
    ]


def _lattices(results: Results) -> list[str]:
    """E8 beside the uniform quantizer at the same bits."""
    pairs = [
        (results[name.replace("-e8-", "-uniform-")], result)
        for name, result in results.items()
        if result["compressor"] == "e8" and name.replace("-e8-", "-uniform-") in results
    ]
    if not pairs:
        return []
    words = []
    for feedback in FEEDBACKS:
        scalar, lattice = (
            _together([pair[place]["runs"][feedback][s] for pair in pairs for s in SHARES])
            for place in (0, 1)
        )
        words.append(f"{feedback} {lattice} against {scalar}")
    return [f"E8 against uniform at 2 bits, both steps: {', '.join(words)}."]


def _together(runs: Sequence[Result]) -> str:
    """The geometric mean over the cells that never diverge, and how many do."""
    good = [run["gap"][0] for run in runs if not run["diverged"]]
    bad = len(runs) - len(good)
    words = [number(mean_gap(good))] if good else []
    words += [f"diverges in {bad} of {len(runs)}"] if bad else []
    return f"({'; '.join(words)})"


def _accelerated(cell: Result) -> bool:
    return "nesterov" in next(iter(cell["runs"].values()))


def _said(choice: Choice) -> str:
    return f"{choice.feedback} at {_STEPS[choice.share]}, gap {number(choice.gap)}"


def _list(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)


def _name(choice: Choice | None) -> str:
    return "none of them, each diverges somewhere" if choice is None else _said(choice)


def _rounds(results: Results) -> int:
    return max((result["rounds"] for result in results.values()), default=0)


def _heterogeneity(results: Results) -> str:
    known = {result["problem"]: result["heterogeneity"] for result in results.values()}
    return ", ".join(f"{value:.2f} for {WORDS[name]}" for name, value in known.items()) or "-"
