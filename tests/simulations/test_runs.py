"""The folder of a run survives odd settings, numbers that are not finite, and being killed."""

import json
import math
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from simulations.output.environment import describe_environment
from simulations.output.runs import RunFolder, number, read_run, to_json_line
from simulations.output.toml import Setting, to_toml

Make = Callable[..., dict[str, Any]]
ODD: dict[str, Setting] = {
    "compressor": "lattice('E8', bits=2.0)",
    "quotes": 'say "no"',
    "backslash": "C:\\new\\table",
    "lines": "one\ntwo\r\tthree",
    "unicode": "naïve ∇f — 雪 🎲",
    "control": "\x00\x1f\x7f\x85",
    "empty": "",
    "rounds": 60,
    "big": 2**70,
    "negative": -3,
    "tiny": 1e-300,
    "large": 1e22,
    "third": 1 / 3,
    "whole": 2.0,
    "radius": math.inf,
    "cohort": True,
    "resume": False,
    "a key. with = all": "kept flat",
}


def test_settings_come_back_equal_and_of_the_same_type(tmp_path: Path) -> None:
    RunFolder(tmp_path / "r").begin(ODD)
    settings = read_run(tmp_path / "r").settings
    assert settings == ODD
    assert {key: type(value) for key, value in settings.items()} == {
        key: type(value) for key, value in ODD.items()
    }


def test_numpy_numbers_are_written_as_numbers() -> None:
    text = to_toml({"step_size": np.float32(0.5), "rounds": np.int64(3)})  # type: ignore[dict-item]
    assert text == "step_size = 0.5\nrounds = 3\n"
    assert math.isnan(tomllib.loads(to_toml({"x": math.nan}))["x"])


@pytest.mark.parametrize("value", [None, [1], {"a": 1}])
def test_a_setting_that_is_no_scalar_is_refused_by_name(tmp_path: Path, value: Any) -> None:
    folder = RunFolder(tmp_path)
    with pytest.raises(ValueError, match="stop must be text, a number, true or false"):
        folder.begin({"stop": value})
    assert not folder.settings.exists()


def test_rounds_come_back_as_they_were(tmp_path: Path, record: Make) -> None:
    folder = RunFolder(tmp_path)
    folder.begin({})
    for k in range(3):
        folder.append(record(k))
        assert read_run(tmp_path).rounds == [record(i) for i in range(k + 1)]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float32("nan")])
def test_a_number_that_is_not_finite_is_null_and_remembered(record: Make, value: Any) -> None:
    line = to_json_line(record(4, train_loss=value, accuracy=None))

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not strict JSON")

    found = json.loads(line, parse_constant=refuse)
    assert found["train_loss"] is None and found["accuracy"] is None
    assert found["non_finite"] == ["train_loss"]
    assert math.isnan(number(found, "train_loss") or 0)
    assert number(found, "accuracy") is None
    assert to_json_line(found) == line


def test_numpy_scalars_in_a_record_are_plain_numbers() -> None:
    line = to_json_line({"round": np.int64(1), "train_loss": np.float64(0.25), "ok": np.True_})
    assert json.loads(line) == {"round": 1, "train_loss": 0.25, "ok": True}


def test_columns_leave_out_what_was_not_measured(tmp_path: Path, record: Make) -> None:
    folder = RunFolder(tmp_path)
    folder.begin({})
    folder.append(record(0, accuracy=0.25))
    folder.append(record(1, accuracy=None))
    folder.append(record(2, accuracy=math.nan))
    run = read_run(tmp_path)
    assert run.curve("round", "accuracy")[0] == (0, 0.25)
    assert [x for x, _ in run.curve("total_uplink_bytes", "accuracy")] == [0, 200]
    assert math.isnan(run.values("accuracy")[1])


@pytest.mark.parametrize("cut", [1, 2, 40, 100])
def test_a_half_written_last_round_is_left_out(tmp_path: Path, record: Make, cut: int) -> None:
    folder = RunFolder(tmp_path)
    folder.begin({})
    for k in range(3):
        folder.append(record(k, note="naïve"))
    whole = folder.rounds.read_bytes()
    folder.rounds.write_bytes(whole[:-cut] if cut > 1 else whole[:-2])
    assert [r["round"] for r in read_run(tmp_path).rounds] == [0, 1]


def test_a_damaged_round_in_the_middle_is_an_error(tmp_path: Path, record: Make) -> None:
    folder = RunFolder(tmp_path)
    folder.begin({})
    folder.rounds.write_text(to_json_line(record(0)) + '{"round": 1, "tr\n' + '{"round": 2}\n')
    with pytest.raises(ValueError, match="line 2 is not a round's record"):
        read_run(tmp_path)


def test_a_resumed_run_goes_on_after_the_rounds_that_are_kept(tmp_path: Path, record: Make) -> None:
    folder = RunFolder(tmp_path)
    folder.begin({"seed": 1})
    for k in range(6):
        folder.append(record(k))
    with folder.rounds.open("ab") as file:
        file.write(b'{"round": 6, "train_lo')
    resumed = RunFolder(tmp_path)
    resumed.truncate(3)
    for k in range(4, 8):
        resumed.append(record(k))
    run = read_run(tmp_path)
    assert run.rounds == [record(k) for k in range(8)]
    assert run.settings == {"seed": 1}


def test_truncating_beyond_the_end_only_drops_the_half_written_line(
    tmp_path: Path, record: Make
) -> None:
    folder = RunFolder(tmp_path)
    folder.begin({})
    folder.append(record(0))
    with folder.rounds.open("ab") as file:
        file.write(b'{"round"')
    folder.truncate(10)
    assert folder.rounds.read_text(encoding="utf-8") == to_json_line(record(0))


def test_beginning_anew_removes_the_earlier_run(tmp_path: Path, record: Make) -> None:
    folder = RunFolder(tmp_path)
    folder.begin({"seed": 1})
    folder.append(record(0))
    folder.write_model({"w": np.ones(2)})
    folder.write_environment({"python": "3"})
    folder.report.write_text("old")
    folder.begin({"seed": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["settings.toml"]
    assert read_run(tmp_path).settings == {"seed": 2}


def test_the_model_keeps_shapes_types_and_order_of_axes(tmp_path: Path) -> None:
    arrays = {
        "scalar": np.array(3, dtype=np.int64),
        "transposed": np.arange(6.0).reshape(2, 3).T,
        "strided": np.arange(10, dtype=np.float32)[::2],
    }
    folder = RunFolder(tmp_path)
    folder.write_model(arrays)
    found = load_file(folder.model)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
        assert found[name].shape == array.shape


def test_a_model_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_model({"w": np.ones(3)})
    with pytest.raises(Exception, match=r"(?i)object|dtype|type"):
        folder.write_model({"w": np.array([object()])})
    np.testing.assert_array_equal(load_file(folder.model)["w"], np.ones(3))
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_paths_stay_absolute_in_another_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = RunFolder("runs/one")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    folder.begin({"seed": 1})
    assert folder.settings == tmp_path / "runs" / "one" / "settings.toml"
    assert read_run(tmp_path / "runs" / "one").name == "one"


def test_a_folder_without_settings_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="it has no settings.toml"):
        read_run(tmp_path)


def test_the_environment_names_versions_and_the_command(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.begin({})
    found = describe_environment(["run", "digits", "--name", "a b"], 1.23456)
    folder.write_environment(found)
    assert read_run(tmp_path).environment == found
    assert found["command"] == "python -m simulations run digits --name 'a b'"
    assert found["duration"] == 1.235
    assert found["numpy"] == np.__version__
