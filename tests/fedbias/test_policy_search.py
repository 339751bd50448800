"""A policy gradient that is solved for, and the same one from trajectories that are cut short."""

import numpy as np
import pytest

import fedbias as fb
from fedbias.algorithm import Algorithm
from fedbias.client import respond
from fedbias.ledger import Ledger
from fedbias.problems import DecisionProcess, PolicySearch, Rollouts
from fedbias.server import plan_for
from fedbias.state import ServerState

# One state, rewards 1 and 0, γ = ½: at θ = 0 everything is dyadic.
COIN = DecisionProcess(np.ones((1, 2, 1)), np.array([[1.0, 0.0]]), np.ones(1), 0.5)


def random_process(seed, states=3, actions=2, discount=0.8):
    rng = np.random.default_rng(seed)
    return DecisionProcess(
        rng.dirichlet(np.ones(states), (states, actions)),
        rng.standard_normal((states, actions)),
        rng.dirichlet(np.ones(states)),
        discount,
    )


def hessian(process, point, width=1e-5):
    columns = [
        process.gradient(point + width * unit) - process.gradient(point - width * unit)
        for unit in np.eye(point.size)
    ]
    return np.stack(columns) / (2 * width)


def test_one_state_by_hand():
    """V = 1, Q = (3/2, 1/2), two expected visits. Kills: a missing discount, visit or step."""
    zero = np.zeros(2)
    np.testing.assert_allclose(COIN.policy(np.log([3.0, 1.0])), [[0.75, 0.25]], rtol=1e-15)
    assert COIN.value(zero) == 1 and COIN.gradient(zero).tolist() == [0.5, -0.5]
    # V_2 = 3/4; t = 0: 1/2·(5/4 − 3/4), t = 1: 1/2·1/2·(1 − 1/2)
    assert COIN.value(zero, 2) == 0.75 and COIN.gradient(zero, 2).tolist() == [0.375, -0.375]
    assert COIN.value(zero, 0) == 0 and COIN.gradient(zero, 0).tolist() == [0, 0]
    assert COIN.lipschitz == 4


def test_two_states_by_hand():
    """From s_0 action 0 stays for nothing, action 1 moves to s_1, which pays 1 for ever; γ = ½.

    V(s_1) = 2, V(s_0) = π(1)/(1 − π(0)/2) = 2/3 at π = ½. Kills: transposed transitions.
    """
    moves = np.zeros((2, 2, 2))
    moves[0, 0, 0] = moves[0, 1, 1] = moves[1, :, 1] = 1
    process = DecisionProcess(moves, np.array([[0.0, 0], [1, 1]]), np.array([1.0, 0]), 0.5)
    assert process.value(np.zeros(4)) == pytest.approx(2 / 3, rel=1e-15)
    # 4/3 visits of s_0, Q = (1/3, 1), V = 2/3: 4/3·1/2·1/3
    np.testing.assert_allclose(process.gradient(np.zeros(4)), [-2 / 9, 2 / 9, 0, 0], atol=1e-15)
    assert process.value(np.zeros(4), 2) == pytest.approx(0.25)  # there at t = 1, half the time


@pytest.mark.parametrize("horizon", [None, 1, 2, 7])
@pytest.mark.parametrize("actions", [2, 3])
def test_the_gradient_against_central_differences(horizon, actions):
    """Error O(h²). Kills: visits that are not discounted, advantages of another step."""
    process, rng, h = random_process(0, 4, actions), np.random.default_rng(1), 1e-5
    for _ in range(3):
        x, v = rng.standard_normal((2, 4 * actions))
        slope = process.value(x + h * v, horizon) - process.value(x - h * v, horizon)
        assert process.gradient(x, horizon) @ v == pytest.approx(slope / (2 * h), abs=1e-8)


@pytest.mark.parametrize("discount", [0.5, 0.9])
def test_truncation_falls_geometrically_and_stays_below_its_bound(discount):
    """Ratio γ from one horizon to the next, to 6 %; below the bound at every point.

    Kills: a truncated gradient that does not tend to the whole one, a bound with another rate.
    """
    rng = np.random.default_rng(0)
    for seed in range(5):
        process = random_process(seed, discount=discount)
        for x in rng.standard_normal((4, 6)) * [[0], [1], [3], [10]]:
            whole = process.gradient(x)
            cut = [np.linalg.norm(process.gradient(x, h) - whole) for h in range(31)]
            assert all(c <= process.truncation_bound(h) for h, c in enumerate(cut))
            assert (cut[30] / cut[20]) ** 0.1 == pytest.approx(discount, rel=0.06)


