"""Which client holds which examples, as settings: ``dirichlet(alpha=0.3)``."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedbias import checks
from fedbias.notation import setting

Indices = NDArray[np.int64]


class Partition:
    """A way to deal examples to clients."""

    def split(
        self,
        labels: NDArray[Any],
        clients: int,
        rng: np.random.Generator,
        keys: NDArray[Any] | None = None,
    ) -> list[Indices]:
        """Deal the examples to the clients.

        Parameters
        ----------
        labels : ndarray, shape (n,)
            One label per example.
        clients : int
            How many clients there are; each gets at least one example.
        rng : numpy.random.Generator
            Decides whatever is left to chance.
        keys : ndarray, shape (n,), optional
            Who each example comes from; needed by ``natural`` alone.

        Returns
        -------
        list of ndarray of int64
            For each client the indices of its examples, ascending. No example has two clients,
            and only ``natural`` leaves examples out.

        Raises
        ------
        ValueError
            If there are more clients than examples, or than keys under ``natural``.
        """
        checks.whole("split", "clients", clients, least=1)
        if clients > len(labels):
            raise ValueError(f"{clients} clients cannot share {len(labels)} examples: one each")
        if keys is not None and len(keys) != len(labels):
            raise ValueError(f"{len(labels)} examples need as many keys, not {len(keys)}")
        return [np.sort(part) for part in self._deal(np.asarray(labels), clients, rng, keys)]

    def _deal(
        self, labels: NDArray[Any], clients: int, rng: np.random.Generator, keys: Any
    ) -> list[Indices]:
        raise NotImplementedError


@setting("contiguous")
class Contiguous(Partition):
    """Equal chunks in the order of the data; sizes differ by one at most."""

    def _deal(
        self, labels: NDArray[Any], clients: int, rng: np.random.Generator, keys: Any
    ) -> list[Indices]:
        return np.array_split(np.arange(len(labels), dtype=np.int64), clients)


@setting("iid")
class Iid(Partition):
    """Equal chunks of the shuffled data; sizes differ by one at most."""

    def _deal(
        self, labels: NDArray[Any], clients: int, rng: np.random.Generator, keys: Any
    ) -> list[Indices]:
        return np.array_split(rng.permutation(np.arange(len(labels), dtype=np.int64)), clients)


@setting("dirichlet")
class Dirichlet(Partition):
    """Each class is dealt in proportions drawn from a symmetric Dirichlet distribution.

    Nobody stays without examples: as long as a client has none, the first such client takes one
    from the client that then has most (the first of them), the last that was dealt to it. While
    someone has none, n ≥ clients puts two or more in the largest hand, so each transfer leaves
    one empty hand less, and after at most clients − 1 transfers, without another draw, none.

    Attributes
    ----------
    alpha : float
        In (0, 10⁶]. Small: a client sees few classes; large: all clients see the same mixture.
    """

    alpha: float

    def __post_init__(self) -> None:
        """Refuse what is out of range."""
        # Beyond 10⁶ shares are equal to three digits, and far beyond the draw itself overflows.
        checks.real("dirichlet", "alpha", self.alpha, above=0, most=1e6)

    def _deal(
        self, labels: NDArray[Any], clients: int, rng: np.random.Generator, keys: Any
    ) -> list[Indices]:
        hands: list[list[int]] = [[] for _ in range(clients)]
        for label in np.unique(labels):
            members = rng.permutation(np.flatnonzero(labels == label))
            shares = rng.dirichlet(np.full(clients, self.alpha))
            cuts = (np.cumsum(shares)[:-1] * len(members)).astype(np.int64)
            for hand, dealt in zip(hands, np.split(members, cuts), strict=True):
                hand.extend(dealt.tolist())
        for hand in hands:
            if not hand:
                hand.append(max(hands, key=len).pop())
        return [np.array(hand, dtype=np.int64) for hand in hands]


@setting("natural")
class Natural(Partition):
    """One client per key, the keys with most examples first (ties in the order of the keys).

    With fewer clients than keys the smallest keys and their examples are left out.
    """

    def _deal(
        self, labels: NDArray[Any], clients: int, rng: np.random.Generator, keys: Any
    ) -> list[Indices]:
        if keys is None:
            raise ValueError("natural() needs a key for each example, and this data has none")
        _, owner, sizes = np.unique(keys, return_inverse=True, return_counts=True)
        if clients > len(sizes):
            raise ValueError(f"natural() has {len(sizes)} keys, too few for {clients} clients")
        largest = np.argsort(-sizes, kind="stable")[:clients]
        return [np.flatnonzero(owner == key).astype(np.int64) for key in largest]


# As they are spelled in the notation.
contiguous = Contiguous
iid = Iid
dirichlet = Dirichlet
natural = Natural
