"""The program's entry: python -m atari_dqn COMMAND key=value ..."""

import sys

from atari_dqn.cli import hydra_app, usage
from atari_dqn.cli.commands import COMMANDS
from atari_dqn.utils import console, hints
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
    """Whether a command only prints; the others continue when their output cannot be read."""
    return (
        words[0] not in COMMANDS
        or words[0] == "runs"
        or bool({*words} & {"-c", "--cfg", "-h", "--help", "--hydra-help"})
    )


def _main(words: list[str]) -> int:
    command, rest = (words[0], words[1:]) if words else ("", [])
    without = command in ("games", "doctor")  # settings
    if command in ("", "help", "-h", "--help"):
        console.say(usage.overview())
        return hydra_app.DONE if command else hydra_app.WRONG_INPUT
    if without and rest in (["-h"], ["--help"]):
        console.say(usage.bare(command))
        return hydra_app.DONE
    if command == "--version":
        import atari_dqn

        console.say(atari_dqn.__version__)
        return 0
    codes = [hydra_app.DONE]

    def action() -> None:
        if command in ("-sc", "--shell-completion"):
            from atari_dqn.cli import completion

            console.say(completion.main(rest))
        elif without and rest:
            raise UserError(f"{command} takes no settings, so {rest[0]!r} means nothing to it")
        elif command == "games":
            from atari_dqn.data.games import atari_games

            console.say("\n".join(["CartPole", *sorted(atari_games())]))
        elif command == "doctor":
            from atari_dqn.cli import doctor

            codes.append(doctor.main())
        elif command in COMMANDS:
            codes.append(hydra_app.run(command, rest))
        elif command.startswith("-") or "=" in command:
            raise UserError(f"the command comes first, then {command!r}: {hints.program()} train {command}")
        else:
            from atari_dqn.data.games import suggest

            raise UserError(f"no command is called {command!r}{suggest(command, [*COMMANDS, 'doctor', 'games'])}")

    return max(hydra_app.guarded(action), *codes)


if __name__ == "__main__":
    sys.exit(main())
