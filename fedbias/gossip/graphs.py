"""Matchings along the edges of a graph: who can hear whom."""

from __future__ import annotations

from functools import lru_cache

from numpy.random import Generator

from fedbias import checks, extras_networkx
from fedbias.notation import setting
from fedbias.randomness import SERVER, Purpose, generator

from .matchings import Drawn, Pair


@setting("along")
class Along(Drawn):
    """A random maximal matching of a graph's edges; the clients are its nodes, in ascending order.

    Edges are taken in random order while both ends are free, so a few clients may stay alone. The
    graph is that of everyone who ever enrolled: a newcomer changes it, and one that no torus has a
    place for, or that leaves an Erdős–Rényi graph in parts, ends the run with a sentence.

    Attributes
    ----------
    graph : {"ring", "torus", "complete", "erdos_renyi"}
        A torus is as square as the number of clients allows.
    probability : float or None
        Of each edge of an Erdős–Rényi graph, which is drawn from the run's seed.
    """

    graph: str
    probability: float | None = None

    def __post_init__(self) -> None:
        checks.choice("along", "graph", self.graph, ("ring", "torus", "complete", "erdos_renyi"))
        if (self.graph == "erdos_renyi") != (self.probability is not None):
            raise ValueError(
                "along: probability belongs to graph='erdos_renyi', and that needs one"
            )
        if self.probability is not None:
            checks.real("along", "probability", self.probability, above=0, most=1)

    def _matched(self, rng: Generator, count: int, seed: int) -> list[Pair]:
        edges = _edges(self.graph, count, self.probability, seed)
        pairs, free = [], set(range(count))
        for place in rng.permutation(len(edges)):
            if set(edges[place]) <= free:
                pairs.append(edges[place])
                free -= set(edges[place])
        return pairs


@lru_cache(maxsize=8)
def _edges(graph: str, count: int, probability: float | None, seed: int) -> list[Pair]:
    drawn = int(generator(seed, 0, SERVER, Purpose.MATCHING).integers(2**31))
    return extras_networkx.edges(graph, count, probability, drawn)


along = Along
