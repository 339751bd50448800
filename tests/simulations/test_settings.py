"""Settings: what is allowed, and one clear sentence for everything that is not."""

import math
import tomllib
from pathlib import Path

import pytest

import fedbias as fb
from fedbias.notation import names
from simulations import comparison
from simulations.__main__ import COMPARISONS, PRESETS
from simulations.output.toml import to_toml
from simulations.sentences import SPELLED, signatures
from simulations.settings import (
    Settings,
    SettingsError,
    make_settings,
    parser_type,
    read_preset,
)
from simulations.tasks import make_task
from simulations.training import APP_KEYS

ROOT = Path(__file__).parents[2]
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["flwr"]["app"][
    "config"
]
NUMBERS = {key: field.annotation for key, field in Settings.model_fields.items()}
LOCAL = "local_steps(count=2, step_size=0.1, inner={})"
SIZES = (
    "a whole number >= 0, or a rule: augmented_test, constant_batch, coordinate_test, "
    "cross_client_test, inner_product_test, linear_batch, local_norm_test, norm_test, "
    "stagewise_batch"
)
# field → a value out of range and what the sentence says is allowed
BAD = {
    "task": (7, "must be text"),
    "data_root": (7, "must be text"),
    "model": ("mlp(hidden=0)", "mlp: hidden must be a whole number >= 1, not 0"),
    "partition": ("dirichlet(alpha=0)", "dirichlet: alpha must be a number > 0 and <= 1e+06"),
    "dim": (0, "must be a whole number >= 1"),
    "condition": (0.5, "must be a number >= 1"),
    "clients": (-3, "must be a whole number >= 1"),
    "rounds": (0, "must be a whole number >= 1"),
    "fraction": (2, "must be a number > 0 and <= 1"),
    "estimator": ("clipped(radius=-1.0)", "clipped: radius must be a number > 0"),
    "batch_size": (-1, "must be a whole number >= 0"),
    "forward_only": (-1, "must be a whole number >= 0"),
    "broadcast": ("bytes", "must be 'model' or 'seeds'"),
    "matching": ("along(graph='star')", "along: graph must be one of 'ring', 'torus'"),
    "mixing": (0, "must be a number > 0 and <= 1"),
    "sharpness": ("lanczos(every=0)", "lanczos: every must be a whole number >= 1, not 0"),
    "steering": ("by_sharpness(c=0)", "by_sharpness: c must be a number > 0, not 0"),
    "compressor": ("uniform(bits=0)", "uniform: bits must be a whole number >= 1 and <= 16, not 0"),
    "feedback": (
        "error_feedback(radius=1)",
        "error_feedback: radius must be like None or preset_radius(",
    ),
    "optimizer": ("heavy_ball(step_size=0.1, beta=2)", "heavy_ball: beta must be a number > 0"),
    "decay": (
        "cosine_decay(samples=0)",
        "cosine_decay: samples must be a whole number >= 1, not 0",
    ),
    "weights": ("by_examples", "must be 'uniform' or 'examples'"),
    "minimum_replies": (0, "must be a whole number >= 1"),
    "stop": ("until(accuracy=95)", "until: accuracy must be a number > 0 and <= 1, not 95"),
    "evaluate_every": (-1, "must be a whole number >= 0"),
    "client_evaluation_every": (-1, "must be a whole number >= 0"),
    "measure_bias": (-1, "must be a whole number >= 0"),
    "lost": (1, "must be a number >= 0 and < 1"),
    "cohort": (1, "must be true or false"),
    "micro_batch": (-1, "must be a whole number >= 0"),
    "device": ("gpu", "must be cpu, cuda, mps or xpu"),
    "timeout": (0, "must be a number > 0"),
    "patience": (-0.5, "must be a number >= 0"),
    "seed": (2**63, "must be a whole number >= 0 and <= 9223372036854775807"),
}


def refusal(values):
    """The one sentence with which values are refused."""
    with pytest.raises(SettingsError) as caught:
        make_settings(values, "x.toml")
    sentence = str(caught.value)
    assert sentence.startswith("x.toml: ") and "\n" not in sentence
    assert "pydantic" not in sentence and "Input should" not in sentence
    return sentence


def test_every_field_is_in_the_table_below():
    """Kills: a new field that nothing bounds."""
    assert set(BAD) == set(Settings.model_fields)


