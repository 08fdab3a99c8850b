"""Native plans through the commands, and that stock Ultralytics needs nothing else to train what they leave."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import ultralytics
import yaml
from checkpoints import build
from conftest import cut_copy, cutting_alive, noise, settle
from native_models import BACKBONE, HEAD, restricted
from releases import needs_carrying
from ultralytics.models.yolo.world import WorldTrainer
from ultralytics.models.yolo.yoloe import YOLOETrainer
from ultralytics.nn.modules.block import RepVGGDW

import yoloprune
from yoloprune.backend import evaluation, model_builder
from yoloprune.checkpoint import saving
from yoloprune.errors import ModelError
from yoloprune.settings.budget import Budget, Limits
from yoloprune.settings.sparse_config import SparseConfig
from yoloprune.sparse.sparse_run import SparseRun

pytestmark = pytest.mark.slow

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
body = lambda m, k: not k.startswith(f"model.{len(m.model) - 1}.")
shapes = lambda m: {k: tuple(v.shape) for k, v in m.state_dict().items() if body(m, k)}
before = shapes(YOLO(pruned).model)
fresh = YOLO(described).load(pruned).model.state_dict()
loaded = YOLO(pruned).model.float().state_dict()
same = fresh.keys() == loaded.keys() and all(torch.equal(v, loaded[k]) for k, v in fresh.items())
print("TRANSFERS", same)
yolo = YOLO(pruned)
yolo.train(data=data, epochs=2, imgsz=64, batch=4, plots=False, workers=0, project=project, name="stock", exist_ok=True)
print("KEPT", shapes(yolo.model) == before, yolo.model.nc)
whole = {k: tuple(v.shape) for k, v in yolo.model.state_dict().items()}
print("WHOLE", whole == {k: tuple(v.shape) for k, v in loaded.items()})
print("PROVENANCE", yolo.model.yaml["yoloprune"]["provenance"]["arguments"]["native"])
"""


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("native")
    yolo = build(folder / "small.yaml", {"nc": 80, "backbone": BACKBONE, "head": [HEAD]})
    settle(yolo.model, noise(2, 3, 64, 64))
    yolo.save(str(folder / "parent.pt"))
    return folder / "parent.pt"


