"""README tells what the project's own commands made."""

import json
import re
from dataclasses import MISSING, fields
from pathlib import Path

import numpy as np
import pytest

import fedbias as fb
from fedbias.notation import names

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["compare-digits", "parallel-momentum", "compare-sharpness"])
def test_the_tables_are_the_committed_results(name):
    """Kills: a number in README that no command made."""
    made = (ROOT / f"simulations/results/{name}.md").read_text(encoding="utf-8")
    assert made.split("\n\n")[0] in README


def test_every_committed_packet_has_its_length():
    """100 clients, 200 rounds, Top-2 % of the FCNN. Kills: a reply that did not count."""
    path = ROOT / "simulations/results/parallel-momentum.json"
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    codecs = {"none": fb.identity(), "top2": fb.top_k(0.02), "top10": fb.top_k(0.1)}
    for name, cell in cells.items():
        codec = codecs.get(name.split("-")[0], fb.identity())
        packet = codec.wire_bytes(669_706)
        assert (cell["uplink_bytes"], cell["applied"]) == (200 * 100 * packet, 20_000), name


def test_the_committed_result_has_every_reply():
    """Ten clients, 200 rounds, no reply missing, and each packet of its predicted size.

    Kills: a client that is refused in every round behind a mean over seeds.
    """
    rows = json.loads((ROOT / "simulations/results/compare-digits.json").read_text())["rows"]
    compressors = {
        "FedAvg": fb.identity(),
        "uniform 2 bit": fb.uniform(bits=2),
        "sign 1 bit": fb.sign(),
    }
    for row in rows:
        packet = compressors.get(row["name"], fb.top_k(fraction=0.02)).wire_bytes(2410)
        assert (row["uplink_bytes"], row["missing"]) == (200 * 10 * packet, 0), row["name"]


def test_links_to_files_that_are_there():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert links and [link for link in links if not (ROOT / link).exists()] == []


def test_the_readable_example_runs(capsys):
    """The block under «The mathematics alone», as it stands."""
    block = README.split("## The mathematics alone")[1].split("```python\n")[1].split("```")[0]
    exec(compile(block, "README.md", "exec"), {})
    gap, sent = capsys.readouterr().out.split()[:2]
    assert 0 <= float(gap) < 1e-4 and float(sent) > 0


def _constant(size):
    """Rounds and gap of README's example with constant batches, for as many samples."""
    problem = fb.Logistic.random(dim=20, examples=2000, seed=0, clients=10)
    history = fb.run(
        problem.objectives,
        fb.adagrad_norm(step_size=1.0),
        np.zeros(20),
        rounds=5000,
        estimator=fb.minibatch(),
        batch_size=size,
        stop=fb.until(samples=60_000),
    )
    return len(history.batch_sizes), history.losses[-1] - problem.minimum


def test_the_example_of_adaptive_batches_runs(capsys):
    """With the numbers beside it. Kills: a rule that is renamed, or rounds that nobody measured."""
    section = README.split("<!-- adaptive batches -->")[1]
    blocks = [part.split("```")[0] for part in section.split("```python\n")[1:3]]
    exec(compile(blocks[0], "README.md", "exec"), {})
    found = re.fullmatch(
        r"(\d+) rounds, batches of 2 to 200, (\S+) above the minimum\n", capsys.readouterr().out
    )
    assert found and 0 <= float(found[2]) < 1e-3
    (small, far), (large, near) = _constant(2), _constant(200)
    assert (
        f"These are {found[1]} rounds, against {small} with batches of two, which end at "
        f"{far:.1e}, and {large} with batches of 200, which end at {near:.1e}"
    ) in section.replace("\n", " ")
    known = {}
    exec(compile(blocks[1].replace("fedbias.strategies", "strategies"), "README.md", "exec"), known)
    algorithm = known["strategy"].algorithm
    assert algorithm.optimizer == fb.adagrad_norm(1.0) and algorithm.batching == known["rule"]
    assert algorithm.estimator == fb.minibatch()


def test_the_tables_name_everything_of_their_kind():
    """Kills: one that is renamed, or that README does not know."""
    rows = set(re.findall(r"^\| `fb\.(\w+)\(", README, flags=re.MULTILINE))
    forward_only = {"two_point", "forward_gradient"}
    kinds = (fb.Compressor, fb.Feedback, fb.BatchSize, fb.Matching)
    assert rows == forward_only.union(*map(names, kinds))


