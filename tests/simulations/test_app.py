"""The Flower App's server over a Grid in this process, and nodes that are set up wrongly."""

import pytest
from flwr.app import Context, RecordDict
from safetensors.numpy import load_file

import strategies.roster
from simulations import InlineGrid, make_settings
from simulations.app import client_app, server_app
from simulations.cell import run_cell

VALUES = {
    "task": "least-squares",
    "dim": 8,
    "clients": 2,
    "rounds": 2,
    "compressor": "top_k(fraction=0.25)",
    "feedback": "error_feedback()",
    "patience": 3.0,
}


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """Run the app on nodes with these configurations, whose silence is taken for final at once."""
    monkeypatch.setattr(strategies.roster, "_QUIET", 0.0)
    monkeypatch.setattr(strategies.roster, "_LISTED", 0.0)

    def run(*nodes, **changes):
        config = VALUES | {"runs": str(tmp_path), "name": "served"} | changes
        grid = InlineGrid(client_app, len(nodes), lambda i: nodes[i], run_config=config)
        server_app(grid, Context(1, 0, {}, RecordDict(), config))
        return tmp_path / "served"

    return run


@pytest.fixture
def warned(caplog):
    """What was logged as a warning so far."""
    caplog.set_level("WARNING", "flwr")
    return lambda: [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]


def node(partition, partitions=2):
    return {"partition-id": partition, "num-partitions": partitions}


def test_the_apps_run_is_that_of_the_command_line(serve, tmp_path, warned):
    """In whatever order the nodes are. Kills: a run config that means something else."""
    folder = serve(node(1), node(0))
    run_cell(make_settings(VALUES), tmp_path / "inline")
    served, inline = (
        load_file(path / "model.safetensors") for path in (folder, tmp_path / "inline")
    )
    assert served["point"].tobytes() == inline["point"].tobytes() and warned() == []
    assert (folder / "report.html").exists()


def test_the_federation_says_how_large_it_is(serve, warned):
    """Kills: waiting for clients that the federation has not; a size that nobody is told of."""
    serve(node(0), node(1), clients=10)
    assert warned() == [
        "the federation has 2 nodes, so clients = 2, not 10; for more in a simulation: "
        "--federation-config 'num-supernodes=10'"
    ]


def test_more_replies_needed_than_the_federation_can_give(serve):
    """Kills: settings that are checked against another size than the run has."""
    with pytest.raises(ValueError, match="minimum_replies = 3: must be at most the number of cli"):
        serve(node(0), node(1), clients=10, minimum_replies=3)


START = 'start the SuperNode with --node-config "partition-id=0 num-partitions=2"'
WRONG = "1 of 2 clients came within 0 s; start more nodes, or ask for fewer clients (1 came and "
WRONG += "cannot take part, node 2: "


@pytest.mark.parametrize(
    ("nodes", "sentence"),
    [
        (({}, {}), f"node 1 cannot take part: node config has no partition-id: {START}"),
        ((node(0), {}), f"{WRONG}node config has no partition-id: {START})"),
        (
            (node(0), {"partition-id": 1}),
            f"{WRONG}node config has no num-partitions: {START})",
        ),
        (
            (node(0), node(0)),
            f"{WRONG}client 0 is already there as node 1; it takes over when that one is gone, or "
            "give each node a partition-id of its own)",
        ),
        (
            (node(0), node(1, 3)),
            f"{WRONG}client 1 has num-partitions = 3, this run 2: give every node the same "
            "num-partitions)",
        ),
        (
            (node(0), node(2)),
            f"{WRONG}node config: partition-id must be less than num-partitions = 2, not 2)",
        ),
        (
            (node(0), node("abc")),
            f"{WRONG}node config: partition-id must be a whole number >= 0, not 'abc')",
        ),
    ],
)
def test_nodes_that_are_set_up_wrongly(nodes, sentence, serve, tmp_path):
    """One sentence that says what to do, at once. Kills: a run on a part of the data, on the same
    data twice, or one that waits for nodes that are there already.
    """
    with pytest.raises((ValueError, TimeoutError)) as caught:
        serve(*nodes)
    assert str(caught.value) == sentence and "\n" not in sentence
    assert not (tmp_path / "served" / "model.safetensors").exists()