@pytest.mark.parametrize("key", BAD)
def test_a_value_out_of_range_is_named_with_what_is_allowed(key):
    """Kills: a bound that is dropped or moved; a message without the key, value or range."""
    value, allowed = BAD[key]
    assert refusal({key: value}).startswith(f"x.toml: {key} = {value!r}: {allowed}")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("fraction", 1), ("lost", 0), ("lost", 0.999), ("condition", 1), ("rounds", 1),
        ("patience", 0), ("seed", 0), ("seed", 2**63 - 1), ("device", "cuda:1"),
        ("weights", "examples"), ("micro_batch", 1), ("compressor", "uniform(bits=16)"),
    ],
)  # fmt: skip
def test_the_ends_of_the_ranges_are_allowed(key, value):
    """Kills: an open end where the table says closed, and one too few or too many."""
    made = getattr(make_settings({key: value}), key)
    assert made == value and type(made) is (float if NUMBERS[key] is float else type(value))


@pytest.mark.parametrize("key", Settings.model_fields)
@pytest.mark.parametrize("value", [None, [1], {"a": 1}, b"1"], ids=repr)
def test_what_toml_cannot_mean_is_refused(key, value):
    """Kills: a field that takes anything (strict=False, or Any)."""
    sentence = refusal({key: value})
    assert sentence.startswith(f"x.toml: {key} = {value!r}: must be ")


@pytest.mark.parametrize("key", [key for key in NUMBERS if NUMBERS[key] in (int, float)])
def test_numbers_are_neither_words_nor_booleans_nor_nan(key):
    """Kills: strict=False, which turns "3" and true into numbers; allow_inf_nan=True."""
    noun = "a whole number" if NUMBERS[key] is int else "a number"
    for value in ("ten", "3", True):
        assert refusal({key: value}).startswith(f"x.toml: {key} = {value!r}: must be {noun} >")
    for value in (math.nan, math.inf):
        assert refusal({key: value}).startswith(f"x.toml: {key} = {value!r}: must be a")
    if NUMBERS[key] is int:
        assert "must be a whole number" in refusal({key: 3.5})
        assert "must be a whole number" in refusal({key: 3.0})
    else:
        assert "must be a finite number" in refusal({key: math.inf})


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("batchsize", "did you mean 'batch_size'?"),
        ("client", "did you mean 'clients'?"),
        ("optimiser", "did you mean 'optimizer'?"),
        ("learning_rate", "known: task, data_root, model, "),
        ("cells", "a file with cells is for `compare`"),
    ],
)
def test_an_unknown_key_is_refused_with_a_suggestion(key, hint):
    """Kills: extra="ignore", which would run something else than was asked."""
    assert refusal({key: 1}).startswith(f"x.toml: there is no setting {key!r}; {hint}")


