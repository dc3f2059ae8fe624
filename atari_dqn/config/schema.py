"""A training run's configuration. compose.py reads it, and validate.py checks it.

The values, with their reasons, are in conf/. A default is here only where no file of conf/ sets one, or where a part is
also made without conf/: Network, Head, AgentConfig. Units are in the names: _steps are agent steps, _frames environment
frames (60 a second), seconds are wall-clock.
"""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


@dataclass
class Goal:
    """A mean return over consecutive training games that is worth telling, and may end the run."""

    score: float
    games: int
    note: str
    stop: bool = False


@dataclass
class Env:
    kind: str = MISSING  # atari | gymnasium
    game: str = MISSING
    frame_skip: int = MISSING  # environment frames in an agent step
    frame_stack: int = MISSING
    screen_size: int = MISSING  # pixels
    repeat_action_probability: float = MISSING  # stickiness
    noop_max: int = MISSING  # frames of no-ops at a game's start, at most
    fire_reset: bool = MISSING  # press FIRE at a game's start and after each lost life
    max_frames: int = MISSING  # a game is cut off after so many
    full_action_space: bool = MISSING
    terminal_on_life_loss: bool = MISSING
    goals: list[Goal] = field(default_factory=list)  # [{score: 18, games: 20, note: solved, stop: true}]
    arguments: dict[str, Any] = field(default_factory=dict)  # of a Gymnasium environment, such as {continuous: false}


@dataclass
class Network:
    name: str = MISSING
    padding: str = "valid"  # of convolutions: valid | same
    initialization: str = "torch"  # torch | xavier | he
    standardize: bool = False  # inputs, by the warm-up's mean picture and standard deviation
    hidden: list[int] = field(default_factory=list)  # of network=mlp: units in each hidden layer
    arguments: dict[str, Any] = field(default_factory=dict)  # of your own network, such as {width: 32}


@dataclass
class Rule:
    name: str | None = None  # your own, of what targets bootstrap from: my_package.my_module:Name; null: as agent says
    arguments: dict[str, Any] = field(default_factory=dict)  # of your own rule, such as {networks: 10}


@dataclass
class Head:
    name: str = "scalar"  # scalar | c51 | qr | iqn; see dqn/heads.py
    atoms: int = 51  # of c51
    v_min: float = -10.0  # of c51, the least return, discounted and of clipped rewards
    v_max: float = 10.0  # of c51, the greatest return
    priority: str = "divergence"  # of c51, the error that priorities follow: divergence | cross_entropy
    quantiles: int = 200  # of qr
    samples: int = 64  # of iqn: quantiles in an update, N
    target_samples: int = 64  # of iqn: quantiles in an update's target, N'
    policy_samples: int = 32  # of iqn: quantiles that an action is chosen by, K
    cosines: int = 64  # of iqn: cosines that embed a quantile, n


@dataclass
class Optimizer:
    name: str = MISSING
    learning_rate: float = MISSING
    max_grad_norm: float | None = MISSING
    schedule: str = MISSING  # of the learning rate
    schedule_steps: int | None = MISSING  # agent steps, of linear and cosine
    final_learning_rate: float = MISSING  # of linear and cosine
    schedule_arguments: dict[str, Any] = MISSING  # of a class of torch.optim.lr_scheduler, in updates
    arguments: dict[str, Any] = MISSING  # the optimizer's other arguments, such as {eps: 1e-5}


@dataclass
class AgentConfig:
    discount: float = MISSING  # per agent step
    n_step: int = MISSING  # agent steps
    loss: str = MISSING  # huber | squared
    reduction: str = MISSING  # mean | sum
    reward_clip: float | None = MISSING
    augmentation: str = "none"  # none | shift | drq; see dqn/augmentation.py
    double: bool = False
    dueling: bool = False
    dueling_shared: bool = False  # one hidden layer for both streams
    dueling_gradient_scale: float = 1.0  # of what enters the features
    noisy: bool = False
    noisy_sigma: float = 0.5
    munchausen: bool = False
    munchausen_alpha: float = 0.9
    munchausen_temperature: float = 0.03
    munchausen_floor: float = -1.0


@dataclass
class ReplayConfig:
    capacity: int = MISSING  # agent steps
    device: str = MISSING  # auto | cpu | cuda
    warmup_steps: int = MISSING
    prioritized: bool = MISSING
    priority_exponent: float = MISSING
    importance_start: float = MISSING
    importance_end: float = MISSING
    importance_steps: int = MISSING  # agent steps from the one to the other


