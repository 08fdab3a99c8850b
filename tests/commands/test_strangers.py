"""Files of strangers: what they may run, and what of them reaches the terminal or the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from checkpoints import run_python, untrained
from sparse_loop import TINY

import yoloprune
from yoloprune.cli import main
from yoloprune.commands.demo_images import make_shapes

pytestmark = pytest.mark.slow

FREE: dict[str, Any] = {"round_to": 1, "min_width": 1, "native": False, "flops": 0.9, "data": False, "imgsz": 32}
CLEAR = "\x1b[2J]"  # in a name of a file, where the command line wants brackets in pairs
TITLE, SCRIPT = "\x1b]0;owned\x07", "<script>alert(1)</script>"


class Planted:
    """A pickle that leaves a mark when it is opened."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


EVERY_COMMAND = """
import sys
from yoloprune.cli import main
file, data, runs, parent = sys.argv[1:]
rest = ["imgsz=32", "device=cpu"]
run = [*rest, f"project={runs}"]
for words in (
    ["info", f"model={file}", *rest],
    ["prune", f"model={file}", "data=False", "flops=0.9", *run],
    ["sweep", f"model={file}", f"data={data}", *run],
    ["val", f"model={file}", f"data={data}", *run],
    ["val", f"model={parent}", f"against={file}", f"data={data}", *run],
    ["finetune", f"model={file}", f"data={data}", "epochs=1", *run],
    ["finetune", f"model={parent}", f"distill_model={file}", f"data={data}", "epochs=1", *run],
    ["train-sparse", f"model={file}", f"data={data}", "epochs=1", *run],
):
    try:
        status = main(words)
    except SystemExit as e:
        status = e.code
    print("status", words[0], status)
"""


@pytest.mark.long
@pytest.mark.parametrize("restricted", [True, False])
def test_restricted_loading_runs_no_code_of_a_checkpoint(restricted: bool, tmp_path: Path) -> None:
    """Without the restriction a checkpoint is a program, so the mark is there: the test can tell."""
    data, mark = make_shapes(tmp_path / "data", train=2, val=2, imgsz=32), tmp_path / "mark"
    parent = untrained(tmp_path, TINY, 32)
    checkpoint = torch.load(parent, weights_only=False)
    torch.save({**checkpoint, "planted": Planted(mark)}, hostile := tmp_path / "hostile.pt")
    told = {"ULTRALYTICS_SAFE_LOAD": "1"} if restricted else {}
    script = EVERY_COMMAND if restricted else f"from yoloprune.cli import main; main(['info', 'model={hostile}'])"
    said = run_python(script, hostile, data, tmp_path / "runs", parent, **told)
    assert mark.exists() is not restricted
    if restricted:
        statuses = [line.split()[-1] for line in said.splitlines() if line.startswith("status ")]
        assert statuses == ["1"] * 8, said
        assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "words", ["prune model={} data=False", "val model={tiny} data={}", "prune cfg={} model={tiny}"]
)
def test_tags_of_a_yaml_run_nothing(words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mark, hostile = tmp_path / "mark", tmp_path / "yolo-hostile.yaml"
    hostile.write_text(f"nc: !!python/object/apply:os.mkdir ['{mark}']\nbackbone: []\nhead: []\n")
    tiny = untrained(tmp_path, TINY, 32)
    with pytest.raises(SystemExit) as stopped:
        raise SystemExit(main([*words.format(hostile, tiny=tiny).split(), "imgsz=32", f"project={tmp_path / 'runs'}"]))
    assert stopped.value.code in (1, 2) and not mark.exists() and not (tmp_path / "runs").exists()
    assert capsys.readouterr().err.count("yoloprune: error:") == 1


SHOWN = """
import sys
from yoloprune.cli import main
file, data, runs = sys.argv[1:]
rest = ["imgsz=32", "device=cpu"]
run = [*rest, data, f"project={runs}"]
for words in (
    ["info", f"model={file}", *rest],
    ["prune", f"model={file}", "flops=0.9", "round_to=1", "min_width=1", "native=False", "name=again", *run],
    ["val", f"model={file}", "plots=False", "name=val", *run],
):
    print("status", main(words))
"""


@pytest.mark.long
def test_words_of_strangers_are_shown_harmless(tmp_path: Path) -> None:
    """Records, class names and the name of the file itself."""
    runs = tmp_path / "runs"
    data = make_shapes(tmp_path / "data", train=4, val=4, imgsz=32)
    model = yoloprune.prune(untrained(tmp_path, TINY, 32), project=str(runs), name="first", **FREE)
    record = model.model.yaml["yoloprune"]["provenance"]
    record |= {"parent": {"name": TITLE + SCRIPT, "sha256": TITLE}, "arguments": {TITLE: SCRIPT, SCRIPT: TITLE}}
    record["date"] = TITLE
    model.model.names = {0: TITLE, 1: SCRIPT, 2: "c"}
    hostile = tmp_path / f"{SCRIPT.replace('/', '_')}{CLEAR}.pt"
    model.save(hostile)
    other = yaml.safe_load(data.read_text()) | {"path": str(data.parent), "names": [TITLE, SCRIPT, "c"]}
    (tmp_path / "hostile.yaml").write_text(yaml.safe_dump(other))
    other_data = f"data={tmp_path / 'hostile.yaml'}"
    said = run_python(SHOWN, hostile, other_data, runs)
    assert said.count("status 0") == 3, said
    assert "\x1b" not in said and "\x07" not in said and "owned" in said  # shown, and not obeyed
    pages = list(runs.rglob("report.html"))
    assert len(pages) == 3
    for page in pages:
        assert SCRIPT not in page.read_text() and TITLE not in page.read_text()
    assert "&lt;script&gt;" in (runs / "val" / "report.html").read_text()