@pytest.mark.parametrize(
    ("key", "value", "hint"),
    [
        ("compressor", "topk(fraction=0.1)", "; did you mean top_k? (allowed: dithered(bits), "),
        ("compressor", "fb.top_k(fraction=0.1)", "; did you mean top_k? "),
        (
            "compressor",
            "zip",
            " (allowed: dithered(bits), entropy_coded(bits), half(), identity(), ",
        ),
        ("optimizer", "sign()", " (allowed: adagrad(step_size), "),
        ("optimizer", "sgd(lr=0.1)", " (allowed: adagrad(step_size), "),
        ("estimator", "top_k(fraction=0.1)", " (allowed: by_capability, clipped, exact, "),
        (
            "feedback",
            "identity()",
            " (allowed: differential(radius, memory), ef21(radius), error_feedback(",
        ),
        ("model", "resnet", "; did you mean resnet18? "),
        ("partition", "", " (allowed: contiguous(), dirichlet(alpha), iid(), natural())"),
        ("stop", "accuracy>0.9", " (allowed: until(accuracy, loss, gradient_norm, "),
        ("decay", "cosine(samples=9)", "; did you mean cosine_decay? (allowed: cosine_decay(samp"),
        ("batch_size", "normtest(0.5, 64)", f"; did you mean norm_test? (allowed: {SIZES})"),
        ("batch_size", "top_k(0.1)", f" (allowed: {SIZES})"),
        ("batch_size", "8", f" (allowed: {SIZES})"),
        ("batch_size", "2.5", f" (allowed: {SIZES})"),
        ("batch_size", "", f" (allowed: {SIZES})"),
    ],
)
def test_an_unknown_name_is_refused_with_the_allowed_ones(key, value, hint):
    """Kills: a list of all kinds of settings; a compressor accepted as the optimizer."""
    sentence = refusal({key: value})
    assert sentence.startswith(f"x.toml: {key} = {value!r}: there is no such {key}{hint}")


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("compressor", "top_k(fraction=0.1", "is not written like 'name(field=value)'"),
        ("compressor", "top_k()", "top_k needs (fraction)"),
        ("compressor", "top_k(k=3)", "top_k takes (fraction), not 'k'"),
        ("compressor", "top_k(fraction=nan)", "'nan' is neither a number, a word nor a setting"),
        ("compressor", "top_k(fraction=2)", "top_k: fraction must be a number > 0 and <= 1, not 2"),
        ("estimator", LOCAL.format("sign()"), "local_steps: inner must be like exact(), not sign"),
        ("estimator", LOCAL.format("exactly()"), "there is no setting 'exactly'"),
        (
            "batch_size",
            "norm_test(0.5)",
            "norm_test needs (eta, maximum) and takes (eta, maximum, ",
        ),
        ("batch_size", "norm_test(0.5, 8, 9)", "norm_test: maximum must be a whole number >= 9, n"),
        ("batch_size", "norm_test(0.5, 8, 1)", "norm_test: initial must be a whole number >= 2, n"),
        ("batch_size", "norm_test(0.0, 8)", "norm_test: eta must be a number > 0, not 0.0"),
        ("sharpness", "lanczos(fraction=2)", "lanczos: fraction must be a number > 0 and <= 1, n"),
        ("steering", "by_sharpness()", "by_sharpness needs (c) and takes (c, hysteresis, smal"),
        ("batch_size", "constant_batch(0)", "constant_batch: size must be a whole number >= 1, n"),
        ("stop", "until(samples=-1)", "until: samples must be a number >= 0, not -1"),
    ],
)
def test_what_is_wrong_inside_a_setting_is_said_once(key, value, problem):
    """Kills: the text twice in the sentence, and a list of names beside a mistake in a number."""
    sentence = refusal({key: value})
    assert sentence.startswith(f"x.toml: {key} = {value!r}: {problem}")
    assert sentence.count(value) == 1 and "allowed" not in sentence


@pytest.mark.parametrize("field", SPELLED)
def test_the_allowed_names_are_all_the_registered_ones(field):
    """Kills: signatures that miss a class below another one (clipped), or list a base class."""
    assert sorted(signatures(field)) == names(SPELLED[field])
    assert all(shown.startswith(f"{name}(") for name, shown in signatures(field).items())


def test_a_batch_size_needs_an_estimator_that_draws():
    """Kills: a batch size that is silently ignored."""
    sentence = refusal({"batch_size": 32, "estimator": "clipped(radius=1.0)"})
    assert sentence.startswith("x.toml: batch_size = 32 has no meaning for clipped(radius=1.0)")
    assert "set batch_size = 0" in sentence
    for estimator in ("minibatch()", LOCAL.format("minibatch()"), "clipped(1.0, minibatch())"):
        assert make_settings({"batch_size": 32, "estimator": estimator}).algorithm().batch_size
    assert make_settings({"batch_size": 0}).algorithm().batch_size is None


