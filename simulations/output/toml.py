"""Write settings as TOML, which Python reads but does not write."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

import numpy as np

Setting = str | int | float | bool


def to_toml(settings: Mapping[str, Setting]) -> str:
    """Write flat settings as TOML: text, whole numbers, numbers and true or false."""
    return "".join(f"{_toml_key(key)} = {_toml_value(key, settings[key])}\n" for key in settings)


def _toml_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _toml_text(key)


def _toml_value(key: str, value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return _toml_text(value)
        case int() | np.integer():
            return str(int(value))
        case float() | np.floating():
            return repr(float(value))
    raise ValueError(f"settings: {key} must be text, a number, true or false, not {value!r}")


def _toml_text(text: str) -> str:
    # The escapes of JSON are escapes of TOML; TOML alone also forbids a bare DEL.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
