"""The notation is read by walking a syntax tree: it round-trips, refuses, and never evaluates."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fedbias as fb
from fedbias import notation

# Every registered setting in its spelling; the longer ones use every field.
SPELLINGS = [
    "identity()",
    "half()",
    "sign()",
    "uniform(bits=2)",
    "dithered(bits=16)",
    "top_k(fraction=0.02)",
    "random_k(fraction=1)",
    "lattice(kind='E8', bits=2)",
    "lattice(kind='A2', bits=16, full_range=True)",
    "rotated(inner=uniform(bits=2))",
    "rotated(inner=lattice(kind='D4', bits=1))",
    "entropy_coded(bits=1.5)",
    "trellis_coded(bits=0.7)",
    "exact()",
    "minibatch()",
    "minibatch(order='reshuffle')",
    "clipped(radius=1.0)",
    "clipped(radius=inf, inner=minibatch())",
    "normalised(inner=clipped(radius=0.1, inner=minibatch(order='reshuffle')))",
    "meta(inner_step_size=0.01)",
    "local_steps(count=3, step_size=0.1)",
    "local_steps(count=3, step_size=1e-05, momentum=0.9, inner=normalised())",
    "two_point(directions=8, radius=0.001)",
    "two_point(directions=128, radius=1e-05, central=True)",
    "forward_gradient(directions=16)",
    "by_capability(loss=two_point(directions=8, radius=0.001))",
    "by_capability(gradient=local_steps(count=1, step_size=0.5, momentum=0.9), "
    "directional=forward_gradient(directions=1), loss=two_point(directions=8, radius=0.001))",
    "no_feedback()",
    "no_feedback(radius=preset_radius(lipschitz=2, strong_convexity=0.5, distance=1e-05))",
    "error_feedback()",
    "ef21()",
    "ef21(radius=preset_radius(lipschitz=1.0, strong_convexity=0.1, distance=2.0))",
    "differential()",
    "differential(memory=True)",
    "differential(radius=preset_radius(lipschitz=1.0, strong_convexity=0.1, distance=2.0))",
    "differential(radius=preset_radius(lipschitz=1.0, strong_convexity=0.1, distance=2.0, "
    "covering=1.25), memory=True)",
    "preset_radius(lipschitz=1.0, strong_convexity=0.1, distance=2.0)",
    "preset_radius(lipschitz=1.0, strong_convexity=0.1, distance=2.0, covering=1.25)",
    "gradient_descent(step_size=0.1)",
    "heavy_ball(step_size=0.1, beta=0.5)",
    "polyak(step_size=0.1, momentum=0.9)",
    "nesterov(step_size=0.1, momentum=0.9)",
    "adagrad(step_size=0.1)",
    "adagrad_norm(step_size=0.1)",
    "adagrad_norm(step_size=0.1, initial=2.0)",
    "adam()",
    "adam(step_size=0.1, beta1=0.5, beta2=0.25, epsilon=0.125)",
    "until()",
    "until(accuracy=0.9, loss=-1, gradient_norm=0.1, uplink_bytes=10, seconds=5)",
    "until(samples=6000000)",
    "constant_batch(size=32)",
    "linear_batch(initial=2, maximum=256, samples=100000)",
    "stagewise_batch(initial=8, factor=2, every=1000, maximum=64)",
    "norm_test(eta=0.5, maximum=256)",
    "norm_test(eta=0.1, maximum=60000, initial=8)",
    "local_norm_test(eta=0.5, maximum=256)",
    "local_norm_test(eta=0.5, maximum=256, initial=8)",
    "inner_product_test(theta=0.9, maximum=256)",
    "inner_product_test(theta=0.9, maximum=256, initial=8)",
    "augmented_test(theta=0.9, nu=5.84, maximum=256)",
    "augmented_test(theta=0.9, nu=5.84, maximum=256, initial=8)",
    "coordinate_test(eta=0.5, maximum=256)",
    "coordinate_test(eta=0.5, maximum=256, initial=8)",
    "cross_client_test(eta=0.5, maximum=256)",
    "cross_client_test(eta=0.5, maximum=256, initial=8)",
    "no_decay()",
    "cosine_decay(samples=100000)",
    "cosine_decay(samples=100000, final=0.5, warmup=1000)",
    "lanczos()",
    "lanczos(every=5, steps=50, tolerance=0.01, fraction=0.5)",
    "by_sharpness(c=1.5)",
    "by_sharpness(c=1.5, hysteresis=0, smallest=0.001, largest=10)",
    "random_matching()",
    "random_pair()",
    "along(graph='ring')",
    "along(graph='erdos_renyi', probability=0.3)",
    "noisy(sigma=1.5)",
]


@pytest.mark.parametrize("text", SPELLINGS)
def test_spelling_is_read_back(text):
    """Kills: a field forgotten by spell or parse, a default that is written out."""
    value = fb.parse(text, object)
    assert repr(value) == text
    assert fb.parse(repr(value), type(value)) == value


def test_every_registered_setting_is_in_the_table_above():
    """A new setting joins the contract by itself, or this fails."""
    ours = [name for name, cls in notation._REGISTRY.items() if cls.__module__[:8] == "fedbias."]
    assert sorted(ours) == sorted({text.split("(")[0] for text in SPELLINGS})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("exact", fb.exact()),  # a bare name
        ("  top_k( 0.5 )\n", fb.top_k(0.5)),  # positional, spaces
        ("clipped(inf)", fb.clipped(math.inf)),
        ("clipped(inner=exact(), radius=2)", fb.clipped(2)),  # any order
        ("clipped(2, normalised())", fb.clipped(2, fb.normalised())),
        ('minibatch("reshuffle")', fb.minibatch("reshuffle")),
        ("until(loss=-1.5, accuracy=None)", fb.until(loss=-1.5)),
        ("until(loss=--2)", fb.until(loss=2)),
        ("adam(1e-2)", fb.adam(0.01)),
        ("lattice('E8', 2)", fb.lattice("E8", bits=2)),
        ("rotated(uniform(2))", fb.rotated(fb.uniform(2))),
        ("differential(None, True)", fb.differential(memory=True)),
        ("ef21(preset_radius(2, 1, 3))", fb.ef21(fb.preset_radius(2, 1, 3))),
        ("norm_test(0.5, 256, 8)", fb.norm_test(eta=0.5, maximum=256, initial=8)),
        ("augmented_test(0.9, 5, 64)", fb.augmented_test(theta=0.9, nu=5, maximum=64)),
        ("stagewise_batch(8, 2, 99, 64)", fb.stagewise_batch(8, factor=2, every=99, maximum=64)),
        ("linear_batch(8, 64, 999)", fb.linear_batch(initial=8, maximum=64, samples=999)),
        ("two_point(8, 1e-3, True)", fb.two_point(directions=8, radius=0.001, central=True)),
        (
            "by_capability(exact(), forward_gradient(2))",
            fb.by_capability(gradient=fb.exact(), directional=fb.forward_gradient(2)),
        ),
        ("cosine_decay(100, 0.5, 10)", fb.cosine_decay(samples=100, final=0.5, warmup=10)),
    ],
)
def test_other_ways_to_write_it(text, value):
    """Kills: positional arguments in the wrong order, a lost minus."""
    assert fb.parse(text, object) == value


@pytest.mark.parametrize(
    "value",
    [fb.top_k(np.float64(0.25)), fb.uniform(np.int64(2)), fb.heavy_ball(np.float32(0.5), 1)],
)
def test_numpy_numbers_are_numbers(value):
    """A sweep over np.linspace makes settings that a Plan carries, not np.float64(0.25)."""
    assert fb.parse(repr(value), object) == value


REFUSED = [
    ("warp()", "no setting 'warp'"),
    ("warp", "no setting 'warp'"),
    ("inf", "no setting 'inf'"),
    ("", "not written like"),
    ("top_k(", "not written like"),
    ("exact(); exact()", "not written like"),
    ("exact()\x00", "not written like"),
    ("top_k(fraction=0.5, fraction=0.1)", "not 'fraction'"),  # ast.parse lets it through
    ("adam(beta1=0, beta2=0, beta1=0.5)", "not 'beta1'"),
    ("top_k(0.5, fraction=0.5)", "not 'fraction'"),
    ("top_k(share=0.5)", r"takes \(fraction\), not 'share'"),
    ("top_k(0.5, 0.5)", r"takes \(fraction\)"),
    ("top_k()", r"needs \(fraction\)"),
    ("heavy_ball(beta=0.5)", r"needs \(step_size, beta\)"),
    ("top_k(**exact())", "not None"),
    ("top_k(*exact())", "neither a number"),
    ("top_k([0.5])", "neither a number"),
    ("top_k((0.5,))", "neither a number"),
    ("top_k({})", "neither a number"),
    ("top_k(0.25 + 0.25)", "neither a number"),
    ("top_k(1j)", "neither a number"),
    ("top_k(b'1')", "neither a number"),
    ("top_k(...)", "neither a number"),
    ("top_k(fraction)", "neither a number"),
    ("top_k(nan)", "neither a number"),
    ("top_k(-exact())", "neither a number"),
    ("top_k(f'{1}')", "neither a number"),
    ("clipped(1, inner=exact)", "neither a number"),  # bare names are for the outermost alone
    ("clipped(1, inner=lambda: 1)", "neither a number"),
    ("exact().__class__", "neither a number"),
    ("exact.estimate()", "neither a number"),
    ("exact()()", "neither a number"),
    ("__import__('os')", "no setting '__import__'"),
    ("eval('1')", "no setting 'eval'"),
    ("top_k(__import__('os').getpid())", "neither a number"),
    ("top_k(fraction=open('/etc/passwd'))", "no setting 'open'"),
    ("top_k('0.5')", "fraction must be"),
    ("top_k(True)", "fraction must be"),
    ("top_k(None)", "fraction must be"),
    ("clipped(1, inner=top_k(0.5))", "inner must be like"),
    ("clipped(-inf)", "radius must be"),
    ("uniform(bits=0)", "bits must be"),
    ("differential(memory=1)", "memory must be True or False"),
    ("differential(1.0)", "radius must be like None or preset_radius"),
    ("ef21(uniform(2))", "radius must be like None or preset_radius"),
    ("preset_radius(1, 2, 3)", "lipschitz must be"),
    ("preset_radius(1, 1)", r"needs \(lipschitz, strong_convexity, distance\)"),
    ("two_point(8)", r"needs \(directions, radius\) and takes \(directions, radius, central\)"),
    ("by_capability()", "name an estimator for one of gradient, directional, loss"),
    ("by_capability('exact')", "gradient must be like two_point"),
    ("norm_test(0.5, 8, 16)", "maximum must be a whole number >= 16, not 8"),
    ("norm_test(0.5)", r"needs \(eta, maximum\) and takes \(eta, maximum, initial\)"),
    ("constant_batch(2.0)", "size must be a whole number >= 1, not 2.0"),
    ("1", "does not fit"),
    ("'exact'", "does not fit"),
    (b"exact()", "written as text"),
    (None, "written as text"),
    (3, "written as text"),
    (["exact()"], "written as text"),
]


@pytest.mark.parametrize(("text", "reason"), REFUSED)
def test_refused_in_one_sentence(text, reason):
    """Kills: an eval, an unchecked name, a duplicate that overwrites."""
    kind = fb.Estimator if reason == "does not fit" else object  # so that the reason is this one
    with pytest.raises(ValueError, match=reason) as caught:
        fb.parse(text, kind)
    assert "\n" not in str(caught.value)


def test_wrong_kind_lists_what_fits():
    """Kills: the kind check dropped, so that an optimizer stands where a compressor should."""
    with pytest.raises(
        ValueError, match="does not fit here; allowed: dithered, entropy_coded, half, identity"
    ):
        fb.parse("adam()", fb.Compressor)
    assert notation.names(fb.Feedback) == ["differential", "ef21", "error_feedback", "no_feedback"]


@pytest.mark.parametrize("count", [50, 150, 340, 500, 1100, 20000])
@pytest.mark.parametrize("shape", ["-{}1", "exact{}", "1{}", "not {}1", "a{}", "({}", "f({}"])
def test_deep_nesting_is_refused(shape, count):
    """A deep tree ends neither in RecursionError nor in a crash of the interpreter."""
    piece = {"-": "-", "e": "()", "1": "+1", "n": "not ", "a": ".b", "(": "(", "f": "f("}[shape[0]]
    with pytest.raises(ValueError):
        fb.parse(shape.format(piece * count), fb.Estimator)


@pytest.mark.parametrize("name", ["gradient_descent", "clipped", "top_k", "until"])
def test_numbers_beyond_every_float_are_refused(name):
    """10^400 is a whole number that no float holds: ValueError, not OverflowError."""
    with pytest.raises(ValueError):
        fb.parse(f"{name}(1{'0' * 400})", object)


PIECES = st.sampled_from(
    [*notation.names(object), *"()[]{}=,.:-+*'\"\\ \n\t\x00#@~!", "inf", "inner", "fraction"]
    + ["radius", "None", "True", "lambda", "not", "0.5", "1", "1e999", "9" * 400, "π", "\ud800"]
)


@given(st.one_of(st.text(), st.lists(PIECES).map("".join)))
def test_arbitrary_text_raises_nothing_but_value_error(text):
    """Fuzz: whatever a config file or a message holds."""
    try:
        value = fb.parse(text, object)
    except ValueError:
        return
    assert fb.parse(text, type(value)) == value


@given(st.floats(allow_nan=False, min_value=0, exclude_min=True))
def test_floats_survive_exactly(radius):
    """Kills: a spelling with fewer than 17 digits."""
    setting = fb.clipped(radius, fb.minibatch("reshuffle"))
    assert fb.parse(repr(setting), fb.Estimator).radius == radius


def test_a_name_is_registered_once():
    """Kills: silent replacement of a setting."""
    with pytest.raises(ValueError, match="registered twice"):

        @notation.setting("exact")
        class Other:
            pass
