"""`sensitivity`: what is summed up, and the whole line, interrupted and gone on with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import BACKBONE, HEADS, build
from command_lines import error, ok
from conftest import settle

import yoloprune
from yoloprune import cli, csv_rows
from yoloprune.commands import mask, sensitivity, sensitivity_table
from yoloprune.commands.demo_images import NAMES, make_shapes
from yoloprune.errors import ArgumentError, BudgetError
from yoloprune.native import candidates
from yoloprune.reporting import plots
from yoloprune.settings.budget import Budget, Limits

PARENT = {
    "point": 0,
    "group": "parent",
    "layers": "",
    "width": 0,
    "kept": 0,
    "share": 1.0,
    "loss": 2.0,
    "mAP50-95": 0.6,
}


def row(point: int, group: str, share: float, loss: float, quality: float) -> dict[str, Any]:
    return {**PARENT, "point": point, "group": group, "width": 8, "share": share, "loss": loss, "mAP50-95": quality}


def test_a_group_is_a_row_and_a_share_a_column() -> None:
    rows = [
        PARENT,
        row(1, "model.0", 0.5, 3.0, 0.5),
        row(2, "model.1", 0.75, 2.25, 0.58),
        row(3, "model.1", 0.5, 4.0, 0.2),
    ]
    found = sensitivity_table.summed_up(rows, {0.5: "50 %", 0.75: "75 %"}, 40)
    assert (found.metric, found.names, found.columns) == ("mAP50-95", ["model.0", "model.1"], ["75 %", "50 %"])
    points, loss = found.panels.values()
    np.testing.assert_allclose(points, [[np.nan, 10], [2, 40]], atol=1e-9)
    np.testing.assert_allclose(loss, [[np.nan, 1], [0.25, 2]], atol=1e-9)
    assert found.rows == [
        {"group": "model.0", "channels": 8, "lost at 50 %": 10.0},
        {"group": "model.1", "channels": 8, "lost at 75 %": 2.0, "lost at 50 %": 40.0},
    ]
    assert found.tender == ["model.1", "model.0"]
    assert "model.1 (40.0), model.0 (10.0)" in found.said


def test_where_map_does_not_tell_the_loss_does() -> None:
    rows = [PARENT, *(row(i, f"model.{i}", 0.5, loss, 0.5) for i, loss in enumerate([2.5, 4.0, 3.0, 2.0], start=1))]
    assert sensitivity_table.summed_up(rows, {0.5: "50 %"}, 40).tender == ["model.2", "model.3", "model.1"]


def said_of(*losses: float, quality: float = 0.5) -> sensitivity_table.Summary:
    """Groups that lose as many points, by the rise of their loss."""
    rows = [row(i, f"model.{i}", 0.5, 2.0 + loss, quality) for i, loss in enumerate(losses)]
    return sensitivity_table.summed_up([PARENT, *rows], {0.5: "50 %"}, 40)


def test_equals_are_told_and_ordered_by_what_else_is_known() -> None:
    by_loss = said_of(0.5, 2.0, 1.0, 0.25)
    assert by_loss.tender == ["model.1", "model.2", "model.0"]
    assert by_loss.said.endswith("widths; of equals the one whose loss rises more comes first")
    border = said_of(0.5, 2.0, 0.5, 1.0, 0.5, 0.5, 0.5, quality=0.5)
    assert border.tender == ["model.1", "model.3", "model.0"]
    assert border.said.endswith("; the same as model.0: model.2, model.4, model.5 and 1 more")
    named = said_of(1.0, 1.0, 0.5)
    assert named.said.endswith("; equal: model.0 and model.1")
    assert "equal" not in said_of(1.0).said
    none = said_of(0.0, 0.0, quality=0.6)
    assert (none.tender, none.said) == (
        [],
        "No group is tenderer than others: each of the 2 groups loses the same, 0.0 points of mAP50-95 at most",
    )


def test_what_loses_nothing_is_not_tender() -> None:
    """0.04 points are shown as 0.0, and so is what a layer gained."""
    rows = [PARENT, *(row(i, f"model.{i}", 0.5, 2.0 + i, q) for i, q in enumerate([0.6, 0.55, 0.5996, 0.7]))]
    found = sensitivity_table.summed_up(rows, {0.5: "50 %"}, 40)
    assert found.tender == ["model.1"]
    assert (
        found.said == "Tenderest is model.1 (5.0): the most points of mAP50-95 that each loses at one of these widths"
    )
    flat = said_of(0.5, 2.0, 1.0, quality=0.6)
    assert (flat.tender, flat.said) == (
        [],
        "No group alone loses 0.1 points of mAP50-95 at any of these widths; the loss rises most with model.1, "
        "model.2, model.0",
    )


def test_what_may_be_chance_is_said_and_is_not_held() -> None:
    """What a group loses at the narrowest width says whether it is."""
    ends = [(0.4, 9.0), (-1.0, 3.0), (-2.0, 5.0), (0.1, 2.0)]
    rows = [
        {**row(i, name, share, 3.0, quality), "low": low, "high": high}
        for i, (name, share, quality, (low, high)) in enumerate(
            zip("aabc", [0.5, 0.75, 0.5, 0.5], [0.5, 0.58, 0.54, 0.57], ends, strict=True)
        )
    ]
    parent = {**PARENT, "low": 0.0, "high": 0.0}
    columns = {0.5: "50 %", 0.75: "75 %"}
    found = sensitivity_table.summed_up([parent, *rows], columns, 30)
    assert found.metric == "mAP50-95" and found.tender == ["a", "c"]
    assert "a (10.0), b (6.0), c (3.0)" in found.said
    assert found.said.endswith(
        ". On 30 images that of b may be chance: the 95 % interval (paired bootstrap) reaches nothing lost"
    )
    alone = sensitivity_table.summed_up([parent, rows[2]], columns, 30)
    assert alone.tender == [] and ". On 30 images that may be chance: " in alone.said
    assert "chance" not in sensitivity_table.summed_up([parent, rows[0]], columns, 30).said
    # Sure where little goes and not where more does: that is chance as well.
    odd = [{**rows[1], "low": 1.0}, {**rows[0], "low": -0.4}]
    assert sensitivity_table.summed_up([parent, *odd], columns, 30).tender == []


def test_equals_at_the_worst_width_are_told_apart_by_the_others() -> None:
    parent = {k: v for k, v in PARENT.items() if k != "loss"}
    lost = {"a": (0.55, 0.5), "b": (0.58, 0.5), "c": (0.52, 0.5), "d": (0.6, 0.6)}
    shares = (0.75, 0.5)
    rows = [
        {**parent, "point": i, "group": name, "width": 8, "share": share, "mAP50-95": value}
        for i, (name, values) in enumerate(lost.items())
        for share, value in zip(shares, values, strict=True)
    ]
    found = sensitivity_table.summed_up([parent, *rows], {share: f"{100 * share:g} %" for share in shares}, 40)
    assert found.tender == ["c", "a", "b"] and "of equals the one that loses more over all widths" in found.said


def test_what_is_asked() -> None:
    asked = ok("sensitivity model=a.pt data=b.yaml widths=0.5,0.25 held=64 layer=model.2.*")
    assert (asked.settings["widths"], asked.settings["held"], asked.settings["layer"]) == (
        (0.5, 0.25),
        64,
        ("model.2.*",),
    )
    assert asked.settings["recover"] == "fold"
    assert "widths=1.5: must be" in error("sensitivity model=a.pt widths=1.5")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sensitivity")
    data = make_shapes(folder / "data", train=6, val=5, imgsz=64)
    yolo = build(folder / "small.yaml", {"nc": 3, "backbone": BACKBONE, "head": [HEADS["detect"]]})
    settle(yolo.model)
    for branch in yolo.model.model[-1].cv3:  # so that what the classes are hangs on the features
        torch.nn.init.constant_(branch[-1].bias, 0.0)
        branch[-1].weight.data *= 20
    yolo.model.names = dict(enumerate(NAMES))
    yolo.ckpt = {"train_args": {"task": "detect", "imgsz": 64, "data": str(data)}}
    yolo.save(folder / "small.pt")
    return folder / "small.pt"


@pytest.mark.long
@pytest.mark.slow
def test_an_interrupted_run_goes_on_and_gives_the_same(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    told = {"widths": 0.5, "layer": "model.2,model.3", "score": "l2", "project": str(tmp_path)}
    whole = yoloprune.sensitivity(trained, **told, name="whole")
    assert [r["group"] for r in whole] == ["parent", "model.2.cv1", "model.2.m.0.cv1", "model.2.cv2", "model.3"]
    assert [(r["width"], r["kept"]) for r in whole[1:]] == [(32, 16), (16, 8), (32, 16), (64, 32)]
    assert all(r["flops"] < 1 for r in whole[1:]) and len({r["loss"] for r in whole}) == 5
    assert all(r["low"] <= r["high"] for r in whole) and (whole[0]["low"], whole[0]["high"]) == (0, 0)
    assert csv_rows.read_rows(tmp_path / "whole" / "sensitivity.csv") == whole
    report = json.loads((tmp_path / "whole" / "report.json").read_text())
    assert (report["widths"], len(report["table"])) == (whole, 4)
    assert (tmp_path / "whole" / "sensitivity.png").is_file()

    seen: list[Any] = []
    plain = sensitivity._Look.__call__

    def look(self: Any, yolo: Any) -> Any:
        if len(seen) == 3:
            raise KeyboardInterrupt
        seen.append(yolo)
        return plain(self, yolo)

    monkeypatch.setattr(sensitivity._Look, "__call__", look)
    words = [f"{k}={v}" for k, v in told.items()]
    assert cli.main(["sensitivity", f"model={trained}", *words]) == 130
    run = tmp_path / "sensitivity"
    assert len(csv_rows.read_rows(run / "sensitivity.csv")) == 3
    with (run / "sensitivity.csv").open("a") as f:
        f.write("3,model.2.cv2,mod")  # torn
    monkeypatch.setattr(sensitivity._Look, "__call__", plain)
    caplog.clear()
    assert yoloprune.sensitivity(trained, **told) == whole
    assert "4 widths of 4 groups, each alone" in caplog.text and "; 2 of them are done already" in caplog.text
    assert not (tmp_path / "sensitivity2").exists()
    yoloprune.sensitivity(trained, **told)  # that one is over
    assert len([*tmp_path.glob("sensitivity*")]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("tender", [[], ["model.2", "model.3"], ["model.5", "model.6"], ["model.3", "backbone"]])
def test_the_next_budget_is_within_reach_of_what_is_kept(tender: list[str], trained: Path) -> None:
    """With the whole backbone left alone nothing is, so that is not asked for."""
    parent = yoloprune.load(trained)
    keep, share = sensitivity._within_reach(parent, tender, 64)
    assert list(keep) == [name for name in tender if name != "backbone"] and share is not None
    found = candidates.Channels(parent.model, Limits(keep=keep, native=False), 64)
    found.require_reach(Budget(flops=share))
    for less in (tried for tried in sensitivity.SHARES if tried < share):
        with pytest.raises(BudgetError, match="out of reach"):
            found.require_reach(Budget(flops=less))


@pytest.mark.long
@pytest.mark.slow
def test_each_layer_is_masked_alone(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, Any]] = []
    whole = mask.masked
    monkeypatch.setattr(mask, "masked", lambda *a: made.append(a[1]) or whole(*a))
    drawn: list[Any] = []
    save = plots._save
    monkeypatch.setattr(plots, "_save", lambda figure, path: drawn.append(figure) or save(figure, path))
    told = {"sparsity": "0.5,0.75", "layer": "model.2,model.3", "score": "magnitude", "project": str(tmp_path)}
    rows = yoloprune.sensitivity(trained, **told, name="whole")
    layers = ["model.2.cv1.conv", "model.2.cv2.conv", "model.2.m.0.cv1.conv", "model.2.m.0.cv2.conv", "model.3.conv"]
    assert [r["group"] for r in rows] == ["parent", *(name for name in layers for _ in range(2))]
    assert [list(kept) for kept in made] == [[name] for name in layers for _ in range(2)]
    assert [(r["width"], r["kept"], r["share"]) for r in rows[1:3]] == [(1024, 512, 0.5), (1024, 256, 0.25)]
    nonzero = sum(int((p != 0).sum()) for p in yoloprune.load(trained).model.parameters())
    assert rows[1]["nonzero"] == round(1 - 512 / nonzero, 5) and len({r["loss"] for r in rows}) == len(rows)
    found = json.loads((tmp_path / "whole" / "report.json").read_text())
    assert list(found["table"][0]) == ["group", "weights", "lost at sparsity=0.5", "lost at sparsity=0.75"]
    assert "at any of these masks" in found["verdict"]
    assert drawn[0].axes[0].get_xlabel() == "mask of one layer"
    with (tmp_path / "whole" / "sensitivity.csv").open() as f:
        kept = f.readlines()[:4]
    (tmp_path / "whole" / "sensitivity.csv").write_text("".join(kept))
    (tmp_path / "whole" / "report.json").unlink()
    made.clear()
    assert yoloprune.sensitivity(trained, **told, name="whole", exist_ok=True) == rows and len(made) == 8


@pytest.mark.slow
def test_a_pattern_that_fits_no_named_layer_is_refused(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"layer=model\.0: none of them may be masked: 3 input channels are no mul"):
        yoloprune.sensitivity(trained, pattern="2:4", layer="model.0", project=str(tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


def test_a_layer_that_may_not_be_narrowed_is_refused_before_a_folder(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["sensitivity", f"model={trained}", "layer=model.7", f"project={tmp_path / 'runs'}"]) == 2
    assert "layer=model.7: none of them may be narrowed" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
