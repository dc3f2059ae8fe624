"""Networks, rules, trackers, callbacks and environments of somebody else's, by import path and from packages."""

import http.server
import json
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import own_parts
import pytest
import torch
from conftest import QUIET, small_run
from test_saving import CARTPOLE, assert_equal_runs, go_on

from atari_dqn.checkpoint import checkpoints
from atari_dqn.config import compose, keys
from atari_dqn.registry import own_modules, plugins
from atari_dqn.testing import CheckFailed, check_env, check_network, check_rule
from atari_dqn.training import launch
from atari_dqn.utils.console import Console
from atari_dqn.utils.errors import RunFailed, UserError

EXAMPLES = Path(__file__).parent.parent / "examples"
OWN = [
    "network=own_parts:Net", "network.arguments.width=24", "rule=own_parts:Average", "rule.arguments.weight=0.9",
    "optimizer=own_parts:SignSgd", "optimizer.arguments.decay=1e-5",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _nothing_typed(monkeypatch):
    """Each test begins as a new process does."""
    monkeypatch.setitem(sys.modules, "own_parts", own_parts)  # which other tests may have loaded again
    monkeypatch.setattr(plugins, "_typed", {})
    monkeypatch.setattr(own_modules, "_typed", set())
    own_parts.told.clear()


def own_run(folder: Path, *words: str):
    composed = compose.compose("train", [*QUIET, *words, f"run_dir={folder}"])
    compose.allow_plugins(composed)
    return launch.prepare(compose.to_train_config(composed), Console(quiet=True))


# ------------------------------------------------------------------------------------------------- by import path


def test_a_run_of_ones_own_parts_resumes_to_the_bit(tmp_path):
    """They are used, with their arguments; the callback's and the rule's states are in the checkpoint."""
    words = [*CARTPOLE, *OWN, "trackers=[own_parts:Told]", "callbacks=[own_parts:Enough]", "total_steps=1_600"]
    callback = own_parts.Enough(most=10_000)
    run = own_run(tmp_path / "untouched", *words, "callbacks=[]")
    run.go(callback)
    assert run.agent.online.features.module.widths == (24, 16) and run.agent.rule.rule.weight == 0.9
    assert run.agent.optimizer.param_groups[0]["decay"] == 1e-5
    assert callback.seen == 1_600 // run.config.num_envs and int(run.agent.rule.rule.copies) > 1
    assert {"start", "episode", "evaluation", "checkpoint"} <= {*callback.events}
    assert callback.events[0] == "start" and callback.events[-1] == "close"
    assert own_parts.told[0] == "start 0" and own_parts.told[-1] == "close" and len(own_parts.told) > 2

    stopped = own_run(tmp_path / "stopped", *words)
    stopped.go()
    assert stopped.agent_steps == 30 * stopped.config.num_envs and stopped.outcome == "stopped"
    kept = checkpoints.Checkpoint(tmp_path / "stopped/checkpoints/latest.pt").content
    assert kept["callbacks"] == {"own_parts:Enough": {"seen": 30}} and "copies" in kept["rule"]
    said = go_on(tmp_path / "stopped", *OWN)
    assert "note: callbacks=['own_parts:Enough'] in config.yaml is ignored" in said
    assert "has the state of own_parts:Enough" in said
    assert_equal_runs(tmp_path / "untouched", tmp_path / "stopped")


def test_a_callback_continues_where_it_was(tmp_path):
    run = own_run(tmp_path / "run", *CARTPOLE, "callbacks=[own_parts:Enough]")
    run.go()
    assert run.trackers._own["own_parts:Enough"].seen == 30
    resumed = launch.Run(run.config, run.folder, Console(quiet=True), checkpoints.newest(run.folder, print))
    resumed.go(other := own_parts.Enough(most=40))  # the second of its kind has a state of its own
    assert resumed.trackers._own["own_parts:Enough"].seen == 70 and other.seen == 40


def test_a_checkpoint_imports_nothing(tmp_path, monkeypatch, inside):
    (tmp_path / "stranger.py").write_text(
        (Path(own_parts.__file__).read_text()) + "\nimport pathlib\npathlib.Path('was_here').touch()\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ["network=stranger:Net", "rule=stranger:Average"]
    done = inside("train", *QUIET, *CARTPOLE, *words, "trackers=[stranger:Told]", "total_steps=600", "run_dir=run")
    assert done.returncode == 0 and (tmp_path / "was_here").exists(), done.stderr
    assert "`make" not in done.stdout and "checkpoint=run network=stranger:Net`" in done.stdout
    (tmp_path / "was_here").unlink()
    del sys.modules["stranger"]
    plugins._typed.clear()
    for command in (
        "evaluate checkpoint=run",
        "train resume=run total_steps=800",
        "video checkpoint=run max_seconds=1",
    ):
        done = inside(*command.split())
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
        assert "network=stranger:Net is imported only if you name it: add network=stranger:Net" in done.stderr
    assert not (tmp_path / "was_here").exists()
    done = inside("evaluate", "checkpoint=run", "network=stranger:Net", "evaluation.episodes=2")
    assert done.returncode == 0, done.stderr
    (tmp_path / "stranger.py").unlink()
    del sys.modules["stranger"]
    plugins._typed.clear()
    done = inside("evaluate", "checkpoint=run")
    assert done.returncode == 2 and "the package stranger is not installed here" in done.stderr


WRONG = {
    "network=own_parts:Nut": "network=own_parts:Nut: own_parts has no 'Nut' (did you mean Net?)",
    "network=nowhere:Net": "network=nowhere:Net: there is no module nowhere in the current directory",
    "network=9:Net": "network=9:Net: a module's name stands before the colon",
    "network=resnet": "network=resnet: no such network; known: mlp, nature_cnn",
    "network=own_parts:Short": "own_parts:Short returns float32 (2, 5) for 2 states; expected float32 (2, 32)",
    "network=own_parts:Widthless": "network=own_parts:Widthless: its `widths` must be",
    "network=own_parts:not_a_class": "network=own_parts:not_a_class makes int, not a torch.nn.Module",
    "network=own_parts:Net network.arguments.wide=3": "cannot be created with network.arguments={'wide': 3}: TypeError",
    "network.arguments.width=3": "network.arguments={'width': 3} has no effect in this run",
    "rule=own_parts:Net": "rule=own_parts:Net cannot be created: TypeError",
    "rule=own_parts:Told": "rule=own_parts:Told has no method precompute",
    "rule=averaged": "no rule is called 'averaged'",
    "rule=own_parts:Average agent.double=true": "agent.double=true has no effect in this run: it needs rule.name=null",
    "optimizer=own_parts:Net": "optimizer=own_parts:Net is not a torch.optim.Optimizer",
    "optimizer=own_parts:SignSgd optimizer.arguments.beta=1": "SignSgd has no such argument; it has decay",
    "trackers=[tolled]": "no tracker is called 'tolled'",
    "callbacks=[own_parts:Net]": "callbacks=own_parts:Net cannot be created",
    "callbacks=[own_parts:Average]": "is no callback: derive its class from atari_dqn.Callback",
}


@pytest.mark.parametrize("typed", WRONG)
def test_what_cannot_be_plugged_in_is_told_in_a_line(typed, inside):
    done = inside("train", *QUIET, "env=cartpole", "run_dir=run", "total_steps=500", *typed.split())
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and WRONG[typed] in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["rule=own_parts:Broken"], "KeyError: 'nothing there' (own_parts.py, line "),
        (
            ["callbacks=[failing:Failing]"],
            "the callback Failing failed in episode: ZeroDivisionError: division by zero",
        ),
        (["callbacks=[failing:Hoarder]"], "the callback Hoarder has a state that a checkpoint cannot keep, set"),
    ],
)
def test_ones_own_mistakes_end_the_run_in_a_sentence(words, why, tmp_path, monkeypatch):
    (tmp_path / "failing.py").write_text(
        "from atari_dqn import extend\n"
        "class Failing(extend.Callback):\n    def episode(self, row):\n        1 / 0\n"
        "class Hoarder(extend.Callback):\n    def state(self):\n        return {'seen': {1, 2}}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    run = own_run(tmp_path / "run", *CARTPOLE, *words, "total_steps=1_200", "checkpoint.every_steps=2_000")
    with pytest.raises(RunFailed) as told:
        run.go()
    assert why in str(told.value)
    sys.modules.pop("failing", None)


def test_a_tracker_that_fails_costs_a_line(tmp_path, capsys):
    run = own_run(tmp_path / "run", *CARTPOLE, "trackers=[own_parts:Dead]", "total_steps=1_600")
    said: list[str] = []
    run.console.print = lambda text, **_: said.append(str(text))  # type: ignore[method-assign,assignment]
    run.go()
    assert run.outcome == "finished" and own_parts.told[-1] == "close"
    assert any(line.startswith("own_parts:Dead failed and is disabled") for line in said)


# ---------------------------------------------------------------------------------------------- installed packages


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The examples, installed as packages, and one with an environment and a preset."""
    root = tmp_path_factory.mktemp("packages")
    shutil.copytree(EXAMPLES, root / "examples")  # setuptools writes beside what it builds
    more = root / "examples" / "more"
    (more / "dqn_more/preset").mkdir(parents=True)
    (more / "dqn_more/__init__.py").write_text("from atari_dqn.testing.probes import Chain\n")
    (more / "dqn_more/preset/tiny.yaml").write_text("# @package _global_\npreset: tiny\nagent:\n  discount: 0.7\n")
    (more / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        '[project]\nname = "dqn-more"\nversion = "1.2"\n'
        '[project.entry-points."atari_dqn.targets"]\nmean = "own_parts:Average"\n'
        '[project.entry-points."atari_dqn.envs"]\n"Rooms-v0" = "dqn_more:Chain"\n'
        '[project.entry-points."atari_dqn.presets"]\nmore = "dqn_more"\n'
        '[tool.setuptools]\npackages = ["dqn_more"]\n[tool.setuptools.package-data]\ndqn_more = ["preset/*.yaml"]\n'
    )
    folders = [str(path.parent) for path in (root / "examples").glob("*/pyproject.toml")]
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation", "--target"]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(root / "site"), *folders], check=True)
    return root / "site"


@pytest.fixture
def with_packages(installed, monkeypatch) -> Path:
    monkeypatch.syspath_prepend(str(installed))
    for cached in (plugins.installed, plugins.preset_folders, keys.known_keys):
        cached.cache_clear()
    yield installed
    for cached in (plugins.installed, plugins.preset_folders, keys.known_keys):
        cached.cache_clear()


@pytest.fixture
def webhook(monkeypatch):
    """A chat's server; what it was sent."""
    posts: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            posts.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args): ...

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("DQN_WEBHOOK", f"http://127.0.0.1:{server.server_port}")
    yield posts
    server.shutdown()


