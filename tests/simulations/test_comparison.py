"""Comparisons: which cells there are, in which order, and where each of them goes."""

import json
from pathlib import Path

import pytest

from simulations.comparison import compare, read_cells, slug
from simulations.output import Run, comparison_table, mean_run, read_run, save_result
from simulations.settings import SettingsError

FILE = """
task = "least-squares"
dim = 3
clients = 2
rounds = 2
seed = 5

[cells."zero first"]

[cells."Top-50 %"]
compressor = "top_k(fraction=0.5)"
rounds = 3

[cells."a"]
seed = 7
"""


@pytest.fixture
def path(tmp_path):
    (tmp_path / "three.toml").write_text(FILE, "utf-8")
    return tmp_path / "three.toml"


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("FedAvg", "FedAvg"),
        ("Top-2 %, error feedback", "Top-2-percent-error-feedback"),
        ("top_k(fraction=0.02)", "top_k-fraction-0.02"),
        ("2 %", "2-percent"),
        ("a/b\\c", "a-b-c"),
        ("../up", "up"),
        ("..", "cell"),
        ("", "cell"),
        ("größer κ", "größer-κ"),
        (" α = .5 ", "α-.5"),
    ],
)
def test_the_folder_of_a_cell(name, folder):
    """Kills: a cell that leaves its comparison's folder; names in other scripts all alike."""
    assert slug(name) == folder
    assert Path(folder).name == folder and folder not in (".", "..")


def test_cells_keep_their_order_and_their_own_settings(path):
    """Kills: sorted cells; a cell under the common settings instead of over them."""
    cells = read_cells(path, {})
    assert list(cells) == ["zero first", "Top-50 %", "a"]
    found = [(cell.rounds, cell.seed, cell.compressor, cell.dim) for cell in cells.values()]
    assert found == [
        (2, 5, "identity()", 3),
        (3, 5, "top_k(fraction=0.5)", 3),
        (2, 7, "identity()", 3),
    ]


def test_overrides_win_over_the_file_and_its_cells(path):
    """Kills: an option that a cell quietly undoes."""
    cells = read_cells(path, {"rounds": 9, "seed": 1})
    assert {(cell.rounds, cell.seed) for cell in cells.values()} == {(9, 1)}
    assert cells["Top-50 %"].compressor == "top_k(fraction=0.5)"


def test_a_cell_that_cannot_be_run_is_named(path):
    """Kills: «three.toml: fraction …», which one of twenty cells?"""
    path.write_text(FILE + 'compressor = "top_k(fraction=2)"\n')
    with pytest.raises(SettingsError, match=r"^three.toml, cell 'a': compressor = 'top_k\(fract"):
        read_cells(path, {})
    with pytest.raises(SettingsError, match=r"cell 'zero first' \+ options: rounds = 0: must be "):
        read_cells(path, {"rounds": 0, "compressor": "sign()"})


@pytest.mark.parametrize("other", ["zero-first", "Zero first!", "ZERO-FIRST"])
def test_two_cells_never_share_a_folder(path, other):
    """Kills: one cell's run over the other's, also where file names know no capitals."""
    path.write_text(FILE + f'[cells."{other}"]\n')
    with pytest.raises(SettingsError, match="its folder is that of 'zero first'"):
        read_cells(path, {})


def test_every_cell_runs_in_its_folder_and_is_called_by_its_name(path, tmp_path):
    """Kills: runs named after their folders; a report elsewhere; cells in another order."""
    runs, report = compare(read_cells(path, {}), tmp_path / "out")
    assert [run.name for run in runs] == ["zero first", "Top-50 %", "a"]
    assert [len(run.rounds) for run in runs] == [3, 4, 3]
    assert report == (tmp_path / "out" / "report.html").resolve() and report.is_file()
    assert read_run(tmp_path / "out" / "Top-50-percent").rounds == runs[1].rounds


def test_several_seeds_are_runs_of_their_own_and_one_mean(path, tmp_path):
    """Kills: one seed several times; the sum, or one of the runs, for the mean."""
    runs, _ = compare(read_cells(path, {}), tmp_path / "out", seeds=2)
    folder = tmp_path / "out" / "zero-first"
    assert sorted(below.name for below in folder.iterdir()) == ["seed-5", "seed-6"]
    five, six = (read_run(folder / name) for name in ("seed-5", "seed-6"))
    assert (five.settings["seed"], six.settings["seed"]) == (5, 6)
    first, second = (run.values("train_loss")[-1] for run in (five, six))
    assert first != second
    assert runs[0].values("train_loss")[-1] == pytest.approx((first + second) / 2, rel=1e-12)
    # the standard deviation of two numbers is their distance over √2
    spread = runs[0].values("train_loss_spread")[-1]
    assert spread == pytest.approx(abs(first - second) / 2**0.5, rel=1e-12)


def test_seeds_that_a_goal_ended_in_other_rounds_are_compared_at_their_ends():
    """Batches of 2, 6 and of 2, 8, 8; evaluated at the ends. Kills: the round that the shorter one
    happened to end with; counts without the rounds of the longer one.
    """
    ends = [[2, 6], [2, 8, 8]]
    runs = []
    for seed, sizes in enumerate(ends):
        rounds = [{"round": 0, "accuracy": 0.1, "train_loss": None, "lost": 0}]
        rounds += [
            {"round": k, "batch_size": b, "total_samples": sum(sizes[:k]), "accuracy": None}
            | {"train_loss": 1.0, "lost": 1}
            for k, b in enumerate(sizes, start=1)
        ]
        rounds[-1]["accuracy"] = 0.8 + 0.1 * seed
        runs.append(Run("x", {"seed": seed, "batch_size": "norm_test(0.5, 8)"}, rounds))
    mean = mean_run(runs)
    (row,) = comparison_table([mean])
    assert [record["round"] for record in mean.rounds] == [0, 1, 2.5]
    assert (row.accuracy, row.samples) == (pytest.approx(0.85), 13)
    assert row.accuracy_spread == pytest.approx(0.1 / 2**0.5)
    assert (row.average_batch, row.missing) == (5, 2.5)  # (4 + 6)/2, (2 + 3)/2


def test_a_seed_that_diverged_leaves_the_others_comparable(tmp_path):
    """Kills: an AttributeError of `statistics` over a NaN, and a result that is no JSON."""
    records = [
        [{"round": 1, "accuracy": 0.5, "train_loss": 1.0}],
        [{"round": 1, "accuracy": 0.1, "train_loss": None, "non_finite": ["train_loss"]}],
    ]
    mean = mean_run([Run("x", {"seed": seed}, rounds) for seed, rounds in enumerate(records)])
    (row,) = comparison_table([mean])
    assert row.accuracy == pytest.approx(0.3) and row.loss != row.loss
    data, table, picture = save_result([mean], tmp_path / "kept", {"command": "x"})
    found = json.loads(data.read_text("utf-8"), parse_constant=pytest.fail)
    assert found["rows"][0]["loss"] is None and "loss" in found["rows"][0]["non_finite"]
    assert "| diverged |" in table.read_text("utf-8") and picture.stat().st_size > 0
