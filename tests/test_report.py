"""The report and the dashboard, in a real browser; what they tell of runs against the runs' own files."""

import csv
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import browser
import numpy as np
import psutil
import pytest
from conftest import ROOT

from atari_dqn.analysis import bands, dashboard, report, run_data, run_folders
from atari_dqn.checkpoint import folders
from atari_dqn.config.commands import ReportConfig
from atari_dqn.data import scores
from atari_dqn.utils.console import Console
from atari_dqn.utils.errors import RunFailed, UserError

SHORT = [
    "logger.wandb=off", "logger.tensorboard=false", "evaluation.episodes=2", "evaluation.video_share=1",
    "checkpoint.every_steps=100k",
]  # fmt: skip
CARTPOLE = [
    "env=cartpole", "total_steps=3000", "logger.every_steps=200", "evaluation.every_steps=1000",
    "replay.warmup_steps=500", "evaluation.video_seconds=1",
]  # fmt: skip
BREAKOUT = [
    "env.game=Breakout", "total_steps=1200", "replay.warmup_steps=400", "evaluation.every_steps=600", "num_envs=4",
    "logger.every_steps=100", "protocol.max_frames=400", "evaluation.video_seconds=1", "network=small_cnn",
]  # fmt: skip


def train(folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "atari_dqn", "train", *SHORT, *words],
        cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def runs(shared) -> Path:
    """A folder of three finished runs, two of them seeds of one experiment."""
    return shared("report", train_three) / "runs"


def train_three(folder: Path) -> None:
    started = [
        train(folder, *CARTPOLE, "seed=1", "run_dir=runs/cart1"),
        train(folder, *CARTPOLE, "seed=2", "run_dir=runs/cart2"),
        train(folder, *BREAKOUT, "run_dir=runs/breakout"),
    ]
    for process in started:
        assert process.wait(timeout=200) == 0, process.stderr and process.stderr.read()


@pytest.fixture(scope="module")
def written(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("report") / "report.html"
    report.write(ReportConfig(str(runs), 3, str(output)), Console(quiet=True))
    return output


def column(path: Path, name: str) -> list[float]:
    with open(path) as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get("network", "current") == "current"]


def known(values: list[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values])


# --- the numbers, without a browser -----------------------------------------------------------------------------------


def test_the_interquartile_mean_is_of_the_middle_half():
    values = np.random.default_rng(1).normal(size=(8, 5))
    by_hand = np.sort(values, axis=0)[2:6].mean(0)
    np.testing.assert_allclose(bands.iqm(values, axis=0), by_hand)


def test_intervals_are_the_percentile_bootstrap_of_whole_seeds():
    values = np.random.default_rng(2).normal([0.0, 10.0, 20.0], size=(5, 3))
    middle, low, high = bands.interval(values, np.mean, resamples=20_000)
    np.testing.assert_allclose(middle, values.mean(0))
    draws = np.random.default_rng(3)
    slow = np.array([[values[[draws.integers(5) for _ in range(5)], i].mean() for i in range(3)] for _ in range(4000)])
    np.testing.assert_allclose([low, high], np.percentile(slow, [2.5, 97.5], axis=0), atol=0.06)


def test_a_seed_that_was_run_twice_is_one():
    def run(name: str, seed: int, scores: list[float]) -> dict:
        series = {"frames": [1.0, 2.0], "seconds": [1.0, 2.0], "mean": scores}
        empty = {key: [None, None] for key in (*run_data.MEASURED, *run_data.EVALUATED)} | series
        return {"name": name, "group": "g", "seed": seed, "agent_steps": len(name)} | {
            part: empty for part in ("trained", "evaluated", "measured")
        }

    assert not bands.together([run("a", 1, [0, 1]), run("bb", 1, [5, 6])])
    (made,) = bands.together([run("a", 1, [0, 1]), run("bb", 1, [2, 4]), run("c", 2, [4, 8])])
    assert made["runs"] == ["bb", "c"] and made["curves"]["trained.mean.frames"]["mean"]["middle"][0] == 3.0


def test_thinning_keeps_means_and_ends():
    series = {"frames": np.arange(1, 1001.0), "loss": np.where(np.arange(1000) % 3 == 0, np.nan, np.arange(1000.0))}
    thin = run_data.thin(series, 10)
    assert thin["frames"].tolist() == list(range(100, 1001, 100))
    assert thin["loss"][4] == np.nanmean(series["loss"][400:500])


