"""Native plans: what a stock model YAML can say, and that stock Ultralytics needs nothing else."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import ultralytics
import yaml
from checkpoints import build
from conftest import cut_copy, noise, random_alive, settle
from torch.utils._pytree import tree_leaves
from ultralytics.models.yolo.world import WorldTrainer
from ultralytics.models.yolo.yoloe import YOLOETrainer
from ultralytics.nn.modules import Conv

import yoloprune
from yoloprune import budget, builder, channels, handoff, host, native, trainers, verify
from yoloprune.errors import ArgumentError, ModelError, PlanError
from yoloprune.fading import Fading, SparseConfig
from yoloprune.groups import ChannelGraph, Plan
from yoloprune.limits import Budget, Limits

FINE = Limits(round_to=4, min_width=4, max_ratio=1.0)
BACKBONE: list[list[Any]] = [
    [-1, 1, "Conv", [16, 3, 2]],
    [-1, 1, "Conv", [32, 3, 2]],
    [-1, 1, "C2f", [32, True]],
    [-1, 1, "Conv", [64, 3, 2]],
    [-1, 1, "SPPF", [64, 5]],
]
HEAD: list[Any] = [[2, 4], 1, "Detect", ["nc"]]


def model_of(backbone: list[list[Any]], head: list[Any] = HEAD, nc: int = 80) -> torch.nn.Module:
    torch.manual_seed(0)
    kind = ultralytics.nn.tasks.DetectionModel
    model = kind({"nc": nc, "backbone": copy.deepcopy(backbone), "head": [list(head)]}, verbose=False)
    return settle(model, noise(2, 3, 64, 64)).eval()


def restricted(model: torch.nn.Module, limits: Limits = FINE) -> tuple[ChannelGraph, native.Stock]:
    found = channels.Channels(model, Limits(**{**vars(limits), "native": True}), 64)
    assert found.native is not None and found.stock is not None
    return found.native, found.stock


def tied(graph: ChannelGraph) -> dict[str, tuple[tuple[str, ...], tuple[int, ...] | None]]:
    """By the name of a tie's first group: all its groups, and the widths of the first that may be chosen."""
    return {
        graph.groups[t.groups[0]].name: (
            tuple(graph.groups[g].name for g in t.groups),
            None if t.allowed is None else tuple(t.widths(u)[0] for u in t.allowed),
        )
        for t in graph.ties
    }


def test_what_one_argument_sets_is_tied() -> None:
    graph, stock = restricted(model_of(BACKBONE))
    ties = tied(graph)
    # int(c2 * e) is the width of both halves and of the bottleneck; c2 itself is a width of its own, in steps of 8.
    halves = ("model.2.cv1.conv[0:16]", "model.2.cv1.conv[16:32]", "model.2.m.0.cv1.conv")
    assert ties["model.2.cv1.conv[0:16]"] == (halves, (12, 8, 4))
    assert ties["model.2.cv2.conv"] == (("model.2.cv2.conv",), (24, 16, 8))
    # SPPF's hidden width is half of what reaches it.
    assert ties["model.3.conv"] == (("model.3.conv", "model.4.cv1.conv"), (56, 48, 40, 32, 24, 16, 8))
    c2f = stock.layers[2]
    assert [(c2f.row.parameters[d.at].name, d.base) for d in c2f.dials] == [("c2", None), ("e", 0)]
    assert stock.layers[4].follows == {"cv1.conv", "cv1.bn"}


def test_a_yaml_worked_out_by_hand() -> None:
    model = model_of(BACKBONE)
    graph, stock = restricted(model)
    wanted = {"model.2.cv1.conv[0:16]": 12, "model.2.cv2.conv": 24, "model.3.conv": 48, "model.0.conv": 8}
    alive = np.ones(graph.n_classes, dtype=bool)
    for tie in graph.ties:
        name = graph.groups[tie.groups[0]].name
        if name in wanted:
            unit = wanted[name] * tie.units // tie.sizes[0]
            for g, width in zip(tie.groups, tie.widths(unit), strict=True):
                alive[graph.classes(g)[width:]] = False
    said = stock.describe(alive)
    assert said["backbone"] == [
        [-1, 1, "Conv", [8, 3, 2]],
        [-1, 1, "Conv", [32, 3, 2]],
        [-1, 1, "C2f", [24, True]],  # int(24 * 0.5) = 12: e may stay silent
        [-1, 1, "Conv", [48, 3, 2]],
        [-1, 1, "SPPF", [64, 5]],
    ]
    assert said["head"] == [HEAD]
    plan = graph.plan(alive)
    small = cut_copy(model, plan)
    assert verify.verify(model, small, plan, noise(2, 3, 64, 64)) <= 1e-4
    fresh = builder.rebuild(small, said)
    assert {k: v.shape for k, v in fresh.state_dict().items()} == {k: v.shape for k, v in small.state_dict().items()}