def test_the_rules_in_the_table_take_the_arguments_that_they_show():
    """Kills: an argument that is renamed, or one that is needed and not shown."""
    for name in names(fb.BatchSize):
        (shown,) = re.findall(rf"^\| `fb\.{name}\(([\w, ]+)\)", README, flags=re.MULTILINE)
        needed = [p.name for p in fields(getattr(fb, name)) if p.default is MISSING]
        assert shown.split(", ") == needed, name


def test_the_example_of_forward_only_clients_runs(capsys):
    """With the figures of its seed beside it. Kills: a README that tells of another one."""
    section = README.split("<!-- hybrid -->")[1]
    known = {}
    exec(compile(section.split("```python\n")[1].split("```")[0], "README.md", "exec"), known)
    told = re.fullmatch(
        r"(\S+) above the minimum, (\d+) bytes a round from ten clients\n", capsys.readouterr().out
    )
    dense, seeds = fb.identity().wire_bytes(20, np.float64), 26 + 4 * 8
    assert told and int(told[2]) == 2 * dense + 8 * seeds
    problem = known["problem"]

    def late(points):
        return np.mean([problem.loss(point) for point in points[-50:]]) - problem.minimum

    few = fb.run(
        known["able"],
        fb.gradient_descent(step_size=0.5),
        np.zeros(20),
        rounds=300,
        estimator=fb.minibatch(),
        batch_size=16,
    )
    assert 3.5e-3 < late(known["history"].points) < 7.5e-3
    assert 1.5e-2 < late(few.points) < 3.5e-2


def test_the_decentralized_example_runs(capsys):
    """Kills: an argument that is renamed; nodes that do not come together."""
    section = README.split("<!-- gossip -->")[1]
    exec(compile(section.split("```python\n")[1].split("```")[0], "README.md", "exec"), {})
    told = re.fullmatch(r"(\S+) above the minimum, spread (\S+)\n", capsys.readouterr().out)
    assert told and 0 <= float(told[1]) < 1e-3 and 0 < float(told[2]) < 1e-4


def test_the_example_of_the_sharpness_runs(capsys):
    """With the numbers beside it, and momentum's limit. Kills: steps that do not follow."""
    section = README.split("<!-- sharpness -->")[1]
    blocks = [part.split("```")[0] for part in section.split("```python\n")[1:4]]
    known = {}
    exec(compile(blocks[0], "README.md", "exec"), known)
    found = re.fullmatch(
        r"λ̂ from 0(\.\d+) to 0(\.\d+), (\S+) above the minimum\n", capsys.readouterr().out
    )
    assert found and f"λ̂ falls from {found[1]} to {found[2]}" in section
    problem = known["problem"]
    optimizer = fb.gradient_descent(step_size=1 / problem.lipschitz)
    fixed = fb.run(problem.objectives, optimizer, np.zeros(20), rounds=30)
    far = f"{fixed.losses[-1] - problem.minimum:.1e}"
    told = f"{found[3]} above the minimum, against {far} with 1/L"
    assert told in section.replace("\n", " ") and float(found[3]) < 1e-3 * float(far)
    exec(compile(blocks[1].replace("fedbias.strategies", "strategies"), "README.md", "exec"), known)
    assert known["strategy"].algorithm.sharpness == fb.lanczos(every=10)
    assert known["momentum"].algorithm.steering == fb.by_sharpness(5.0)
    assert known["momentum"].algorithm.optimizer.stability == 6
    torch = pytest.importorskip("torch")
    data = torch.randn(9, 4), torch.arange(9) % 3
    module = torch.nn.Linear(4, 3)
    point = np.concatenate([w.detach().numpy().ravel() for w in module.parameters()])
    cross_entropy = torch.nn.functional.cross_entropy
    known |= {"make_model": lambda: module, "cross_entropy": cross_entropy}
    known |= {"data": data, "point": point}
    exec(compile(blocks[2].replace("fedbias.clients", "clients"), "README.md", "exec"), known)
    value, residual = map(float, capsys.readouterr().out.split())
    assert value > 0 and residual < 1e-4 * value
