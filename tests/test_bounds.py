"""No wrong value of any setting of any command ends otherwise than in a sentence, or in a run that learns."""

import contextlib
import copy
import functools
import itertools
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import QUIET
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from atari_dqn.config import aliases, bounds, compose, validate
from atari_dqn.config.commands import SCHEMAS, conf_dir
from atari_dqn.config.schema import TrainConfig
from atari_dqn.dqn.loop import training_loop
from atari_dqn.training import footprint
from atari_dqn.training.optimizers import make_optimizer
from atari_dqn.training.run import Run
from atari_dqn.utils import machine
from atari_dqn.utils.console import Console
from atari_dqn.utils.errors import UserError

SMALL = [
    *QUIET, "env=cartpole", "num_envs=2", "agent.n_step=2", "total_steps=40", "replay.warmup_steps=8",
    "replay.capacity=100", "update.batch_size=4", "network.hidden=[8]", "compute.graphs=false", "device=cpu",
]  # fmt: skip
WRONG = [
    None, "", "a b", True, -1, -0.0, 0, 0.5, 7, math.nan, math.inf, 2**63, [], [1, None], {"a": 1},
]  # fmt: skip
# What must be chosen for a setting to be read.
CHOSEN = {
    "head.atoms": "c51", "head.v_min": "c51", "head.v_max": "c51", "head.quantiles": "qr", "head.samples": "iqn",
    "head.target_samples": "iqn", "head.policy_samples": "iqn", "head.cosines": "iqn",
}  # fmt: skip


def leaves(composed: object) -> list[str]:
    return [key for key in compose.leaves(composed) if not OmegaConf.is_dict(OmegaConf.select(composed, key))]


def put(command: str, composed: Any, key: str, value: object) -> Any:
    """The value that Hydra makes of an override, or the program's error; `composed` is left as it was."""
    before = OmegaConf.select(composed, key)
    try:
        OmegaConf.update(composed, key, value)
        return OmegaConf.select(composed, key)
    except OmegaConfBaseException as error:
        raise compose.explain(command, [f"{key}={value}"], error) from None
    finally:
        OmegaConf.update(composed, key, before)


def plain(found: Any) -> Any:
    return OmegaConf.to_object(found) if OmegaConf.is_config(found) else found


def with_value(config: Any, key: str, value: Any) -> Any:
    """A copy of a config with another value."""
    whole = copy.deepcopy(config)
    section, _, name = key.rpartition(".")
    setattr(functools.reduce(getattr, section.split("."), whole) if section else whole, name, value)
    return whole


def learns(config: TrainConfig) -> None:
    """Build all parts of a run, and let it play until it has learned."""
    run = Run(config, Path("nowhere"), Console(quiet=True))
    with contextlib.closing(run.emulators), contextlib.closing(run.evaluator):
        loop = training_loop(run.emulators, run.replay, run.agent, config, run.streams)
        for record in itertools.islice(loop, 100):
            if record.updates or config.update.period_steps > 1000:
                return


def test_a_wrong_value_of_any_setting_is_refused_with_a_sentence():
    composed = compose.compose("train", SMALL)
    base, refused = compose.to_train_config(composed), 0
    for key in leaves(composed):
        chosen = with_value(base, "head.name", CHOSEN.get(key, "scalar"))
        for value in WRONG:
            try:
                found = put("train", composed, key, value)
                validate.check(
                    with_value(chosen, key, OmegaConf.to_object(found) if OmegaConf.is_config(found) else found)
                )
            except UserError as error:
                assert "\n" not in str(error) and len(str(error)) < 300 and "Config" not in str(error), error
                refused += 1
    assert refused > 700


NEEDED = {
    "video": "checkpoint=x", "export": "checkpoint=x", "collect": "checkpoint=x", "report": "run=x", "compare": "run=x",
    "sweep": "sweep.games=x", "play": "", "dashboard": "", "aggregate": "",
}  # fmt: skip


