"""Write a self-contained HTML report of runs: settings, curves, scores, videos. The page's source is in page/."""

import base64
import datetime
import gzip
import html
import importlib.resources
import json
import string
from collections.abc import Sequence
from pathlib import Path

from atari_dqn.analysis import bands, run_data, run_folders
from atari_dqn.analysis.run_data import Data
from atari_dqn.checkpoint import outputs
from atari_dqn.config.commands import ReportConfig
from atari_dqn.data import scores
from atari_dqn.utils import extras
from atari_dqn.utils.console import Console
from atari_dqn.utils.errors import UserError
from atari_dqn.utils.files import read, replacing
from atari_dqn.utils.text import compact, plural

POINTS, ALL_POINTS, FEWEST = 600, 24_000, 60  # maximum per curve, maximum over all runs, minimum per curve
ENDINGS = (".html", ".htm")
FILMS = 24  # videos in total, unless set by videos=
MOST_FILM_BYTES = 200_000_000
# A report makes no network requests, whatever a run's files contain.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; media-src blob:"
)


def part(name: str) -> str:
    """Read a file of page/."""
    return importlib.resources.files("atari_dqn.analysis").joinpath(f"page/{name}").read_text(encoding="utf-8")


def plotly() -> str:
    """plotly.js, as shipped with the Python package."""
    made: str = extras.load("plotly.offline", "the page").get_plotlyjs()  # slow to load
    return made


def page(title: str, data: Data, style: str, scripts: str, policy: str = "") -> str:
    """Render the page. Reports pass inline `style` and `scripts`, the dashboard links to them."""
    return string.Template(part("page.html")).substitute(
        title=html.escape(title),
        human=html.escape(scores.SOURCE),
        data=json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
        policy=policy and f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        style=style,
        scripts=scripts,
    )


def gather(folders: dict[str, Path], shown: Sequence[str]) -> Data:
    """The page's data: all runs for the list, and curves of the runs in `shown`."""
    points = max(FEWEST, min(POINTS, ALL_POINTS // max(1, len(shown))))
    runs = [{"name": name} | run_data.line(folder) for name, folder in folders.items()]
    entries = {name: run_data.entry(folders[name], points) for name in shown}
    games = {run["game"] for run in runs if "game" in run and run["name"] in shown}
    return {
        "made": datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S"),
        "runs": runs,
        "entries": entries,
        "bands": bands.together([{"name": name} | entry for name, entry in entries.items()]),
        "scores": run_data.final_scores(sorted(games)),
        "videos": {},
    }


def spread(films: Sequence[Path], most: int) -> list[Path]:
    """At most `most` of a run's videos, evenly spaced, including the last one."""
    if len(films) <= most or not most:
        return list(films[:most])
    return [films[round((i + 1) * len(films) / most) - 1] for i in range(most)]


def film_label(film: Path) -> str:
    steps = film.stem.removeprefix("step")
    return f"after {compact(int(steps))} agent steps" if steps.isdecimal() else film.stem


def write(asked: ReportConfig, console: Console) -> None:
    """Write the report, atomically."""
    extras.need("a report", "plotly")
    folders, (first, *others) = run_folders.name_runs("run", asked.run), run_folders.roots("run", asked.run)
    output = Path(asked.output or (first.parent if others else first) / "report.html")
    if output.suffix.lower() not in ENDINGS:
        raise UserError(f"output={output}: must end with .html")
    most = min(3, FILMS // len(folders)) if asked.videos is None else asked.videos
    data, films = gather(folders, list(folders)), []
    unreadable = [f"{run['name']} {run['error']}" for run in data["runs"] if "error" in run]
    if len(unreadable) == len(folders):
        raise UserError(unreadable[0])
    unreadable += [f"{run['name']}: {run['damage']}" for run in data["runs"] if run.get("damage")]
    for i, (name, folder) in enumerate(folders.items()):
        data["videos"][name] = []
        for j, film in enumerate(spread(run_folders.videos(folder), most)):
            try:
                films.append(_packed(f"film-{i}-{j}", read(film, MOST_FILM_BYTES)))
            except OSError as error:
                unreadable.append(f"{film} skipped: {error.strerror or error}")
                continue
            data["videos"][name].append({"label": film_label(film), "id": f"film-{i}-{j}"})
    games = sorted({run["game"] for run in data["runs"] if "game" in run})
    title = f"atari_dqn: {', '.join(games[:4])}{' ...' if len(games) > 4 else ''}"
    scripts = "\n".join(
        [*films, _packed("plotly", gzip.compress(plotly().encode(), mtime=0)), f"<script>{part('page.js')}</script>"]
    )
    output = outputs.choose(asked.output, output, ENDINGS)
    with outputs.writing(output), replacing(output, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(page(title, data, f"<style>{part('page.css')}</style>", scripts, POLICY))
    for text in unreadable:
        console.say(f"note: {text}")
    megabytes, filmed = output.stat().st_size / 1e6, sum(map(len, films)) / 1e6
    console.say(
        f"written: {output} ({plural(len(folders), 'run')}, {megabytes:.1f} MB, including {filmed:.1f} MB for "
        f"{plural(len(films), 'video')})"
    )


def _packed(name: str, content: bytes) -> str:
    """Embed bytes in the page, for its script to unpack."""
    return f'<script type="text/plain" id="{name}">{base64.b64encode(content).decode()}</script>'
