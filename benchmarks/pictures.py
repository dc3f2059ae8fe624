"""Create the README's pictures of the report, the inspector and the terminal from existing runs.

benchmarks/pictures.py report RUN [RUN ...]      # results/report.png; needs Chromium
benchmarks/pictures.py inspector RUN --frame 900 # results/inspector.png, a video frame of its best network
benchmarks/pictures.py terminal -- make train GAME=Pong PRESET=laptop   # results/terminal.png after --seconds
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av
from PIL import Image, ImageOps
from playwright.sync_api import sync_playwright
from rich.console import Console
from rich.text import Text

ROOT, RESULTS = Path(__file__).parent.parent, Path(__file__).parent / "results"
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")


def shoot(page: Path, output: Path, width: int, height: int, switch: str = "") -> None:
    """A screenshot of a page in a real browser, with a reduced palette."""
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": width, "height": height})
        tab.goto(page.as_uri())
        if switch:
            tab.wait_for_selector("html[data-ready=true]")
            tab.locator("#seeds label", has_text=switch).click()
            tab.wait_for_timeout(1500)
        (tab.locator("svg").first if page.suffix == ".svg" else tab).screenshot(path=output)
        browser.close()
    Image.open(output).convert("RGB").quantize(128).save(output, optimize=True)


def report(runs: list[str], folder: Path) -> None:
    page = folder / "report.html"
    words = ["report", f"run={' '.join(runs)}", f"output={page}", "videos=1"]
    subprocess.run([sys.executable, "-m", "atari_dqn", *words], cwd=ROOT, check=True)
    shoot(page, RESULTS / "report.png", 1100, 860, "mean")


def inspector(run: str, frame: int, folder: Path) -> None:
    film = folder / "inspector.mp4"
    words = ["video", f"checkpoint={run}", "view=inspect", f"max_seconds={frame // 60 + 1}", f"output={film}", "seed=3"]
    subprocess.run([sys.executable, "-m", "atari_dqn", *words], cwd=ROOT, check=True)
    with av.open(str(film)) as opened:
        for i, picture in enumerate(opened.decode(video=0)):
            if i == frame:
                picture.to_image().save(RESULTS / "inspector.png", optimize=True)


def terminal(words: list[str], seconds: float, folder: Path) -> None:
    """The last screen of a command in a terminal of 80 columns, rendered by rich."""
    screen = subprocess.run(
        ["tmux", "new-session", "-d", "-s", "picture", "-x", "80", "-y", "24", *words], cwd=ROOT, check=False
    )
    if screen.returncode:
        raise SystemExit("cannot start tmux; on Debian: apt install tmux")
    time.sleep(seconds)
    text = subprocess.run(
        ["tmux", "capture-pane", "-p", "-e", "-t", "picture"], capture_output=True, text=True, check=True
    ).stdout
    subprocess.run(["tmux", "send-keys", "-t", "picture", "C-c"], check=False)
    console = Console(record=True, width=80, file=open(os.devnull, "w", encoding="utf-8"), force_terminal=True)  # noqa: SIM115
    console.print(Text.from_ansi(text.rstrip()))
    svg = folder / "terminal.svg"
    console.save_svg(str(svg), title="atari_dqn")
    shoot(svg, RESULTS / "terminal.png", 1000, 900)
    picture = Image.open(RESULTS / "terminal.png").convert("RGB")
    picture.crop(ImageOps.invert(picture).getbbox()).quantize(64).save(RESULTS / "terminal.png", optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["report", "inspector", "terminal"])
    parser.add_argument("words", nargs="+")
    parser.add_argument("--frame", type=int, default=900)
    parser.add_argument("--seconds", type=float, default=60.0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if asked.what == "report":
            report(asked.words, folder)
        elif asked.what == "inspector":
            inspector(asked.words[0], asked.frame, folder)
        else:
            terminal(asked.words, asked.seconds, folder)


if __name__ == "__main__":
    main()
