"""Help without heavy imports, dispatch, exit codes and error lines."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from yoloprune import cli, help_text
from yoloprune.cli import main
from yoloprune.errors import BudgetError, DataError, ModelError
from yoloprune.settings.command_line import parse
from yoloprune.settings.commands import COMMANDS
from yoloprune.settings.request_table import REQUESTS

CALLS: list[tuple[str, tuple, dict]] = []


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    """Put recorders in the place of the modules that do the work."""
    CALLS.clear()
    found = {}
    for name in ("slim", "train_sparse", "prune", "sweep", "finetune", "validate", "info", "demo"):
        found[name] = ModuleType(f"yoloprune.commands.{name}")
        found[name].run = CALLS.append  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, f"yoloprune.commands.{name}", found[name])
    monkeypatch.delenv("YOLOPRUNE_DEBUG", raising=False)
    return found


def fail(commands: dict[str, ModuleType], error: BaseException, where: str = "ultralytics.engine.trainer") -> None:
    """Let `prune` raise the error from a function that lives in the module named by `where`."""
    space: dict[str, Any] = {"__name__": where, "error": error}
    exec("def raiser(*args, **kwargs):\n    raise error", space)
    commands["prune"].run = space["raiser"]  # type: ignore[attr-defined]


# Help -----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "words", [[], ["help"], ["prune", "help"], ["--help"], ["version"], ["prun"], ["prune", "a=1"]]
)
def test_light_without_torch(words: list[str]) -> None:
    code = (
        "import sys; from yoloprune.cli import main; main(sys.argv[1:]); "
        "print(sorted({'torch', 'ultralytics', 'numpy', 'cv2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_module_entry_point(tmp_path: Path) -> None:
    run = [sys.executable, "-m", "yoloprune"]
    done = subprocess.run([*run, "prun"], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "yoloprune: error: 'prun' is not a command. Did you mean 'prune'?\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [[], ["help"], ["-h"], ["--help"], ["help", "help"]])
def test_overview_lists_every_command(words: list[str], capsys: pytest.CaptureFixture) -> None:
    assert main(words) == 0
    out = capsys.readouterr().out
    for command in COMMANDS.values():
        assert f"  {command.name} " in out and command.summary in out


@pytest.mark.parametrize("command", [c for c in COMMANDS.values() if c.options], ids=lambda c: c.name)
def test_command_help_lists_options_defaults_and_examples(command: Any, capsys: pytest.CaptureFixture) -> None:
    pages = []
    for words in ([command.name, "help"], ["help", command.name], [command.name, "model=a", "--help"]):
        assert main(words) == 0
        pages.append(capsys.readouterr().out)
    assert pages[0] == pages[1] == pages[2]
    text = " ".join(pages[0].split())
    for option in command.options:
        assert (
            f" {option.name}={'' if option.default == () else option.default} {option.meaning} [{option.kind.allowed}]"
            in text
        )
    assert all(f"yoloprune {example}" in pages[0] for example in command.examples) and len(command.examples) >= 2
    assert ("argument passes through" in text) == (command.host_keys is None)
    assert max(map(len, pages[0].splitlines())) <= 120


ROOT = Path(__file__).resolve().parents[2]
TRAINED, PRUNED = "runs/detect/train-sparse/weights/best.pt", "runs/detect/prune/weights/pruned.pt"
TRAINED_FIRST = [("sweep", "best.pt"), ("prune", "best.pt"), ("finetune", PRUNED)]
SPARSE_FIRST = [("train-sparse", "yolov8n.pt"), ("prune", TRAINED)]


def shown(text: str) -> list[tuple[str, str]]:
    """Command and model of every line that calls yoloprune; all lines must parse."""
    lines = [line.strip("# ").partition("  #")[0] for line in text.splitlines()]
    lines = [line.replace("cfg=", f"cfg={ROOT}/") for line in lines if line.startswith("yoloprune ") and "=" in line]
    requests = [parse(line.split()[1:]) for line in lines if "key=value" not in line]
    return [(r.command, r.model) for r in requests]


def test_every_command_takes_the_file_that_the_one_before_it_makes(capsys: pytest.CaptureFixture) -> None:
    """So that the lines can be pasted one after the other; the folders are Ultralytics' defaults."""
    assert main(["help"]) == 0
    at_once = ("slim", "best.pt")
    assert shown(capsys.readouterr().out) == [at_once, *TRAINED_FIRST, *SPARSE_FIRST]
    readme = shown((ROOT / "README.md").read_text(encoding="utf-8"))
    assert readme == [at_once, at_once, *TRAINED_FIRST, *SPARSE_FIRST]
    for family in ("yolov8", "yolo11", "yolo26"):
        recipe = (ROOT / "configs" / f"{family}.yaml").read_text(encoding="utf-8")
        assert shown(recipe) == [("train-sparse", f"{family}n.pt"), ("prune", TRAINED), ("finetune", PRUNED)]
    said = " ".join(example for command in COMMANDS.values() for example in command.examples)
    assert "weights/last.pt" not in said.replace("weights/last.pt resume", "")  # best.pt has met the target as well


