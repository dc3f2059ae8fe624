"""A user's typed script, which `make check` checks with mypy and nobody runs."""
# mypy: disallow-untyped-calls, disallow-any-generics, disallow-subclassing-any, warn-return-any, warn-unused-ignores

import atari_dqn


def play(agent: atari_dqn.Agent) -> float:
    env = atari_dqn.make_env(agent, render_mode="rgb_array")
    observation, _ = env.reset(seed=1)
    reward = env.step(agent.act(observation, epsilon=0.1))[1]
    return float(reward) + float(agent.q_values(observation).max())


class Mine(atari_dqn.Callback):
    def evaluation(self, row: dict[str, object]) -> None:
        print(row["mean"])


run: atari_dqn.Run = atari_dqn.train("env=cartpole", callbacks=[Mine()])
means: list[float] = run.metrics()["return_mean"]
result: atari_dqn.Result = atari_dqn.evaluate(run.load(), protocol={"epsilon": 0.1})
human: float | None = result.human_normalized
try:
    atari_dqn.load(1)  # type: ignore[arg-type]
    atari_dqn.train(nothing=1)  # type: ignore[call-arg]
except atari_dqn.UserError:
    pass