@pytest.mark.parametrize("command", NEEDED)
def test_so_it_is_with_the_other_commands(command):
    composed, refused = compose.compose(command, NEEDED[command].split()), 0
    base = compose.apart(composed, "sweep")[1] if command == "sweep" else compose.to_object(composed)
    for key in leaves(composed.sweep if command == "sweep" else composed):
        for value in WRONG:
            try:
                found = put(command, composed, f"sweep.{key}" if command == "sweep" else key, value)
                bounds.check(with_value(base, key, plain(found)), "sweep." if command == "sweep" else "")
            except UserError as error:
                assert "\n" not in str(error) and len(str(error)) < 300, error
                refused += 1
    assert refused > 10


@pytest.mark.parametrize(
    "words",
    [
        ["replay.warmup_steps=3", "replay.capacity=10", "update.batch_size=10"],
        ["num_envs=7", "agent.n_step=4", "replay.warmup_steps=22"],
        ["network.hidden=[]", "agent.discount=0", "update.tau=1e-300", "optimizer.learning_rate=1e-300"],
        ["head=c51", "head.atoms=2", "agent.dueling=true", "agent.noisy=true", "agent.noisy_sigma=0"],
        ["head=iqn", "head.samples=1", "head.target_samples=1", "head.policy_samples=1", "head.cosines=1"],
        ["head=qr", "head.quantiles=1", "agent.reduction=sum", "env.frame_stack=20", "env.max_frames=1"],
        ["replay.prioritized=true", "replay.priority_exponent=0", "replay.importance_start=0", "seed=4294967295"],
        ["exploration.start=0", "exploration.end=0", "exploration.decay_steps=1", "+optimizer.arguments.foreach=true"],
    ],
    ids=lambda words: words[0],
)
def test_what_is_not_refused_learns(words, monkeypatch, tmp_path):
    """Each lies at its bound; of the warm-ups a step less is refused."""
    monkeypatch.chdir(tmp_path)
    learns(compose.to_train_config(compose.compose("train", [*SMALL, *words])))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["env=cartpole", "num_envs=256"], "replay.warmup_steps=1000: expected at least 1025 for 256 games"),
        (["num_envs=7", "agent.n_step=4", "replay.warmup_steps=21"], "replay.warmup_steps=21: expected at least 22"),
        (["update.batch_size=99999999999"], "expected a whole number from 1 to 1,000,000, such as 32"),
        (["update.batch_size=101"], "update.batch_size=101: expected at most replay.capacity=100"),
        (["env.goals=[{score: 1, games: 0, note: x}]"], "env.goals[0].games=0: expected a whole number from 1"),
        (["env.goals=[{score: nan, games: 1, note: x}]"], "env.goals[0].score=nan: expected a number from"),
        (["env.goals=[{score: 1, games: 1}]"], "env.goals[0].note must be given"),
        (["total_steps=1e400"], "total_steps=inf: expected a whole number such as 20000, 20k or 1M"),
        ([f"total_steps={'9' * 5000}"], "expected a whole number such as 20000, 20k or 1M"),
        (["network.hidden=null"], "network.hidden=null: expected a list of whole numbers, such as [128,128]"),
        (["network.hidden=5"], "network.hidden: expected a list of whole numbers, such as [128,128]"),
        (["env.game=' '"], "env.game is blank: expected a game, such as Breakout"),
    ],
)  # fmt: skip
def test_numbers_that_pass_alone_but_not_together(words, line):
    small = SMALL if words[0] != "env=cartpole" else []
    with pytest.raises(UserError) as error:
        compose.to_train_config(compose.compose("train", [*small, *words]))
    assert line in str(error.value)


def test_every_number_has_bounds_and_every_bound_a_setting():
    known = set().union(*(compose.known_keys(command)[0] for command in SCHEMAS))
    lists = {"env.goals.score", "env.goals.games"}
    table = {*bounds.LIMITS, *bounds.CHOICES, *bounds.TEXTS, *bounds.LISTS}
    assert table - lists <= known
    for command, schema in SCHEMAS.items():
        node = OmegaConf.structured(schema)
        for key in compose.known_keys(command)[0]:
            kind = OmegaConf.select(node, key.rpartition(".")[0] or None) if "." in key else node
            number = kind._get_node(key.rpartition(".")[2])
            if type(number).__name__ in ("IntegerNode", "FloatNode"):
                assert key in bounds.LIMITS, key


