"""python -m atari_dqn COMMAND key=value ...

Commands:
  train      learn a game, or go on with a run (resume=PATH)
  demo       learn Pong in some minutes, film it, draw its curve
  sweep      learn many games with many seeds, on one machine or a Ray cluster
  aggregate  statistics of many games and seeds, beside published ones
  evaluate   play whole games with a checkpoint and count the score
  compare    draw a run's curve on a published one
  video      film a game that a checkpoint plays
  watch      show a checkpoint's games in a window
  runs       list the runs in runs/: how far, how good, how large
  report     put runs into one HTML file: settings, curves, scores, films
  dashboard  the same page, live in a browser on this machine
  play       play a game by hand, with a checkpoint's advice or without
  profile    say where the time of training goes
  games      list the games that can be learnt
  doctor     say what is wrong with this machine, if anything

`python -m atari_dqn train -m env.game=Pong,Breakout seed=1,2,3` makes six runs, one after another.
`python -m atari_dqn COMMAND --cfg job` prints a command's settings; conf/ explains them.
"""

import sys

from atari_dqn.cli import hydra_app
from atari_dqn.cli.commands import COMMANDS
from atari_dqn.utils import console
from atari_dqn.utils.errors import UserError


def main(words: list[str] | None = None) -> int:
    words = sys.argv[1:] if words is None else words
    with console.guarded() as out:
        code = _main(words)
        out.flush()
        if not code and out.lost and not isinstance(out.lost, BrokenPipeError) and _only_tells(words):
            console.complain(f"cannot write the output: {out.lost.strerror or out.lost}")
            return 1
    return code


def _only_tells(words: list[str]) -> bool:
    """Whether a command does nothing but print; others go on where nobody can read what they say."""
    return (
        words[0] not in COMMANDS
        or words[0] == "runs"
        or bool({*words} & {"-c", "--cfg", "-h", "--help", "--hydra-help"})
    )


def _main(words: list[str]) -> int:
    command, rest = (words[0], words[1:]) if words else ("", [])
    without = command in ("games", "doctor")  # settings
    if command in ("", "help", "-h", "--help") or (without and rest in (["-h"], ["--help"])):
        console.say(__doc__)
        return 0 if command else 2
    if command == "--version":
        import atari_dqn

        console.say(atari_dqn.__version__)
        return 0
    codes = [0]

    def action() -> None:
        if without and rest:
            raise UserError(f"{command} takes no settings, so {rest[0]!r} means nothing to it")
        if command == "games":
            from atari_dqn.data.games import atari_games

            console.say("\n".join(["CartPole", *sorted(atari_games())]))
        elif command == "doctor":
            from atari_dqn.cli import doctor

            codes.append(doctor.main())
        elif command in COMMANDS:
            codes.append(hydra_app.run(command, rest))
        elif command.startswith("-") or "=" in command:
            raise UserError(f"the command comes first, then {command!r}: python -m atari_dqn train {command}")
        else:
            from atari_dqn.data.games import suggest

            raise UserError(f"no command is called {command!r}{suggest(command, [*COMMANDS, 'doctor', 'games'])}")

    return max(hydra_app.guarded(action), *codes)


if __name__ == "__main__":
    sys.exit(main())