@dataclass
class Update:
    period_steps: int = MISSING
    repeats: int = MISSING  # updates at a time
    batch_size: int = MISSING
    target_period_steps: int = MISSING
    tau: float = MISSING  # target += tau * (online - target); 1 is a hard copy


@dataclass
class Exploration:
    start: float = MISSING
    end: float = MISSING
    decay_steps: int = MISSING
    begin_steps: int | None = MISSING  # agent steps before epsilon begins to fall; null: replay.warmup_steps
    temperature: float | None = MISSING  # Boltzmann's; null: the best action
    persistence: float | None = MISSING  # random actions are repeated n times, in proportion to n^-persistence


@dataclass
class PlayProtocol:
    """A protocol by name, or what to change of another; null changes nothing."""

    name: str | None = None  # under which results are stored
    epsilon: float | None = None  # share of random actions
    source: str | None = None  # games | training: separate evaluation games, or the training games
    repeat_action_probability: float | None = None  # sticky actions; null: as in training
    noop_max: int | None = None  # frames of no-ops at a game's start, at most; null: as in training
    fire_reset: bool | None = None  # true or false: press FIRE at a game's start; null: as in training
    max_frames: int | None = None  # a game is cut off after so many; null: as in training
    full_action_space: bool | None = None  # true or false: all 18 actions; null: as in training
    terminal_on_life_loss: bool | None = None  # true or false; null: as in training
    episodes: int | None = None  # whole games that `evaluate` plays
    window_frames: int | None = None  # of training games: those that ended in so many frames
    window_games: int | None = None  # of training games: the last so many


@dataclass
class Protocol(PlayProtocol):
    """How a network is scored: in evaluation games, or by its training games. null keeps the training setting."""

    name: str = MISSING  # under which results are stored
    epsilon: float = MISSING  # share of random actions
    source: str = "games"  # games | training: separate evaluation games, or the training games


@dataclass
class Evaluation:
    every_steps: int = MISSING
    episodes: int = MISSING
    num_envs: int = MISSING
    video_seconds: int = MISSING  # of a game recorded at an evaluation; 0 for none
    video_share: float = MISSING  # of the time at most that films take
    held_out_states: int = MISSING


@dataclass
class Checkpoint:
    every_steps: int = MISSING
    cut_every_turns: int | None = MISSING  # a turn is one agent step in each game
    replay: bool = MISSING


@dataclass
class Logger:
    every_steps: int | None = MISSING
    wandb: str = MISSING  # online | offline | off
    project: str | None = MISSING  # null, here and below: what the W&B client is set to
    entity: str | None = MISSING
    name: str | None = MISSING
    group: str | None = MISSING
    tags: list[str] | None = MISSING
    notes: str | None = MISSING
    artifacts: bool = MISSING  # upload the best and the last network
    timeout_seconds: float | None = MISSING
    tensorboard: bool = MISSING
    mlflow: bool = MISSING
    mlflow_uri: str | None = MISSING


@dataclass
class Compute:
    graphs: bool = MISSING
    compile: bool | None = MISSING
    precision: str = MISSING  # float32 | bf16
    tf32: bool = MISSING
    deterministic: bool = MISSING


@dataclass
class EmulatorsConfig:
    kind: str = MISSING  # local | ray
    actors: int | None = MISSING  # of ray: each steps its share of the games; null: one for each free CPU
    address: str | None = MISSING  # of a Ray cluster


@dataclass
class TrainConfig:
    env: Env = field(default_factory=Env)
    network: Network = field(default_factory=Network)
    head: Head = field(default_factory=Head)
    rule: Rule = field(default_factory=Rule)
    optimizer: Optimizer = field(default_factory=Optimizer)
    agent: AgentConfig = field(default_factory=AgentConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    update: Update = field(default_factory=Update)
    exploration: Exploration = field(default_factory=Exploration)
    evaluation: Evaluation = field(default_factory=Evaluation)
    protocol: Protocol = field(default_factory=Protocol)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    logger: Logger = field(default_factory=Logger)
    compute: Compute = field(default_factory=Compute)
    emulators: EmulatorsConfig = field(default_factory=EmulatorsConfig)
    trackers: list[str] = field(default_factory=list)  # your own, besides logger's: [my_package.my_module:Name]
    callbacks: list[str] = field(default_factory=list)  # your own: [my_package.my_module:Name]
    preset: str = MISSING  # a file in conf/preset/, see above
    published: str | None = MISSING  # the curve to compare with, an agent of data/agents.csv
    seed: int = MISSING
    total_steps: int = MISSING
    max_minutes: float | None = MISSING
    num_envs: int = MISSING
    device: str = MISSING
    run_dir: str | None = MISSING
    resume: str | None = MISSING
    init: str | None = MISSING