def test_examples_are_installed_trained_and_resumed_to_the_bit(with_packages, webhook, tmp_path):
    words = [
        "env.game=Pong", "network=resnet", "rule=averaged", "rule.arguments.networks=3", "trackers=[webhook]",
        "num_envs=2", "total_steps=240", "replay.capacity=200", "replay.warmup_steps=100", "env.screen_size=36",
        "update.target_period_steps=40", "checkpoint.every_steps=100", "checkpoint.cut_every_turns=125",
        "evaluation.every_steps=160", "evaluation.episodes=1", "evaluation.num_envs=1", "protocol.max_frames=100",
        "compute.graphs=true",
    ]  # fmt: skip
    own_run(tmp_path / "untouched", *words).go()
    assert len(webhook) >= 3 and webhook[0] == "untouched: started at 0 agent steps" and "mean return" in webhook[1]
    stopped = own_run(tmp_path / "stopped", *words, "callbacks=[own_parts:Enough]")
    stopped.go()  # in the warm-up
    halfway = launch.Run(stopped.config, stopped.folder, Console(quiet=True), checkpoints.newest(stopped.folder, print))
    halfway.go(own_parts.Enough(most=60))
    checkpoint = checkpoints.Checkpoint(tmp_path / "stopped/checkpoints/latest.pt")
    assert checkpoint.content["plugins"] == {"network": "dqn-residual 0.1", "rule": "dqn-averaged 0.1"}
    go_on(tmp_path / "stopped")  # installed: nothing has to be typed again
    assert_equal_runs(tmp_path / "untouched", tmp_path / "stopped")


