"""What a shell is given to complete words with, asked of bash itself."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from yoloprune.cli import main
from yoloprune.completion import script
from yoloprune.settings.commands import COMMANDS


def completed(shell: str, *words: str) -> list[str]:
    """What bash offers for the last of some words, with a script of one of the shells that share it."""
    told = " ".join(f"'{word}'" for word in words)
    asked = f"COMP_WORDS=({told}); COMP_CWORD={len(words) - 1}; _yoloprune; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    text = script([shell]).removeprefix("autoload -Uz bashcompinit && bashcompinit\n")
    done = subprocess.run(["bash", "-c", f"{text}\n{asked}"], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash() -> None:
    assert completed("bash", "yoloprune", "pr") == ["prune"]
    assert completed("bash", "yoloprune", "") == list(COMMANDS)
    assert completed("bash", "yoloprune", "prune", "round") == ["round_to="]
    assert completed("bash", "yoloprune", "prune", "score", "=", "t") == ["taylor"]
    assert "output" in completed("bash", "yoloprune", "prune", "score", "=")
    assert completed("zsh", "yoloprune", "prune", "score=ta") == ["score=taylor"]
    assert completed("bash", "yoloprune", "completion", "f") == ["fish"]
    assert completed("bash", "yoloprune", "help", "sl") == ["slim"]
    for command in ("slim", "train-sparse", "finetune", "val", "compare"):  # which take all keys of Ultralytics
        assert completed("bash", "yoloprune", command, "imgs") == ["imgsz="]
    assert completed("bash", "yoloprune", "slim", "max_dr") == ["max_drop="]
    assert completed("bash", "yoloprune", "plot", "kind", "=", "g") == ["gamma"]
    assert completed("bash", "yoloprune", "prune", "model", "=", "x") == []  # then the shell offers files


def test_fish_names_every_key_of_every_command() -> None:
    lines = script(["fish"]).splitlines()
    for command in COMMANDS.values():
        assert any(line.startswith("complete ") and f"-a {command.name} " in line for line in lines)
        for option in command.options:
            assert any(f"from {command.name}'" in line and f"{option.name}=" in line for line in lines)
    assert all(line.count("'") % 2 == 0 for line in lines)
    assert any("from slim'" in line and "epochs=" in line for line in lines)
    assert any("from help'" in line and "slim train-sparse" in line for line in lines)


@pytest.mark.parametrize("words", [[], ["powershell"], ["bash", "zsh"]])
def test_another_shell_is_told(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", *words]) == 2
    assert "must be followed by one of bash, zsh, fish" in capsys.readouterr().err
    assert main(["completion", "bash"]) == 0 and "complete -o default" in capsys.readouterr().out
