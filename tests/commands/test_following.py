"""The next command: what helps after what came out, with the side of the image and the epochs that belong to it."""

from __future__ import annotations

import shlex
import types
from pathlib import Path
from typing import Any

import pytest
import torch
import ultralytics.nn.tasks as nets
import yaml

from yoloprune.backend import yaml_markers
from yoloprune.commands import following, latency
from yoloprune.errors import ArgumentError
from yoloprune.runtimes.deployment import Deployment
from yoloprune.settings import command_line
from yoloprune.settings.checking import build
from yoloprune.settings.requests import FinetuneRequest, PruneRequest
from yoloprune.settings.slim_request import SlimRequest
from yoloprune.settings.trial_requests import SensitivityRequest, SweepRequest
from yoloprune.settings.view_requests import CompareRequest, LatencyRequest, ValRequest


def yolo(kind: str = "DetectionModel", config: dict[str, Any] | None = None, **more: Any) -> Any:
    """As much of a model as a next step depends on."""
    model = type("Mine", (getattr(nets, kind),), {})
    network = model.__new__(model)
    vars(network).update(yaml=config or {}, stride=torch.tensor([8.0, 16.0, 32.0]))
    return types.SimpleNamespace(
        model=network, yaml=config or {}, ckpt=None, task="detect", overrides={"imgsz": 320}, **more
    )


def rows(*quality: float | None) -> list[dict[str, Any]]:
    return [{"model": f"m{i}", **({} if q is None else {"mAP50-95": q}), "params": 9} for i, q in enumerate(quality)]


def after_prune(had: float | None, has: float | None, parent: Any = None, **told: Any) -> str:
    models = (parent or yolo(), told.pop("child", None) or yolo())
    given = {"data": "d.yaml", "imgsz": 640, "unrepaired": False, **told}
    choice: Any = types.SimpleNamespace(described=given.pop("described", None))
    asked = build(PruneRequest, {"model": "best.pt", "data": "d.yaml", **given.pop("asked", {"params": 0.5})})
    return following.after_prune(models, asked, Path("p.pt"), choice, rows(had, has), **given)


def test_a_stage_is_done_again_with_its_run() -> None:
    part = Path("/runs/slim/3-prune.unfinished")
    assert following.again("prune", part, "yoloprune prune model=a.pt") == [
        "yoloprune slim cfg=/runs/slim/args.yaml name=again"
    ]


def test_what_was_asked_of_a_live_model_names_its_file_or_is_left_out(tmp_path: Path) -> None:
    for file, words in (("runs/best.pt", ["yoloprune finetune model=runs/best.pt"]), (None, [])):
        live: Any = types.SimpleNamespace(ckpt_path=file)
        typed = command_line.written(build(FinetuneRequest, {"model": live, "epochs": 3}))
        again = following.again("finetune", tmp_path, typed)[1:]
        assert [" ".join(line.split()[:3]) for line in again] == words


def test_what_nobody_can_type_is_left_open_and_not_called_by_its_kind(tmp_path: Path) -> None:
    live, file = (type("YOLO", (), {"ckpt_path": path, "predict": None})() for path in (None, "a b.pt"))
    for kind, given in (
        (ValRequest, {"model": "a.pt", "against": live, "data": "d.yaml"}),
        (FinetuneRequest, {"model": "a.pt", "images": "photos", "labels_from": live}),
        (FinetuneRequest, {"model": "a.pt", "distill_model": live}),
        (CompareRequest, {"models": (live, "b.pt")}),
    ):
        words = command_line.written(build(kind, given))
        assert "..." in words and "YOLO" not in words and following.again("val", tmp_path, words)[1:] == []
        held = {k: file if v is live else (file, "b.pt") if k == "models" else v for k, v in given.items()}
        found = command_line.written(build(kind, held))
        assert "a b.pt" in found and following.again("val", tmp_path, found)[1:] == [found]
    assert latency._next(build(LatencyRequest, {"model": file, "format": "onnx"})).startswith(
        "yoloprune prune 'model=a b.pt' "
    )


