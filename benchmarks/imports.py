"""Import networks that the real programs saved, and compare their own Q-values with ours on states of play.

    make -C benchmarks bench CLEANRL=PATH          # sets .peers/ up
    benchmarks/imports.py --cleanrl PATH --atari-agents PATH

Stable-Baselines3 and CleanRL each learn Breakout for --steps, in their own environments (.peers/), and save; the
networks of atari-agents are random. Each program then computes the Q-values of 1,000 states of random play with its own
code, and we with the imported checkpoint. Writes a row per program to --output.
"""

import argparse
import contextlib
import csv
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
from race import machine, versions

from atari_dqn.checkpoint.checkpoints import Checkpoint
from atari_dqn.config import compose
from atari_dqn.config.commands import ImportConfig, ImportEnv
from atari_dqn.dqn.networks import QNetwork
from atari_dqn.evaluation import rollout
from atari_dqn.evaluation.rollout import EvalEnvs
from atari_dqn.exchange import imports
from atari_dqn.utils.console import Console

ROOT = Path(__file__).parent.parent
STATES = 1_000
SB3 = """
import sys
import ale_py, numpy, torch
from stable_baselines3 import DQN
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.vec_env import VecFrameStack
env = VecFrameStack(make_atari_env("BreakoutNoFrameskip-v4", n_envs=1, seed=1), 4)
model = DQN("CnnPolicy", env, buffer_size=5_000, learning_starts=200, seed=1)
model.learn(int(sys.argv[1]))
model.save("BreakoutNoFrameskip-v4.zip")
with torch.no_grad():
    numpy.save("q.npy", model.q_net(torch.as_tensor(numpy.load(sys.argv[2]))).numpy())
"""
CLEANRL = """
import glob, sys
import ale_py, numpy, torch
steps, states, source = sys.argv[1:]
sys.path[:0] = [source, source + "/cleanrl"]
import runpy
sys.argv = ["dqn_atari.py", "--env-id", "BreakoutNoFrameskip-v4", "--total-timesteps", steps,
            "--learning-starts", "200", "--buffer-size", "5000", "--save-model"]
import cleanrl_utils.evals.dqn_eval as judge
judge.evaluate = lambda *args, **kwargs: []
runpy.run_path(source + "/cleanrl/dqn_atari.py", run_name="__main__")
from cleanrl.dqn_atari import QNetwork
class Envs:
    class single_action_space:
        n = 4
network = QNetwork(Envs)
(path,) = glob.glob("runs/*/*.cleanrl_model")
network.load_state_dict(torch.load(path, weights_only=True))
with torch.no_grad():
    numpy.save("q.npy", network(torch.as_tensor(numpy.load(states)).float()).numpy())
"""
AGENTS = """
import ast, gzip, os, sys
import numpy, torch
from torch import nn
states, source, kind = sys.argv[1:]
tree = ast.parse(open(source + "/play.py").read())
(net,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "AtariNet")
exec(compile(ast.Module([net], []), "play.py", "exec"))
torch.manual_seed(0)
network = AtariNet(4, distributional=kind == "C51")
folder = f"{kind}_modern/Breakout/0"
os.makedirs(folder)
with gzip.open(folder + "/model_50000000.gz", "wb") as file:
    torch.save({"estimator_state": network.state_dict()}, file)
with torch.no_grad():
    numpy.save("q.npy", network(torch.as_tensor(numpy.load(states))).numpy())
"""


def played_states() -> torch.Tensor:
    """States uint8 [STATES, 4, 84, 84] of random play of Breakout."""
    config = compose.to_train_config(compose.compose("train", ["env.game=Breakout"]))
    with contextlib.closing(EvalEnvs(config.env, 8, torch.device("cpu"))) as games:
        return rollout.held_out(games, 4, STATES, 1)


def compare(name: str, command: list[str], pattern: str, states: torch.Tensor, game: str | None) -> dict[str, object]:
    """Let a program save and compute; import, and compute the same."""
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "states.npy", states.numpy())
        words = [word.replace("STATES", f"{folder}/states.npy") for word in command]
        done = subprocess.run(words, cwd=folder, env=os.environ | {"PYTHONPATH": ""}, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{name} failed:\n{done.stderr[-2000:]}")
        (source,) = Path(folder).glob(pattern)
        target = Path(folder) / "imported.pt"
        imports.run(ImportConfig(str(source), ImportEnv(game), str(target)), Console(quiet=True))
        network: QNetwork = Checkpoint(target).network
        wanted = np.load(Path(folder) / "q.npy")
        found = torch.cat([network.q_values(some) for some in states.split(100)]).numpy()
    return {
        "program": name,
        "states": len(states),
        "same_action": int((wanted.argmax(1) == found.argmax(1)).sum()),
        "largest_difference": f"{np.abs(wanted - found).max():.2e}",
        "largest_q_value": f"{np.abs(wanted).max():.3g}",
        "machine": machine(),
        "versions": versions(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", default="3000")
    parser.add_argument("--cleanrl", type=Path, required=True, help="a clone of vwxyzjn/cleanrl")
    parser.add_argument("--atari-agents", type=Path, required=True, help="a clone of floringogianu/atari-agents")
    parser.add_argument("--cleanrl-python", type=Path, default=ROOT / ".peers/cleanrl/bin/python")
    parser.add_argument("--sb3-python", type=Path, default=ROOT / ".peers/sb3/bin/python")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/imports.csv")
    asked = parser.parse_args()
    cleanrl, agents = str(asked.cleanrl.resolve()), str(asked.atari_agents.resolve())
    jobs = {
        "Stable-Baselines3 DQN": ([str(asked.sb3_python), "-c", SB3, asked.steps, "STATES"], "*.zip", None),
        "CleanRL dqn_atari.py": (
            [str(asked.cleanrl_python), "-c", CLEANRL, asked.steps, "STATES", cleanrl], "runs/*/*.cleanrl_model", None,
        ),
        "atari-agents DQN": ([str(asked.cleanrl_python), "-c", AGENTS, "STATES", agents, "DQN"], "*/*/*/*.gz", None),
        "atari-agents C51": ([str(asked.cleanrl_python), "-c", AGENTS, "STATES", agents, "C51"], "*/*/*/*.gz", None),
    }  # fmt: skip
    states, rows = played_states(), []
    for name, (command, pattern, game) in jobs.items():
        rows.append(compare(name, command, pattern, states, game))
        print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    with open(asked.output, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
