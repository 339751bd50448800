"""A client's introduction: there and back, and a stranger's is refused."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fedbias as fb
from fedbias.hello import Hello
from fedbias.problems import Squares
from fedbias.randomness import fingerprint

ABLE = ["directional", "gradient", "hvp", "per_example_statistics"]
HELLO = Hello.of(Squares(np.ones((5, 3)), np.ones(5)), 7, True, 10)


def altered(**changes):
    header = json.loads(HELLO.to_record()["header"]) | changes
    return {"header": json.dumps({k: v for k, v in header.items() if v is not ...})}


def test_there_and_back():
    """Kills: dim and size swapped, a fingerprint of something else."""
    assert Hello(7, True, 3, 5, ABLE, 10, fingerprint()) == HELLO
    assert Hello.from_record(HELLO.to_record()) == HELLO
    assert {type(value) for value in HELLO.to_record().values()} == {str}
    alone = Hello.of(Squares(np.ones((1, 1)), np.ones(1)), 2**64 - 1, False, None)
    assert Hello.from_record(alone.to_record()) == alone


NOT_COUNTS = [-1, 1.5, "1", True, [1], ...]
BAD = [
    *({key: bad} for key in ("client", "dim", "size") for bad in [*NOT_COUNTS, None]),
    *({"partitions": bad} for bad in NOT_COUNTS),
    *({"stable": bad} for bad in (0, 1, "yes", None, ...)),
    *({"capabilities": bad} for bad in (None, "gradient", 3, [1], {}, ...)),
    *({"fingerprint": bad} for bad in (None, 3, [], ...)),
    {"more": 1},
]


@pytest.mark.parametrize("change", BAD, ids=str)
def test_malformed_introductions(change):
    """Kills: a field that is not checked, bool as int."""
    with pytest.raises(fb.ProtocolError):
        Hello.from_record(altered(**change))


@pytest.mark.parametrize("header", ["", "{", "[]", "3", "null", "[" * 10**5, None, 3, b"\xff", ...])
def test_records_without_a_header(header):
    with pytest.raises(fb.ProtocolError):
        Hello.from_record({} if header is ... else {"header": header})


JSON = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)


@given(st.dictionaries(st.sampled_from(list(vars(HELLO))), JSON, max_size=3))
def test_any_introduction_is_read_or_refused(changes):
    try:
        hello = Hello.from_record(altered(**changes))
    except fb.ProtocolError:
        return
    assert Hello.from_record(hello.to_record()) == hello