@pytest.mark.parametrize(("carried", "since"), [(False, ""), (True, ", from Ultralytics 8.4.175 on")])
def test_who_trains_native_widths_is_said(carried: bool, since: str) -> None:
    said = after_prune(0.5, 0.5, described=types.SimpleNamespace(carried=carried))
    assert said.endswith(f"\n      (stock 'yolo train' keeps the widths as well{since})")
    assert "stock" not in after_prune(0.5, 0.5)


def test_stages_do_not_say_what_comes_next() -> None:
    said = "ended at 0.5\nsaved best.pt\nnext: yolo export model=best.pt"
    assert following.without_next(f"{said}\n      (a word about it)") == following.without_next(said)
    assert following.without_next(said) == "ended at 0.5\nsaved best.pt" and following.without_next("next") == "next"


def test_a_run_is_done_again_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "my runs" / "prune" / "args.yaml"
    again = following.again("prune", Path("my runs/prune"), "yoloprune prune model=a.pt")
    assert [shlex.split(line) for line in again] == [
        ["yoloprune", "prune", f"cfg={file}"],
        ["yoloprune", "prune", "model=a.pt"],
    ]
    assert len(following.again("finetune", tmp_path, None)) == 1


# prune ----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["WorldModel", "RTDETRDetectionModel", "DetectionModel"])
def test_the_next_step_is_that_of_the_family_for_subclasses_too(kind: str) -> None:
    child, trains = yolo(kind), kind != "WorldModel"
    said = after_prune(None, None, child=child)
    assert said.startswith("yoloprune finetune" if trains else "yolo val"), said
    assert (yaml_markers.untrainable(child.model) is None) == trains


def test_the_side_of_the_image_is_carried_also_where_it_is_the_default_of_ultralytics() -> None:
    assert after_prune(0.5, 0.48) == "yoloprune finetune model=p.pt data=d.yaml imgsz=640"  # it was trained at 320
    assert after_prune(0.5, 0.48, imgsz=320) == "yoloprune finetune model=p.pt data=d.yaml imgsz=320"
    tune = "yoloprune finetune model=p.pt data=... lr0=0.002 imgsz=640"
    assert after_prune(None, None, unrepaired=True, data=None) == tune


def test_after_a_sparse_training_as_many_epochs_follow() -> None:
    parent = yolo(config={yaml_markers.STATE_KEY: {}})
    parent.ckpt = {"train_args": {"epochs": 25}}
    assert after_prune(None, None, parent) == "yoloprune finetune model=p.pt data=d.yaml epochs=25 imgsz=640"


def test_a_cut_that_left_little_is_trained_on_and_one_that_left_nothing_is_not() -> None:
    tune = "yoloprune finetune model=p.pt data=d.yaml imgsz=320"
    look = "yoloprune sweep model=best.pt data=d.yaml imgsz=320"
    assert after_prune(0.5, 0.39, imgsz=320) == f"{tune}\n      (how far a cut may go: {look})"
    assert after_prune(0.5, 0.009, imgsz=320).startswith(f"{look}\n")
    assert after_prune(0.5, 0.41).startswith("yoloprune finetune")


@pytest.mark.parametrize(
    "asked, shared",
    [
        ({"flops": 0.5}, "imgsz=auto"),
        ({"flops": 0.5, "imgsz": 320}, "imgsz=auto"),
        ({"flops": 0.5, "imgsz": 640}, ""),  # which imgsz=auto would not refer to
        ({"flops": 0.5, "imgsz": "auto"}, ""),
        ({"flops": 0.85}, ""),  # one stride less leaves widths nothing to save
        ({"flops": "1.5G"}, ""),
        ({"ratio": 0.5}, ""),
    ],
)
def test_where_much_is_lost_the_image_may_take_its_share(asked: dict[str, Any], shared: str) -> None:
    said = after_prune(0.5, 0.39, asked=asked)
    words = "yoloprune prune model=best.pt data=d.yaml imgsz=auto"
    assert (
        said.count(f"\n      (less may be lost where the image takes its share: {words}")
        == said.count("imgsz=auto")
        == bool(shared)
    )
    assert "imgsz=auto" not in after_prune(0.5, 0.45, asked=asked)