def yaml_defaults(folder: Path, file: Path) -> dict[str, object]:
    text = file.read_text()
    prefix = "" if file.parent == folder or "@package _global_" in text else f"{file.parent.name}."
    node = OmegaConf.create(text)
    node.pop("defaults", None)
    found = {f"{prefix}{key}": OmegaConf.select(node, key) for key in compose.leaves(node)}
    return {key: value for key, value in found.items() if not OmegaConf.is_dict(value)}


def test_a_default_stands_once():
    """In conf/, and in schema.py as well only for what is also made without conf/: there it is the same."""
    folder = conf_dir()
    groups = ("network", "head", "optimizer", "emulators", "protocol", "env")
    for command, schema in SCHEMAS.items():
        plain = OmegaConf.structured(schema)
        files = [folder / f"{command}.yaml"]
        files += [path for group in groups for path in (folder / group).glob("*.yaml")] if command == "train" else []
        files = [] if command in ("demo", "profile") else files  # whose defaults are train's
        for file in files:
            for key, value in yaml_defaults(folder, file).items():
                parent, _, name = key.rpartition(".")
                owner = OmegaConf.select(plain, parent) if parent and ".arguments." not in key else plain
                if name in owner and not OmegaConf.is_missing(owner, name) and owner[name] == value:
                    assert key.startswith(("network.", "head.", "agent.")), f"{key} in {file} and in schema.py"
    composed, plain = compose.compose("train", []), OmegaConf.structured(TrainConfig)
    for key in compose.leaves(plain):
        if key.startswith(("network.", "head.", "agent.")) and not OmegaConf.is_missing(plain, key.partition(".")[0]):
            here = OmegaConf.select(plain, key)
            assert here is None or here == OmegaConf.select(composed, key), key


def test_a_config_of_an_older_program_gets_the_defaults_of_newer_settings_only():
    stored = OmegaConf.create(OmegaConf.to_container(compose.compose("train", ["env.game=Pong", "seed=3"])))
    whole = compose.to_train_config(stored)
    for key in ("update.tau", "replay.prioritized", "exploration.persistence", "logger.artifacts", "emulators"):
        parent, _, name = key.rpartition(".")
        del (OmegaConf.select(stored, parent) if parent else stored)[name]
    assert compose.to_train_config(stored) == whole
    for key in ("total_steps", "env.game", "optimizer.name"):
        less = copy.deepcopy(stored)
        parent, _, name = key.rpartition(".")
        del (OmegaConf.select(less, parent) if parent else less)[name]
        with pytest.raises(UserError, match=f"{key} must be given"):
            compose.to_train_config(less)


def test_every_name_of_another_library_leads_to_a_setting():
    keys = set().union(*({*found, *groups} for found, groups in map(compose.known_keys, SCHEMAS)))
    assert {key for found in aliases.ALIASES.values() for key in found.split()} <= keys
    top = {key for key in compose.known_keys("train")[0] if "." not in key}
    assert not top & aliases.ALIASES.keys()  # which would never be seen


@pytest.mark.parametrize(
    ("command", "typed", "line"),
    [
        ("train", "epsilon=0.1", "(did you mean exploration.end? epsilon decays from exploration.start to exploration"),
        ("train", "lr=1e-4", "did you mean optimizer.learning_rate?"),
        ("train", "agent.learning_rate=1", "did you mean optimizer.learning_rate?"),
        ("train", "optimizer.lr=1", "did you mean optimizer.learning_rate?"),
        ("train", "replay.buffer_size=5", "did you mean replay.capacity?"),
        ("train", "total_timesteps=5", "did you mean total_steps?"),
        ("train", "exploration_fraction=0.1", "did you mean exploration.decay_steps?"),
        ("train", "batchsize=5", "did you mean update.batch_size?"),
        ("train", "warmup_step=5", "did you mean replay.warmup_steps?"),
        ("train", "wandb=true", "did you mean logger.wandb? online, offline or off"),
        ("train", "cuda=true", "did you mean device? auto, cpu, cuda, cuda:1 or mps"),
        ("evaluate", "epsilon=0.1", "did you mean protocol.epsilon?"),
        ("evaluate", "n_eval_episodes=5", "did you mean evaluation.episodes?"),
        ("evaluate", "lr=5", "no setting is called 'lr'"),
        ("sweep", "seeds=3", "did you mean sweep.seeds?"),
    ],
)
def test_names_of_other_libraries_are_understood(command, typed, line):
    with pytest.raises(UserError) as error:
        compose.compose(command, [typed])
    assert line in str(error.value)


