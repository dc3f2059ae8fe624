"""Whether settings make sense: values in their ranges, and none that contradicts another."""

import math

from atari_dqn import files, scores
from atari_dqn.config import Env, Head, Logger, PlayProtocol, Protocol, TrainConfig
from atari_dqn.environments import check_arguments, own_of
from atari_dqn.errors import UserError
from atari_dqn.games import suggest


def check_protocol(protocol: Protocol | PlayProtocol) -> None:
    """Raise UserError for the first value out of its range."""
    if protocol.name is not None:
        named("protocol.name", protocol.name)
    if protocol.source is not None:
        one_of("protocol.source", protocol.source, ("games", "training"))
    for key, low, high in (
        ("epsilon", 0, 1), ("repeat_action_probability", 0, 1), ("noop_max", 0, math.inf), ("max_frames", 1, math.inf),
        ("window_frames", 1, math.inf), ("window_games", 1, math.inf),
    ):  # fmt: skip
        if (value := getattr(protocol, key)) is not None:
            between(f"protocol.{key}", value, low, high)


# What a protocol may say of how games are played.
PLAYED = (
    "repeat_action_probability", "noop_max", "fire_reset", "max_frames", "full_action_space", "terminal_on_life_loss",
)  # fmt: skip


def played_by(env: Env) -> tuple[str, ...]:
    """Those of PLAYED that an environment reads: Gymnasium's know neither stickiness nor no-op starts."""
    return PLAYED if env.kind == "atari" else ("max_frames",)


def check_training(protocol: Protocol, env: Env) -> None:
    """Raise UserError where a protocol scores the training games, and these are not played as it says."""
    if protocol.source != "training":
        return
    if (protocol.window_frames is None) == (protocol.window_games is None):
        raise UserError("protocol.source=training needs protocol.window_frames or protocol.window_games, and not both")
    wanted = {f"env.{key}": getattr(protocol, key) for key in played_by(env) if getattr(protocol, key) is not None}
    if any(value != getattr(env, key.removeprefix("env.")) for key, value in wanted.items()):
        words = " ".join(f"{key}={str(value).lower()}" for key, value in wanted.items())
        raise UserError(f"protocol={protocol.name} scores the training games, so they must be trained with {words}")


def named(key: str, value: str) -> None:
    """Raise UserError where `value` could not be a part of a file's name, which leads nowhere else."""
    if not files.is_name(value):
        raise UserError(f"{key}={value[:100]!r}: must be letters, digits, blanks and . + - _, at most 100")


def one_of(key: str, value: str, options: tuple[str, ...]) -> None:
    """Raise UserError where `value` is none of `options`."""
    if value not in options:
        raise UserError(f"{key}={value}: must be one of {', '.join(options)}{suggest(value, options)}")


def between(key: str, value: float, low: float, high: float = math.inf) -> None:
    """Raise UserError where `value` is outside low..high."""
    if not low <= value <= high:
        limits = f"at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
        raise UserError(f"{key}={value:g}: must be {limits}")