def test_a_parent_that_finds_nothing_is_trained_first() -> None:
    said = after_prune(0.009, 0.001)
    assert said.startswith("yolo train model=best.pt data=d.yaml imgsz=640\n")
    assert "the parent itself has mAP50-95 0.0090" in said
    pruned = yolo(config={yaml_markers.KEY: {}})
    assert after_prune(0.009, 0.001, pruned).startswith("yoloprune finetune model=best.pt data=d.yaml imgsz=640\n")


# finetune -------------------------------------------------------------------------------------------------------------
def after_training(folder: Path, start: float | None, end: float, **args: Any) -> str:
    told = {
        "model": "pruned.pt",
        "data": "d.yaml",
        "epochs": 10,
        "imgsz": 320,
        "optimizer": "AdamW",
        "lr0": 0.001,
        **args,
    }
    (folder / "args.yaml").write_text(yaml.safe_dump(told))
    had = {} if start is None else {"mAP50-95": start}
    return following.after_training(folder, Path("best.pt"), had, {"mAP50-95": end})


def test_a_training_that_went_well_is_exported(tmp_path: Path) -> None:
    assert after_training(tmp_path, 0.5, 0.496) == "yolo export model=best.pt imgsz=320 format=onnx"
    assert after_training(tmp_path, None, 0.2, imgsz=640) == "yolo export model=best.pt imgsz=640 format=onnx"


def test_one_that_ended_below_its_start_is_done_again_longer_and_slower(tmp_path: Path) -> None:
    again = "yoloprune finetune model=pruned.pt data=d.yaml epochs=20"
    assert after_training(tmp_path, 0.5, 0.49) == f"{again} optimizer=AdamW lr0=0.0005 imgsz=320"
    assert after_training(tmp_path, 0.5, 0.49, optimizer="auto") == f"{again} imgsz=320"
    given = {"batch": 8, "workers": 0, "seed": 3, "device": "", "amp": True, "nbs": 16, "name": "mine"}
    said = after_training(tmp_path, 0.5, 0.49, **given)
    assert said == f"{again} batch=8 workers=0 seed=3 optimizer=AdamW lr0=0.0005 imgsz=320"


def test_one_that_was_taught_or_quantized_is_so_again(tmp_path: Path) -> None:
    told = {"distill_model": "big.pt", "dis": 3.0, "quantize": 8, "optimizer": "auto"}
    again = "yoloprune finetune model=pruned.pt data=d.yaml epochs=20 distill_model=big.pt dis=3.0 quantize=8 imgsz=320"
    assert after_training(tmp_path, 0.5, 0.49, **told) == again
    assert "dis=" not in after_training(tmp_path, 0.5, 0.49, **{**told, "dis": 6.0})


def test_one_that_is_told_its_hours_gets_twice_as_many(tmp_path: Path) -> None:
    assert " epochs=20 time=3.0 " in after_training(tmp_path, 0.5, 0.49, time=1.5)
    asked = build(SlimRequest, {"model": "a.pt", "data": "d.yaml", "epochs": 4, "flops": 0.3, "time": 1})
    said = following.after_slim(asked, rows(None, 0.0), Path("b.pt"), None, 96, 10)
    assert said.startswith("yoloprune slim model=a.pt data=d.yaml epochs=10 time=2.5 flops=0.3\n")


def test_one_that_finds_nothing_yet_goes_on(tmp_path: Path) -> None:
    assert after_training(tmp_path, 0.0, 0.009) == "yoloprune finetune model=best.pt data=d.yaml epochs=20 imgsz=320"