@pytest.fixture(scope="module")
def weights(parent: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a native pruning leaves its network and its YAML in."""
    project = tmp_path_factory.mktemp("runs")
    yoloprune.prune(parent, ratio=0.3, native=True, imgsz=64, project=str(project), name="pruned")
    return project / "pruned" / "weights"


def trained_by_stock(weights: Path, data: Path, folder: Path) -> str:
    """What stock Ultralytics says of a pruned model where yoloprune cannot be imported."""
    script = folder / "stock.py"
    script.write_text(WITHOUT_YOLOPRUNE)
    arguments = [str(weights / "pruned.pt"), str(weights / "pruned.yaml"), str(data), str(folder)]
    done = subprocess.run([sys.executable, str(script), *arguments], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.long
def test_stock_ultralytics_trains_it_where_yoloprune_is_not_installed(
    weights: Path, data: Path, tmp_path: Path
) -> None:
    """With another number of classes as well: the data has three, the parent 80."""
    said = trained_by_stock(weights, data, tmp_path)
    assert "TRANSFERS True" in said
    assert "KEPT True 3" in said
    assert "PROVENANCE True" in said


@pytest.mark.long
@needs_carrying
def test_few_classes_hold_no_width(data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The class branch of three classes is as wide as its first input in a YAML, and keeps its 32 channels in a
    training of stock Ultralytics when that input has fewer.
    """
    yolo = build(tmp_path / "few.yaml", {"nc": 3, "backbone": BACKBONE, "head": [HEAD]})
    settle(yolo.model, noise(2, 3, 64, 64))
    yolo.save(str(tmp_path / "few.pt"))
    layers = {"model.2.cv2.conv": 0.5, "model.0": 0, "model.1": 0, "model.3": 0}
    run = {"imgsz": 64, "project": str(tmp_path), "name": "pruned"}
    pruned = yoloprune.prune(tmp_path / "few.pt", ratio=0.3, native=True, layers=layers, score="random", **run)
    first = pruned.model.model[-1].cv3[0][0].conv
    assert first.in_channels < 32 and first.out_channels == 32
    said = trained_by_stock(tmp_path / "pruned" / "weights", data, tmp_path)
    assert "TRANSFERS True" in said and "KEPT True 3" in said and "WHOLE True" in said
    assert "keeps the widths as well, from Ultralytics 8.4.175 on" in caplog.text


@pytest.mark.long
def test_what_no_pass_reads_does_not_hinder_a_second_cut(tmp_path: Path) -> None:
    """A RepVGGDW remembers its `dim`, which nobody reads; stock Ultralytics would build it with the one of now."""
    rows = [*BACKBONE[:4], [-1, 1, "C2fCIB", [64, True, True]]]
    yolo = build(tmp_path / "cib.yaml", {"nc": 80, "backbone": rows, "head": [HEAD]})
    settle(yolo.model, noise(2, 3, 64, 64))
    yolo.save(str(tmp_path / "cib.pt"))
    run: dict[str, Any] = {"imgsz": 64, "data": False, "score": "random", "native": True, "project": str(tmp_path)}
    once = yoloprune.prune(tmp_path / "cib.pt", ratio=0.3, name="once", **run)
    dims = [m.dim == m.conv.conv.out_channels for m in once.model.modules() if isinstance(m, RepVGGDW)]
    assert dims and all(dims)
    twice = yoloprune.prune(once, ratio=0.3, name="twice", **run)
    assert twice.model.yaml["yoloprune"]["native"] is True


@pytest.mark.parametrize("kind", [WorldTrainer, YOLOETrainer])
def test_trainers_that_build_from_a_file_name_find_none(kind: Any, parent: Path, weights: Path) -> None:
    """YOLO-World's and YOLOE's trainers take any model, and would build the parent from the name of its YAML."""
    pruned = ultralytics.YOLO(weights / "pruned.pt").model
    stub = object.__new__(kind)
    stub.data = {"nc": 3, "channels": 3, "names": {0: "a", 1: "b", 2: "c"}}
    stub.args = SimpleNamespace(task="detect", cls_remap=True)
    assert Path(ultralytics.YOLO(parent).model.yaml["yaml_file"]).is_file()  # the parent's can be built
    with pytest.raises(FileNotFoundError, match="pruned by yoloprune"):
        stub.get_model(cfg=pruned.yaml, weights=pruned, verbose=False)


def test_pruned_yaml_is_plain(weights: Path) -> None:
    described = yaml.safe_load((weights / "pruned.yaml").read_text())
    assert set(described) <= {"nc", "ch", "channels", "backbone", "head"}
    built = ultralytics.YOLO(str(weights / "pruned.yaml")).model
    pruned = ultralytics.YOLO(str(weights / "pruned.pt")).model
    assert {k: v.shape for k, v in built.state_dict().items()} == {k: v.shape for k, v in pruned.state_dict().items()}


@pytest.mark.long
def test_sparse_training_kills_whole_heads(data: Path, tmp_path: Path) -> None:
    """Two heads of 64. Native widths leave the inside of the attention block to die; half of it is one head whole."""
    rows = [*BACKBONE[:4], [-1, 1, "Conv", [256, 3, 2]], [-1, 1, "C2PSA", [256]]]
    yolo = build(tmp_path / "heads.yaml", {"nc": 2, "backbone": rows, "head": [[[2, 5], 1, "Detect", ["nc"]]]})
    settle(yolo.model, noise(2, 3, 64, 64))
    yolo.save(str(tmp_path / "heads.pt"))
    run = {**FAST, "epochs": 3, "data": str(data), "project": str(tmp_path), "optimizer": "SGD"}
    keep = [f"model.{i}" for i in range(5)]
    sparse = yoloprune.train_sparse(tmp_path / "heads.pt", **run, sparsity=0.36, keep=keep, native=True, name="sparse")
    qkv = sparse.model.model[5].m[0].attn.qkv.bn.weight.reshape(2, 128)
    alive = [bool(row.count_nonzero()) for row in qkv]
    assert sorted(alive) == [False, True] and qkv[alive.index(True)].all()
    pruned = yoloprune.prune(sparse, imgsz=64, project=str(tmp_path), name="pruned", keep=keep)
    attention = pruned.model.model[5].m[0].attn
    assert (attention.num_heads, attention.key_dim, attention.head_dim) == (1, 32, 64)
    stock = ultralytics.YOLO(tmp_path / "pruned" / "weights" / "pruned.yaml").load(pruned.ckpt_path)
    x = noise(1, 3, 64, 64)
    with torch.no_grad():
        before, after, built = (m.model.float().eval()(x)[0] for m in (sparse, pruned, stock))
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-3)
    assert torch.equal(built, after)


