"""Benchmarks: ratios within one run, of the same results."""

import json
from pathlib import Path

import numpy as np
import pytest

import fedbias as fb
from simulations.__main__ import main
from simulations.benchmarks import cohort, measure, quantizers, sharpness, statistics
from simulations.benchmarks.measure import in_turns, ratio
from simulations.models import cnn, mlp


def test_ways_take_turns_and_the_first_is_not_counted(monkeypatch):
    """Kills: all of one way first; a warm-up that is counted."""
    now, order = [0.0], []
    monkeypatch.setattr(measure.time, "perf_counter", lambda: now[0])

    def way(name, seconds):
        def work():
            order.append(name)
            now[0] += seconds if len(order) > 2 else 100

        return work

    assert in_turns({"a": way("a", 2), "b": way("b", 3)}, 2) == {"a": [2, 2], "b": [3, 3]}
    assert order == ["a", "b"] * 3


def test_the_ratio_is_that_of_the_turns():
    """Median, least and largest of 4/2, 9/1, 6/2. Kills: the inverse; the medians' ratio (5)."""
    assert ratio([4, 9, 6], [2, 1, 2]) == (3, 2, 9)
    assert ratio([1, 10, 10], [1, 10, 2]) == (1, 1, 5)


def test_the_cohort_benchmark_measures_equal_results(tmp_path, monkeypatch, capsys):
    """Every number is there, and the two ways agree to rounding. Kills: two ways that compute
    different things; a network whose gradients were never compared."""
    import torch

    threads = torch.get_num_threads()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cohort, "CLIENTS", 3)
    monkeypatch.setattr(cohort, "CASES", (cohort.Case(mlp(hidden=5), (1, 4, 4), 6),))
    assert main(["bench", "cohort", "--repeats", "2", "--save", "kept"]) == 0
    assert torch.get_num_threads() == threads
    kept = json.loads(Path("kept.json").read_text("utf-8"))["cells"]
    ((name, found),) = kept.items()
    assert name == "mlp(hidden=5)"
    assert (found["parameters"], found["examples"]) == (16 * 5 + 5 + 5 * 10 + 10, 6)
    assert 0 <= found["difference"] < 1e-6
    for three in (found["gradient_ratio"], found["round_ratio"]):
        middle, low, high = three
        assert 0 < low <= middle <= high
    assert all(seconds > 0 for seconds in found["seconds"].values())
    assert "mlp(hidden=5)" in capsys.readouterr().out
    assert not Path("kept.png").exists()


def test_the_quantizers_benchmark(tmp_path, monkeypatch, capsys):
    """Every row has its bytes, an error no smaller than Shannon's limit and its times.

    Kills: a rate without headers, the inverse of a ratio, a quoted row among the measured ones.
    """
    pytest.importorskip("constriction")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(quantizers, "DIM", 4096)
    assert main(["bench", "quantizers", "--repeats", "1", "--save", "kept"]) == 0
    kept = json.loads(Path("kept.json").read_text("utf-8"))["cells"]
    assert "uniform(bits=4)" in kept and "entropy_coded(bits=0.5)" in kept
    assert not any("EDEN" in name for name in kept)
    for name, found in kept.items():
        assert found["bits"] == 8 * found["bytes"] / 4096
        assert found["of_limit"] == pytest.approx(found["vnmse"] * 4 ** found["bits"])
        assert found["of_limit"] > 0.9 or name == "identity()"  # 4096 entries: a sample's norm
        assert all(0 < low <= middle <= high for middle, low, high in [found["encode_ratio"]])
    uniform = fb.uniform(2)
    assert kept[repr(uniform)]["bytes"] == uniform.wire_bytes(4096)
    assert (
        kept["half()"]["vnmse"] < kept["entropy_coded(bits=4)"]["vnmse"] < kept["sign()"]["vnmse"]
    )
    table = Path("kept.md").read_text("utf-8")
    assert "| OpenFL EDEN, 2 bit (quoted) | 2 | 0.133 | 2.128 × |" in table
    assert table.count("\n| ") == 2 - 1 + len(kept) + 3