def test_help_is_as_wide_as_the_terminal(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    for columns, most in (("60", 60), ("300", 110), ("5", 40)):
        monkeypatch.setenv("COLUMNS", columns)
        assert main(["prune", "help"]) == 0
        options = capsys.readouterr().out.split("Options and their defaults\n")[1].split("\n\n")[0].splitlines()
        assert most - 30 < max(map(len, options)) <= most


def test_whoever_reads_may_stop() -> None:
    """As in `yoloprune prune help | head -1`."""
    words = [sys.executable, "-m", "yoloprune", "prune", "help"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait() == 141


@pytest.mark.parametrize("words", [["--help"], *([name, "help"] for name in COMMANDS)], ids=" ".join)
def test_no_line_of_the_help_is_wider_than_it_may_be(words: list[str], capsys: pytest.CaptureFixture) -> None:
    assert cli.main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= help_text.WIDTH
    if words[0] in {"completion", "schema", "version"}:
        assert lines[0].startswith(f"yoloprune {words[0]}: ")


def test_help_on_a_misspelt_command(capsys: pytest.CaptureFixture) -> None:
    assert main(["help", "prun"]) == 2
    assert capsys.readouterr().err == "yoloprune: error: 'prun' is not a command. Did you mean 'prune'?\n"


@pytest.mark.parametrize(
    "words, said",
    [
        (["--schema"], '"$schema"'),
        (["--completion", "bash"], "complete -o default -F _yoloprune yoloprune"),
        (["bash", "completion"], "complete -o default -F _yoloprune yoloprune"),
        (["---help"], "Usage: yoloprune COMMAND"),
        (["---version"], "(ultralytics "),
    ],
)
def test_what_is_answered_at_once_may_have_dashes_as_all_commands_may(
    words: list[str], said: str, capsys: pytest.CaptureFixture
) -> None:
    assert main(words) == 0
    assert said in capsys.readouterr().out


@pytest.mark.parametrize("word", ["version", "--version", "-v"])
def test_version(word: str, capsys: pytest.CaptureFixture) -> None:
    import ultralytics

    assert main([word]) == 0
    assert f"(ultralytics {ultralytics.__version__})" in capsys.readouterr().out


# Dispatch -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["slim", "train-sparse", "prune", "sweep", "finetune", "val", "info", "demo"])
def test_dispatch_hands_over_what_was_asked_for(name: str, commands: dict[str, ModuleType]) -> None:
    given = {"data": "b.yaml"} if "data" in COMMANDS[name].required else {}
    line = [] if name == "demo" else ["model=a.pt", "imgsz=320"]
    assert main([name, *line, *(f"{k}={v}" for k, v in given.items())]) == 0
    [asked] = CALLS
    assert type(asked) is REQUESTS[name]
    assert asked.model == (None if name == "demo" else "a.pt")
    assert set(asked.host) == {*given, *COMMANDS[name].own_defaults, *(["imgsz"] if line else [])}


def test_command_line_wins_over_recipe(commands: dict[str, ModuleType], tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("imgsz: 320\nepochs: 9\nprune: {flops: 0.3, score: l1}\n", encoding="utf-8")
    assert main(["prune", "score=l2", "model=a.pt", f"cfg={recipe}"]) == 0
    [asked] = CALLS
    assert (asked.criterion.score, asked.budget.flops, asked.host) == ("l2", 0.3, {"imgsz": 320})


# Errors ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("prune model=a.pt flops=1.5", "flops=1.5: must be a fraction between 0 and 1"),
        ("prune model=a.pt flops=abc", "flops=abc: must be a fraction between 0 and 1"),
        ("train-sparse model=a data=b sparsty=0.5", "'sparsty' is not a valid argument of train-sparse."),
        ("train-sparse model=a", "train-sparse needs 'data'"),
        ("prune model=a.pt cfg=none.yaml", "cfg=none.yaml: no such file."),
    ],
)
def test_wrong_arguments_stop_before_anything_starts(
    line: str, message: str, commands: dict[str, ModuleType], capsys: pytest.CaptureFixture
) -> None:
    assert main(line.split()) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"yoloprune: error: {message}") and captured.err.count("\n") == 1
    assert captured.out == "" and CALLS == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ModelError("a.pt: no such file"), 1),
        (BudgetError("flops=0.01 is out of reach"), 1),
        (PermissionError(13, "Permission denied", "runs"), 1),
        (FileNotFoundError("'my.yaml' does not exist"), 1),
        (SyntaxError("'x' is not a valid YOLO argument.\n\n  long manual"), 1),
        (ValueError("Invalid CUDA 'device=7' requested.\nUse 'device=cpu'"), 1),
        (NotImplementedError("Optimizer 'foo' not found"), 1),
        (RuntimeError("Dataset 'my.yaml' error: no labels"), 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_expected_failures_are_one_line(
    error: Exception,
    code: int,
    commands: dict[str, ModuleType],
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fail(commands, error)
    assert main(["prune", "model=a.pt"]) == code
    captured = capsys.readouterr()
    assert captured.err.startswith("yoloprune: error: ") and captured.err.count("\n") == 1
    assert " ".join(str(error).split()) in captured.err
    monkeypatch.setenv("YOLOPRUNE_DEBUG", "1")
    with pytest.raises(type(error)):
        main(["prune", "model=a.pt"])


def test_colours_are_no_part_of_an_error(commands: dict[str, ModuleType], capsys: pytest.CaptureFixture[str]) -> None:
    fail(commands, DataError("data=a.yaml: \x1b[34m\x1b[1mval: \x1b[0mno labels, \x1b]0;a title\x07"))
    assert main(["prune", "model=a.pt"]) == 1
    assert capsys.readouterr().err == "yoloprune: error: data=a.yaml: val: no labels, \\x1b]0;a title\\x07\n"


@pytest.mark.parametrize(
    ("error", "where"),
    [
        (TypeError("unsupported operand"), "yoloprune.planning.greedy_selection"),  # ours
        (RuntimeError("CUDA error"), "ultralytics.engine.trainer"),
        (KeyError("model.2"), "ultralytics.engine.trainer"),
        (ValueError("no frame of either"), "somewhere.else"),  # nearest that counts is the command line's own
    ],
)
def test_bugs_keep_their_traceback(error: Exception, where: str, commands: dict[str, ModuleType]) -> None:
    fail(commands, error, where)
    with pytest.raises(type(error)):
        main(["prune", "model=a.pt"])


def test_libraries_below_ultralytics_count_as_ultralytics(
    commands: dict[str, ModuleType], capsys: pytest.CaptureFixture
) -> None:
    inner: dict[str, Any] = {"__name__": "torch.utils.data"}
    exec("def load():\n    raise ValueError('num_workers must not be negative')", inner)
    outer: dict[str, Any] = {"__name__": "ultralytics.data.build", "load": inner["load"]}
    exec("def build(*args, **kwargs):\n    load()", outer)
    commands["prune"].run = outer["build"]  # type: ignore[attr-defined]
    assert main(["prune", "model=a.pt"]) == 1
    assert capsys.readouterr().err == "yoloprune: error: num_workers must not be negative\n"


def test_endless_messages_are_cut(commands: dict[str, ModuleType], capsys: pytest.CaptureFixture) -> None:
    fail(commands, FileNotFoundError("word " * 1000))
    assert main(["prune", "model=a.pt"]) == 1
    assert len(capsys.readouterr().err) < 700


def test_an_interrupt_is_no_failure_and_begins_a_line(
    commands: dict[str, ModuleType], capsys: pytest.CaptureFixture
) -> None:
    for said, told in (("", cli.NOTHING_LEFT), ("go on with: x", "go on with: x")):
        fail(commands, KeyboardInterrupt(*filter(None, [said])))
        assert main(["prune", "model=a.pt"]) == 130
        assert capsys.readouterr().err == f"\nyoloprune: interrupted; {told}\n"


class Dies:
    """Whatever somebody holds a weak reference to, as the locks of imports are."""


def lose_an_interrupt() -> None:
    """Let Python raise KeyboardInterrupt where nothing can be raised: it is ignored."""
    thing = Dies()

    def callback(_: object) -> None:
        signal.raise_signal(signal.SIGINT)

    watched = weakref.ref(thing, callback)
    del thing
    assert watched() is None


@pytest.mark.parametrize("seconds", [30, 0], ids=["long work", "none"])
def test_an_interrupt_that_python_ignores_comes_again(
    seconds: int, commands: dict[str, ModuleType], capsys: pytest.CaptureFixture
) -> None:
    finished: list[bool] = []

    def prune(*args: object, **kwargs: object) -> None:
        lose_an_interrupt()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(0.01)
        finished.append(True)

    commands["prune"].run = prune  # type: ignore[attr-defined]
    before, handler = sys.unraisablehook, signal.signal(signal.SIGINT, signal.default_int_handler)
    try:  # a shell that starts the tests in the background has them ignore it
        assert main(["prune", "model=a.pt"]) == 130
    finally:
        signal.signal(signal.SIGINT, handler)
    assert finished == [True] * (seconds == 0)
    assert capsys.readouterr().err == f"\nyoloprune: interrupted; {cli.NOTHING_LEFT}\n"
    assert sys.unraisablehook is before


def test_what_else_python_ignores_is_still_told(
    commands: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fails:
        def __del__(self) -> None:
            raise ValueError("told")

    told: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: told.append(unraisable.exc_value))
    commands["prune"].run = lambda *args, **kwargs: Fails() and None  # type: ignore[attr-defined]
    assert main(["prune", "model=a.pt"]) == 0
    assert [str(e) for e in told] == ["told"]
