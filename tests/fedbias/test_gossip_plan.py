"""Decentralized plans and queries: bit for bit there and back, and everything else is refused."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fedbias as fb
from fedbias.gossip import GossipPlan, ModelQuery
from tests.tools.messages import JSON, NOT_WHOLE, altered, same

ODD = np.array([0.1, -0.0, 5e-324, 1e300])
PLAN = GossipPlan(
    round=3,
    seed=2**63 - 1,
    client=2,
    acknowledged=1,
    estimator=fb.by_capability(gradient=fb.exact(), loss=fb.two_point(8, 1 / 3)),
    batch_size=7,
    step_size=0.1 + 0.2,
    mixing=1 / 3,
    compressor=fb.top_k(0.1),
    feedback=fb.ef21(),
    partner=fb.dithered(3).encode(ODD[:3], np.random.default_rng(0)),
    model=ODD,
)


@pytest.mark.parametrize(
    "plan",
    [
        PLAN,
        replace(PLAN, partner=None),
        replace(PLAN, model=None),
        replace(PLAN, partner=None, model=None, batch_size=None, acknowledged=-1),
        replace(PLAN, round=2**40, client=2**64 - 1, batch_size=1, acknowledged=0, seed=0),
        replace(PLAN, step_size=0.0, mixing=1.0),
        replace(PLAN, step_size=5e-324, mixing=5e-324),
        replace(PLAN, step_size=1.7976931348623157e308),
        replace(PLAN, estimator=fb.local_steps(1, 0.1, 0.9), feedback=fb.no_feedback()),
        replace(PLAN, model=ODD.clip(-1, 1).astype(np.float32)),
    ],
)
def test_there_and_back(plan):
    """Kills: a field left out, a packet that gets lost, a model rounded by JSON."""
    record = plan.to_record()
    vectors = {name for name in ("partner", "model") if getattr(plan, name) is not None}
    assert {name: type(value) for name, value in record.items()} == {
        "header": str,
        **dict.fromkeys(vectors, bytes),
    }
    same(plan, GossipPlan.from_record(record))


def test_a_partners_model_is_not_made_dense():
    """It travels as it came. Kills: a relay that costs what compression saved."""
    assert PLAN.to_record()["partner"] == bytes(PLAN.partner)


QUERY = ModelQuery(2, 1, 1 / 3, PLAN.partner)
NOT_STEPS = [None, -0.5, -1, math.nan, math.inf, -math.inf, "1", True, [1.0], {}, 10**400, ...]
BAD_HEADERS = [
    *(({key: bad}) for key in ("round", "seed", "client") for bad in [*NOT_WHOLE, -1]),
    *(({"acknowledged": bad}) for bad in NOT_WHOLE),
    *(({"batch_size": bad}) for bad in ("1", 1.5, True, [1], {}, 0, -1, ...)),
    *(({"step_size": bad}) for bad in NOT_STEPS),
    *(({"mixing": bad}) for bad in [*NOT_STEPS, 0, 0.0, 1.5, 2]),
    *(({"estimator": bad}) for bad in (None, 3, "", "warp()", "sign()", "eval('1')", ...)),
    *(({"compressor": bad}) for bad in ("top_k()", "top_k(2)", "exact()", ["sign()"], ...)),
    *(({"feedback": bad}) for bad in ("identity()", "ef21(1)", False, ...)),
    {"more": 1},
    {"matching": "random_matching()"},  # nobody else's business
]
BAD_QUERIES = [
    *(({"client": bad}) for bad in [*NOT_WHOLE, -1]),
    *(({"acknowledged": bad}) for bad in NOT_WHOLE),
    *(({"mixing": bad}) for bad in [*NOT_STEPS, 0, 0.0, 1.5, 2]),
    {"round": 3},
]


@pytest.mark.parametrize("change", BAD_HEADERS, ids=lambda change: str(change)[:60])
def test_malformed_headers(change):
    """One sentence. Kills: a type not checked, a step that is no number, a mixing that no
    algorithm has."""
    with pytest.raises(fb.ProtocolError) as caught:
        GossipPlan.from_record(altered(PLAN, **change))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "query", [QUERY, replace(QUERY, partner=None, acknowledged=-1, client=2**64 - 1, mixing=1.0)]
)
def test_a_query_there_and_back(query):
    record = query.to_record()
    assert ("partner" in record) == (query.partner is not None)
    same(query, ModelQuery.from_record(record))


@pytest.mark.parametrize("change", BAD_QUERIES, ids=lambda change: str(change)[:60])
def test_malformed_queries(change):
    with pytest.raises(fb.ProtocolError):
        ModelQuery.from_record(altered(QUERY, **change))


@pytest.mark.parametrize(
    ("message", "name"), [(PLAN, "partner"), (PLAN, "model"), (QUERY, "partner")]
)
def test_bad_packets(message, name):
    """Kills: a vector that is taken unchecked."""
    record = message.to_record()
    flipped = bytes([record[name][0] ^ 1]) + record[name][1:]
    for bad in (b"", record[name][:-1], record[name] + b"\0", flipped, "text", None, 3, [1.0]):
        with pytest.raises(fb.PacketError):
            type(message).from_record(record | {name: bad})


def test_a_model_comes_as_it_is():
    """Few bytes cannot ask for much memory. Kills: any codec for the model to begin with."""
    sparse = bytes(fb.top_k(1e-9).encode(np.ones(1000)))
    with pytest.raises(fb.PacketError, match="model must come uncompressed, not as"):
        GossipPlan.from_record(PLAN.to_record() | {"model": sparse})


KEYS = sorted(json.loads(PLAN.header()))


@given(st.dictionaries(st.sampled_from(KEYS), JSON, max_size=3))
def test_any_header_is_read_or_refused(changes):
    """What a stranger may put into a header ends in ValueError or in a sound plan."""
    try:
        back = GossipPlan.from_record(altered(PLAN, **changes))
    except ValueError:
        return
    assert GossipPlan.from_record(back.to_record()).to_record() == back.to_record()


@given(st.dictionaries(st.sampled_from(["header", "partner", "model"]), JSON | st.binary()))
def test_any_record_is_read_or_refused(record):
    for kind in (GossipPlan, ModelQuery):
        with pytest.raises((fb.ProtocolError, fb.PacketError)):
            kind.from_record(record)
