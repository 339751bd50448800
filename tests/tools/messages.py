"""Messages between server and client, altered and compared."""

import json
from dataclasses import fields

import numpy as np
from hypothesis import strategies as st

NOT_WHOLE = ["1", 1.5, 1.0, True, None, ..., [1], {}, -2, float("nan")]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


def same(one, other):
    """Field by field, with the same types and bits."""
    for field in fields(one):
        mine, theirs = getattr(one, field.name), getattr(other, field.name)
        if isinstance(mine, np.ndarray):
            assert mine.dtype == theirs.dtype and mine.tobytes() == theirs.tobytes()
        else:
            assert mine == theirs and type(mine) is type(theirs)


def altered(message, **changes):
    """The message's record with another header; ``...`` removes a key."""
    record = message.to_record()
    header = json.loads(record["header"]) | changes
    header = {name: value for name, value in header.items() if value is not ...}
    return record | {"header": json.dumps(header)}