def check(config: TrainConfig) -> None:
    """Raise UserError for the first value out of its range, and for values that contradict each other."""
    env, replay, update, exploration = config.env, config.replay, config.update, config.exploration

    named("preset", config.preset)
    one_of("env.kind", env.kind, ("atari", "gymnasium"))
    one_of("network.padding", config.network.padding, ("valid", "same"))
    one_of("network.initialization", config.network.initialization, ("torch", "xavier"))
    if config.network.standardize and config.network.name == "mlp":
        raise UserError("network.standardize=true is for pictures, which network=mlp does not see: set it to false")
    one_of("agent.loss", config.agent.loss, ("huber", "squared"))
    one_of("agent.reduction", config.agent.reduction, ("mean", "sum"))
    one_of("replay.device", replay.device, ("auto", "cpu", "cuda"))
    one_of("emulators", config.emulators.kind, ("local", "ray"))
    if config.emulators.actors is not None:
        between("emulators.actors", config.emulators.actors, 1)
    check_logger(config.logger)
    for key, value in (
        ("env.frame_skip", env.frame_skip), ("env.frame_stack", env.frame_stack), ("env.max_frames", env.max_frames),
        ("total_steps", config.total_steps), ("num_envs", config.num_envs), ("agent.n_step", config.agent.n_step),
        ("replay.warmup_steps", replay.warmup_steps), ("update.period_steps", update.period_steps),
        ("update.batch_size", update.batch_size), ("update.target_period_steps", update.target_period_steps),
        ("exploration.decay_steps", exploration.decay_steps), ("evaluation.every_steps", config.evaluation.every_steps),
        ("evaluation.episodes", config.evaluation.episodes), ("evaluation.num_envs", config.evaluation.num_envs),
        ("checkpoint.every_steps", config.checkpoint.every_steps), ("logger.every_steps", config.logger.every_steps),
    ):  # fmt: skip
        if value is not None:
            between(key, value, 1)
    between("seed", config.seed, 0)
    check_head(config.head)
    check_agent(config)
    between("env.noop_max", env.noop_max, 0)
    between("env.screen_size", env.screen_size, 8, 512)
    between("num_envs", config.num_envs, 1, 4096)
    between("evaluation.video_seconds", config.evaluation.video_seconds, 0)
    between("evaluation.video_share", config.evaluation.video_share, 0, 1)
    between("evaluation.held_out_states", config.evaluation.held_out_states, 0, 100_000)
    if exploration.begin_steps is not None:
        between("exploration.begin_steps", exploration.begin_steps, 0)
    if config.published is not None:
        one_of("published", config.published, scores.LEARNING_CURVES)
    if env.fire_reset and not env.terminal_on_life_loss:
        raise UserError(
            "env.fire_reset=true presses FIRE after a lost life in place of the action that was chosen, so that state "
            "must start no transition: set env.terminal_on_life_loss=true, or env.fire_reset=false"
        )
    for key, share in (
        ("exploration.start", exploration.start), ("exploration.end", exploration.end),
        ("agent.discount", config.agent.discount),
        ("env.repeat_action_probability", env.repeat_action_probability),
        ("replay.priority_exponent", replay.priority_exponent), ("replay.importance_start", replay.importance_start),
        ("replay.importance_end", replay.importance_end),
    ):  # fmt: skip
        between(key, share, 0, 1)
    between("replay.importance_steps", replay.importance_steps, 1)
    check_protocol(config.protocol)
    check_training(config.protocol, env)
    for key, above in (
        ("optimizer.learning_rate", config.optimizer.learning_rate),
        ("optimizer.max_grad_norm", config.optimizer.max_grad_norm),
        ("agent.reward_clip", config.agent.reward_clip),
        ("update.tau", update.tau),
    ):
        if above is not None and not 0 < above < math.inf:
            raise UserError(f"{key}={above:g}: must be above 0")
    between("update.tau", update.tau, 0, 1)
    if exploration.temperature is not None:
        between("exploration.temperature", exploration.temperature, 1e-6, 1e6)
    if exploration.persistence is not None:
        between("exploration.persistence", exploration.persistence, 1, 100)
        if exploration.temperature is not None:
            raise UserError("exploration.persistence and exploration.temperature exclude each other; set one to null")
    if config.checkpoint.cut_every_turns is not None:
        between("checkpoint.cut_every_turns", config.checkpoint.cut_every_turns, 1)
    if len(config.network.hidden) > 100:
        raise UserError(f"network.hidden: {len(config.network.hidden)} layers; at most 100")
    for width in config.network.hidden:
        between("network.hidden", width, 1)
    check_arguments(env.kind, env.game, env.arguments)
    least = config.num_envs * (env.frame_stack + config.agent.n_step + 1)
    if replay.capacity < least:
        raise UserError(f"replay.capacity={replay.capacity}: must be at least {least} for {config.num_envs} games")
    if replay.warmup_steps > replay.capacity:
        raise UserError(
            f"replay.warmup_steps={replay.warmup_steps} can never be reached with replay.capacity={replay.capacity}; "
            f"lower the one or raise the other"
        )


