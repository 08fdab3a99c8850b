"""Sparse training on several devices: the way to the workers, and two processes that must agree."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sparse_loop import FREE, Loop, norms, tiny, zeros
from torch import distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils import dist

from yoloprune import YOLO, Budget, SparseConfig, SparseTraining
from yoloprune.backend import model_facts
from yoloprune.checkpoint.trainers import DetectionTrainer

pytestmark = pytest.mark.slow

CONFIG = SparseConfig(Budget(flops=0.8), FREE)

WORKER = """
import sys
sys.path[:0] = {path!r}
from pathlib import Path
from ultralytics.utils.patches import torch_load
state = torch_load(sys.argv[1], map_location="cpu")
from sparse_loop import Loop, zeros
names = ("on_train_start", "on_train_epoch_start", "on_train_batch_start", "on_train_epoch_end", "on_fit_epoch_end")
owners = [getattr(f, "__self__", None) for name in names for f in state["callbacks"][name]]
owners = [o for o in owners if type(o).__name__ == "SparseTraining"]
assert len(owners) == 5
assert len(set(map(id, owners))) == 1, "every event has a copy of its own"
assert state["trainer"].__name__ == "DetectionTrainer"
assert state["args"]["imgsz"] == 32
loop = Loop(owners[0], Path(sys.argv[2]), state["model"]).run()
assert loop.sparse.met and zeros(loop.model)
print("flops", loop.sparse.history[-1]["flops"])
"""


@pytest.mark.long
@pytest.mark.parametrize("started", [False, True], ids=["fresh", "after a run in this process"])
def test_the_callback_travels_to_the_workers(started: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written by Ultralytics' own code for workers, loaded in a fresh process, where it trains to the target."""
    pytest.importorskip("cloudpickle", reason="Ultralytics needs it for training on several devices")
    monkeypatch.setattr(dist, "USER_CONFIG_DIR", tmp_path)
    sparse = SparseTraining(CONFIG)
    if started:
        loop = Loop(sparse, tmp_path).run()
        loop.lock = threading.Lock()  # type: ignore[attr-defined]  # as a trainer's loaders: no way to pickle it
    yolo = YOLO("yolov8n.yaml")
    sparse.attach(yolo)
    trainer: Any = DetectionTrainer.__new__(DetectionTrainer)  # its constructor wants data and devices
    trainer.args = SimpleNamespace(imgsz=32, model="yolov8n.pt")
    trainer.model, trainer.callbacks = tiny(), yolo.callbacks
    file = Path(dist.generate_ddp_file(trainer))
    code = WORKER.format(path=[str(Path(__file__).parents[1]), str(Path(model_facts.__file__).parents[1])])
    command = [sys.executable, "-c", code, str(file.with_suffix(".pt")), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert abs(float(done.stdout.split("flops ")[-1].split()[0]) - 0.8) <= 0.01


class Rank(Loop):
    """One of two processes: images of its own, gradients averaged by DistributedDataParallel."""

    def __init__(self, rank: int, folder: Path, **changed: Any) -> None:
        super().__init__(SparseTraining(CONFIG), folder, DistributedDataParallel(tiny()), **changed)
        self.image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(rank))


def _work(rank: int, folder: Path, clock: bool) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1")
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    (folder / str(rank)).mkdir()
    loop = Rank(rank, folder / str(rank), epochs=4, time=1.0 if clock else None)
    if clock:  # rank 1 is always ten minutes late, so the shares of the two clocks differ by a sixth of the run
        now = [0.0]
        from yoloprune.backend import training_ramp

        training_ramp.time = SimpleNamespace(time=lambda: now[0])
        loop.train_time_start = 0.0
        hook = loop.sparse.on_train_batch_start

        def tick(trainer: Any) -> None:
            now[0] = 3600 * (loop.epoch / 4 + 0.05) + 600 * rank
            hook(trainer)

        loop.sparse.on_train_batch_start = tick  # type: ignore[method-assign]
    loop.run()
    torch.save({"model": model_facts.student(loop.model).state_dict(), "image": loop.image}, folder / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.long
@pytest.mark.parametrize("clock", [False, True], ids=["by epochs", "by the clock"])
def test_two_ranks_end_with_the_same_scales(clock: bool, tmp_path: Path) -> None:
    """Each sees other images; what they share are gradients (and, with time=, the clock of rank 0)."""
    multiprocessing.spawn(_work, (tmp_path, clock), nprocs=2)
    one, two = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert not torch.equal(one["image"], two["image"])
    models = []
    for state in (one, two):
        model: DetectionModel = tiny()
        model.load_state_dict(state["model"])
        models.append(model)
    assert zeros(models[0])
    for (name, a), b in zip(norms(models[0]).items(), norms(models[1]).values(), strict=True):
        assert torch.equal(a.weight, b.weight), name