def test_training_returns_are_means_of_the_games_that_ended_in_each_part(runs):
    told = run_data.entry(runs / "cart1", 600)
    frames, returns = (np.array(column(runs / "cart1/episodes.csv", key)) for key in ("frames", "return"))
    parts = np.ceil(frames / told["every_frames"])
    by_hand = [returns[parts == part].mean() for part in np.unique(parts)]
    np.testing.assert_allclose(told["trained"]["mean"], by_hand, rtol=1e-6)
    assert told["trained"]["frames"][-1] == frames[-1]


def test_how_a_run_ended_is_told(tmp_path):
    (tmp_path / "config.yaml").touch()
    assert run_data.state(tmp_path).word == "died"
    with pytest.raises(UserError), folders.held(tmp_path):
        raise UserError("no room for it")
    assert run_data.state(tmp_path)[:2] == ("failed", "no room for it")
    with folders.held(tmp_path):
        pass  # and no word: as a kill in its last evaluation
    assert run_data.state(tmp_path).word == "died"
    with folders.held(tmp_path) as process:
        assert folders.is_held(tmp_path) and run_data.state(tmp_path).word == "running"
        process.ended = "stopped"
    assert not folders.is_held(tmp_path) and run_data.state(tmp_path).word == "stopped"
    with pytest.raises(UserError), folders.held(tmp_path):
        raise UserError("it was not begun")
    assert run_data.state(tmp_path).word == "stopped"
    with pytest.raises(RunFailed), folders.held(tmp_path):
        raise RunFailed("the disk\nis full")
    assert run_data.state(tmp_path)[:2] == ("failed", "the disk is full")
    note = folders.note(tmp_path)
    assert note["pid"] == os.getpid() and note["machine"]["cores"] and note["versions"]["torch"].startswith("2.")


def test_a_look_at_the_lock_keeps_no_run_out(tmp_path):
    (tmp_path / "config.yaml").touch()
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.001):
            folders.is_held(tmp_path)

    lookers = [threading.Thread(target=look) for _ in range(2)]
    for looker in lookers:
        looker.start()
    try:
        for _ in range(50):
            with folders.held(tmp_path):
                pass
    finally:
        over.set()
        for looker in lookers:
            looker.join()


def test_a_report_is_one_small_file(runs, written):
    html = written.read_text()
    films = sum(map(len, re.findall(r'id="film-[^>]*>([^<]*)<', html)))
    assert films > 10_000 and len(html) - films < 5_000_000
    assert not re.search(r'(?:src|href)="(?!data:|#)', html)
    assert not list(written.parent.glob(".*tmp*"))


def test_where_a_report_goes(runs, tmp_path, monkeypatch, capsys):
    from atari_dqn import __main__

    monkeypatch.chdir(runs.parent)
    for asked, output in (("runs/cart1", "runs/cart1"), ("runs", "runs"), ("'runs/cart1 runs/cart2'", "runs")):
        assert __main__.main(["report", f"run={asked}", "videos=0"]) == 0
        path = Path(output) / "report.html"
        assert f"written: {path}" in capsys.readouterr().out
        path.unlink()


def test_runs_of_the_same_name_are_told_apart(runs, tmp_path):
    (tmp_path / "cart1").mkdir()
    (tmp_path / "cart1/config.yaml").touch()
    both = run_folders.name_runs("run", f"{runs / 'cart1'} {tmp_path / 'cart1'}")
    assert both == {"cart1": runs / "cart1", str(tmp_path / "cart1"): tmp_path / "cart1"}
    films = [Path(str(i)) for i in range(10)]
    assert report.spread(films, 3) == [films[2], films[6], films[9]]
    assert (
        report.spread(films, 1) == films[-1:]
        and report.spread(films, 0) == []
        and report.spread(films[:2], 3) == films[:2]
    )


def test_what_a_run_holds_cannot_become_part_of_the_page(tmp_path):
    data = {"runs": [{"name": "</script><script>alert(1)</script>"}]}
    assert "<script>alert" not in report.page("<b>", data, "", "") and "<b>" not in report.page("<b>", data, "", "")


# --- the report in a browser ------------------------------------------------------------------------------------------


CART = "CartPole-v1"
LINES = {
    "measured.epsilon": ("metrics.csv", "epsilon"), "measured.q_mean": ("metrics.csv", "q_mean"),
    "measured.loss": ("metrics.csv", "loss"), "measured.grad_norm": ("metrics.csv", "grad_norm"),
    "measured.frames_per_second": ("metrics.csv", "frames_per_second"), "evaluated.mean": ("evaluations.csv", "mean"),
    "evaluated.held_out_q": ("evaluations.csv", "held_out_q"),
}  # fmt: skip