@pytest.mark.parametrize("value", [-3, 2.5, True, math.nan, None], ids=repr)
def test_a_batch_size_is_a_number_or_a_rule(value):
    """Kills: a sentence for each of the two types; signatures that fill the screen; True for 1."""
    assert refusal({"batch_size": value}) == f"x.toml: batch_size = {value!r}: must be {SIZES}"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"estimator": "exact()"}, "batch_size = {} has no meaning for exact(), which uses all "),
        (
            {"estimator": "clipped(1.0, minibatch())"},
            "norm_test measures the examples of a plain batch, not of clipped(radius=1.0, inner=",
        ),
        (
            {"estimator": LOCAL.format("minibatch()")},
            "norm_test measures the examples of a plain batch, not of local_steps(count=2, step_",
        ),
        (
            {"batch_size": "linear_batch(2, 8, 99)", "estimator": "exact()"},
            "batch_size = linear_batch(initial=2, maximum=8, samples=99) has no meaning for exac",
        ),
        (
            {"decay": "cosine_decay(99)", "feedback": "differential()"},
            "differential() counts on a constant step size: use no_decay(), or ef21()",
        ),
    ],
)
def test_a_rule_fits_what_the_clients_compute(changes, sentence):
    """Kills: a rule that is ignored; the core's name for itself before the sentence."""
    rule = "norm_test(eta=0.5, maximum=64)"
    values = {"batch_size": rule, "estimator": "minibatch()"} | changes
    assert refusal(values).startswith(f"x.toml: {sentence.format(rule)}")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"sharpness": ""}, "by_sharpness(c=2.5) needs the sharpness to be measured: sharpness=la"),
        ({}, "by_sharpness: c must be > 0 and < 2, where gradient_descent(step_size=0.5) stops b"),
        ({"optimizer": "adam()"}, "by_sharpness(c=2.5) knows no limit for adam(): use gradient_d"),
        (
            {"matching": "random_pair()"},
            "sharpness = 'lanczos()' is for one model on the server: it has no meaning with matc",
        ),
    ],
)
def test_the_steering_fits_the_steps(changes, sentence):
    """Kills: a rule that is ignored, a step size without a limit."""
    values = {"sharpness": "lanczos()", "steering": "by_sharpness(c=2.5)"} | changes
    assert refusal(values).startswith(f"x.toml: {sentence}")
    momentum = "heavy_ball(step_size=0.1, beta=0.5)"
    whole = values | {"optimizer": momentum, "sharpness": "lanczos()", "matching": ""}
    assert make_settings(whole).algorithm().steering == fb.by_sharpness(2.5)


@pytest.mark.parametrize(
    ("asked", "fits"),
    [
        ({"clients": 1}, False),
        ({"clients": 2}, True),
        ({"clients": 10, "fraction": 0.1}, False),
        ({"clients": 10, "fraction": 0.15}, True),  # round(1.5) = 2
        ({"clients": 10, "fraction": 0.1, "minimum_replies": 2}, True),
    ],
)
def test_clients_are_compared_where_a_round_has_two(asked, fits):
    """Kills: a test that never sees two replies, and keeps the first size to the end."""
    values = {"batch_size": "cross_client_test(0.5, 64)", "estimator": "minibatch()"} | asked
    if fits:
        assert make_settings(values).batching == fb.cross_client_test(eta=0.5, maximum=64)
    else:
        sentence = "compares the clients of a round, and here it has one: set clients or fraction "
        assert sentence in refusal(values)


def test_no_more_replies_are_needed_than_there_are_clients():
    """Kills: a run that trains nothing in any round and says so nowhere."""
    sentence = refusal({"clients": 4, "minimum_replies": 5})
    assert "minimum_replies = 5: must be at most the number of clients, 4" in sentence
    assert make_settings({"clients": 4, "minimum_replies": 4}).minimum_replies == 4


def test_every_mistake_has_a_sentence_of_its_own():
    """Kills: only the first mistake is told."""
    with pytest.raises(SettingsError) as caught:
        make_settings({"rounds": 0, "fraction": 2.0, "nope": 1}, "x.toml")
    lines = str(caught.value).splitlines()
    assert [line.split()[1] for line in lines] == ["rounds", "fraction", "there"]
    assert all(line.startswith("x.toml: ") for line in lines)


def test_a_setting_is_kept_in_one_spelling():
    """Kills: settings compared, cached and resumed by how they were typed, or left out."""
    assert make_settings(Settings().model_dump()) == Settings()
    typed = make_settings({"compressor": " top_k( 0.02 ) ", "optimizer": "adam(0.1)"})
    assert typed.compressor == "top_k(fraction=0.02)"
    same = make_settings({"compressor": "top_k(fraction=2e-2)", "optimizer": "adam(step_size=0.1)"})
    assert typed == same and hash(typed) == hash(same)


def test_the_algorithm_is_what_the_settings_say():
    """Kills: a field that does not reach the algorithm."""
    spelled = {
        "optimizer": fb.polyak(0.25, 0.5),
        "decay": fb.cosine_decay(samples=1000),
        "estimator": fb.local_steps(3, 0.1),
        "compressor": fb.uniform(bits=3),
        "feedback": fb.error_feedback(),
        "sharpness": fb.lanczos(every=7, fraction=0.5),
    }
    plain = {"batch_size": 4, "weights": "examples", "minimum_replies": 2, "seed": 9}
    made = make_settings({key: repr(value) for key, value in spelled.items()} | plain).algorithm()
    assert {key: getattr(made, key) for key in (*spelled, *plain)} == spelled | plain
    rule = fb.local_norm_test(eta=0.5, maximum=64, initial=4)
    values = {"estimator": "local_steps(3, 0.1)", "batch_size": repr(rule)}
    assert make_settings(values).algorithm().batch_size == rule
    values = {"sharpness": "lanczos()", "steering": "by_sharpness(c=1.5, largest=3)"}
    made = make_settings(values).algorithm()
    assert (made.sharpness, made.steering) == (fb.lanczos(), fb.by_sharpness(1.5, largest=3))
    assert Settings().algorithm().sharpness is None and Settings().algorithm().steering is None


