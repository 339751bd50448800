"""Many clients' gradients together (a cohort) against client by client.

Client by client is the engines' usual path: every client on one thread, so that all engines agree
bit for bit. A cohort is equal up to rounding and may use the machine's threads. Measured are the
gradients alone, and whole rounds of real messages with Top-2 % packets.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from clients.app import client_app, client_number
from fedbias.vectors import Vector, flatten, norm

from ..engines import InlineGrid
from ..models import Model, cnn, fcnn, mlp
from .measure import Finding, in_turns, ratio, shown

if TYPE_CHECKING:
    from torch import nn

    from clients import TorchObjective

CLIENTS = 100
MOST = 1e-5  # the largest relative difference that still counts as the same gradient


@dataclass(frozen=True)
class Case:
    """A network and what one client holds."""

    model: Model
    shape: tuple[int, int, int]
    examples: int


CASES = (
    Case(mlp(hidden=32), (1, 8, 8), 14),
    Case(cnn(), (1, 28, 28), 20),
    Case(fcnn(), (1, 28, 28), 600),
)


def benchmark(repeats: int) -> Finding:
    """One row per network; takes about a minute per repeat on two cores."""
    results = {repr(case.model): measured(case, repeats) for case in CASES}
    threads = os.cpu_count() or 1
    lines = [
        ["network", "parameters", "examples", "gradients: one by one", "cohort, 1 thread"]
        + [f"cohort, {threads} threads", "ratio (range)", "rounds: ratio (range)", "difference"]
    ]
    for name, found in results.items():
        lines.append(
            [name, f"{found['parameters']:,}", str(found["examples"])]
            + [_milliseconds(found["seconds"][way]) for way in ("loop", "one", "all")]
            + [shown(found["gradient_ratio"]), shown(found["round_ratio"])]
            + [f"{found['difference']:.1e} (at most {found['largest_difference']:.1e})"]
        )
    beyond = sum(found["clients_beyond"] for found in results.values())
    notes = [
        f"{CLIENTS} clients at one point; milliseconds per client, medians of {repeats} turns; "
        f"ratios are client by client on one thread over the cohort on {threads}.",
        "Difference: ‖cohort − one by one‖/‖one by one‖ of a client's gradient, the median and the "
        f"largest; {beyond} of {len(CASES) * CLIENTS} gradients differ by more than {MOST:g}: an "
        "activation within rounding of a kink (ReLU, max-pooling) fell on its other side.",
    ]
    if repr(fcnn()) in results:
        notes.append(_ceiling(results[repr(fcnn())], repeats))
    return Finding(lines, notes, results)


def measured(case: Case, repeats: int) -> dict[str, Any]:
    """Seconds, ratios and the difference for one network."""
    import torch

    from clients import TorchObjective

    module = case.model.build(case.shape, 10, seed=0)
    objectives = _objectives(case, module)
    point = flatten([w.detach().numpy() for w in module.parameters()])
    cohort = TorchObjective.cohort(objectives)
    if cohort is None:
        raise RuntimeError("these clients cannot be computed together")
    before = torch.get_num_threads()
    try:
        gradients = in_turns(
            {
                "loop": _on(1, lambda: [f.loss_and_gradient(point)[1] for f in objectives]),
                "one": _on(1, lambda: cohort.losses_and_gradients(point)),
                "all": _on(os.cpu_count() or 1, lambda: cohort.losses_and_gradients(point)),
            },
            repeats,
        )
        rounds = in_turns(_rounds(objectives, point), repeats)
        together = cohort.losses_and_gradients(point)[1]
        torch.set_num_threads(1)
        apart = [f.loss_and_gradient(point)[1] for f in objectives]
    finally:
        torch.set_num_threads(before)
    off = [norm(one - other) / norm(other) for one, other in zip(together, apart, strict=True)]
    if median(off) > MOST:
        raise ValueError(f"{case.model}: a cohort's gradients are off by {median(off):.1e}")
    return {
        "parameters": int(point.size),
        "examples": case.examples,
        "seconds": {way: median(times) / CLIENTS for way, times in gradients.items()},
        "gradient_ratio": ratio(gradients["loop"], gradients["all"]),
        "round_ratio": ratio(rounds["loop"], rounds["cohort"]),
        "difference": median(off),
        "largest_difference": max(off),
        "clients_beyond": sum(each > MOST for each in off),
    }


def _objectives(case: Case, module: nn.Module) -> list[TorchObjective]:
    import torch
    from torch.nn.functional import cross_entropy

    from clients import TorchObjective

    random = torch.Generator().manual_seed(0)
    shards = [
        (
            torch.rand(case.examples, *case.shape, generator=random),
            torch.randint(10, (case.examples,), generator=random),
        )
        for _ in range(CLIENTS)
    ]
    return [TorchObjective(module, cross_entropy, shard) for shard in shards]


def _rounds(objectives: list[TorchObjective], point: Vector) -> dict[str, Callable[[], object]]:
    """One round of real messages, either way."""
    from flwr.app import Array, ArrayRecord

    import fedbias as fb
    from strategies import FedBias

    def round_of(cohort: bool) -> Callable[[], object]:
        app = client_app(lambda context: objectives[client_number(context)[0]])
        grid = InlineGrid(app, CLIENTS, cohort=cohort)
        arrays = ArrayRecord({"point": Array(point)})
        step, top = fb.gradient_descent(0.1), fb.top_k(fraction=0.02)

        def go() -> object:
            return FedBias(step, compressor=top, minimum_clients=CLIENTS).start(grid, arrays, 1)

        return _on(os.cpu_count() or 1, go) if cohort else _on(1, go)

    return {"loop": round_of(False), "cohort": round_of(True)}


def _on(threads: int, work: Callable[[], object]) -> Callable[[], object]:
    def go() -> object:
        import torch

        torch.set_num_threads(threads)
        return work()

    return go


def _ceiling(found: dict[str, Any], repeats: int) -> str:
    """Why no cohort can be much faster for the fcnn(): what its products alone would take."""
    import torch

    hidden, classes, inputs = 512, 10, 784
    # Per weight and example: forward and its own gradient; behind the first layer also backward.
    flops = 4 * inputs * hidden + 6 * (hidden * hidden + hidden * classes)
    speed = found["examples"] * flops / found["seconds"]["loop"] / 1e9
    one, other = torch.rand(found["examples"], inputs), torch.rand(inputs, hidden)
    threads = os.cpu_count() or 1
    seconds = in_turns({"product": _on(threads, lambda: one @ other)}, 20 * repeats)["product"]
    fastest = 2 * one.numel() * hidden / min(seconds) / 1e9
    return (
        f"Client by client the fcnn() computes {speed:.0f} GFLOP/s; its largest product alone runs "
        f"at {fastest:.0f} GFLOP/s on {threads} threads. So no way of computing these gradients "
        f"together is more than {fastest / speed:.1f} times faster on this machine."
    )


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms"