def test_a_checkpoint_of_a_package_that_is_missing_names_it(installed, tmp_path, monkeypatch):
    with monkeypatch.context() as there:
        there.syspath_prepend(str(installed))
        plugins.installed.cache_clear()
        keys.known_keys.cache_clear()
        run = own_run(tmp_path / "run", *CARTPOLE, "rule=averaged", "total_steps=600")
        run.go()
    plugins.installed.cache_clear()
    keys.known_keys.cache_clear()
    with pytest.raises(UserError, match=r"its rule averaged comes from the package dqn-averaged 0\.1, which"):
        checkpoints.Checkpoint(tmp_path / "run/checkpoints/best.pt")


def test_an_installed_environment_and_preset(with_packages, inside):
    done = inside("train", "env.game=Rooms-v0", "preset=tiny", "network=mlp", "--cfg", "job")
    assert done.returncode == 0 and "kind: gymnasium" in done.stdout and "discount: 0.7" in done.stdout, done.stderr
    small = [*QUIET, "network=mlp", "total_steps=300", "replay.capacity=300", "replay.warmup_steps=50", "run_dir=run"]
    done = inside("train", "env.game=Rooms-v0", "preset=tiny", "rule=mean", *small, "evaluation.episodes=1")
    assert done.returncode == 0 and "discount" not in done.stdout.partition("Overrides")[2], done.stderr
    help_text = inside("train", "--help").stdout
    assert re.search(r"tiny", help_text) and "resnet" in help_text