@browser.needed
def test_the_report_draws_what_the_csv_files_hold(runs, written):
    with browser.tab() as tab:
        tab.open(written.as_uri())
        for name, game in (("cart1", CART), ("cart2", CART), ("breakout", "Breakout")):
            for chart, (file, key) in LINES.items():
                x, y = tab.curve(game, chart, name)
                np.testing.assert_allclose(known(x), column(runs / name / file, "frames"), rtol=1e-6)
                np.testing.assert_allclose(known(y), column(runs / name / file, key), rtol=1e-5)
        assert not tab.complaints and all(url.startswith(("file:", "blob:", "data:")) for url in tab.asked)


@browser.needed
def test_the_reports_switches(runs, written):
    with browser.tab() as tab:
        tab.open(written.as_uri())
        frames, _ = tab.curve("Breakout", "measured.epsilon", "breakout")
        tab.choose("axis", "steps")
        steps, _ = tab.curve("Breakout", "measured.epsilon", "breakout")
        assert [4 * step for step in steps] == frames
        tab.choose("axis", "hours")
        took, _ = tab.curve(CART, "measured.epsilon", "cart1")
        np.testing.assert_allclose(3600 * np.array(took), column(runs / "cart1/metrics.csv", "seconds"), rtol=1e-5)
        tab.choose("axis", "frames")
        tab.choose("seeds", "mean")
        x, y = tab.curve(CART, "measured.q_mean", f"{CART}, cartpole with replay.warmup_steps=500 (2 seeds)")
        by_hand = []
        for i in (1, 2):
            xs, ys = (np.array(column(runs / f"cart{i}/metrics.csv", key)) for key in ("frames", "q_mean"))
            by_hand.append(np.interp(x, xs[np.isfinite(ys)], ys[np.isfinite(ys)]))
        np.testing.assert_allclose(y, np.mean(by_hand, axis=0), rtol=1e-4, atol=1e-6)
        # A run that is not ticked is not drawn; and the keyboard is enough.
        box, heading = (tab.page.get_by_role(role, name=name, exact=True) for role, name in (
            ("checkbox", "show breakout"), ("heading", "Breakout"),
        ))  # fmt: skip
        box.focus()
        for there in (0, 1):
            tab.page.keyboard.press("Space")
            assert heading.count() == there
            assert tab.page.evaluate("document.activeElement.id") == "show breakout"
        assert not tab.complaints


@browser.needed
def test_published_curves_lie_behind_and_scores_stand_beside(written):
    curve = scores.curve("nnabla", "Breakout")
    with browser.tab() as tab:
        tab.open(written.as_uri())
        _, drawn = tab.curve("Breakout", "evaluated.mean", curve.by.title)
        assert drawn == list(curve.means[:3])
        text = tab.page.locator('section[aria-label="Breakout"]').inner_text()
        for title in ("DQN (Mnih et al. 2015)", "a human (Mnih et al. 2015)"):
            assert title in text
        assert "network.name" in text and "small_cnn" in text  # where it departs from its preset
        assert "torch 2." in text and "cores" in text


@browser.needed
@pytest.mark.parametrize(("size", "scheme"), [(browser.WIDE, "light"), (browser.PHONE, "dark")], ids=["wide", "phone"])
def test_the_report_fits_its_window_and_can_be_read(written, size, scheme):
    with browser.tab(size, scheme) as tab:
        tab.open(written.as_uri())
        assert tab.page.evaluate("document.documentElement.scrollWidth") <= size["width"]
        back, ink = tab.page.evaluate("(s => [s.backgroundColor, s.color])(getComputedStyle(document.body))")
        light = [sum(map(int, re.findall(r"\d+", color)[:3])) for color in (back, ink)]
        assert (light[0] > light[1] + 400) if scheme == "light" else (light[1] > light[0] + 400)
        # Every picture has words, every table a name, every control a label.
        assert tab.page.locator(".plot:not([aria-label*=last])").locator("visible=true").count() == 0
        assert tab.page.locator("table:not(:has(caption))").count() == 0
        controls = tab.page.locator("input, video, progress")
        assert all(controls.evaluate_all("all => all.map(one => one.ariaLabel || one.labels?.length)"))
        tab.page.get_by_text("show the numbers").first.click()
        tab.page.locator("figure details[open] td").first.wait_for()
        assert not tab.complaints


