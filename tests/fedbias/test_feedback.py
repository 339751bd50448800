"""Error feedback: what is dropped comes late, not never."""

import numpy as np
import pytest

import fedbias as fb
from fedbias.problems import Squares
from fedbias.turn import Turn

COMPRESSORS = [
    fb.identity(),
    fb.half(),
    fb.sign(),
    fb.uniform(2),
    fb.dithered(2),
    fb.top_k(0.1),
    fb.random_k(0.5),
]


def send(feedback, compressor, vectors, dtype=np.float64):
    """What arrives for a row of vectors, and the memory after each."""
    memory, sent, memories = {}, [], []
    for round, vector in enumerate(vectors):
        vector = np.array(vector, dtype)
        vector.flags.writeable = False
        turn = Turn(7, round, 0, None, dict(memory))
        packet = feedback.encode(vector, compressor, turn)
        again = feedback.encode(vector, compressor, Turn(7, round, 0, None, dict(memory)))
        assert bytes(again) == bytes(packet)
        memory = turn.memory
        for array in memory.values():
            array.flags.writeable = False  # arrays are replaced, never written into
        sent.append(fb.decode(packet))
        memories.append(memory)
    return np.array(sent), memories


def test_by_hand():
    """Top 1 of 2: (2, 1) → (2, 0), e = (0, 1); (1, ½) + e → (0, 1.5), e = (1, 0).

    Kills: an error that is dropped, has the wrong sign, or is not added.
    """
    sent, memories = send(fb.error_feedback(), fb.top_k(0.5), [[2, 1], [1, 0.5], [-3, 0]])
    np.testing.assert_array_equal(sent, [[2, 0], [0, 1.5], [-2, 0]])
    errors = [next(iter(memory.values())).tolist() for memory in memories]
    assert errors == [[0, 1], [1, 0], [0, 0]] and all(len(memory) == 1 for memory in memories)


@pytest.mark.parametrize("compressor", COMPRESSORS, ids=repr)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_all_that_was_sent_plus_the_error_is_all_there_was(compressor, dtype):
    """Σ decoded + e_K = Σ g up to rounding at every K. Kills: an error of the last vector only."""
    vectors = np.random.default_rng(0).standard_normal((60, 30)).astype(dtype)
    sent, memories = send(fb.error_feedback(), compressor, vectors, dtype)
    errors = np.array([next(iter(memory.values())) for memory in memories])
    assert sent.dtype == errors.dtype == dtype
    gap = sent.cumsum(axis=0, dtype=float) + errors - vectors.cumsum(axis=0, dtype=float)
    # e may grow where the compressor does not contract: rounding goes with its size
    assert np.abs(gap).max() < 100 * np.finfo(dtype).eps * (1 + np.abs(errors).max())
    assert (np.abs(errors).max() == 0) == (compressor == fb.identity())


def test_exactly_for_dyadic_numbers():
    """Sums of small whole numbers round nowhere: equality."""
    vectors = np.random.default_rng(1).integers(-9, 10, (200, 20))
    sent, memories = send(fb.error_feedback(), fb.top_k(0.1), vectors)
    np.testing.assert_array_equal(sent.sum(axis=0) + memories[-1]["feedback.error"], vectors.sum(0))


@pytest.mark.parametrize("compressor", [fb.top_k(0.1), fb.sign(), fb.uniform(4)], ids=repr)
def test_the_error_of_a_contractive_compressor_stays_bounded(compressor):
    """‖e‖ ≤ √(1−α)/(1−√(1−α))·max‖g‖, and it is not zero. Kills: an error added twice."""
    vectors = np.random.default_rng(0).standard_normal((2000, 10))
    _, memories = send(fb.error_feedback(), compressor, vectors)
    norms = np.array([np.linalg.norm(memory["feedback.error"]) for memory in memories])
    root = np.sqrt(1 - compressor.guarantee(10).contraction)
    most = root / (1 - root) * np.linalg.norm(vectors, axis=1).max()
    assert 0.02 * most < norms.max() <= most


@pytest.mark.parametrize("compressor", COMPRESSORS, ids=repr)
def test_no_feedback_remembers_nothing(compressor):
    """And sends C(g). Kills: a memory that costs a stateless client a vector."""
    vectors = np.random.default_rng(0).standard_normal((3, 8))
    sent, memories = send(fb.no_feedback(), compressor, vectors)
    assert memories == [{}, {}, {}]
    if not compressor.random:
        expected = [fb.decode(compressor.encode(vector)) for vector in vectors]
        np.testing.assert_array_equal(sent, expected)


def test_it_does_not_touch_what_others_remember():
    """Local momentum and the error live side by side. Kills: a memory that is replaced."""
    turn = Turn(0, 0, 0, None, {"other": np.ones(2)})
    fb.error_feedback().encode(np.ones(4), fb.top_k(0.5), turn)
    assert turn.memory.keys() == {"other", "feedback.error"}
    assert turn.memory["other"].tolist() == [1, 1]


def test_randomness_belongs_to_the_round_and_the_client():
    """Kills: one dither for all clients, or for all rounds."""
    vector = np.random.default_rng(0).standard_normal(50)
    turns = [Turn(0, 0, 0, None), Turn(0, 1, 0, None), Turn(0, 0, 1, None), Turn(1, 0, 0, None)]
    packets = {bytes(fb.no_feedback().encode(vector, fb.dithered(2), turn)) for turn in turns}
    assert len(packets) == 4


def test_where_top_k_stalls_error_feedback_does_not():
    """Two clients pull x₁ to ±20 and x₂ to 2. Top 1 of 2 always sends the first entry.

    Without feedback x₂ never moves, whatever the number of rounds. With it x comes as near to the
    optimum (0, 2) as step size times error, hence about ten times nearer with a tenth of the step.
    """
    targets = np.array([[20.0, 2.0], [-20.0, 2.0]])
    clients = [Squares(np.eye(2), target) for target in targets]

    def late_points(feedback, step, rounds):
        optimizer = fb.gradient_descent(step)
        history = fb.run(
            clients, optimizer, np.zeros(2), rounds, compressor=fb.top_k(0.5), feedback=feedback
        )
        return history.points[-rounds // 3 :]

    def distance(step, rounds):
        return np.abs(late_points(fb.error_feedback(), step, rounds) - [0, 2]).max()

    assert (late_points(fb.no_feedback(), 0.1, 300)[:, 1] == 0).all()
    near, nearer = distance(0.1, 300), distance(0.01, 2400)
    assert near < 2 and nearer < 0.2 and 5 < near / nearer < 20
