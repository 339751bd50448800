"""Who averages with whom."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar, cast

from numpy.random import Generator

from fedbias import checks
from fedbias.notation import setting
from fedbias.randomness import SERVER, Purpose, generator

Pair = tuple[int, int]


class Matching(ABC):
    """A rule that pairs clients anew in every round; each is in one pair at most."""

    everyone_moves: ClassVar[bool] = True  # also who has no partner takes its own step

    @abstractmethod
    def pairs(self, seed: int, round: int, clients: Iterable[int]) -> list[Pair]:
        """The round's pairs in ascending order, the lower client of each first."""


class Drawn(Matching):
    """Pairs that follow from the seed, the round and the numbers of ALL the clients.

    Also of those that are away: whose partner is away keeps its own model in that round.
    """

    def pairs(self, seed: int, round: int, clients: Iterable[int]) -> list[Pair]:
        known = sorted(clients)
        places = self._matched(generator(seed, round, SERVER, Purpose.MATCHING), len(known), seed)
        return sorted((known[min(pair)], known[max(pair)]) for pair in places)

    @abstractmethod
    def _matched(self, rng: Generator, count: int, seed: int) -> list[Pair]:
        """Pairs of places 0 … count − 1; ``seed`` is the run's, for what stays the same in it."""


@setting("random_matching")
class RandomMatching(Drawn):
    """Everyone with someone, uniformly at random; of an odd number one stays alone."""

    def _matched(self, rng: Generator, count: int, seed: int) -> list[Pair]:
        order = [int(place) for place in rng.permutation(count)]
        return list(zip(order[::2], order[1::2], strict=False))


@setting("random_pair")
class RandomPair(Drawn):
    """One uniformly random pair, and nobody else takes a step: arXiv 2210.07703 as it is proved."""

    everyone_moves = False

    def _matched(self, rng: Generator, count: int, seed: int) -> list[Pair]:
        if count < 2:
            return []
        first, second = (int(place) for place in rng.choice(count, 2, replace=False))
        return [(first, second)]


class Listed(Matching):
    """Pairs that the caller chose: round → pairs."""

    def __init__(self, choose: Callable[[int], Iterable[Sequence[int]]]) -> None:
        self._choose = choose

    def pairs(self, seed: int, round: int, clients: Iterable[int]) -> list[Pair]:
        """Those chosen for the round, if each client is in one at most (ValueError)."""
        chosen = [tuple(sorted(pair)) for pair in self._choose(round)]
        paired = [client for pair in chosen for client in pair]
        apart = len(set(paired)) == len(paired) and all(len(pair) == 2 for pair in chosen)
        if not apart or not set(paired) <= set(clients):
            raise ValueError(
                f"round {round}: a matching pairs different clients that are there, not {chosen}"
            )
        return sorted((int(first), int(second)) for first, second in chosen)


def as_matching(value: Matching | Callable[[int], Iterable[Sequence[int]]]) -> Matching:
    """A matching, or a function from rounds to pairs as one (ValueError if neither)."""
    if callable(value) and not isinstance(value, type):
        return Listed(value)
    checks.instance("gossip", "matching", value, Matching, "random_matching()")
    return cast(Matching, value)


random_matching, random_pair = RandomMatching, RandomPair