@browser.needed
def test_the_reports_films_play(written):
    with browser.tab() as tab:
        tab.open(written.as_uri())
        film = tab.page.locator("video").first
        film.scroll_into_view_if_needed()
        film.evaluate("film => { film.muted = true; return film.play(); }")
        until(lambda: film.evaluate("film => film.currentTime > 0.1"))
        assert film.evaluate("film => [film.videoWidth > 100, film.error]") == [True, None]
        assert tab.page.locator("video").count() == 3 + 3 + 2  # spread over each run
        assert not tab.complaints


# --- the dashboard ----------------------------------------------------------------------------------------------------


@pytest.fixture
def served(runs, tmp_path):
    """A dashboard of a folder with those runs, a link out of it, and a secret beside it: (its port, the folder)."""
    root = tmp_path / "runs"
    subprocess.run(["cp", "-r", str(runs), str(root)], check=True)
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    outside = tmp_path / "outside"
    subprocess.run(["cp", "-r", str(runs / "cart1"), str(outside)], check=True)
    (root / "linked").symlink_to(outside)
    (root / "cart1/videos/step9.mp4").symlink_to(tmp_path / "secret.mp4")
    for name, part in (
        ("films", "videos"),
        ("settings", "config.yaml"),
        ("games", "episodes.csv"),
    ):  # links within runs
        subprocess.run(["cp", "-r", str(runs / "cart1"), str(root / name)], check=True)
        subprocess.run(["rm", "-r", str(root / name / part)], check=True)
        (root / name / part).symlink_to(outside / part)
    server = dashboard.make(root, 0)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1], root
    server.shutdown()
    thread.join()
    server.server_close()


