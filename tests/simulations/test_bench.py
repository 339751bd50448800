"""Benchmarks: ratios within one run, of the same results."""

import json
from pathlib import Path

import numpy as np
import pytest

import fedbias as fb
from simulations.__main__ import main
from simulations.benchmarks import cohort, measure, quantizers
from simulations.benchmarks.measure import in_turns, ratio
from simulations.models import mlp


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


@pytest.mark.parametrize("repeats", ["0", "-1"])
def test_at_least_one_turn(repeats, capsys):
    assert main(["bench", "cohort", f"--repeats={repeats}"]) == 2
    assert capsys.readouterr().err == f"error: --repeats must be at least 1, not {repeats}\n"