def test_the_committed_quantizers():
    """Within what the README says. Kills: a result of another vector or of other code."""
    path = Path(__file__).parents[2] / "simulations/results/bench-quantizers.json"
    cells = json.loads(path.read_text("utf-8"))["cells"]
    for bits in (2, 4):
        found = cells[repr(fb.entropy_coded(bits))]
        assert abs(found["bits"] / bits - 1) <= 0.01
        assert 1 <= found["vnmse"] * 4**bits <= 1.45
        found = cells[repr(fb.trellis_coded(bits))]
        assert 0.99 <= found["bits"] / bits <= 1.01 and 1 <= found["of_limit"] <= 1.2
    for bits in quantizers.RATES:
        for compressor in quantizers.of_rate(bits):
            if compressor not in quantizers.coded(bits):
                predicted = compressor.wire_bytes(10**6, np.float32)
                assert cells[repr(compressor)]["bytes"] == predicted


def test_the_statistics_benchmark(tmp_path, monkeypatch, capsys):
    """Passes of known length, and memory that tells its way and size.

    Kills: a way or a size in the place of another, the inverse of a ratio, the seconds of all
    passes of a turn for those of one, a number of threads that stays.
    """
    import torch

    threads, asked, now, go = torch.get_num_threads(), [], [0.0], statistics._go
    costs = {"backward": 1, "trace": 2, "along": 4, "variances": 3}

    def grown(work, model, way, sizes):
        asked.append((work, model, way))
        return [2**20 * (size + costs[way]) for size in sizes]

    def gone(objective, point, way, size, count):
        go(objective, point, way, size, count)
        now[0] += size * costs[way] * count
        assert torch.get_num_threads() == 1

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(measure.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(statistics, "in_a_process", grown)
    monkeypatch.setattr(statistics, "_go", gone)
    monkeypatch.setattr(statistics, "MODELS", (mlp(hidden=3), cnn()))
    for name, value in {"SHAPE": (1, 4, 4), "SIZES": (3, 5), "EXAMPLES": 6}.items():
        monkeypatch.setattr(statistics, name, value)
    assert main(["bench", "statistics", "--repeats", "2", "--save", "kept"]) == 0
    assert torch.get_num_threads() == threads
    assert asked == [(statistics.growth, m, way) for m in statistics.MODELS for way in costs]
    kept = json.loads(Path("kept.json").read_text("utf-8"))["cells"]
    assert list(kept) == [f"{m!r}, b = {size}" for m in statistics.MODELS for size in (3, 5)]
    for name, found in kept.items():
        size = int(name.rpartition(" ")[2])
        assert found["parameters"] == (91 if "mlp" in name else 416 + 12832 + 330)
        assert found["seconds"] == {way: size * cost for way, cost in costs.items()}
        assert found["ratios"] == {what: [costs[what]] * 3 for what in statistics.STATISTICS}
        assert found["memory"] == {way: 2**20 * (size + cost) for way, cost in costs.items()}
    table, said = Path("kept.md").read_text("utf-8"), capsys.readouterr()
    assert " | 4.00 × (4.00 … 4.00) | 3.00 × (3.00 … 3.00) | 6 MiB | 7 MiB | 9 MiB |" in table
    assert "mlp(hidden=3): 5 examples" in said.err


@pytest.mark.parametrize(("cost", "said"), [(2.5, "reached"), (2.51, "missed")])
def test_an_aim_is_the_worst_case(cost, said):
    """Kills: an aim that is said to be reached where one batch size misses it."""
    results = {
        f"cnn(), b = {size}": {"ratios": {"trace": [middle, 1, 9], "along": [3, 1, 9]}}
        for size, middle in ((16, 2.0), (64, cost), (256, 1.0))
    }
    results["mlp(), b = 16"] = {"ratios": {"trace": [50, 40, 60], "along": [70, 60, 80]}}
    *_, trace, along = statistics._notes(results, 3)
    assert trace == f"Aim: at most 2.5 × for trace; {said}, at most {cost:.2f} × (cnn(), b = 64)."
    assert along.startswith("Aim: at most 3.8 × for along; reached, at most 3.00 ×")


def test_peaks_of_a_process_of_its_own():
    """In a backward pass over 2048 images lie the activations behind the first convolution and
    their gradient, 2048·16·28·28 floats or 98 MiB each, the places of the maxima and the second
    layer's: more than 256 MiB. This process has held twice that for something else.

    Kills: a peak that is inherited, other units, a whole peak for its growth, the growth of one
    batch for another's.
    """
    ballast = np.ones(2**26)
    del ballast
    small, large = statistics.in_a_process(statistics.growth, cnn(), "backward", (8, 2048))
    assert 0 <= small < 2**26 and 2**28 < large < 2**30


def test_the_committed_statistics():
    """3072 examples more take at most one piece's gradients more, as the allocator keeps some of
    the last one; all of theirs are 92 MiB for linear(), and more for the others. The backward pass
    of the cnn() takes half a GiB more. Kills: results of other sizes, claims that no longer hold.
    """
    path = Path(__file__).parents[2] / "simulations/results/bench-statistics.json"
    cells = json.loads(path.read_text("utf-8"))["cells"]
    names = [f"{model!r}, b = {b}" for model in statistics.MODELS for b in statistics.SIZES]
    assert list(cells) == names
    for model in statistics.MODELS:
        some, many = (cells[f"{model!r}, b = {b}"]["memory"] for b in (1024, 4096))
        assert all(many[what] < some[what] + 2**24 for what in statistics.STATISTICS)
    some, many = (cells[f"cnn(), b = {b}"]["memory"]["backward"] for b in (1024, 4096))
    assert many > some + 2**29


def test_the_sharpness_benchmark(tmp_path, monkeypatch, capsys):
    """Gradients and products of known length: a Lanczos run makes as many products, and between
    two layers stands BatchNorm where it is said.

    Kills: a run with one product more, the inverse of a ratio, the seconds of all for those of one,
    a number of threads that stays.
    """
    import torch

    from clients import TorchObjective

    threads, now = torch.get_num_threads(), [0.0]
    for name, cost in {"loss_and_gradient": 2, "hvp": 6}.items():

        def work(self, *arguments, inner=getattr(TorchObjective, name), cost=cost):
            now[0] += cost
            assert torch.get_num_threads() == 1
            return inner(self, *arguments)

        monkeypatch.setattr(TorchObjective, name, work)
    cases = sharpness.Case(mlp(hidden=3), 5), sharpness.Case(cnn(), 4, normalised=True)
    for name, value in {"CASES": cases, "SHAPE": (1, 4, 4), "PRODUCTS": 3}.items():
        monkeypatch.setattr(sharpness, name, value)
    monkeypatch.setattr(measure.time, "perf_counter", lambda: now[0])
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "sharpness", "--repeats", "2", "--save", "kept"]) == 0
    assert torch.get_num_threads() == threads
    kept = json.loads(Path("kept.json").read_text("utf-8"))["cells"]
    assert list(kept) == ["mlp(hidden=3)", "cnn() with BatchNorm"]
    assert [found["parameters"] for found in kept.values()] == [91, 416 + 32 + 12832 + 64 + 330]
    assert [found["examples"] for found in kept.values()] == [5, 4]
    for found in kept.values():
        assert found["seconds"] == {"gradients": 2, "products": 6, "lanczos": 6}
        assert found["ratios"] == {"products": [3, 3, 3], "lanczos": [3, 3, 3]}
    assert "Aim: at most 5 × for mlp(hidden=3); reached, 3.00 ×." in capsys.readouterr().out


