"""Take the README's picture of the dashboard from the study that ``make demo`` leaves behind.

Needs Chromium. Usage: python docs/screenshot.py [DEMO_FOLDER] [PICTURE]
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SIZE = "1400,1000"
DRAWN_MS = 15_000


def main() -> None:
    """Serve the dashboard on a free port, photograph it, and stop it."""
    demo = Path(sys.argv[1] if len(sys.argv) > 1 else "demo")
    picture = Path(sys.argv[2] if len(sys.argv) > 2 else "docs/images/dashboard.png")
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        sys.exit("no Chromium: apt install chromium")
    if not (demo / "home").is_dir():
        sys.exit(f"{demo} holds no demo: make demo")
    environment = os.environ | {"HMS_TUNE_HOME": str(demo / "home"), "HMS_TUNE_STORAGE": ""}
    command = [str(Path(sys.executable).with_name("hms-tune")), "dashboard", "--port", "0"]
    server = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        address = server.stdout.readline().strip().removeprefix("Dashboard: ")
        _photograph(browser, f"{address}studies/1", picture)
    finally:
        server.terminate()
        server.wait()


def _photograph(browser: str, address: str, picture: Path) -> None:
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [
                browser,
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
                f"--user-data-dir={profile}",
                f"--window-size={SIZE}",
                f"--virtual-time-budget={DRAWN_MS}",
                f"--screenshot={picture.resolve()}",
                address,
            ],
            check=True,
            stderr=subprocess.DEVNULL,
        )


if __name__ == "__main__":
    main()
