"""Scripts with which a shell completes commands, their keys and values; all from the table of commands."""

from __future__ import annotations

from yoloprune.errors import ArgumentError
from yoloprune.settings import keys
from yoloprune.settings.command import Command
from yoloprune.settings.commands import COMMANDS

BASH = """_yoloprune() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} key= words= front=
  if [[ $word == *?=* ]]; then key=${{word%%=*}}; word=${{word#*=}}; front=$key=  # zsh keeps key=value together
  elif [[ $word == "=" ]]; then key=${{COMP_WORDS[COMP_CWORD-1]}}; word=
  elif [[ ${{COMP_WORDS[COMP_CWORD-1]}} == "=" ]]; then key=${{COMP_WORDS[COMP_CWORD-2]}}; fi
  if [[ $COMP_CWORD -eq 1 ]]; then words="{commands}"
  elif [[ -n $key ]]; then case "${{COMP_WORDS[1]}} $key" in
{values}
    esac
  else case "${{COMP_WORDS[1]}}" in
{keys}
    esac; fi
  COMPREPLY=($(compgen -P "$front" -W "$words" -- "$word"))
  [[ ${{COMPREPLY[0]}} == *= ]] && type compopt >/dev/null 2>&1 && compopt -o nospace
}}
complete -o default -F _yoloprune yoloprune"""
SHELLS = ("bash", "zsh", "fish")
WORDS = {"completion": SHELLS, "help": tuple(COMMANDS)}
"""What follows a command that takes a word."""


def script(words: list[str]) -> str:
    """What a shell has to read.

    Args:
        words (list[str]): The words after `completion`: the name of the shell.

    Returns:
        (str): For `source <(yoloprune completion bash)`, or `yoloprune completion fish | source`.

    Raises:
        ArgumentError: If it is not one that is known.
    """
    if len(words) != 1 or words[0] not in SHELLS:
        raise ArgumentError(f"completion: must be followed by one of {', '.join(SHELLS)}. Received: {' '.join(words)}")
    if words[0] == "fish":
        return "\n".join(line for command in COMMANDS.values() for line in _fish(command))
    values = {
        f'"{command.name} {option.name}"': " ".join(option.kind.names)
        for command in COMMANDS.values()
        for option in command.options
        if option.kind.names
    }
    following = {f'"{command.name}"': " ".join(f"{key}=" for key in _keys(command)) for command in COMMANDS.values()}
    following.update({f'"{name}"': " ".join(words) for name, words in WORDS.items()})
    made = BASH.format(commands=" ".join(COMMANDS), values=_cases(values), keys=_cases(following))
    return made if words[0] == "bash" else f"autoload -Uz bashcompinit && bashcompinit\n{made}"


def _keys(command: Command) -> list[str]:
    """Own keys, and those of Ultralytics that a command takes, all of them where it passes all through."""
    theirs = keys.host_keys(command)
    listed = [key for key in theirs if key not in keys.UNLISTED_HOST_KEYS or key in (command.host_keys or ())]
    return list(dict.fromkeys([*command.required, *(o.name for o in command.options), *listed]))


def _cases(words: dict[str, str]) -> str:
    return "\n".join(f'    {pattern}) words="{found}";;' for pattern, found in words.items())


def _fish(command: Command) -> list[str]:
    """Completions of one command: itself, its keys with what they mean, and the values that can be listed."""
    lines = [f"complete -c yoloprune -n __fish_use_subcommand -f -a {command.name} -d {_quoted(command.summary)}"]
    meant = {option.name: option.meaning for option in command.options}
    listed = {option.name: option.kind.names for option in command.options}
    for key in _keys(command):
        words = " ".join(f"{key}={value}" for value in listed.get(key, ()) or ("",))
        lines.append(
            f"complete -c yoloprune -n '__fish_seen_subcommand_from {command.name}' -a '{words}' "
            f"-d {_quoted(meant.get(key, 'an argument of Ultralytics'))}"
        )
    if following := " ".join(WORDS.get(command.name, ())):
        lines.append(f"complete -c yoloprune -n '__fish_seen_subcommand_from {command.name}' -f -a '{following}'")
    return lines


def _quoted(text: str) -> str:
    return "'" + text.partition(";")[0].replace("'", "") + "'"
