"""A replay that is elsewhere than the agent: where it is put, and that the run stays the same."""

import re
from collections import Counter

import pytest
import torch
from conftest import flat, small_run
from recording import Recording

from atari_dqn.config import compose
from atari_dqn.dqn import inputs, turn
from atari_dqn.dqn.host_replay import Courier, at_hand, way
from atari_dqn.dqn.loop import training_loop
from atari_dqn.training import capacity, launch
from atari_dqn.utils import machine
from atari_dqn.utils.errors import UserError

CPU, GPU = torch.device("cpu"), torch.device("cuda", 1)
STEPS, STEP_BYTES = 1_000_000, 7_062
BYTES = STEPS * STEP_BYTES  # 7.06 GB


def room(monkeypatch, on_gpu: int, on_host: int) -> None:
    """A machine with so many GB to be taken on its second GPU, and so many of host memory."""
    memory = {GPU: on_gpu, CPU: on_host}
    monkeypatch.setattr(machine, "available_memory", lambda device: memory[device] * 1_000_000_000)


def place(wanted: str, device: torch.device, least: int = 1) -> tuple[torch.device, str]:
    chosen = capacity.replay_device(wanted, BYTES, device)
    return chosen, capacity.check_replay_fits(STEPS, STEP_BYTES, chosen, least, device)


def refusal(wanted: str, device: torch.device, least: int = 1) -> str:
    with pytest.raises(UserError, match=r"a replay of 1,000,000 agent steps takes 7\.06 GB, but only") as error:
        place(wanted, device, least)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_it_is_on_the_gpu_where_it_fits_there(monkeypatch):
    room(monkeypatch, 10, 90)
    for wanted in ("auto", "cuda"):
        chosen, said = place(wanted, GPU)
        assert chosen == GPU and "take 7.06 GB of the 10.00 GB available on cuda:1" in said


def test_a_gpu_keeps_a_margin(monkeypatch):
    room(monkeypatch, 9, 0)
    assert capacity.replay_device("auto", BYTES - 100_000_000, GPU) == GPU  # 6.96 of 7 GB
    room(monkeypatch, 9, 90)
    assert place("auto", GPU)[0] == CPU


def test_it_is_in_host_memory_where_it_fits_only_there(monkeypatch):
    room(monkeypatch, 6, 60)
    chosen, said = place("auto", GPU)
    assert chosen == CPU and "\n" not in said
    for words in ("take 7.06 GB of the 60.00 GB", "in host memory", "6.00 GB on cuda:1", "updates are slower"):
        assert words in said


def test_it_is_in_host_memory_where_that_is_asked_for(monkeypatch):
    room(monkeypatch, 70, 60)
    chosen, said = place("cpu", GPU)
    assert chosen == CPU and "updates are slower" in said


def test_where_it_fits_nowhere_the_largest_that_fits_anywhere_is_named(monkeypatch):
    for on_gpu, on_host, on, elsewhere, largest in (
        (6, 4, "6.00 GB of memory is available on cuda:1", "4.00 GB on cpu", 560_000),  # 4 GB / 7062, to two digits
        (4, 6, "6.00 GB of memory is available on cpu", "4.00 GB on cuda:1", 700_000),  # 5 GB / 7062
    ):
        room(monkeypatch, on_gpu, on_host)
        text = refusal("auto", GPU)
        assert on in text and elsewhere in text and "replay.device" not in text
        assert int(re.search(r"replay\.capacity=(\d+) \(REPLAY=\1\)", text)[1]) == largest
        assert capacity.replay_device("auto", largest * STEP_BYTES, GPU).type in on
        assert "free some memory" in refusal("auto", GPU, least=800_000)


def test_a_place_that_is_forced_is_refused_with_what_would_fit(monkeypatch):
    room(monkeypatch, 6, 60)
    text = refusal("cuda", GPU)
    assert "replay.capacity=560000" in text and "or set replay.device=cpu" in text
    room(monkeypatch, 6, 4)
    assert "replay.device" not in refusal("cuda", GPU)
    room(monkeypatch, 70, 4)
    text = refusal("cpu", GPU)
    assert "replay.capacity=420000" in text and "or set replay.device=auto" in text


def test_without_a_gpu_it_is_in_host_memory_or_refused(monkeypatch):
    room(monkeypatch, 70, 10)
    for wanted in ("auto", "cpu"):
        chosen, said = place(wanted, CPU)
        assert chosen == CPU and said.endswith("10.00 GB available on cpu")
    with pytest.raises(UserError, match=r"replay\.device=cuda: this run is on cpu; set replay\.device=auto, or"):
        place("cuda", CPU)
    room(monkeypatch, 70, 4)
    assert "420000" in refusal("auto", CPU) and "cuda" not in refusal("auto", CPU)


