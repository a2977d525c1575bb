"""Nested settings as rows of text."""

import json
from collections.abc import Mapping
from typing import Any


def flatten(value: Any, name: str = "") -> list[tuple[str, str]]:
    """Rows of nested settings: dotted name, text."""
    if isinstance(value, Mapping) and value:
        return [
            row
            for key, inner in value.items()
            for row in flatten(inner, f"{name}.{key}" if name else str(key))
        ]
    if isinstance(value, str):
        return [(name, value)]
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10_000:
        return [(name, f"{value:,}")]
    return [(name, json.dumps(value, ensure_ascii=False))]
