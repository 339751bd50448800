"""Who is asked in a round, and how long they are waited for."""

from __future__ import annotations

from dataclasses import dataclass, replace

from flwr.serverapp import Grid

from fedbias import checks
from fedbias.algorithm import Algorithm
from fedbias.randomness import sample_clients
from fedbias.state import ServerState

from .roster import Roster


@dataclass(frozen=True)
class Enrolment:
    """The part of a strategy's settings that decides who is waited for; see there."""

    strategy: str
    minimum_clients: int
    patience: float
    partitions: int | None

    def __post_init__(self) -> None:
        checks.whole(self.strategy, "minimum_clients", self.minimum_clients, least=1)
        checks.real(self.strategy, "patience", self.patience, least=0)
        if self.partitions is not None:
            checks.whole(self.strategy, "partitions", self.partitions, least=1)

    def enrol(self, grid: Grid, dim: int) -> Roster:
        """Meet the first clients."""
        roster = Roster(dim, self.partitions)
        roster.wait(grid, self.minimum_clients, self.patience)
        return roster


@dataclass(frozen=True)
class Sampling(Enrolment):
    """And who of them takes part in a round."""

    fraction: float

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.real(self.strategy, "fraction", self.fraction, above=0, most=1)

    def fitted(self, algorithm: Algorithm, asked: int) -> Algorithm:
        """The algorithm; with a preset radius a round counts only if all that were asked reply."""
        if algorithm.feedback.radius is None:
            return algorithm
        if self.fraction < 1:
            raise ValueError("FedBias: a preset radius asks for fraction=1, or radius=None")
        return replace(algorithm, minimum_replies=max(algorithm.minimum_replies, asked))

    def draw(
        self, roster: Roster, grid: Grid, algorithm: Algorithm, state: ServerState
    ) -> list[int]:
        """The clients of a round, in ascending order, once enough of them are there."""
        least = algorithm.minimum_replies
        roster.wait(grid, least, self.patience)
        present = sorted(roster.nodes)
        count = max(round(self.fraction * len(present)), least, 1)
        return sample_clients(algorithm.seed, state.round, present, min(count, len(present)))