def test_the_truncation_bound_is_attained():
    """γ = 0 and H = 0 cut off all of a single choice, ‖∇J‖ = R/(2√2). Kills: a larger constant."""
    once = DecisionProcess(np.ones((1, 2, 1)), np.array([[5.0, 2.0]]), np.ones(1), 0.0)
    lost = np.linalg.norm(once.gradient(np.zeros(2)))
    assert lost == pytest.approx(once.truncation_bound(0), rel=1e-14) == 3 / np.sqrt(8)
    # R = 1, γ = ½, H = 4: 1/16 · 1/√2 · (2 + 2)
    assert COIN.truncation_bound(4) == pytest.approx(1 / (4 * np.sqrt(2)), rel=1e-14)


@pytest.mark.parametrize("discount", [0.0, 0.5, 0.9])
def test_the_smoothness_is_an_upper_bound(discount):
    """Below R/(2(1−γ)³) at every point; for a single choice it is within a factor 4."""
    rng = np.random.default_rng(0)
    processes = [random_process(seed, discount=discount) for seed in range(4)]
    processes += [DecisionProcess(np.ones((1, 2, 1)), np.array([[3.0, 0]]), np.ones(1), discount)]
    ratios = [
        np.abs(np.linalg.eigvalsh(hessian(process, scale * rng.standard_normal(size)))).max()
        / process.lipschitz
        for process, size in zip(processes, [6, 6, 6, 6, 2], strict=True)
        for scale in (0, 0.5, 1, 1, 1, 2, 3)
    ]
    assert max(ratios) <= 1
    assert discount > 0 or max(ratios) > 1 / 4
    assert processes[-1].lipschitz == 3 / (2 * (1 - discount) ** 3)


def test_two_steps_of_a_trajectory_by_hand():
    """−Σ_t (e_a − ½)·Σ_{u≥t} γ^u·r_u of the actions 00, 01, 10, 11 is −1, −½, 0, 0 for action 0.

    Each seen as often as it should be (5 sigma of 2000 draws). Kills: undiscounted rewards, the
    rewards before a choice, a score without its mean, a draw that serves twice.
    """
    rollouts = Rollouts(COIN, horizon=2, size=2000)
    values = [rollouts.gradient(np.zeros(2), np.array([i])) for i in range(2000)]
    assert all(value[0] == -value[1] for value in values)
    seen = np.array([value[0] for value in values])
    for value, chance in ((-1.0, 0.25), (-0.5, 0.25), (0.0, 0.5)):
        count = np.sum(seen == value)
        assert abs(count - 2000 * chance) < 5 * np.sqrt(2000 * chance * (1 - chance))


def test_reinforce_is_unbiased_for_the_truncated_return_alone():
    """Over 8·10⁴ trajectories every entry is within 5 standard errors of ∇J_4 (false alarm < 10⁻⁵),
    and more than 20 away from ∇J. Kills: a wrong start, transition, policy, sign or ridge."""
    process, x = random_process(3), np.random.default_rng(0).standard_normal(6)
    rollouts, draws = Rollouts(process, 4, 400, ridge=0.3), []
    for round in range(200):
        rollouts.draw_key = (1, round, 2)
        draws.append(rollouts.gradient(x))
    mean, error = np.mean(draws, axis=0), np.std(draws, axis=0) / np.sqrt(200)
    off = np.abs(mean - 0.3 * x + process.gradient(x, 4)) / error
    assert off.max() < 5
    assert np.abs(mean - 0.3 * x + process.gradient(x)).max() > 20 * error.max()


def test_a_batch_is_a_choice_of_trajectories():
    """Kills: a batch that draws other trajectories, a mean over all of them."""
    rollouts, x = Rollouts(random_process(0), 3, 4, ridge=0.1), np.ones(6)
    each = [rollouts.gradient(x, np.array([i])) for i in range(4)]
    assert len({one.tobytes() for one in each}) > 1
    np.testing.assert_allclose(np.mean(each, axis=0), rollouts.gradient(x), rtol=1e-13)
    np.testing.assert_allclose(
        rollouts.gradient(x, np.array([1, 1, 3])), (2 * each[1] + each[3]) / 3, rtol=1e-13
    )
    assert rollouts.loss(x) == rollouts.loss(x, np.array([1])) and (rollouts.dim == 6)


