"""A decentralized run may be interrupted after any round: what goes on is the same run."""

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import fedbias as fb
from fedbias.gossip import GossipState
from fedbias.state import ServerState
from simulations import InlineGrid, LossyGrid
from simulations.engines.inline import export_states, import_states
from strategies import Checkpoint, FedBias, Gossip, load_checkpoint, save_checkpoint
from tests.strategies.test_gossip import HYBRID, OBJECTIVES, ROUNDS, SETTINGS, START, is_lost
from tests.tools.exactly_once import bits
from tests.tools.federation import Coming, app_of, named
from tests.tools.gossip_runs import gossip, memories

ODD = np.array([0.1, -0.0, 5e-324, 1e300])
FULL = Checkpoint(
    GossipState(
        entry=ODD,
        round=7,
        acknowledged={0: 6, 12: 2, 3: -1},
        relays={0: fb.top_k(0.5).encode(ODD), 12: fb.identity().encode(-ODD)},
        memories={0: ODD * 3, 12: -ODD},
        enrolled={0: 5, 12: 2**40, 3: 1, 4: 2, 2: 2},
        samples=2**70,
        starts=dict.fromkeys((4, 2), ODD / 7) | {5: ODD / 3},
    ),
    total_uplink_bytes=2**40,
    seconds=0.1 + 0.2,
    clients={"1/fedbias.memory/a": ODD * 2},
    meta={"1/fedbias.ledger": {"applied": 3, "lost": False}, "1/fedbias.memory": ["a"]},
    stopped="uplink_bytes 7 reached 6",
)
BARE = Checkpoint(GossipState(np.float32([1, 2]) / 3))


def plain(state):
    """A state in values that compare bit for bit."""
    return {
        "entry": bits({"entry": state.entry}),
        "relays": {client: bytes(packet) for client, packet in state.relays.items()},
        "memories": bits(state.memories),
        "starts": bits(state.starts),
        "counted": (state.round, state.samples, state.acknowledged, state.enrolled),
    }


@pytest.mark.parametrize("whole", [FULL, BARE], ids=["full", "bare"])
def test_there_and_back(whole, tmp_path):
    """Kills: a field left out, a dtype or a sign of zero that changes, keys that become text."""
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, whole)
    found = load_checkpoint(path)
    assert plain(found.state) == plain(whole.state)
    for kept in ("acknowledged", "relays", "memories", "enrolled", "starts"):
        assert all(type(client) is int for client in getattr(found.state, kept))
    assert bits(found.clients) == bits(whole.clients)
    assert replace(found, state=None, clients={}) == replace(whole, state=None, clients={})


def test_starts_that_are_one_vector_are_stored_once(tmp_path):
    """Of 300 clients that wait, each with a start of 8 kB. Kills: a file of n·d."""
    path, start = tmp_path / "checkpoint.safetensors", np.ones(1000)
    state = GossipState(start * 2, enrolled=dict.fromkeys(range(300), 1))
    state = replace(state, starts=dict.fromkeys(range(300), start))
    save_checkpoint(path, Checkpoint(state))
    assert path.stat().st_size < 30_000
    assert bits(load_checkpoint(path).state.starts) == bits(state.starts)


def test_a_relay_that_is_no_packet(tmp_path):
    """Kills: an error of the packet's that reaches the user without the file's name."""
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, FULL)
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    broken = load_file(path)
    broken["relays/0"] = broken["relays/0"][:-3]
    save_file(broken, path, metadata=metadata)
    with pytest.raises(ValueError, match="checkpoint.safetensors is not a fedbias checkpoint: "):
        load_checkpoint(path)
    assert json.loads(metadata["fedbias"])["round"] == 7


def test_each_form_goes_on_from_its_own_state():
    """Kills: a model taken for an entry, an AttributeError in the first round."""
    grid = InlineGrid(app_of(OBJECTIVES), 5)
    star, entered = Checkpoint(ServerState(START)), Checkpoint(GossipState(START))
    with pytest.raises(ValueError, match="holds a ServerState, and .* goes on from a GossipState"):
        Gossip(fb.exact()).start(grid, named(START), 3, resume=star)
    with pytest.raises(ValueError, match="holds a GossipState, and .* goes on from a ServerState"):
        FedBias(fb.gradient_descent(1.0)).start(grid, named(START), 3, resume=entered)


# Interrupted and resumed --------------------------------------------------------------------------


class Interrupted(Exception):
    """The process ends."""