# slim -----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "quality, export, expected",
    [
        ((0.5, 0.48), None, "yolo export model=b.pt imgsz=96 format=onnx"),
        ((0.5, 0.48), Path("b.onnx"), "yolo predict model=b.onnx imgsz=96 source=..."),
        (
            (0.5, 0.46),
            Path("b.onnx"),
            "yoloprune slim model=a.pt data=d.yaml epochs=14 flops=0.3\n      (less may be lost where the image takes "
            "its share: yoloprune slim model=a.pt data=d.yaml epochs=7 imgsz=auto flops=0.3)",
        ),
        ((None, 0.009), None, "yoloprune slim model=a.pt data=d.yaml epochs=14 flops=0.3"),
    ],
    ids=["good", "exported", "much is lost", "nothing is found"],
)
def test_slim_is_done_longer_where_much_is_lost(quality: tuple[Any, Any], export: Path | None, expected: str) -> None:
    asked = build(SlimRequest, {"model": "a.pt", "data": "d.yaml", "epochs": 7, "flops": 0.3})
    table = [*rows(*quality), *([{"model": "exported", "mAP50-95": 0.0}] if export else [])]
    assert following.after_slim(asked, table, Path("b.pt"), export, 96) == expected


def test_a_slim_that_is_done_longer_leaves_the_folder_of_the_first_alone() -> None:
    told = {"model": "a.pt", "data": "d.yaml", "epochs": 7, "flops": 0.3, "name": "mine"}
    asked, without = (build(SlimRequest, {**told, **more}) for more in ({"exist_ok": True}, {}))
    first, second = (following.after_slim(one, rows(0.5, 0.4), Path("b.pt"), None, 96) for one in (asked, without))
    assert "imgsz=auto" in first and first == second  # with exist_ok the folder is refused: it holds a run of slim


def test_a_slim_at_another_side_has_no_share_for_the_image() -> None:
    asked = build(SlimRequest, {"model": "a.pt", "data": "d.yaml", "epochs": 7, "flops": 0.3, "imgsz": 96})
    said = following.after_slim(asked, rows(0.5, 0.4), Path("b.pt"), None, 96)
    assert said == "yoloprune slim model=a.pt data=d.yaml epochs=14 imgsz=96 flops=0.3"


def test_a_slim_whose_fine_tuning_took_from_the_cut_is_done_longer() -> None:
    asked = build(SlimRequest, {"model": "a.pt", "data": "d.yaml", "epochs": 7, "flops": 0.3})
    table = [{"model": name, "mAP50-95": q} for name, q in (("parent", 0.5), ("fine-tuned", 0.4), ("pruned", 0.49))]
    said = following.after_slim(asked, table, Path("b.pt"), Path("b.onnx"), 96)
    assert said == "yoloprune slim model=a.pt data=d.yaml epochs=14 flops=0.3"


def test_a_slim_in_which_channels_could_not_fade_is_done_in_epochs_in_which_they_can() -> None:
    asked = build(SlimRequest, {"model": "a.pt", "data": "d.yaml", "epochs": 2, "flops": 0.3})
    for enough, epochs, why in ((26, 26, "\n      (in fewer epochs channels have no time to fade)"), (3, 4, "")):
        said = following.after_slim(asked, rows(None, 0.0), Path("b.pt"), None, 96, enough)
        assert said == f"yoloprune slim model=a.pt data=d.yaml epochs={epochs} flops=0.3{why}"


# compare --------------------------------------------------------------------------------------------------------------
def test_of_several_models_the_last_is_exported_unless_it_is_far_behind() -> None:
    pruned = yolo(config={yaml_markers.KEY: {}}, ckpt_path="p.pt")
    told: dict[str, Any] = {"data": "d.yaml", "imgsz": 320}

    def said(*quality: float, model: Any = pruned) -> str | None:
        table = rows(*quality)
        return following.after_comparing(model, table, table[-1], **told)

    assert said(0.5, 0.45) == "yolo export model=p.pt imgsz=320 format=onnx"
    assert said(0.5, 0.39) == "yoloprune finetune model=p.pt data=d.yaml imgsz=320"
    assert said(0.009, 0.009, model=yolo(ckpt_path="p.pt")) is None
    told["how"] = Deployment("openvino", arguments={"half": True})
    assert said(0.5, 0.45) == "yolo export model=p.pt imgsz=320 format=openvino half=True"
    told["how"] = Deployment(arguments={"half": True})
    assert said(0.5, 0.45) == "yolo export model=p.pt imgsz=320 format=onnx"
    told["export"] = ("runs/best.onnx", 256)  # which takes no other side
    assert said(0.5, 0.45) == "yolo predict model=runs/best.onnx imgsz=256 source=..."
    assert said(0.5) is None


