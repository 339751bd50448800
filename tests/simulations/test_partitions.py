import numpy as np
import pytest

from fedbias.notation import names, parse
from simulations.data import Partition, contiguous, dirichlet, iid, natural

LABELS = np.repeat(np.arange(4), 25)  # 100 examples, sorted by class
KEYS = np.array(["c", "a", "b", "a", "b", "a"] + ["d"] * 94)


def rng(seed=0):
    return np.random.default_rng(seed)


def lists(parts):
    return [part.tolist() for part in parts]


class Scripted:
    """Stands for a generator: shuffles nothing, and deals in the given shares."""

    def __init__(self, *shares):
        self.shares = iter(shares)

    def permutation(self, values):
        return values

    def dirichlet(self, alpha):
        share = next(self.shares)
        assert len(share) == len(alpha)
        return np.array(share)


# what holds for all


def test_names_and_spelling():
    assert names(Partition) == ["contiguous", "dirichlet", "iid", "natural"]
    assert parse("dirichlet(alpha=0.3)", Partition) == dirichlet(alpha=0.3)
    assert repr(dirichlet(alpha=0.3)) == "dirichlet(alpha=0.3)"
    assert parse("iid", Partition) == iid()


@pytest.mark.parametrize(
    "partition",
    [contiguous(), iid(), dirichlet(1e-3), dirichlet(0.3), dirichlet(1e6), natural()],
    ids=repr,
)
@pytest.mark.parametrize("clients", [1, 3, 4])
def test_every_example_has_at_most_one_client(partition, clients):
    parts = partition.split(LABELS, clients, rng(), KEYS)
    assert len(parts) == clients
    assert all(part.dtype == np.int64 and len(part) > 0 for part in parts)
    assert all(np.all(np.diff(part) > 0) for part in parts)
    dealt = np.concatenate(parts)
    assert len(np.unique(dealt)) == len(dealt)
    if not isinstance(partition, natural) or clients == 4:
        assert np.array_equal(np.sort(dealt), np.arange(100))
    again = partition.split(LABELS, clients, rng(), KEYS)
    assert lists(again) == lists(parts)


@pytest.mark.parametrize("partition", [contiguous(), iid(), dirichlet(0.01)], ids=repr)
def test_as_many_clients_as_examples(partition):
    parts = partition.split(LABELS, 100, rng())
    assert sorted(map(int, np.concatenate(parts))) == list(range(100))
    assert [len(part) for part in parts] == [1] * 100


@pytest.mark.parametrize("partition", [contiguous(), iid(), dirichlet(1.0), natural()], ids=repr)
def test_refusals(partition):
    with pytest.raises(ValueError, match="101 clients cannot share 100 examples"):
        partition.split(LABELS, 101, rng(), KEYS)
    with pytest.raises(ValueError, match="clients must be a whole number >= 1, not 0"):
        partition.split(LABELS, 0, rng(), KEYS)
    with pytest.raises(ValueError, match="100 examples need as many keys, not 3"):
        partition.split(LABELS, 2, rng(), KEYS[:3])


# contiguous and iid


def test_contiguous_by_hand():
    parts = contiguous().split(np.zeros(7), 3, rng())
    assert lists(parts) == [[0, 1, 2], [3, 4], [5, 6]]


def test_iid_is_a_shuffled_contiguous():
    parts = iid().split(np.zeros(7), 3, rng(5))
    order = rng(5).permutation(7)
    assert lists(parts) == [sorted(order[:3]), sorted(order[3:5]), sorted(order[5:])]
    assert lists(parts) != lists(iid().split(np.zeros(7), 3, rng(6)))


# dirichlet


def test_dirichlet_by_hand():
    labels = np.array([0, 1, 0, 1, 0, 1, 0, 1])
    # Class 0 is 0, 2, 4, 6, cut at 2 and 3; class 1 is 1, 3, 5, 7, cut at 1 and 1.
    shares = Scripted([0.5, 0.25, 0.25], [0.25, 0.0, 0.75])
    parts = dirichlet(alpha=1.0).split(labels, 3, shares)
    assert lists(parts) == [[0, 1, 2], [4], [3, 5, 6, 7]]


def test_dirichlet_leaves_no_hand_empty():
    # All six go to the last client; the first two take one each, from the end of its hand.
    parts = dirichlet(alpha=1.0).split(np.zeros(6), 3, Scripted([0.0, 0.0, 1.0]))
    assert lists(parts) == [[5], [4], [0, 1, 2, 3]]
    # Equal hands: the first one gives.
    parts = dirichlet(alpha=1.0).split(np.zeros(4), 3, Scripted([0.5, 0.0, 0.5]))
    assert lists(parts) == [[0], [1], [2, 3]]


def largest_shares(alpha):
    """For each of 4 classes, the largest share of it that one of 8 clients holds."""
    labels = np.repeat(np.arange(4), 500)
    parts = dirichlet(alpha).split(labels, 8, rng())
    return np.max([np.bincount(labels[part], minlength=4) / 500 for part in parts], axis=0)


def test_alpha_goes_from_one_holder_per_class_to_equal_shares():
    assert np.all(largest_shares(1e-6) >= 1 - 7 / 500)  # at most seven were given away
    assert np.all((largest_shares(1.0) > 0.2) & (largest_shares(1.0) < 0.9))
    assert np.all(np.abs(largest_shares(1e6) - 1 / 8) < 0.005)


@pytest.mark.parametrize("alpha", [0, -1.0, 2e6, float("inf"), float("nan"), "much", True])
def test_alpha_is_checked(alpha):
    with pytest.raises(ValueError, match="dirichlet: alpha must be a number > 0 and <= 1e"):
        dirichlet(alpha=alpha)


# natural


def test_natural_takes_the_largest_keys_first():
    keys = np.array(["b", "c", "a", "c", "a", "c", "d"])
    # c has three, a two, b and d one: the tie goes to b.
    assert lists(natural().split(np.zeros(7), 3, rng(), keys)) == [[1, 3, 5], [2, 4], [0]]
    assert lists(natural().split(np.zeros(7), 4, rng(), keys))[3] == [6]


def test_natural_needs_keys_and_enough_of_them():
    with pytest.raises(ValueError, match="needs a key for each example"):
        natural().split(LABELS, 2, rng())
    with pytest.raises(ValueError, match="4 keys, too few for 5 clients"):
        natural().split(LABELS, 5, rng(), KEYS)
