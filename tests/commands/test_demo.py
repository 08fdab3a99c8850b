"""The demo says first what it will do; how long that took is the same wherever it is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from yoloprune.backend import console
from yoloprune.commands import demo
from yoloprune.settings import checking
from yoloprune.settings.requests import DemoRequest

ROOT = Path(demo.__file__).parents[2]


def test_it_begins_with_its_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The drawing of images stands for all that comes."""
    said: list[Any] = []

    class Drawn(Exception):
        pass

    def draw(*_: Any, **__: Any) -> None:
        raise Drawn(len(said))

    monkeypatch.setattr(console, "log", lambda prefix, message: said.append(prefix + message))
    monkeypatch.setattr(demo, "make_shapes", draw)
    with pytest.raises(Drawn) as raised:
        demo.run(checking.build(DemoRequest, {"flops": 0.4, "epochs": 2, "project": str(tmp_path)}))
    assert raised.value.args == (1,)
    first, second = said[0].splitlines()
    assert first == (
        "demo: 3 steps: draw 400 images; train a YOLOv8n on them, 2 epochs; slim it to 40% of its FLOPs: validate, "
        "prune, fine-tune 2 epochs, compare"
    )
    assert second.startswith("no download, no GPU needed; 24 epochs in all took 31 minutes on ")


def test_an_absolute_budget_is_no_percentage() -> None:
    said = demo.told_before({"parent": 1, "slim": 2}, 0.2e9, Path("runs"))
    assert "; slim it to 200M FLOPs: validate" in said and "%" not in said


@pytest.mark.parametrize("page", ["README.md", "docs/guide/first-half-hour.md"])
def test_pages_say_the_same_time(page: str) -> None:
    words = " ".join((ROOT / page).read_text(encoding="utf-8").split())
    assert f"took {demo.MEASURED}" in words
    assert demo.MEASURED.split(" on ")[0] in (ROOT / "docs" / "research" / "results.md").read_text(encoding="utf-8")