# Files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(PRESETS.glob("*.toml")), ids=lambda path: path.stem)
def test_every_preset_is_valid_and_comes_back_from_its_settings_file(path, tmp_path):
    """Kills: a stale preset; a settings.toml that is no preset."""
    settings = make_settings(read_preset(path), path.name)
    (tmp_path / "settings.toml").write_text(to_toml(settings.model_dump()), "utf-8")
    assert make_settings(read_preset(tmp_path / "settings.toml")) == settings


@pytest.mark.parametrize("path", sorted(PRESETS.glob("*.toml")), ids=lambda path: path.stem)
def test_a_preset_is_the_same_run_under_flower(path):
    """`flwr run . -c PRESET` puts the preset over pyproject's table, not over the defaults.

    Kills: a preset that leaves out a key where pyproject's table differs from the defaults.
    """
    preset = read_preset(path)
    config = {key: value for key, value in CONFIG.items() if key not in APP_KEYS}
    assert make_settings({**config, **preset}, "flwr") == make_settings(preset)


@pytest.mark.parametrize("path", sorted(COMPARISONS.glob("*.toml")), ids=lambda path: path.stem)
def test_every_comparison_is_valid_and_its_cells_differ(path):
    """Kills: a cell whose only difference is misspelled away."""
    cells = comparison.read_cells(path, {})
    assert len(set(cells.values())) == len(cells) >= 2


def test_flowers_table_has_every_setting_and_nothing_else():
    """Kills: a setting that `flwr run` cannot change (Flower refuses keys it does not know)."""
    assert list(CONFIG) == [*APP_KEYS, *Settings.model_fields]


def test_flowers_table_is_a_valid_run_of_the_same_types():
    """Kills: a default there that would not run; an int where a later 0.5 needs a float."""
    config = {key: value for key, value in CONFIG.items() if key not in APP_KEYS}
    settings = make_settings(config, "pyproject.toml")
    assert {key: type(value) for key, value in config.items()} == {
        key: type(value) for key, value in settings.model_dump().items()
    }
    assert all(type(CONFIG[key]) is str for key in APP_KEYS)
    assert make_task(settings).clients == settings.clients


def test_odd_texts_survive_the_settings_file(tmp_path):
    """Kills: a writer without escapes."""
    settings = make_settings({"data_root": 'C:\\new "data" — 雪', "task": "my.module:make"})
    (tmp_path / "s.toml").write_text(to_toml(settings.model_dump()), "utf-8")
    assert make_settings(read_preset(tmp_path / "s.toml")) == settings


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"rounds = = 3", "is not TOML: "), (b"\xff\xfe", "is not TOML: "), (None, "cannot read the")],
)
def test_a_preset_that_cannot_be_read(tmp_path, content, says):
    """Kills: a traceback of tomllib or of open."""
    path = tmp_path / "p.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError, match=says) as caught:
        read_preset(path)
    assert str(path) in str(caught.value)


# The command line -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("rounds", "12", 12), ("rounds", "ten", "ten"), ("rounds", "1.5", "1.5"),
        ("fraction", "0.5", 0.5), ("fraction", "1", 1.0), ("fraction", "half", "half"),
        ("cohort", "true", True), ("cohort", "False", False), ("cohort", "yes", "yes"),
        ("task", "12", "12"), ("weights", "examples", "examples"), ("seed", "-1", -1),
        ("batch_size", "8", 8), ("batch_size", "-3", -3), ("batch_size", "2.5", "2.5"),
        ("batch_size", "norm_test(0.5, 64)", "norm_test(0.5, 64)"), ("batch_size", "²", "²"),
    ],
)  # fmt: skip
def test_an_option_is_read_as_its_fields_type_or_left_for_the_settings(field, text, value):
    """Kills: bool("false"), which is true; argparse's own words for a wrong number."""
    read = parser_type(field)(text)
    assert read == value and type(read) is type(value)
