"""Attached files in a browser: nothing runs, no other site sees them. Skipped where there is no Chromium."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import optuna
import pytest
from hostile import hostile_files
from serving import served, serving_dashboard

from hms_tune.database.connect import Storage
from hms_tune.reports.dashboard.files import DashboardFiles, attach
from hms_tune.reports.dashboard.serve import dashboard_app
from hms_tune.search.optuna_private import study_id_of, trial_id_of

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CHROMIUM = next((path for name in ("chromium", "chromium-browser") if (path := shutil.which(name))), None)
playwright = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")

PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c63f8cfc0f01f0005"
    "0001ff89993d1d0000000049454e44ae426082"
)

READ = """
async (address) => {
  const asked = async (options) => {
    try { return (await (await fetch(address, options)).text()).length } catch { return "refused" }
  }
  const shown = (name) => new Promise((done) => {
    const element = document.createElement(name)
    element.onload = () => done("shown")
    element.onerror = () => done("refused")
    element.src = address
    document.body.append(element)
  })
  return [await asked({}), await asked({mode: "no-cors"}), await shown("img"), await shown("script")]
}
"""


class Elsewhere(BaseHTTPRequestHandler):
    """A page of another site."""

    def do_GET(self) -> None:
        """Send it."""
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><body></body>")

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing."""


@pytest.fixture
def browser() -> Iterator[Browser]:
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


def test_no_attached_file_runs_and_no_other_site_reads_one(
    browser: Browser, storage: Storage, study_name: str, tmp_path: Path
) -> None:
    study = optuna.create_study(study_name=study_name, storage=storage.optuna)
    study.tell(study.ask(), 0.5)
    number = study_id_of(study)
    files = hostile_files(number) | {"pixel.png": PIXEL}
    for name, content in files.items():
        attach(storage, DashboardFiles(tmp_path), number, 0, name, content)
    application = dashboard_app(storage, tmp_path, writable=True)
    with (
        serving_dashboard(application) as server,
        served(ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere)) as elsewhere,
    ):
        origin = f"http://127.0.0.1:{server.effective_port}"
        context = browser.new_context(accept_downloads=True)
        asked: list[str] = []
        context.on("request", lambda request: asked.append(request.method))
        page = context.new_page()
        page.goto(f"{origin}/dashboard/")
        (trial,) = page.evaluate(f"fetch('/api/studies/{number}').then(a => a.json())")["trials"]
        addresses = {
            each[
                "filename"
            ]: f"{origin}/artifacts/{number}/{trial_id_of(study.trials[0])}/{each['artifact_id']}"
            for each in trial["artifacts"]
        }
        assert addresses.keys() == files.keys()
        page.goto(f"{origin}/dashboard/studies/{number}/trials?numbers=0")
        page.wait_for_function("[...document.images].some(image => image.naturalWidth === 1)")
        for name, address in addresses.items():
            with page.expect_download() as download:
                page.evaluate("address => { location = address }", address)
            assert Path(download.value.path()).read_bytes() == files[name]
        assert page.title() != "ran"
        stranger = context.new_page()
        stranger.goto(elsewhere.replace("127.0.0.1", "localhost"))
        for name, address in addresses.items():
            assert stranger.evaluate(READ, address) == ["refused"] * 4, name
        assert "DELETE" not in asked
        context.close()
    assert study_name in optuna.get_all_study_names(storage.optuna)


def test_below_a_prefix_every_page_and_picture_is_asked_for_there(
    browser: Browser, storage: Storage, study_name: str, tmp_path: Path
) -> None:
    study = optuna.create_study(study_name=study_name, storage=storage.optuna)
    study.tell(study.ask(), 0.5)
    number = study_id_of(study)
    attach(storage, DashboardFiles(tmp_path), number, 0, "pixel.png", PIXEL)
    with serving_dashboard(dashboard_app(storage, tmp_path, writable=True, prefix="/a/hms-tune")) as server:
        context = browser.new_context()
        page, asked = context.new_page(), list[str]()
        page.on("request", lambda request: asked.append(request.url))
        origin = f"http://127.0.0.1:{server.effective_port}"
        page.goto(f"{origin}/a/hms-tune/")  # leads to the dashboard
        page.get_by_text(study_name).first.click()
        page.get_by_text("Best Trial").first.wait_for()
        page.goto(f"{origin}/a/hms-tune/dashboard/studies/{number}/trials?numbers=0")
        page.wait_for_function("[...document.images].some(image => image.naturalWidth === 1)")
        context.close()
    paths = [urlsplit(each).path for each in asked if each.startswith("http")]
    assert {path.split("/")[3] for path in paths if path != "/a/hms-tune/"} == {
        "dashboard",
        "static",
        "api",
        "artifacts",
    }
    assert all(path.startswith("/a/hms-tune/") for path in paths)
