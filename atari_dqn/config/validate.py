"""Whether settings make sense together. What each may be by itself is in bounds.py."""

from atari_dqn.config import bounds
from atari_dqn.config.bounds import one_of
from atari_dqn.config.schema import Env, Head, Logger, Protocol, TrainConfig
from atari_dqn.data import scores
from atari_dqn.registry.environments import check_arguments, own_of
from atari_dqn.utils.errors import UserError
from atari_dqn.utils.text import plural

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


def check(config: TrainConfig) -> None:
    """Raise UserError for the first value out of its bounds, and for values that contradict each other."""
    bounds.check(config)
    env, exploration = config.env, config.exploration
    check_logger(config.logger)
    if config.published is not None:
        one_of("published", config.published, scores.LEARNING_CURVES)
    if len(config.network.hidden) > 100:
        raise UserError(f"network.hidden: {len(config.network.hidden)} layers; at most 100")
    if config.network.standardize and config.network.name == "mlp":
        raise UserError("network.standardize=true is for pictures, which network=mlp does not see: set it to false")
    if env.fire_reset and not env.terminal_on_life_loss:
        raise UserError(
            "env.fire_reset=true presses FIRE after a lost life in place of the action that was chosen, so that state "
            "must start no transition: set env.terminal_on_life_loss=true, or env.fire_reset=false"
        )
    if exploration.persistence is not None and exploration.temperature is not None:
        raise UserError("exploration.persistence and exploration.temperature exclude each other; set one to null")
    if config.compute.deterministic and config.compute.compile:
        raise UserError(
            "compute.deterministic=true and compute.compile=true exclude each other: a compiled run that was resumed "
            "on a GPU ended with other bits; leave out compute.compile"
        )
    check_head(config.head)
    check_agent(config)
    check_training(config.protocol, env)
    check_arguments(env.kind, env.game, env.arguments)
    check_replay(config)


def check_replay(config: TrainConfig) -> None:
    """Raise UserError where no update could be made, or not the first one: the replay would hold too little."""
    replay, n_step, games = config.replay, config.agent.n_step, config.num_envs
    for_games = f"for {plural(games, 'game')} (num_envs)"
    least = games * (config.env.frame_stack + n_step + 1)
    if replay.capacity < least:
        raise UserError(
            f"replay.capacity={replay.capacity}: expected at least {least} {for_games}, states of "
            f"{config.env.frame_stack} frames and {n_step}-step returns"
        )
    if config.update.batch_size > replay.capacity:
        raise UserError(
            f"update.batch_size={config.update.batch_size}: expected at most replay.capacity={replay.capacity}"
        )
    if replay.warmup_steps > replay.capacity:
        raise UserError(
            f"replay.warmup_steps={replay.warmup_steps}: expected at most replay.capacity={replay.capacity}, or "
            f"learning never starts"
        )
    least = games * (n_step - 1) + 1  # then each game has been played for n steps
    if replay.warmup_steps < least:
        raise UserError(
            f"replay.warmup_steps={replay.warmup_steps}: expected at least {least} {for_games} and {n_step}-step "
            f"returns, or a smaller num_envs"
        )


def check_logger(logger: Logger) -> None:
    """Raise UserError for the first value that W&B would not take."""
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


def check_head(head: Head) -> None:
    """Raise UserError where the returns that c51 knows lie too close together."""
    gap = max(1e-3, 1e-6 * abs(head.v_min), 1e-6 * abs(head.v_max))  # which float32 still tells apart
    if head.v_max - head.v_min < gap * head.atoms:
        raise UserError(
            f"head.v_min={head.v_min:g}: expected at least {gap * head.atoms:g} below head.v_max={head.v_max:g}, "
            f"{gap:g} for each atom"
        )


def check_agent(config: TrainConfig) -> None:
    """Raise UserError where the algorithm's switches have no meaning together."""
    agent, head = config.agent, config.head.name
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
    from atari_dqn.config import unread  # which composes settings, and settings are checked here

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