def test_the_page_on_extending_works(tmp_path, monkeypatch):
    page = (EXAMPLES.parent / "docs/extending.md").read_text(encoding="utf-8")
    *parts, checks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "my_parts.py").write_text("\n".join(parts))
    monkeypatch.syspath_prepend(str(tmp_path))
    exec(checks.replace('Expectile")', 'Expectile", learn=False)'), {})
    words = ["callbacks=[my_parts:GoodEnough]", "trackers=[my_parts:Printer]", "rule=my_parts:MeanOfActions"]
    run = own_run(tmp_path / "run", *CARTPOLE, *words, "total_steps=1_600")
    run.go()
    assert run.outcome == "stopped"  # CartPole's returns are above 18
    assert checkpoints.Checkpoint(run.folder / "checkpoints/latest.pt").content["callbacks"] == {
        "my_parts:GoodEnough": {"evaluations": 1}
    }


def test_examples_are_short():
    for file in EXAMPLES.glob("*/*/__init__.py"):
        code = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        assert len(code) - 1 <= 30, f"{file}: {len(code) - 1} lines"  # but for the docstring


# ------------------------------------------------------------------------------------------------------------ checks


def test_what_is_right_passes_the_checks():
    told = check_network(own_parts.Net, {"width": 8}, frame_shape=(5,), stack=1)
    assert told[-1] == "it learns the way out of the chain" and len(told) == 6
    assert len(check_rule("own_parts:Average", heads=["qr"], learn=False)) == 4
    assert "bit-identical" in check_env("atari_dqn.testing.probes:Chain", steps=50)[-1]


@pytest.mark.parametrize(
    ("check", "part", "why"),
    [
        (check_network, own_parts.Normed, "depend on the other states of its batch"),
        (check_network, own_parts.Idle, "does not use its parameter spare.weight"),
        (check_network, own_parts.Counting, "the same states give other features"),
        (check_network, own_parts.Peeking, "a CUDA graph cannot have this"),
        (check_network, own_parts.Short, "expected float32"),
        (check_rule, own_parts.Drifting, "updates through TorchScript differ from plain ones"),
        (check_rule, own_parts.Forgetful, "a resumed run ends otherwise than an untouched one"),
        (check_rule, own_parts.Broken, "fails in target: KeyError: 'nothing there'"),
        (check_env, "own_parts:Chance", "with the same seeds and actions, the first observations differ"),
    ],
)
def test_what_is_wrong_fails_a_check(check, part, why):
    options = {"frame_shape": (5,), "stack": 1} if check is check_network else {}
    options |= {"learn": False} if check is not check_env else {}
    with pytest.raises(CheckFailed) as told:
        check(part, **options)
    assert why in str(told.value)


def test_another_loss_is_learned_with(tmp_path):
    run = own_run(tmp_path / "run", *CARTPOLE, "rule=own_parts:Expectile", "total_steps=800")
    run.go()
    plain = small_run(tmp_path / "plain", *CARTPOLE, "total_steps=800")
    plain.go()
    assert not torch.equal(*(torch.cat([p.flatten() for p in r.agent.online.parameters()]) for r in (run, plain)))