def answer(port: int, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.putrequest(method, path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    got = connection.getresponse()
    return got.status, got.read(), dict(got.getheaders())


def test_nothing_outside_its_folder_can_be_reached(served):
    port, root = served
    whole = (root / "cart1/videos/step1000.mp4").read_bytes()
    assert answer(port, "/video?run=cart1&name=step1000.mp4")[:2] == (200, whole)
    for path in (
        "/video?run=cart1&name=step9.mp4", "/video?run=linked&name=step1000.mp4", "/video?run=..&name=x", "/video",
        "/video?run=films&name=step1000.mp4",
        "/video?run=../outside&name=step1000.mp4", f"/video?run={root.parent}/outside&name=step1000.mp4",
        "/video?run=cart1&name=../../../secret.mp4", "/video?run=cart1&name=..%2f..%2f..%2fsecret.mp4",
        f"/video?run=cart1&name={root.parent}/secret.mp4", "/../secret.mp4", "/..%2fsecret.mp4", "//etc/passwd",
        "/cart1/config.yaml", "/runs/cart1/metrics.csv", "/page.html",
    ):  # fmt: skip
        status, body, _ = answer(port, path)
        assert status == 404 and b"secret" not in body, path
    data = json.loads(answer(port, "/data.json?run=../outside&run=linked&run=cart2")[1])
    assert {run["name"] for run in data["runs"]} == {"cart1", "cart2", "breakout"} and list(data["entries"]) == [
        "cart2"
    ]


def test_it_only_reads_and_only_talks_to_this_machine(served):
    port, root = served
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert answer(port, "/data.json", method, Content_Length="0")[0] == 501
    assert answer(port, "/", Host="evil.example")[0] == 403 and answer(port, "/", Host=f"localhost:{port}")[0] == 200
    status, body, headers = answer(port, "/", "HEAD")
    assert (status, body) == (200, b"") and "default-src 'none'" in headers["Content-Security-Policy"]
    assert answer(port, "/data.json?run=cart1&run=breakout")[0] == 200
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    listening = subprocess.run(["cat", "/proc/net/tcp", "/proc/net/tcp6"], capture_output=True, text=True).stdout
    bound = re.findall(rf"([0-9A-F]+):{port:04X} 0+:0000 0A", listening)
    assert not listening or bound == ["0100007F"]


def test_films_come_in_the_parts_that_a_browser_asks_for(served):
    port, root = served
    whole, path = (root / "cart1/videos/step1000.mp4").read_bytes(), "/video?run=cart1&name=step1000.mp4"
    status, body, headers = answer(port, path, Range="bytes=10-19")
    assert (status, body) == (206, whole[10:20]) and headers["Content-Range"] == f"bytes 10-19/{len(whole)}"
    assert (
        answer(port, path, Range="bytes=-5")[1] == whole[-5:] and answer(port, path, Range="bytes=7-")[1] == whole[7:]
    )
    assert answer(port, path, Range=f"bytes={len(whole)}-")[0] == 416


def test_what_did_not_change_is_not_sent_again(served):
    port, root = served
    _, _, headers = answer(port, "/data.json?run=cart1")
    time.sleep(1.1)  # the seconds since it wrote are others
    assert answer(port, "/data.json?run=cart1", If_None_Match=headers["ETag"])[0] == 304
    with open(root / "cart1/episodes.csv", "a") as file:
        file.write("3004,3004,1,9.9,123,12,0\n")
    status, body, _ = answer(port, "/data.json?run=cart1", If_None_Match=headers["ETag"])
    assert status == 200 and json.loads(body)["entries"]["cart1"]["trained"]["frames"][-1] == 3004


def test_a_damaged_run_hides_no_other(served):
    port, root = served
    for name, part, text in (
        ("nul", "metrics.csv", "\0" * 200_000), ("five", "config.yaml", "5"), ("deep", "config.yaml", "[" * 5000),
        ("letters", "metrics.csv", None), ("column", "episodes.csv", "frames\n3\n"),
    ):  # fmt: skip
        subprocess.run(["cp", "-r", str(root / "cart2"), str(root / name)], check=True)
        path = root / name / part
        path.write_text(text if text is not None else path.read_text().replace("200", "two"))
    (root / "renamed").mkdir()
    (root / "renamed/config.yaml").write_text(
        (root / "cart2/config.yaml").read_text().replace("preset: cartpole", "preset: x")
    )
    names = ["nul", "five", "deep", "letters", "column", "renamed", "cart2"]
    status, body, _ = answer(port, "/data.json?" + "&".join(f"run={name}" for name in names))
    told = json.loads(body)
    lines = {run["name"]: run for run in told["runs"]}
    assert status == 200 and lines["cart2"]["state"] == "finished" and "trained" in told["entries"]["cart2"]
    assert all("cannot be read" in (lines[name].get("error") or told["entries"][name]["error"]) for name in names[:5])
    assert "error" not in lines["renamed"] and told["entries"]["renamed"]["departures"][0][0] == "preset"


def test_a_taken_port_is_one_line(served, tmp_path):
    with pytest.raises(UserError, match=r"port=\d+: .*port=0"):
        dashboard.make(tmp_path, served[0])


@browser.needed
def test_the_dashboard_follows_a_run_until_it_dies(runs, tmp_path):
    """A real run, real server, real browser; then the run is killed."""
    root = tmp_path / "runs"
    subprocess.run(["cp", "-r", str(runs), str(root)], check=True)
    run = train(
        tmp_path,
        *CARTPOLE[:1],
        "total_steps=3M",
        "logger.every_steps=500",
        "run_dir=runs/live",
        "evaluation.every_steps=3M",
    )
    psutil.Process(run.pid).nice(19)  # it is to last, and leave the browser its time
    server = subprocess.Popen(
        [sys.executable, "-m", "atari_dqn", "dashboard", "port=0"], cwd=tmp_path, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    try:
        address = re.search(r"http://\S+", server.stdout.readline())[0]
        until(lambda: (root / "live/metrics.csv").is_file() and len(column(root / "live/metrics.csv", "frames")) > 3)
        with browser.tab() as tab:
            tab.open(address)
            row = tab.page.locator("#list tr", has_text="live")
            assert "running" in row.inner_text()
            first = len(tab.curve(CART, "measured.epsilon", "live")[0])
            until(lambda: len(tab.curve(CART, "measured.epsilon", "live")[0]) > first)
            x, y = tab.curve(CART, "measured.epsilon", "live")
            frames, values = column(root / "live/metrics.csv", "frames"), column(root / "live/metrics.csv", "epsilon")
            assert x == frames[: len(x)]
            np.testing.assert_allclose(y, values[: len(x)], rtol=1e-6)
            tab.page.get_by_role("checkbox", name="show cart1").check()
            tab.page.wait_for_selector("video")
            _, beside = tab.curve(CART, "measured.epsilon", "cart1")
            assert beside == pytest.approx(column(root / "cart1/metrics.csv", "epsilon"))
            film = tab.page.locator("video").first
            film.scroll_into_view_if_needed()
            film.evaluate("film => { film.muted = true; return film.play(); }")
            until(lambda: film.evaluate("film => film.currentTime > 0.1"))
            run.send_signal(signal.SIGKILL)
            tab.page.locator("#list tr", has_text="live").locator(".died").wait_for(timeout=30_000)
            assert "finished" in tab.page.locator("#list tr", has_text="cart2").inner_text()
            assert not tab.complaints and all(url.startswith((address, "blob:", "data:")) for url in tab.asked)
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=20) == 0 and "stopped" in server.stdout.read()
    finally:
        for process in (run, server):
            process.kill()
            process.wait()


def until(condition, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.1)