def test_widths_that_ultralytics_rounds_are_spelled_as_they_come_out() -> None:
    """A YAML may say 60, stock Ultralytics builds 64; doubling 60 would give 120, not twice 64."""
    odd = [*BACKBONE[:3], [-1, 1, "Conv", [60, 3, 2]], BACKBONE[4]]
    graph, stock = restricted(model_of(odd))
    assert stock.layers[3].row.arguments == (64, 3, 2)
    assert tied(graph)["model.3.conv"][1] == (56, 48, 40, 32, 24, 16, 8)


def test_heads_that_size_themselves_by_their_input_hold_it() -> None:
    """The class branch is max(first input, min(classes, 100)) wide: 32 for 3 classes, 80 for 80."""
    few, _ = restricted(model_of(BACKBONE, nc=3))
    assert "model.2.cv2.conv" not in tied(few)
    group = next(g for g in few.groups if g.name == "model.2.cv2.conv")
    assert group.frozen == "the only width a model YAML can say; native=False frees it"
    many, _ = restricted(model_of(BACKBONE, nc=80))
    assert tied(many)["model.2.cv2.conv"][1] == (24, 16, 8)


def test_a_class_branch_that_loading_takes_over_holds_nothing() -> None:
    """Fine-tuned from 80 classes to 3, the branch stays 80 wide, which the YAML alone does not say."""
    before = model_of(BACKBONE, nc=80)
    model = model_of(BACKBONE, nc=3)
    model.load(before, verbose=False)
    settle(model, noise(2, 3, 64, 64)).eval()
    assert model.model[-1].cv3[0][0].conv.out_channels == 80
    graph, stock = restricted(model)
    assert stock.carried == {"cv3"}
    assert tied(graph)["model.2.cv2.conv"][1] == (24, 16, 8)
    alive = random_alive(graph, 0)
    small = cut_copy(model, graph.plan(alive))
    fresh = builder.rebuild(small, stock.describe(alive))
    assert all(torch.equal(v, small.state_dict()[k]) for k, v in fresh.state_dict().items())


def test_widths_without_an_argument_are_held() -> None:
    """Two heads of a C2PSA: 64 hidden channels are one head, so its hidden width is the only one with two."""
    model = model_of(
        [*BACKBONE[:4], [-1, 1, "Conv", [256, 3, 2]], [-1, 1, "C2PSA", [256]]], [[2, 5], 1, "Detect", ["nc"]]
    )
    graph, _ = restricted(model, Limits())
    names = {name for names, _ in tied(graph).values() for name in names}
    assert not any(name.startswith(("model.5.cv1", "model.5.m.")) for name in names)
    # As many outputs as inputs, so both change together.
    assert ("model.4.conv", "model.5.cv2.conv") in [names for names, _ in tied(graph).values()]


BLOCKS = {
    "C3": [64, True],
    "C3k2": [64, True, 0.5],
    "C3k2-attention": [256, True, 0.5, True],
    "A2C2f": [128, True, 4],
    "A2C2f-plain": [128, False, -1],
    "RepNCSPELAN4": [64, 64, 32, 1],
    "ELAN1": [64, 32, 16],
    "SCDown": [64, 3, 2],
    "ADown": [64],
    "AConv": [64],
    "C2fCIB": [64, True, True],
    "SPPELAN": [64, 32],
    "GhostConv": [64, 3, 2],
    "C3Ghost": [64, True],
    "Bottleneck": [32],
    "HGBlock": [16, 64, 3],
}


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("seed", [0, 1])
def test_random_native_plans_are_exact_and_said(block: str, seed: int) -> None:
    name = block.partition("-")[0]
    rows = [*BACKBONE[:2], [-1, 1, name, BLOCKS[block]], [-1, 1, "Conv", [64, 3, 2]], BACKBONE[4]]
    model = model_of(rows)
    graph, stock = restricted(model)
    assert any(g.name.startswith("model.2.") or "model.2." in str(g.axes) for g in graph.groups if not g.frozen)
    alive = random_alive(graph, seed)
    plan = graph.plan(alive)
    small = cut_copy(model, plan)
    assert verify.verify(model, small, plan, noise(2, 3, 64, 64)) <= 1e-4
    fresh = builder.rebuild(small, stock.describe(alive)).eval()
    x = noise(1, 3, 64, 64)
    with torch.no_grad():
        pairs = zip(tree_leaves(small.eval()(x)), tree_leaves(fresh(x)), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs if isinstance(a, torch.Tensor))


