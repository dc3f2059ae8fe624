"""Completion by the Tab key in bash: eval "$(python -m atari_dqn -sc install=bash)"."""

import os
from collections.abc import Iterable

from atari_dqn.utils.errors import UserError

OPTIONS = ("--help", "--cfg", "--config-dir", "--multirun")
SCRIPT = r"""_atari_dqn() {
  local IFS=$'\n' line="${COMP_LINE:0:COMP_POINT}" word
  if [ "${1##*/}" = atari-dqn ]; then
    COMPREPLY=($(COMP_LINE="$line" "$1" -sc query=bash 2>/dev/null))
  elif [ "${COMP_WORDS[1]} ${COMP_WORDS[2]}" = "-m atari_dqn" ]; then
    COMPREPLY=($(COMP_LINE="$line" "$1" -m atari_dqn -sc query=bash 2>/dev/null))
  else
    COMPREPLY=()
  fi
  word="${line##* }"
  case "$COMP_WORDBREAKS$word" in *=*=*) COMPREPLY=("${COMPREPLY[@]#"${word%=*}="}");; esac
}
complete -o nospace -o bashdefault -o default -F _atari_dqn atari-dqn python python3"""


def main(words: list[str]) -> str:
    """What is printed for -sc install=bash, -sc uninstall=bash and -sc query=bash. Raises UserError."""
    if words == ["install=bash"]:
        return SCRIPT
    if words == ["uninstall=bash"]:
        return "complete -r atari-dqn python python3"
    if words == ["query=bash"]:
        return "\n".join(query(os.environ.get("COMP_LINE", "")))
    raise UserError("completion is for bash: -sc install=bash, or -sc uninstall=bash")


def query(line: str) -> list[str]:
    """What the last word of a command line may become; with a blank behind, unless more follows."""
    from atari_dqn.cli import usage

    words = line.split()
    last = "" if line[-1:].isspace() or not words else words.pop()
    words = words[3:] if "-m" in words[1:2] else words[1:]
    if not words:
        return [f"{name} " for name in usage.SUMMARIES if name.startswith(last)]
    return sorted(word for word in _settings(words[0], last) if word.startswith(last))


def _settings(command: str, last: str) -> Iterable[str]:
    from atari_dqn.cli import usage
    from atari_dqn.config import bounds, commands, compose, messages
    from atari_dqn.data import games

    if command not in commands.SCHEMAS:
        return []
    if last.startswith("-"):
        return [f"{option} " for option in OPTIONS]
    keys, groups = compose.known_keys(command)
    key, equals, _ = last.partition("=")
    mine = usage.choices(command)
    if not equals:
        return [f"{name}=" for name in {*keys, *mine} - ({*messages.sections(keys)} - {*mine})]
    kinds = {name: kind for name, kind, _ in usage.fields(commands.SCHEMAS[command], "")}
    values: Iterable[str] = bounds.CHOICES.get(key, ())
    if key in mine:
        values = groups[key]
    elif key == "env.game":
        values = games.atari_games()
    elif kinds.get(key) is bool:
        values = ("true", "false")
    return [f"{key}={value} " for value in values]