@pytest.mark.long
def test_sparse_training_dies_along_native_widths(parent: Path, data: Path, tmp_path: Path) -> None:
    """`prune` without a budget follows the run: what died is said in YAML, and nothing else goes."""
    run = {**FAST, "epochs": 3, "data": str(data), "project": str(tmp_path), "optimizer": "SGD"}
    sparse = yoloprune.train_sparse(parent, **run, flops=0.7, native=True, name="sparse")
    pruned = yoloprune.prune(sparse, imgsz=64, project=str(tmp_path), name="pruned")
    assert (tmp_path / "pruned" / "weights" / "pruned.yaml").is_file()
    assert evaluation.gflops(pruned.model, 64) / evaluation.gflops(sparse.model, 64) == pytest.approx(0.7, abs=0.05)
    fresh = model_builder.rebuild(pruned.model, pruned.model.yaml)
    assert all(torch.equal(v, pruned.model.state_dict()[k]) for k, v in fresh.state_dict().items())


@pytest.mark.long
def test_what_native_widths_cannot_reach_is_free_unless_asked_for(parent: Path, tmp_path: Path) -> None:
    """A YAML says convolutions in steps of 8, at least 8 wide: 0.83 of the channels can go, but not 0.9."""
    far = {"ratio": 0.9, "round_to": 2, "min_width": 2, "max_ratio": 0.99, "imgsz": 64, "project": str(tmp_path)}
    with pytest.raises(yoloprune.PruneError, match="out of reach"):
        yoloprune.prune(parent, native=True, name="native", **far)
    assert saving.pruned_widths(yoloprune.prune(parent, name="free", **far))
    near = yoloprune.prune(parent, name="near", **{**far, "ratio": 0.5})
    assert saving.pruned_widths(near) == {}  # stock Ultralytics builds it


@pytest.mark.long
def test_sparse_training_remembers_that_widths_were_free(parent: Path, tmp_path: Path) -> None:
    """Else the cut after it, which has no budget to miss, would hold the dead to native widths and keep them."""
    limits = Limits(round_to=1, min_width=1, max_ratio=0.99)
    for ratio, native_widths in ((0.5, None), (0.9, False)):
        run = SimpleNamespace(
            model=saving.load(parent).model, args=SimpleNamespace(imgsz=64, freeze=None), resume=False
        )
        fading = SparseRun(SparseConfig(Budget(ratio=ratio), limits), run)
        assert fading.config.limits.native is native_widths


@pytest.mark.long
def test_a_free_plan_leaves_no_native_yaml_of_another_behind(parent: Path, tmp_path: Path) -> None:
    told = {"ratio": 0.3, "imgsz": 64, "project": str(tmp_path), "name": "run", "exist_ok": True}
    yoloprune.prune(parent, **told)
    assert (tmp_path / "run" / "weights" / "pruned.yaml").is_file()
    yoloprune.prune(parent, native=False, **told)
    assert not (tmp_path / "run" / "weights" / "pruned.yaml").exists()


def test_names_with_a_scale_are_not_given_to_the_yaml(parent: Path, tmp_path: Path) -> None:
    yolo = saving.load(parent)
    graph, stock = restricted(yolo.model)
    alive = cutting_alive(graph, 0)
    plan = graph.plan(alive)
    child = saving.with_model(yolo, cut_copy(yolo.model, plan))
    facts = saving.make_provenance(None, {})
    saving.save(child, tmp_path / "yolo11m-pruned.pt", plan=plan, provenance=facts, native=stock.describe(alive).yaml)
    assert (tmp_path / "pruned.yaml").is_file()
    assert not (tmp_path / "yolo11m-pruned.yaml").exists()
    (tmp_path / "mine.yaml").write_text("nc: 3")
    with pytest.raises(yoloprune.PruneError, match="is not overwritten"):
        saving.save(child, tmp_path / "mine.pt", plan=plan, provenance=facts, native=stock.describe(alive).yaml)
    assert (tmp_path / "mine.yaml").read_text() == "nc: 3"


@pytest.mark.long
def test_native_twice(parent: Path, tmp_path: Path) -> None:
    once = yoloprune.prune(parent, ratio=0.2, native=True, imgsz=64, project=str(tmp_path), name="once")
    twice = yoloprune.prune(once, ratio=0.2, native=True, imgsz=64, project=str(tmp_path), name="twice")
    told = saving.provenance(twice)
    assert told is not None
    assert [t["arguments"]["ratio"] for t in (*told["earlier"], told)] == [0.2, 0.2]
    assert (
        evaluation.gflops(twice.model, 64)
        < evaluation.gflops(once.model, 64)
        < evaluation.gflops(ultralytics.YOLO(parent).model, 64)
    )


@pytest.mark.long
def test_after_a_free_pruning_it_is_too_late(parent: Path, tmp_path: Path) -> None:
    free = yoloprune.prune(parent, ratio=0.2, native=False, imgsz=64, project=str(tmp_path), name="free")
    with pytest.raises(ModelError, match="pruned to free widths before"):
        yoloprune.prune(free, ratio=0.2, native=True, imgsz=64, project=str(tmp_path), name="native")
