"""Graphs of clients by networkx, the extra ``gossip``."""

from __future__ import annotations

import math
from typing import Any


def edges(graph: str, count: int, probability: float | None, seed: int) -> list[tuple[int, int]]:
    """The edges of a connected graph on the nodes 0 … count − 1, in ascending order.

    Raises
    ------
    ValueError
        For a torus of a prime number of nodes, and for a graph that is not connected: its parts
        would never agree.
    ImportError
        Names the extra, where networkx is not installed.
    """
    nx = _networkx()
    made = _made(nx, graph, count, probability, seed)
    if count > 1 and not nx.is_connected(made):
        raise ValueError(
            f"along: the Erdős–Rényi graph of {count} clients with probability {probability} is "
            "not connected: raise the probability, or take another seed"
        )
    ordered = nx.convert_node_labels_to_integers(made, ordering="sorted")
    return sorted((min(edge), max(edge)) for edge in ordered.edges if edge[0] != edge[1])


def _made(nx: Any, graph: str, count: int, probability: float | None, seed: int) -> Any:
    if graph == "ring":
        return nx.cycle_graph(count)
    if graph == "complete":
        return nx.complete_graph(count)
    if graph == "erdos_renyi":
        return nx.erdos_renyi_graph(count, probability, seed=seed)
    rows = max(rows for rows in range(1, math.isqrt(count) + 1) if count % rows == 0)
    if rows == 1:
        raise ValueError(f"along: {count} clients make no torus of rows and columns: use a ring")
    return nx.grid_2d_graph(rows, count // rows, periodic=True)


def _networkx() -> Any:
    try:
        import networkx
    except ImportError as missing:
        raise ImportError(
            "a graph of clients needs networkx: pip install networkx, or fedbias[gossip]"
        ) from missing
    return networkx
