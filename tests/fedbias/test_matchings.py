"""Who meets: each client once at most, uniformly, and along edges that are there."""

import sys
from collections import Counter
from itertools import combinations

import numpy as np
import pytest

import fedbias as fb
from fedbias.gossip.matchings import as_matching
from tests.tools.gossip_clients import matchings

MATCHING, PAIR = fb.random_matching(), fb.random_pair()
GRAPHS = {
    "ring": fb.along("ring"),
    "torus": fb.along("torus"),
    "complete": fb.along("complete"),
    "erdos_renyi": fb.along("erdos_renyi", 0.6),
}


def rounds(matching, clients, count, seed=0):
    """The pairs of so many rounds."""
    return [tuple(matching.pairs(seed, k, clients)) for k in range(count)]


def chi_square(drawn, possible):
    """Pearson's statistic against the uniform distribution over ``possible``."""
    seen, expected = Counter(drawn), len(drawn) / len(possible)
    assert set(seen) <= set(possible)
    return sum((seen[each] - expected) ** 2 for each in possible) / expected


@pytest.mark.parametrize("count", range(1, 10))
def test_everyone_meets_someone(count):
    """Once each, and of an odd number one stays alone. Kills: a client in two pairs, a pair of one
    client, a last one that is dropped."""
    for pairs in rounds(MATCHING, range(count), 20):
        paired = [client for pair in pairs for client in pair]
        assert len(paired) == len(set(paired)) == count - count % 2
        assert set(paired) <= set(range(count))
        assert list(pairs) == sorted(pairs) and all(low < high for low, high in pairs)


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_one_pair_meets(count):
    """Nobody, where there is nobody to meet. Kills: a pair of one client with itself."""
    for pairs in rounds(PAIR, range(count), 20):
        assert len(pairs) == (count > 1)
        assert all(0 <= low < high < count for low, high in pairs)


# The 1 − 1e-5 quantiles of χ² by its degrees of freedom: a fair draw fails once in 10^5 seeds.
QUANTILE = {2: 23.03, 5: 30.86, 9: 39.34, 14: 48.72}


@pytest.mark.parametrize(
    ("matching", "possible"),
    [
        *((MATCHING, matchings(range(count))) for count in (3, 4, 5, 6)),
        (PAIR, [(pair,) for pair in combinations(range(4), 2)]),
        (PAIR, [(pair,) for pair in combinations(range(5), 2)]),
        (fb.along("complete"), matchings(range(4))),
        (fb.along("complete"), matchings(range(5))),
        (fb.along("ring"), matchings(range(3))),
    ],
    ids=lambda value: len(value) if isinstance(value, list) else repr(value),
)
def test_every_matching_is_as_likely(matching, possible):
    """2000 rounds. Kills: an order that is not shuffled, a draw of the seed alone."""
    drawn = rounds(matching, range(max(max(pair) for m in possible for pair in m) + 1), 2000)
    assert chi_square(drawn, possible) < QUANTILE[len(possible) - 1]


@pytest.mark.parametrize("matching", [MATCHING, PAIR, *GRAPHS.values()], ids=repr)
def test_the_seed_the_round_and_the_numbers_decide(matching):
    """Not the order in which clients came, nor what was asked before. Kills: a matching by order
    of arrival; a round or a seed that is left out; places for numbers."""
    clients = [3, 2**64 - 1, 7, 40, 0, 12]
    first = rounds(matching, clients, 30)
    assert rounds(matching, clients, 30) == first
    assert rounds(matching, iter(sorted(clients, reverse=True)), 1) == first[:1]
    assert [tuple(matching.pairs(0, k, clients[::-1])) for k in reversed(range(30))] == first[::-1]
    assert len(set(first)) > 3
    assert rounds(matching, clients, 30, seed=1) != first
    assert {client for pairs in first for pair in pairs for client in pair} == set(clients)
    places = rounds(matching, range(6), 30)
    named = sorted(clients)
    assert first == [tuple((named[low], named[high]) for low, high in pairs) for pairs in places]


def ring(count):
    return {tuple(sorted((node, (node + 1) % count))) for node in range(count)}


def torus(high, wide):
    spot = {(row, column): row * wide + column for row in range(high) for column in range(wide)}
    right = {(spot[r, c], spot[r, (c + 1) % wide]) for r, c in spot}
    down = {(spot[r, c], spot[(r + 1) % high, c]) for r, c in spot}
    return {tuple(sorted(edge)) for edge in right | down}


@pytest.mark.parametrize(
    ("graph", "count", "edges"),
    [
        ("ring", 2, {(0, 1)}),
        ("ring", 3, ring(3)),
        ("ring", 7, ring(7)),
        ("torus", 4, {(0, 1), (2, 3), (0, 2), (1, 3)}),
        ("torus", 6, torus(2, 3)),
        ("torus", 9, torus(3, 3)),
        ("torus", 12, torus(3, 4)),
        ("complete", 2, {(0, 1)}),
        ("complete", 6, set(combinations(range(6), 2))),
    ],
)
def test_along_the_edges_and_nothing_more_fits(graph, count, edges):
    """All the graph's edges are used, no other, and never are two free clients neighbours.

    300 rounds: an edge of a ring of 7 has a chance of 3/7 or so in each. Kills: a path for a ring,
    a grid for a torus, a long torus for a square one, pairs that stop too early.
    """
    seen = set()
    for pairs in rounds(fb.along(graph), range(count), 300):
        paired = {client for pair in pairs for client in pair}
        assert len(paired) == 2 * len(pairs)
        assert all(paired & set(edge) for edge in edges)
        seen |= set(pairs)
    assert seen == edges


