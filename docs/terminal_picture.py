"""Draw what a terminal shows, captured by tmux, as a picture.

Needs Chromium. Usage: tmux capture-pane -t PANE -p -e | python docs/terminal_picture.py COLUMNS TITLE PICTURE
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.ansi import AnsiDecoder
from rich.console import Console
from rich.text import Text

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def main() -> None:
    """Read the capture from standard input and write the picture."""
    columns, title, picture = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        sys.exit("no Chromium: apt install chromium")
    capture = sys.stdin.read().rstrip()
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "null").open("w") as nowhere:
        console = Console(width=columns, record=True, file=nowhere, force_terminal=True)
        console.print(Text("\n").join(AnsiDecoder().decode(capture)))
        drawn = Path(folder) / "terminal.svg"
        console.save_svg(str(drawn), title=title)
        size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', drawn.read_text())
        assert size is not None
        width, height = (round(float(number)) for number in size.groups())
        command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += [f"--user-data-dir={folder}/profile", f"--window-size={width},{height}"]
        command += [f"--screenshot={picture.resolve()}", drawn.as_uri()]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