def check_logger(logger: Logger) -> None:
    """Raise UserError for the first value that W&B would not take."""
    one_of("logger.wandb", logger.wandb, ("online", "offline", "off"))
    for key, most, banned in (
        ("project", 128, "/\\#?%:"), ("entity", 128, "/\\#?%:"), ("name", 128, ""), ("group", 128, ""),
    ):  # fmt: skip
        value = getattr(logger, key)
        if value is not None and (not value.strip() or len(value) > most or {*banned} & {*value}):
            without = f", without {' '.join(banned)}" if banned else ""
            raise UserError(
                f"logger.{key}={value:.150}: must have 1 to {most} characters{without}; null for the default"
            )
    for tag in logger.tags or []:
        if not 1 <= len(tag) <= 64:
            raise UserError(f"logger.tags: {tag[:70]!r} must have 1 to 64 characters")
    if logger.timeout_seconds is not None:
        between("logger.timeout_seconds", logger.timeout_seconds, 1, 3600)


def check_head(head: Head) -> None:
    """Raise UserError for the first value out of its range."""
    one_of("head", head.name, ("scalar", "c51", "qr", "iqn"))
    between("head.atoms", head.atoms, 2, 10_000)
    for key in ("quantiles", "samples", "target_samples", "policy_samples", "cosines"):
        between(f"head.{key}", getattr(head, key), 1, 10_000)
    between("head.v_min", head.v_min, -1e6, 1e6)
    between("head.v_max", head.v_max, -1e6, 1e6)
    if head.v_max - head.v_min < 1e-3 * head.atoms:
        raise UserError(f"head.v_min={head.v_min:g}: must be below head.v_max={head.v_max:g}, by 0.001 for each atom")


def check_agent(config: TrainConfig) -> None:
    """Raise UserError where the algorithm's switches have no meaning together."""
    agent, head = config.agent, config.head.name
    between("agent.dueling_gradient_scale", agent.dueling_gradient_scale, 0, 1)
    between("agent.noisy_sigma", agent.noisy_sigma, 0, 100)
    between("agent.munchausen_temperature", agent.munchausen_temperature, 1e-6, 1e6)
    between("agent.munchausen_alpha", agent.munchausen_alpha, 0, 1)
    between("agent.munchausen_floor", agent.munchausen_floor, -1e6, 0)
    if agent.loss != "huber" and head != "scalar":
        raise UserError(
            f"agent.loss={agent.loss} is for head=scalar: {head} learns a distribution, by a loss of its own; leave "
            f"agent.loss=huber"
        )
    if agent.munchausen and agent.double:
        raise UserError(
            "agent.double=true chooses the best action of a target, and with agent.munchausen=true there is none, all "
            "actions count as a softmax policy takes them: set one of them to false"
        )
    if agent.munchausen and agent.n_step > 1:
        raise UserError(
            f"agent.n_step={agent.n_step}: agent.munchausen=true adds the policy's log-probability to each reward, and "
            f"knows it for the first step only; set agent.n_step=1"
        )
    if agent.munchausen and head == "c51":
        raise UserError(
            "head=c51 has fixed returns, which agent.munchausen=true would move for each action apart: use "
            "head=scalar, qr or iqn"
        )


def notes(config: TrainConfig) -> list[str]:
    """What is not wrong, but worth telling before a run starts."""
    from atari_dqn import unread  # which composes settings, and settings are checked here

    head, found = config.head, [*unread.notes(config), *own_notes(config.env)]
    if head.name == "c51" and config.agent.reward_clip is None:
        found.append(
            f"rewards are not clipped, and head=c51 knows of returns from head.v_min={head.v_min:g} to "
            f"head.v_max={head.v_max:g} only"
        )
    return found


def own_notes(env: Env) -> list[str]:
    """What a Gymnasium environment does by itself, where it may not be expected."""
    own = own_of(env.game, env.arguments) if env.kind == "gymnasium" else None
    if own is None or not own.note:
        return []
    remedy = f"; env=atari env.game={own.atari} has settings for it" if own.atari else ""
    return [f"{env.game} {own.note}, by itself{remedy}"]