def test_a_run_asks_for_its_own_gpu_and_says_one_sentence(monkeypatch, tmp_path):
    run, said = small_run(tmp_path / "run", "env.game=Pong", "num_envs=2"), []
    room(monkeypatch, 6, 60)
    rows, chosen = capacity.replay_room(run.config, run.emulators, None, GPU, said.append)
    assert (rows, chosen) == (500_001, CPU) and len(said) == 1 and "in host memory" in said[0]
    run.config.replay.device = "cuda"
    with pytest.raises(UserError, match=r"on cuda:1 .* set replay\.device=cpu"):
        capacity.replay_room(run.config, run.emulators, None, GPU, said.append)
    run.emulators.close()


def test_a_courier_brings_the_same_to_the_same_places():
    bring = Courier(CPU)
    wide, like_wide = torch.randn(4, 3, 5).transpose(0, 1), torch.zeros(4, 3, 5).transpose(0, 1)
    first = bring(wide, like_wide)
    assert torch.equal(first[0], wide) and torch.equal(first[1], like_wide)  # each has a place of its own
    assert first[0].stride() == wide.stride() and first[0].data_ptr() != wide.data_ptr()
    again = bring(like_wide, wide)
    assert [part.data_ptr() for part in again] == [part.data_ptr() for part in first] and torch.equal(again[1], wide)
    other = bring(wide.contiguous(), like_wide)  # other strides would be another graph
    assert other[0].is_contiguous() and other[0].data_ptr() != again[0].data_ptr()
    assert way(CPU, CPU) is at_hand and isinstance(way(CPU, GPU), Courier)


VARIANTS = {
    "nature": ["preset=nature", "network=small_cnn"],
    "rainbow": ["preset=rainbow", "network=small_cnn"],
    "standardize": ["network.standardize=true"],
}


@pytest.mark.parametrize(
    ("variant", "recorded"),
    [("rainbow", False), ("standardize", False), ("nature", True), ("rainbow", True)],
)
def test_a_run_is_the_same_wherever_its_replay_is(tmp_path, monkeypatch, variant, recorded):
    """Each batch is brought to another place, from where it is learned, or from where a recording learns it."""
    monkeypatch.setattr(inputs, "interleaved", lambda states: states)  # OpenCV's work would not be recorded
    words = [
        "env.game=Pong", "device=cpu", "num_envs=6", "total_steps=102", "replay.warmup_steps=30",
        "replay.capacity=60", "update.batch_size=4", "update.target_period_steps=50", "exploration.start=0.9",
        "exploration.decay_steps=100", "compute.graphs=false", *VARIANTS[variant],
    ]  # fmt: skip

    def play(folder, replay_device):
        run = small_run(folder, *words, f"replay.device={replay_device}")
        run.config.compute.graphs = recorded
        records = list(training_loop(run.emulators, run.replay, run.agent, run.config, run.streams))
        run.emulators.close()
        assert records[-1].updates > 15
        return run

    direct = play(tmp_path / "direct", "auto")
    calls = Counter()

    def graphed_here(function, device, generators):  # as graphs.graphed does on a GPU
        recordings = {}

        def call(*args):
            calls[args] += 1
            if calls[args] == 1:
                return function(*args)
            if args in recordings:
                return recordings[args].replay()
            recordings[args] = Recording(lambda: function(*args))
            return recordings[args].result

        return call

    monkeypatch.setattr(turn, "way", lambda here, there: Courier(there))
    monkeypatch.setattr(turn, "graphed", graphed_here)
    monkeypatch.setattr(turn, "can_be_recorded", lambda optimizer: True)
    away = play(tmp_path / "away", "cpu")
    assert len(calls) == 3 * recorded  # acting, and turns of 1 and of 2 updates
    for part, same in zip(direct.replay.parts(), away.replay.parts(), strict=True):
        assert torch.equal(part, same)
    assert torch.equal(flat(direct.agent.online), flat(away.agent.online))
    assert direct.agent.losses() == away.agent.losses()
    assert torch.equal(direct.streams.replay.get_state(), away.streams.replay.get_state())
    for key, value in direct.replay.state().items():
        assert torch.equal(value, away.replay.state()[key])


def test_a_resumed_run_may_have_its_replay_elsewhere(tmp_path):
    run = small_run(
        tmp_path / "run", "env=cartpole", "network=mlp", "total_steps=40", "replay.warmup_steps=36", "replay.device=cpu"
    )
    run.emulators.close()
    (run.folder / "config.yaml").write_text(compose.to_yaml(run.config))
    asked = compose.to_train_config(compose.compose("train", ["replay.device=auto"]))
    assert launch.saved_config(run.folder).replay.device == "cpu"
    assert launch.resumed_config(run.folder, ["replay.device=auto"], asked).replay.device == "auto"
