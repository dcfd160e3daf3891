"""What doctor says of the database and of packages."""

from __future__ import annotations

import pytest
from packaging.requirements import Requirement

from hms_tune.cli.doctor import database_check, package_check


@pytest.mark.parametrize(
    ("host", "encrypted", "state"),
    [
        ("/run/postgresql", False, "ok"),
        ("localhost", False, "ok"),
        ("db.example.org", True, "ok"),
        ("db.example.org", False, "warn"),
    ],
)
def test_doctor_warns_of_a_database_elsewhere_without_tls(host: str, encrypted: bool, state: str) -> None:
    check = database_check("PostgreSQL", host=host, encrypted=encrypted)
    assert (check.state, "sslmode" in (check.hint or "")) == (state, state == "warn")


@pytest.mark.parametrize(
    ("requirement", "state", "detail"),
    [
        ("optuna>=5.0", "ok", "5."),
        ("optuna>=99", "fail", "needs >=99"),
        ("no-such-package>=1", "fail", "not installed"),
    ],
)
def test_doctor_checks_packages_against_what_this_one_needs(
    requirement: str, state: str, detail: str
) -> None:
    check = package_check(Requirement(requirement))
    assert (check.state, detail in check.detail) == (state, True)
    assert check.hint == (None if state == "ok" else f"Run pip install '{requirement}'")
