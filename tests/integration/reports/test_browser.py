"""Pages in a browser, asserted by what a person reads there. Skipped where there is no Chromium."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest
from serving import served

from hms_tune.database.connect import Storage
from hms_tune.reports.dashboard.serve import dashboard_app
from hms_tune.reports.study_page import gather, report_page
from hms_tune.studies.trial_record import StudyRecord, study_record

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

NAME = "browsed"
CHROMIUM = next((path for name in ("chromium", "chromium-browser") if (path := shutil.which(name))), None)
playwright = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")


class Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def study(storage: Storage, artifacts: Path) -> StudyRecord:
    return study_record(storage, NAME)


@pytest.fixture(scope="module")
def dashboard(storage: Storage, artifacts: Path) -> Iterator[str]:
    """The dashboard's address."""
    server = make_server("127.0.0.1", 0, dashboard_app(storage, artifacts), handler_class=Quiet)
    with served(server) as address:
        yield f"{address}/dashboard"


@pytest.fixture(scope="module")
def report(storage: Storage, study: StudyRecord, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(report_page(gather(storage, NAME)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def context(browser: Browser) -> Iterator[BrowserContext]:
    """One for all pages, so that the dashboard's program is fetched and compiled once."""
    made = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    yield made
    made.close()


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    opened = context.new_page()
    opened.set_default_timeout(30_000)
    yield opened
    opened.close()


def test_the_study_list_leads_to_a_study_with_its_best_trial_and_our_figures(
    page: Page, dashboard: str, study: StudyRecord
) -> None:
    page.goto(dashboard)
    page.get_by_text(NAME).first.click()
    assert study.best is not None
    page.get_by_text(f"Best Trial (number={study.best.attempt})").wait_for()
    for title in ("Fold spread of the ten best", "KL over time", "What a KL costs", "Slots at work"):
        page.locator(".gtitle", has_text=title).wait_for()


def test_a_studys_note_says_what_leads_and_how_to_help(
    page: Page, dashboard: str, study: StudyRecord
) -> None:
    page.goto(f"{dashboard}/studies/{study.study_id}/note")
    page.get_by_role("heading", name="What is searched").wait_for()
    told = page.locator("body").inner_text()
    assert study.best is not None
    assert f"Trial {study.best.attempt} leads with KL {study.best.value:.4f}" in told
    assert "hms-tune worker studies/a.yaml" in told


def test_the_best_trial_has_its_note_and_its_pictures(page: Page, dashboard: str, study: StudyRecord) -> None:
    assert study.best is not None
    page.goto(f"{dashboard}/studies/{study.study_id}/trials?numbers={study.best.attempt}")
    page.get_by_text(f"Complete: KL {study.best.value:.4f}").wait_for()
    page.get_by_text("confusion.png", exact=True).wait_for()
    page.locator('img[src*="/artifacts/"]').first.wait_for()
    page.wait_for_function("document.querySelector('img[src*=\"/artifacts/\"]').naturalWidth > 300")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_pruned_trial_says_why(page: Page, dashboard: str, study: StudyRecord) -> None:
    pruned = study.ended("pruned")[0]
    page.goto(f"{dashboard}/studies/{study.study_id}/trials?numbers={pruned.attempt}")
    page.get_by_text("Pruned in fold 1 after epoch 2 of 3: ≈").wait_for()


EDITORS = 'button:has(> [data-testid="EditIcon"])', 'input[type="file"]', '[data-testid="UploadFileIcon"]'
"""Pencils and uploads."""


def editors_shown(page: Page, dashboard: str, study: StudyRecord) -> list[bool]:
    """Whether anything of these is to be seen on each of a study's pages."""
    assert study.best is not None
    shown = []
    for path in ("note", f"trials?numbers={study.best.attempt}", ""):
        page.goto(f"{dashboard}/studies/{study.study_id}/{path}")
        page.locator(", ".join(EDITORS)).first.wait_for(state="attached")
        shown.append(any(each.is_visible() for each in page.locator(", ".join(EDITORS[::2])).all()))
    return shown


def test_a_dashboard_to_look_at_shows_no_pencils_and_no_uploads(
    page: Page, dashboard: str, study: StudyRecord
) -> None:
    assert editors_shown(page, dashboard, study) == [False] * 3


def test_a_writable_dashboard_shows_pencils_and_uploads(
    page: Page, storage: Storage, artifacts: Path, study: StudyRecord
) -> None:
    app = dashboard_app(storage, artifacts, writable=True)
    with served(make_server("127.0.0.1", 0, app, handler_class=Quiet)) as address:
        assert editors_shown(page, f"{address}/dashboard", study) == [True] * 3


@pytest.mark.parametrize("width", [1280, 360])
def test_the_report_reads_at_a_desk_and_on_a_phone_without_asking_for_anything(
    browser: Browser, study: StudyRecord, report: Path, width: int
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800})
    page = context.new_page()
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(report.as_uri())
    headings = page.locator("h2").all_inner_texts()
    assert headings == [
        "The question",
        "How good the winner is",
        "The data",
        "What was searched, and what won",
        "How it went",
        "Where it is right and wrong",
        "What was given up, and what that saved",
        "Hardware and cost",
        "How to reproduce it",
    ]
    assert study.best is not None
    assert f"Trial {study.best.attempt}, KL {study.best.value:.4f}" in page.locator("main").inner_text()
    assert page.locator("svg").count() == 8
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert requests == [report.as_uri()]
    context.close()