class Run:
    """One process's life: a grid with its clients' contexts, and what they remember.

    ``absent`` says who is away after which round.
    """

    def __init__(self, name, every=1, clients=5, absent=None):
        self.objectives = HYBRID if name == "hybrid" else OBJECTIVES
        self.inline, self.absent = Coming(app_of(self.objectives), 5), absent or {}
        strategy = {"minimum_clients": clients, "evaluate_every": every, "seed": 11}
        self.strategy = Gossip(**SETTINGS[name], **strategy)

    def go(self, resume=None, then=lambda record, checkpoint: None):
        def watch(record, checkpoint):
            self.inline.away = self.absent.get(record.round, set())
            then(record, checkpoint)

        grid = LossyGrid(self.inline, is_lost)
        some = (self.strategy, grid, START, ROUNDS, self.objectives, watch)
        self.run = gossip(*some, resume=resume)
        return self

    def until(self, after, path):
        """Run until the process ends, right after the checkpoint of a round."""

        def interrupt(record, checkpoint):
            if record.round == after:
                arrays, values = export_states(self.inline.contexts)
                save_checkpoint(path, replace(checkpoint, clients=arrays, meta=values))
                raise Interrupted

        with pytest.raises(Interrupted):
            self.go(then=interrupt)

    def resumed(self, path):
        found = load_checkpoint(path)
        import_states(self.inline.contexts, found.clients, found.meta)
        self.inline.away = self.absent.get(found.state.round, set())
        return self.go(found)


def equal(resumed, whole, after):
    """All that is left is the same."""
    records = [record.to_dict() | {"seconds": 0} for record in resumed.run.records]
    assert records == [r.to_dict() | {"seconds": 0} for r in whole.run.records[after + 1 :]]
    assert plain(resumed.run.state) == plain(whole.run.state)
    contexts = resumed.inline.contexts
    assert memories(resumed.strategy, contexts) == memories(whole.strategy, whole.inline.contexts)
    for k, mean in resumed.run.means.items():
        assert k > after and mean.tobytes() == whole.run.means[k].tobytes()
    one, other = (each.run.result.arrays["w"].numpy() for each in (resumed, whole))
    assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("name", ["one pair", "ef21", "hybrid", "dithered, with a decay"])
@pytest.mark.parametrize(("after", "every"), [(0, 1), (1, 3), (4, 1), (5, 3), (7, 2)])
def test_interrupted_and_resumed_is_uninterrupted(name, after, every, tmp_path):
    """With lost replies: records, models, relays, v_m, starts, and all that clients remember.

    Kills: anything of the state that is not in the checkpoint.
    """
    whole, path = Run(name, every).go(), tmp_path / "checkpoint.safetensors"
    Run(name, every).until(after, path)
    equal(Run(name, every).resumed(path), whole, after)


def test_who_is_away_is_not_forgotten(tmp_path):
    """Client 3 is away in rounds 3 to 6, and the process ends after round 4. Kills: a matching
    among those that are there when the run goes on.
    """
    away, path = dict.fromkeys(range(2, 6), {3}), tmp_path / "checkpoint.safetensors"
    whole = Run("ef21", clients=4, absent=away).go()
    Run("ef21", clients=4, absent=away).until(4, path)
    equal(Run("ef21", clients=4, absent=away).resumed(path), whole, 4)
    assert [record.models for record in whole.run.records] == [5, 5, 5, 4, 4, 4, 4, 5, 5]


def test_without_the_clients_memories_they_begin_again(tmp_path, warned):
    """Elsewhere than in one process they are gone. Kills: a silent difference, a run that ends."""
    path = tmp_path / "checkpoint.safetensors"
    Run("plain, an odd number").until(4, path)
    found = load_checkpoint(path)
    records = Run("plain, an odd number").go(found).run.records
    assert records[0].forgotten == records[0].refused == len(found.state.acknowledged) > 2
    assert [record.forgotten for record in records[1:]] == [0, 0, 0]
    assert records[-1].models == 5 and records[-1].applied > 2
    assert sum("starts again" in line for line in warned()) == records[0].forgotten


def test_resuming_a_finished_run_changes_nothing():
    """Kills: a round too many, a result that is an earlier mean."""
    first = Run("plain, an odd number", every=3).go()
    again = Run("plain, an odd number", every=3).go(first.run.checkpoints[-1])
    assert again.run.records == [] and again.run.means == {}
    one, other = (each.run.result.arrays["w"].numpy() for each in (again, first))
    assert one.tobytes() == other.tobytes()