def test_draws_follow_from_whose_turn_it_is():
    """A repeated plan has the same bytes; rounds, clients and seeds draw differently.

    Kills: a key that is not used, or is used in part."""
    rollouts = Rollouts(COIN, 3, 50)

    def answer(client, round, seed):
        plan = plan_for(Algorithm(fb.adam(), seed=seed), ServerState(np.ones(2), round), client)
        return bytes(respond(rollouts, plan, Ledger())[0].packet)

    turns = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    answers = [answer(*turn) for turn in turns]
    assert len(set(answers)) == 4 and [answer(*turn) for turn in turns] == answers


def test_the_mean_of_the_clients_is_the_process_with_the_mean_rewards():
    """f, ∇f, the bias and its bound. Kills: a forgotten ridge, a bias of the other sign."""
    problem = PolicySearch.chain(3, 0.8, 2, 5, 0, ridge=0.2, clients=3)
    rng, h = np.random.default_rng(0), 1e-5
    for x in rng.standard_normal((5, 6)):
        assert problem.loss(x) == pytest.approx(np.mean([f.loss(x) for f in problem.objectives]))
        exact = [0.2 * x - f.process.gradient(x) for f in problem.objectives]
        np.testing.assert_allclose(problem.gradient(x), np.mean(exact, axis=0), atol=1e-14)
        cut = [0.2 * x - f.process.gradient(x, 2) for f in problem.objectives]
        bias = np.mean(cut, axis=0) - np.mean(exact, axis=0)
        np.testing.assert_allclose(problem.bias(x), bias, atol=1e-14)
        assert 0 < np.linalg.norm(bias) <= problem.bias_bound
        v = rng.standard_normal(6)
        slope = (problem.loss(x + h * v) - problem.loss(x - h * v)) / (2 * h)
        assert problem.gradient(x) @ v == pytest.approx(slope, abs=1e-8)
    assert problem.lipschitz == problem.process.lipschitz + 0.2
    assert problem.bias_bound == problem.process.truncation_bound(2)
    assert problem.strong_convexity is None and problem.minimizer is None
    rewards = {f.process.rewards.tobytes() for f in problem.objectives}
    assert len(rewards) == 3


def test_a_short_horizon_prefers_the_near_reward():
    """Where all states lean to the right, the first one is told to stay by ∇J_2, to go by ∇J."""
    problem, lean = PolicySearch.chain(5, 0.9, 2, 5, 0), np.tile([0.0, 2.0], 5)
    near, far = problem.process.gradient(lean, 2), problem.process.gradient(lean)
    assert near[0] > near[1] and far[1] > far[0]
    chances = problem.objectives[0].process.transitions
    np.testing.assert_allclose(chances[0], [[1.0, 0, 0, 0, 0], [0.1, 0.9, 0, 0, 0]])


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: random_process(0, discount=1.0), "discount must be a number >= 0 and < 1, not 1"),
        (
            lambda: DecisionProcess(np.ones((1, 2, 2)), np.ones((1, 2)), np.ones(1), 0.5),
            "transitions and initial must have the shapes (1, 2) + (S,) and (S,)",
        ),
        (
            lambda: DecisionProcess(np.ones((1, 2, 1)) / 2, np.ones((1, 2)), np.ones(1), 0.5),
            "transitions must be probabilities that sum to 1",
        ),
        (
            lambda: DecisionProcess(
                np.full((2, 1, 2), 0.5), np.ones((2, 1)), np.array([2.0, -1]), 0.5
            ),
            "initial must be probabilities that sum to 1",
        ),
        (lambda: PolicySearch.chain(1, 0.5, 1, 1, 0), "states must be a whole number >= 2, not 1"),
        (lambda: PolicySearch.chain(2, 0.5, 0, 1, 0), "horizon must be a whole number >= 1, not 0"),
        (lambda: PolicySearch.chain(2, 0.5, 1, 0, 0), "trajectories must be a whole number >= 1"),
        (lambda: PolicySearch.chain(2, 0.5, 1, 1, 0, clients=0), "clients must be a whole number"),
        (lambda: PolicySearch.chain(2, 0.5, 1, 1, 0, ridge=-1), "ridge must be a number >= 0"),
    ],
)
def test_bad_input(make, sentence):
    with pytest.raises(ValueError) as caught:
        make()
    assert sentence in str(caught.value)