# sweep ----------------------------------------------------------------------------------------------------------------
def test_the_cut_that_is_recommended_is_the_one_that_was_made() -> None:
    given = {"model": "a.pt", "data": "b.yaml", "flops": "0.8,0.6", "score": "bn", "keep": "model.2.*", "within": 5}
    asked = build(SweepRequest, given)
    step = following.after_sweep(asked, {"data": "b.yaml", "imgsz": 96}, "flops=0.8")
    assert step == "yoloprune prune model=a.pt data=b.yaml flops=0.8 imgsz=96 score=bn 'keep=model.2.*'"
    passed = {"data": "b.yaml", "imgsz": 96, "seed": 3, "device": 0, "workers": 2}  # of which prune takes no workers
    step = following.after_sweep(build(SweepRequest, {**given, "seed": 3, "device": 0}), passed, "flops=0.8")
    assert step == (
        "yoloprune prune model=a.pt data=b.yaml flops=0.8 imgsz=96 seed=3 device=0 score=bn 'keep=model.2.*'"
    )
    command_line.parse(shlex.split(step)[1:])


@pytest.mark.parametrize(
    "given",
    [
        {"flops": 0.5, "ray": True, "classes": "person,dog", "depth": True, "uniform": True},
        {"ratio": 0.5, "threads": 1, "within": 1, "layers": "model.2.*=0.3"},
        {"sparsity": 0.5, "ray": True, "within": 1, "head": True, "scope": "layer", "recover": "bn"},
    ],
)
def test_what_a_sweep_recommends_can_be_typed(given: dict[str, Any]) -> None:
    asked = build(SweepRequest, {"model": "a.pt", "data": "b.yaml", **given})
    step = following.after_sweep(asked, {"data": "b.yaml", "imgsz": 96}, f"{asked.kind}=0.5")
    assert step is not None
    found = command_line.parse(shlex.split(step)[1:])
    kept = given.keys() - {"ray", "within", "threads"}
    assert {k: found.settings[k] for k in kept} == {k: 0.5 if k == asked.kind else asked.settings[k] for k in kept}


@pytest.mark.parametrize("kind", [SweepRequest, SensitivityRequest])
def test_masks_of_a_few_classes_are_refused_for_no_mask_is_made_so(kind: type[Any]) -> None:
    with pytest.raises(ArgumentError, match="classes=person: must not be combined with pattern= or sparsity="):
        build(kind, {"model": "a.pt", "data": "b.yaml", "sparsity": 0.5, "classes": "person"})


def test_what_is_recommended_can_be_pasted_in_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.pt").touch()
    monkeypatch.chdir(tmp_path)
    step = following.after_sweep(
        build(SweepRequest, {"model": "a.pt", "flops": 0.8}), {"data": None, "imgsz": 96}, "flops=0.8"
    )
    assert step == f"yoloprune prune model={tmp_path / 'a.pt'} flops=0.8 imgsz=96"


def test_after_a_sweep_of_masks_comes_a_mask() -> None:
    given = {"model": "a.pt", "data": "b.yaml", "sparsity": "0.9,0.5,0.7", "pattern": "kernel", "score": "wanda"}
    asked = build(SweepRequest, given)
    step = following.after_sweep(asked, {"data": "b.yaml", "imgsz": 96}, "sparsity=0.7")
    assert step == "yoloprune mask model=a.pt data=b.yaml sparsity=0.7 imgsz=96 pattern=kernel score=wanda"
    plain = build(SweepRequest, {"model": "a.pt", "data": "b.yaml", "sparsity": 0.9})
    step = following.after_sweep(plain, {"data": "b.yaml", "imgsz": None}, "sparsity=0.9")
    assert step == "yoloprune mask model=a.pt data=b.yaml sparsity=0.9"
    asked = build(SweepRequest, {"model": "a.pt", "data": "b.yaml", "pattern": "2:4"})
    step = following.after_sweep(asked, {"data": "b.yaml", "imgsz": None}, "pattern=2:4")
    assert step == "yoloprune mask model=a.pt data=b.yaml pattern=2:4"