def test_an_erdos_renyi_graph_stays_the_same():
    """Through the rounds of a run, and another seed has another graph; p is each edge's chance.

    Of 45 edges with p = .6 there are 27 ± 3.3; 12 … 42 is ± 4.5 standard deviations.
    Kills: a graph drawn anew in each round, or from no seed; p for 1 − p (40 seeds: 18 ± .5).
    """
    sizes = []
    for seed in range(40):
        seen = {
            pair for pairs in rounds(GRAPHS["erdos_renyi"], range(10), 100, seed) for pair in pairs
        }
        for pairs in rounds(GRAPHS["erdos_renyi"], range(10), 20, seed):
            paired = {client for pair in pairs for client in pair}
            assert all(paired & set(edge) for edge in seen)
        sizes.append(len(seen))
        assert 12 <= len(seen) <= 42
    assert len(set(sizes)) > 1 and abs(np.mean(sizes) - 27) < 2.4  # 4.5 standard errors


def test_a_certain_edge_makes_a_complete_graph():
    everything = {p for pairs in rounds(fb.along("erdos_renyi", 1), range(5), 200) for p in pairs}
    assert everything == set(combinations(range(5), 2))


@pytest.mark.parametrize("graph", ["ring", "complete"])
def test_one_client_meets_nobody(graph):
    """Kills: a client that is its own neighbour."""
    assert rounds(fb.along(graph), [5], 3) == [(), (), ()]
    assert rounds(fb.along("erdos_renyi", 0.1), [5], 3) == [(), (), ()]


@pytest.mark.parametrize("count", [1, 2, 3, 5, 7, 13])
def test_a_prime_number_makes_no_torus(count):
    """Kills: a torus of one row, which is a ring."""
    with pytest.raises(ValueError, match=f"along: {count} clients make no torus.*use a ring"):
        fb.along("torus").pairs(0, 0, range(count))


@pytest.mark.parametrize("probability", [1e-9, 0.1])
def test_a_graph_in_parts_is_refused(probability):
    """Its parts would never agree. Kills: a connection that is not looked at."""
    with pytest.raises(ValueError, match="10 clients with probability .* is not connected"):
        fb.along("erdos_renyi", probability).pairs(0, 0, range(10))


def test_without_networkx(monkeypatch):
    """A sentence that names the extra, and matchings of everybody need none."""
    monkeypatch.setitem(sys.modules, "networkx", None)
    with pytest.raises(ImportError, match=r"pip install networkx, or fedbias\[gossip\]"):
        fb.along("ring").pairs(0, 0, range(977))  # a size that no other test has asked for
    assert len(MATCHING.pairs(0, 0, range(977))) == 488


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("star",), "along: graph must be one of 'ring', 'torus'"),
        (("erdos_renyi",), "probability belongs to graph='erdos_renyi', and that needs one"),
        (("ring", 0.5), "probability belongs to graph='erdos_renyi'"),
        (("erdos_renyi", 0.0), "along: probability must be a number > 0 and <= 1, not 0.0"),
        (("erdos_renyi", 1.5), "along: probability must be"),
        (("erdos_renyi", float("nan")), "along: probability must be"),
        (("erdos_renyi", True), "along: probability must be"),
    ],
)
def test_graphs_that_there_are_not(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        fb.along(*arguments)


@pytest.mark.parametrize("matching", [MATCHING, PAIR, *GRAPHS.values()], ids=repr)
def test_spelled_and_read(matching):
    assert fb.parse(repr(matching), fb.Matching) == matching


def test_pairs_of_the_callers_own():
    """In ascending order, as plain whole numbers. Kills: a pair that keeps its order."""
    chosen = [np.array([4, 1]), (2, 3)]
    pairs = as_matching(lambda k: chosen[k:]).pairs(0, 0, [4, 3, 2, 1, 0])
    assert pairs == [(1, 4), (2, 3)] and {type(c) for pair in pairs for c in pair} == {int}
    assert as_matching(lambda k: chosen[k:]).pairs(9, 1, range(5)) == [(2, 3)]
    assert as_matching(lambda k: ()).pairs(0, 0, range(5)) == []


@pytest.mark.parametrize(
    "chosen",
    [
        [(0, 1), (1, 2)],
        [(0, 1), (0, 1)],
        [(2, 2)],
        [(0, 5)],
        [(-1, 0)],
        [(0, 1, 2)],
        [(0, 1, 2), (3,)],
        [(0,)],
        [()],
        [(0.5, 1)],
        ["01"],
    ],
)
def test_pairs_that_are_none(chosen):
    """Kills: a client twice, an unknown one, a third one that is forgotten, half a client."""
    with pytest.raises(ValueError, match="round 3: a matching pairs different clients that are"):
        as_matching(lambda k: chosen).pairs(0, 3, range(5))


@pytest.mark.parametrize("value", ["ring", None, 3, fb.random_matching, fb.along, fb.exact()])
def test_what_is_no_matching(value):
    """Kills: a class in the place of its instance, which one can call too."""
    with pytest.raises(ValueError, match=r"matching must be like random_matching\(\), not"):
        as_matching(value)
