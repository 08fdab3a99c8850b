"""The demo says first what it will do; how long that took is the same wherever it is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from yoloprune.backend import console
from yoloprune.commands import demo
from yoloprune.errors import ArgumentError, BudgetError
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
    monkeypatch.setattr(demo, "_require", lambda *_: None)
    with pytest.raises(Drawn) as raised:
        demo.run(checking.build(DemoRequest, {"flops": 0.4, "epochs": 2, "project": str(tmp_path)}))
    assert raised.value.args == (1,)
    first, second = said[0].splitlines()
    assert first == (
        "demo: 3 steps: draw 400 images; train a YOLOv8n on them, 2 epochs; slim it to 40% of its FLOPs: validate, "
        "prune, fine-tune 2 epochs, compare"
    )
    assert second.startswith("no download, no GPU needed; 24 epochs in all took 31 minutes on ")


@pytest.mark.parametrize(
    ("told", "kind", "said"),
    [
        ({"format": "onxx"}, ArgumentError, "format=onxx: must be one of"),
        pytest.param({"flops": 0.001}, BudgetError, "out of reach", marks=pytest.mark.slow),
    ],
)
def test_what_slim_would_refuse_is_refused_before_a_model_is_trained(
    told: dict[str, Any], kind: type[Exception], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "make_shapes", lambda *_, **__: pytest.fail("images are drawn"))
    with pytest.raises(kind, match=said):
        demo.run(checking.build(DemoRequest, {"project": str(tmp_path / "runs"), **told}))
    assert not (tmp_path / "runs").exists()


def test_an_absolute_budget_is_no_percentage() -> None:
    said = demo.told_before({"parent": 1, "slim": 2}, 0.2e9, Path("runs"))
    assert "; slim it to 200M FLOPs: validate" in said and "%" not in said


@pytest.mark.parametrize("page", ["README.md", "docs/guide/first-half-hour.md"])
def test_pages_say_the_same_time(page: str) -> None:
    words = " ".join((ROOT / page).read_text(encoding="utf-8").split())
    assert f"took {demo.MEASURED}" in words
    assert demo.MEASURED.split(" on ")[0] in (ROOT / "docs" / "research" / "results.md").read_text(encoding="utf-8")
