"""Values to enqueue, as a person types them."""

from __future__ import annotations

import pytest

from hms_tune.cli.study import parse_params
from hms_tune.errors import UsageError


def test_values_come_as_json_or_one_by_one() -> None:
    assert parse_params('{"a.b": 0.001, "c": "cosine", "d": [1, 2], "e": null, "f": true}') == {
        "a.b": "0.001",
        "c": "cosine",
        "d": "[1, 2]",
        "e": "null",
        "f": "true",
    }
    assert parse_params(" a.b = 1e-3") == {"a.b": " 1e-3"}
    assert parse_params("a==") == {"a": "="}


@pytest.mark.parametrize(
    ("text", "said"),
    [("{a: 1}", "this is no JSON"), ("{", "this is no JSON"), ("a", "is not KEY=VALUE"), ("=1", "KEY=VALUE")],
)
def test_anything_else_is_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_params(text)