@pytest.mark.parametrize(
    "name", ["yolov5n", "yolov8n", "yolov9t", "yolov10n", "yolo11n", "yolo12n", "yolo26n", "yolo26n-sem"]
)
def test_families(name: str) -> None:
    model = settle(ultralytics.YOLO(f"{name}.yaml").model, noise(2, 3, 64, 64)).eval()
    graph, stock = restricted(model, Limits(round_to=16, min_width=8))
    alive = budget.select(
        graph, np.random.default_rng(0).random(graph.n_classes), Budget(flops=0.7), Limits(round_to=16)
    )
    small = cut_copy(model, graph.plan(alive))
    fresh = builder.rebuild(small, stock.describe(alive))
    assert all(torch.equal(v, small.state_dict()[k]) for k, v in fresh.state_dict().items())


ODD: dict[str, list[list[Any]]] = {
    "copies in a row": [[-1, 2, "Conv", [32, 3, 1]], [-1, 1, "C2f", [32, True]]],
    "an input that is spelled": [[-1, 1, "RepConv", [32, 32]], [-1, 1, "C2f", [32, True]]],
    "a plain convolution": [[-1, 1, "nn.Conv2d", [32, 32, 1]], [-1, 1, "C2f", [32, True]]],
    "shortcuts that are off": [[-1, 1, "Bottleneck", [48]], [-1, 1, "SPPF", [64, 5, 3, True]]],
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_odd_rows_are_exact(odd: str, seed: int) -> None:
    model = model_of([*BACKBONE[:2], *ODD[odd], BACKBONE[3]], [[3, 4], 1, "Detect", ["nc"]])
    graph, stock = restricted(model, Limits(round_to=8, min_width=8))
    alive = random_alive(graph, seed)
    plan = graph.plan(alive)
    small = cut_copy(model, plan)
    fresh = builder.rebuild(small, stock.describe(alive)).eval()
    assert verify.verify(model, small, plan, noise(2, 3, 64, 64)) <= 1e-4
    assert verify.verify(small, fresh, Plan({}), noise(2, 3, 64, 64)) <= 1e-4


def test_a_shortcut_that_was_off_stays_off() -> None:
    """Input 32 and output 48 cannot be added; once both are 24 wide, the constructor would add them."""
    model = model_of([*BACKBONE[:2], [-1, 1, "Bottleneck", [48]], BACKBONE[3]], [[2, 3], 1, "Detect", ["nc"]])
    graph, stock = restricted(model)
    alive = np.ones(graph.n_classes, dtype=bool)
    for name in ("model.1.conv", "model.2.cv2.conv"):
        alive[graph.classes(next(i for i, g in enumerate(graph.groups) if g.name == name))[24:]] = False
    said = stock.describe(alive)
    assert said["backbone"][2][3][:2] == [24, False]
    small = cut_copy(model, graph.plan(alive))
    fresh = builder.rebuild(small, said)
    assert fresh.model[2].add is False
    assert verify.verify(small, fresh.eval(), Plan({}), noise(2, 3, 64, 64)) <= 1e-4


def test_what_computes_something_else_is_refused() -> None:
    """The same tensors, the same widths, but a sum that the cut model lacks."""
    model = model_of([*BACKBONE[:2], [-1, 1, "Bottleneck", [32, False]], BACKBONE[3]], [[2, 3], 1, "Detect", ["nc"]])
    wrong = copy.deepcopy(model.yaml)
    wrong["backbone"][2][3] = [32, True]
    with pytest.raises(PlanError, match="computes something else"):
        trainers.require_stock_build(model, wrong)


def test_widths_out_of_step_with_ultralytics_rounding_are_tried_one_by_one() -> None:
    """Multiples of 12 of which every other is one of 8: the widest, middle and narrowest alone would say yes."""
    limits = Limits(round_to=12, min_width=12, max_ratio=0.5)
    rows = [[-1, 1, "Conv", [96, 3, 2]], [-1, 1, "Conv", [96, 3, 2]]]
    graph, _ = restricted(model_of(rows, [[0, 1], 1, "Detect", ["nc"]]), limits)
    assert all(w % 8 == 0 for _, allowed in tied(graph).values() for w in allowed or ())


def test_other_activations() -> None:
    torch.manual_seed(0)
    config = {"nc": 80, "activation": "torch.nn.ReLU()", "backbone": copy.deepcopy(BACKBONE), "head": [list(HEAD)]}
    model = settle(ultralytics.nn.tasks.DetectionModel(config, verbose=False), noise(2, 3, 64, 64)).eval()
    graph, stock = restricted(model)
    assert isinstance(model.model[0].act, torch.nn.ReLU)
    assert isinstance(Conv.default_act, torch.nn.SiLU)  # as before, though rows were built that fail
    alive = random_alive(graph, 0)
    small = cut_copy(model, graph.plan(alive))
    fresh = builder.rebuild(small, stock.describe(alive)).eval()
    assert verify.verify(small, fresh, Plan({}), noise(2, 3, 64, 64)) <= 1e-4


def test_free_plans_cannot_be_said() -> None:
    model = model_of(BACKBONE)
    _, stock = restricted(model)
    free = host.trace_yolo(model)
    alive = np.ones(free.n_classes, dtype=bool)
    alive[free.classes(next(i for i, g in enumerate(free.groups) if g.name == "model.2.m.0.cv1.conv"))[8:]] = False
    with pytest.raises(PlanError, match=r"model\.2 \(C2f\) has widths that no model YAML can say"):
        stock.describe(alive)


def test_plans_under_the_restrictions_keep_them() -> None:
    graph, _ = restricted(model_of(BACKBONE))
    alive = np.ones(graph.n_classes, dtype=bool)
    alive[graph.classes(next(i for i, g in enumerate(graph.groups) if g.name == "model.1.conv"))[30:]] = False
    with pytest.raises(PlanError, match=r"model\.1\.conv may not be 30 wide"):
        graph.plan(alive)


def test_the_dead_go_as_far_as_the_yaml_allows() -> None:
    graph, _ = restricted(model_of(BACKBONE))
    conv = next(i for i, g in enumerate(graph.groups) if g.name == "model.1.conv")  # 32 wide, steps of 8
    dead = np.zeros(graph.n_classes, dtype=bool)
    dead[graph.classes(conv)[:13]] = True  # 19 live: the next width is 24
    alive = budget.dead_only(graph, dead)
    assert (~alive).sum() == 8
    assert not alive[graph.classes(conv)[:13]].all()


def test_models_that_are_not_their_yaml_are_refused() -> None:
    model = model_of(BACKBONE)
    graph = host.trace_yolo(model)
    free = cut_copy(model, graph.plan(random_alive(graph, 0)))
    with pytest.raises(ModelError, match="is not what its row in the model YAML builds"):
        channels.Channels(free, Limits(native=True), 64)


def test_text_prompted_models_are_refused() -> None:
    model = ultralytics.YOLO("yolov8s-worldv2.yaml").model
    with pytest.raises(ModelError, match="YOLO-World and YOLOE"):
        channels.Channels(model, Limits(native=True), 64)


def test_networks_without_yaml_are_refused() -> None:
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 1), torch.nn.Conv2d(8, 8, 1))
    with pytest.raises(ArgumentError, match="native=True"):
        yoloprune.prune_module(net, noise(1, 3, 8, 8), Budget(ratio=0.5), Limits(native=True))


