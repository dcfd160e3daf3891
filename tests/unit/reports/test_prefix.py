"""The dashboard below a path of its host."""

from __future__ import annotations

import gzip
import re
from functools import cache
from typing import Any

import pytest

from hms_tune.errors import UsageError
from hms_tune.reports.dashboard import prefix
from hms_tune.reports.dashboard.prefix import Prefixed


def inside(environment: dict[str, Any], start_response: Any) -> list[bytes]:
    if environment["PATH_INFO"] == "/":
        start_response("302 Found", [("Location", "http://host/dashboard")])
        return []
    start_response("200 OK", [("Content-Length", "6"), ("Content-Security-Policy", "strict")])
    return [environment["PATH_INFO"].encode()]


@cache
def below() -> Prefixed:
    """A dashboard below ``/hms``: its script, which is large, is rewritten once."""
    return Prefixed(inside, "/hms")


def ask(path: str, **variables: str) -> tuple[str, dict[str, str], bytes]:
    answered: list[Any] = []
    environment = {"REQUEST_METHOD": "GET", "PATH_INFO": path, "SCRIPT_NAME": "", **variables}
    body = below()(environment, lambda status, headers: answered.append((status, headers)))
    ((status, headers),) = answered
    return status, dict(headers), b"".join(body)


@pytest.mark.parametrize("path", ["/hms/api/studies", "/api/studies"])
def test_a_proxy_may_pass_the_path_on_whole_or_without_the_prefix(path: str) -> None:
    assert ask(path)[2] == b"/api/studies"
    assert ask("/hmsx/api")[2] == b"/hmsx/api"


@pytest.mark.parametrize("path", ["/hms", "/hms/", "/"])
def test_a_redirection_leads_below_the_prefix(path: str) -> None:
    assert ask(path)[1]["Location"] == "http://host/hms/dashboard"


def test_no_path_from_the_root_is_left_in_page_and_script() -> None:
    _, headers, page = ask("/hms/dashboard/studies/1")
    assert headers["Content-Security-Policy"] == "strict"
    assert re.findall(rb'(?:src|href)="(/[^"]*)"', page) == [b"/hms/static/bundle.js"]
    _, headers, packed = ask("/hms/static/bundle.js", HTTP_ACCEPT_ENCODING="gzip, br")
    assert (headers["Content-Encoding"], headers["Content-Length"]) == ("gzip", str(len(packed)))
    script = gzip.decompress(packed)
    assert ask("/hms/static/bundle.js")[2] == script
    assert not re.findall(rb"[`\"'(}]/(?:api|artifacts|static|dashboard)[/\"`]", script)
    assert script.count(b"/hms/") > 20


def test_a_dashboard_that_is_written_otherwise_is_refused_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prefix, "PATHS_IN_SCRIPT", (("basename:", "/dashboard"),))
    with pytest.raises(UsageError, match=r"cannot be served under a prefix.*host name of its own"):
        Prefixed(inside, "/hms")


@pytest.mark.parametrize("odd", ["", "/", "hms", "/hms/", "//hms", "/a b", '/"><script>', "/../x?"])
def test_a_prefix_that_is_no_path_is_refused(odd: str) -> None:
    with pytest.raises(UsageError, match="is no path"):
        Prefixed(inside, odd)