@pytest.mark.parametrize(
    ("words", "most"),
    [
        (["update.batch_size=1000000", "replay.capacity=1M"], "x update.batch_size=1000000 transitions"),
        (["network.hidden=[1000000,1000000]"], "is for the network"),
        (["head=c51", "head.atoms=10000", "head.v_max=1000"], "transitions"),
        (["head=iqn", "head.samples=10000", "head.target_samples=10000"], "transitions"),
    ],
)
def test_memory_is_refused_before_it_is_taken(words, most, monkeypatch):
    config = compose.to_train_config(compose.compose("train", [*SMALL, *words]))
    envs = SimpleNamespace(frame_shape=(4,), frame_dtype=np.dtype(np.float32), actions=("LEFT", "RIGHT"))
    monkeypatch.setattr(machine, "available_memory", lambda device: 100_000_000)
    with pytest.raises(UserError, match=r"needs [\d.]+ GB of memory, but 100.0 MB is available on cpu") as error:
        footprint.check(config, envs, torch.device("cpu"))
    assert most in str(error.value)


@pytest.mark.parametrize(
    ("name", "arguments", "line"),
    [
        ("Adafactor", {"eps": [1e-30, 1e-3]}, "its steps are no finite numbers"),  # which a row of zeros shows
        ("RMSprop", {"centered": True, "alpha": 0}, "its steps are no finite numbers"),
        ("Adafactor", {"eps": [1, None]}, "expected 2 numbers, such as [null,0.001]"),
        ("Adafactor", {"eps": [None, 1e-3]}, None),
        ("Adam", {"betas": [0, 0.9]}, None),
        *((name, {}, None) for name in ("Adadelta", "Adagrad", "AdamW", "Adamax", "ASGD", "NAdam", "NatureRMSProp")),
        *((name, {}, None) for name in ("RAdam", "RMSprop", "Rprop", "SGD", "Muon")),
    ],
    ids=str,
)
def test_what_an_optimizer_is_tried_with(name, arguments, line):
    with pytest.raises(UserError) if line else contextlib.nullcontext() as error:
        make_optimizer(name, [torch.nn.Parameter(torch.ones(2, 2))], 1e-3, arguments)
    assert line is None or line in str(error.value)


ARGUMENTS = [
    ({"foreach": True, "fused": True}, "do not suit Adam"),
    ({"capturable": True, "fused": False}, "do not suit Adam"),
    ({"eps": 0}, "its steps are no finite numbers"),
    ({"maximize": True}, "it would make the loss larger; leave it out"),
    ({"lr": 0.1}, "the learning rate is optimizer.learning_rate"),
    ({"beta": [0.9, 0.99]}, "Adam has no such argument (did you mean betas?)"),
    ({"betas": [0.9]}, "optimizer.arguments.betas=[0.9]: expected 2 numbers, such as [0.9,0.999]"),
    ({"weight_decay": -1}, "do not suit Adam"),
    ({"weight_decay": math.nan}, "optimizer.arguments.weight_decay=nan: expected a number such as 0"),
    ({"amsgrad": 3}, "optimizer.arguments.amsgrad=3: expected true or false"),
]


@pytest.mark.parametrize(("arguments", "line"), ARGUMENTS, ids=str)
def test_an_optimizer_that_could_not_step_is_refused(arguments, line):
    with pytest.raises(UserError) as error:
        make_optimizer("Adam", [torch.nn.Parameter(torch.ones(2))], 1e-3, arguments)
    assert line in str(error.value)