# ---- through the commands --------------------------------------------------------------------------------------------

FAST = {"imgsz": 64, "batch": 4, "epochs": 1, "plots": False, "verbose": False, "workers": 0, "exist_ok": True}

WITHOUT_YOLOPRUNE = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "yoloprune":
            raise ImportError("yoloprune is not here")
sys.meta_path.insert(0, Block())
import torch
from ultralytics import YOLO
pruned, described, data, project = sys.argv[1:]
shapes = lambda m: {k: tuple(v.shape) for k, v in m.state_dict().items() if not k.startswith("model.5.")}
before = shapes(YOLO(pruned).model)
fresh = YOLO(described).load(pruned).model.state_dict()
loaded = YOLO(pruned).model.float().state_dict()
same = fresh.keys() == loaded.keys() and all(torch.equal(v, loaded[k]) for k, v in fresh.items())
print("TRANSFERS", same)
yolo = YOLO(pruned)
yolo.train(data=data, epochs=2, imgsz=64, batch=4, plots=False, workers=0, project=project, name="stock", exist_ok=True)
print("KEPT", shapes(yolo.model) == before, yolo.model.nc)
print("PROVENANCE", yolo.model.yaml["yoloprune"]["provenance"]["arguments"]["native"])
"""


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("native")
    yolo = build(folder / "small.yaml", {"nc": 80, "backbone": BACKBONE, "head": [HEAD]})
    settle(yolo.model, noise(2, 3, 64, 64))
    yolo.save(str(folder / "parent.pt"))
    return folder / "parent.pt"


def test_stock_ultralytics_trains_it_where_yoloprune_is_not_installed(parent: Path, data: Path, tmp_path: Path) -> None:
    """With another number of classes as well: the data has three, the parent 80."""
    yoloprune.prune(parent, ratio=0.3, native=True, imgsz=64, project=str(tmp_path), name="pruned")
    weights = tmp_path / "pruned" / "weights"
    script = tmp_path / "stock.py"
    script.write_text(WITHOUT_YOLOPRUNE)
    arguments = [str(weights / "pruned.pt"), str(weights / "pruned.yaml"), str(data), str(tmp_path)]
    done = subprocess.run([sys.executable, str(script), *arguments], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "TRANSFERS True" in done.stdout
    assert "KEPT True 3" in done.stdout
    assert "PROVENANCE True" in done.stdout


@pytest.mark.parametrize("kind", [WorldTrainer, YOLOETrainer])
def test_trainers_that_build_from_a_file_name_find_none(kind: Any, parent: Path, tmp_path: Path) -> None:
    """YOLO-World's and YOLOE's trainers take any model, and would build the parent from the name of its YAML."""
    yoloprune.prune(parent, ratio=0.3, native=True, imgsz=64, project=str(tmp_path), name="pruned")
    pruned = ultralytics.YOLO(tmp_path / "pruned" / "weights" / "pruned.pt").model
    stub = object.__new__(kind)
    stub.data = {"nc": 3, "channels": 3, "names": {0: "a", 1: "b", 2: "c"}}
    stub.args = SimpleNamespace(task="detect", cls_remap=True)
    assert Path(ultralytics.YOLO(parent).model.yaml["yaml_file"]).is_file()  # the parent's can be built
    with pytest.raises(FileNotFoundError, match="pruned by yoloprune"):
        stub.get_model(cfg=pruned.yaml, weights=pruned, verbose=False)


def test_pruned_yaml_is_plain(parent: Path, tmp_path: Path) -> None:
    yoloprune.prune(parent, ratio=0.3, native=True, imgsz=64, project=str(tmp_path), name="pruned")
    described = yaml.safe_load((tmp_path / "pruned" / "weights" / "pruned.yaml").read_text())
    assert set(described) <= {"nc", "ch", "channels", "backbone", "head"}
    built = ultralytics.YOLO(str(tmp_path / "pruned" / "weights" / "pruned.yaml")).model
    pruned = ultralytics.YOLO(str(tmp_path / "pruned" / "weights" / "pruned.pt")).model
    assert {k: v.shape for k, v in built.state_dict().items()} == {k: v.shape for k, v in pruned.state_dict().items()}


def test_sparse_training_dies_along_native_widths(parent: Path, data: Path, tmp_path: Path) -> None:
    """`prune` without a budget follows the run: what died is said in YAML, and nothing else goes."""
    run = {**FAST, "epochs": 3, "data": str(data), "project": str(tmp_path), "optimizer": "SGD"}
    sparse = yoloprune.train_sparse(parent, **run, flops=0.7, native=True, name="sparse")
    pruned = yoloprune.prune(sparse, imgsz=64, project=str(tmp_path), name="pruned")
    assert (tmp_path / "pruned" / "weights" / "pruned.yaml").is_file()
    assert host.gflops(pruned.model, 64) / host.gflops(sparse.model, 64) == pytest.approx(0.7, abs=0.05)
    fresh = builder.rebuild(pruned.model, pruned.model.yaml)
    assert all(torch.equal(v, pruned.model.state_dict()[k]) for k, v in fresh.state_dict().items())


def test_what_native_widths_cannot_reach_is_free_unless_asked_for(parent: Path, tmp_path: Path) -> None:
    """A YAML says convolutions in steps of 8, at least 8 wide: 0.83 of the channels can go, but not 0.9."""
    far = {"ratio": 0.9, "round_to": 1, "min_width": 1, "max_ratio": 0.99, "imgsz": 64, "project": str(tmp_path)}
    with pytest.raises(yoloprune.PruneError, match="out of reach"):
        yoloprune.prune(parent, native=True, name="native", **far)
    assert handoff.pruned_widths(yoloprune.prune(parent, name="free", **far))
    near = yoloprune.prune(parent, name="near", **{**far, "ratio": 0.5})
    assert handoff.pruned_widths(near) == {}  # stock Ultralytics builds it


def test_sparse_training_remembers_that_widths_were_free(parent: Path, tmp_path: Path) -> None:
    """Else the cut after it, which has no budget to miss, would hold the dead to native widths and keep them."""
    limits = Limits(round_to=1, min_width=1, max_ratio=0.99)
    for ratio, native_widths in ((0.5, None), (0.9, False)):
        run = SimpleNamespace(model=handoff.load(parent).model, args=SimpleNamespace(imgsz=64), resume=False)
        fading = Fading(SparseConfig(Budget(ratio=ratio), limits), run)
        assert fading.config.limits.native is native_widths


def test_a_free_plan_leaves_no_native_yaml_of_another_behind(parent: Path, tmp_path: Path) -> None:
    told = {"ratio": 0.3, "imgsz": 64, "project": str(tmp_path), "name": "run", "exist_ok": True}
    yoloprune.prune(parent, **told)
    assert (tmp_path / "run" / "weights" / "pruned.yaml").is_file()
    yoloprune.prune(parent, native=False, **told)
    assert not (tmp_path / "run" / "weights" / "pruned.yaml").exists()


def test_names_with_a_scale_are_not_given_to_the_yaml(parent: Path, tmp_path: Path) -> None:
    yolo = handoff.load(parent)
    graph, stock = restricted(yolo.model)
    alive = random_alive(graph, 0)
    plan = graph.plan(alive)
    child = handoff.with_model(yolo, cut_copy(yolo.model, plan))
    facts = handoff.make_provenance(None, {})
    handoff.save(child, tmp_path / "yolo11m-pruned.pt", plan=plan, provenance=facts, native=stock.describe(alive))
    assert (tmp_path / "pruned.yaml").is_file()
    assert not (tmp_path / "yolo11m-pruned.yaml").exists()
    (tmp_path / "mine.yaml").write_text("nc: 3")
    with pytest.raises(yoloprune.PruneError, match="is not overwritten"):
        handoff.save(child, tmp_path / "mine.pt", plan=plan, provenance=facts, native=stock.describe(alive))
    assert (tmp_path / "mine.yaml").read_text() == "nc: 3"


def test_native_twice(parent: Path, tmp_path: Path) -> None:
    once = yoloprune.prune(parent, ratio=0.2, native=True, imgsz=64, project=str(tmp_path), name="once")
    twice = yoloprune.prune(once, ratio=0.2, native=True, imgsz=64, project=str(tmp_path), name="twice")
    told = handoff.provenance(twice)
    assert told is not None
    assert [t["arguments"]["ratio"] for t in (*told["earlier"], told)] == [0.2, 0.2]
    assert host.gflops(twice.model, 64) < host.gflops(once.model, 64) < host.gflops(ultralytics.YOLO(parent).model, 64)


def test_after_a_free_pruning_it_is_too_late(parent: Path, tmp_path: Path) -> None:
    free = yoloprune.prune(parent, ratio=0.2, native=False, imgsz=64, project=str(tmp_path), name="free")
    with pytest.raises(ModelError, match="pruned to free widths before"):
        yoloprune.prune(free, ratio=0.2, native=True, imgsz=64, project=str(tmp_path), name="native")