@pytest.mark.parametrize(("cost", "said"), [(5.0, "reached, 5.00"), (5.01, "missed, 5.01")])
def test_the_aim_is_that_of_the_first_network(cost, said, monkeypatch):
    """Kills: an aim that another network reaches, one of Lanczos, one that cannot be missed."""
    three = {"products": (cost, 1, 9), "lanczos": (9, 9, 9)}
    others = {"products": (1, 1, 1), "lanczos": (1, 1, 1)}
    plain = {"parameters": 1, "examples": 1, "seconds": {"gradients": 1, "products": 1}}

    def timed(case, repeats):
        return plain | {"ratios": three if case == sharpness.CASES[0] else others}

    monkeypatch.setattr(sharpness, "timed", timed)
    assert sharpness.benchmark(1).notes[-1].endswith(f"for mlp(hidden=512); {said} ×.")


def test_the_committed_sharpness():
    """Kills: results of other networks, a claim that no longer holds."""
    path = Path(__file__).parents[2] / "simulations/results/bench-sharpness.json"
    cells = json.loads(path.read_text("utf-8"))["cells"]
    assert list(cells) == [str(case) for case in sharpness.CASES]
    first = cells["mlp(hidden=512)"]
    assert first["parameters"] == 407_050 and first["examples"] == 1000
    assert 1 < first["ratios"]["products"][0] <= sharpness.AIM


@pytest.mark.parametrize("repeats", ["0", "-1"])
def test_at_least_one_turn(repeats, capsys):
    assert main(["bench", "cohort", f"--repeats={repeats}"]) == 2
    assert capsys.readouterr().err == f"error: --repeats must be at least 1, not {repeats}\n"
