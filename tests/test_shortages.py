"""Memory that ran out, and a call that Ultralytics does not take, say nothing about a network or a data set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import ultralytics
from conftest import cut_copy, cutting_plan
from torch import Tensor, nn
from ultralytics.data import utils as host_data
from ultralytics.data.base import BaseDataset
from ultralytics.nn import tasks
from ultralytics.nn.modules.block import SPPF

import yoloprune
from yoloprune import cli
from yoloprune.backend import calibration_images, datasets
from yoloprune.commands.demo_images import make_shapes
from yoloprune.cutting.proof import prove, require_run
from yoloprune.errors import DataError, ModelError, VerifyError
from yoloprune.native import block_calls, yaml_rows
from yoloprune.native.candidates import Channels
from yoloprune.planning.plan import Plan
from yoloprune.probing.examples import Example, modes
from yoloprune.probing.outputs import leaves
from yoloprune.probing.survey import survey
from yoloprune.settings.budget import Limits
from yoloprune.torch_internals import is_out_of_memory, schema_of
from yoloprune.tracing.operation import Call
from yoloprune.tracing.trace_network import trace
from yoloprune.tracing.tracer import Tracer
from yoloprune.tracing.zero_at_zero import zero_at_zero

CPU = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"
)
SHORTAGES = [
    MemoryError("out of memory"),
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
    RuntimeError(CPU),
]
X = torch.rand(1, 3, 16, 16)
shortages = pytest.mark.parametrize("error", SHORTAGES, ids=lambda e: type(e).__name__)


class Hungry(nn.Module):
    """Raises an error for some of its inputs, in some of its modes."""

    def __init__(self, error: Exception, when: Callable[[Hungry, Tensor], bool]) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(3, 32, 1), nn.BatchNorm2d(32), nn.Conv2d(32, 8, 1)
        self.error, self.when = error, when

    def forward(self, x: Tensor) -> Tensor:
        if self.when(self, x):
            raise self.error
        return self.b(self.norm(self.a(x)))


def in_training(network: Hungry, _: Tensor) -> bool:
    return network.training


# Memory ---------------------------------------------------------------------------------------------------------------
@shortages
def test_a_shortage_is_known(error: Exception) -> None:
    assert is_out_of_memory(error)
    wrapped = ValueError("the layer failed")
    wrapped.__cause__ = error
    assert is_out_of_memory(wrapped)
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("out of memory"))  # words alone do not make one
    assert not is_out_of_memory(None)


def test_the_shortage_of_this_torch_is_known() -> None:
    with pytest.raises(RuntimeError) as e:
        torch.empty(1 << 50)
    assert is_out_of_memory(e.value)


@shortages
def test_a_branch_that_runs_out_of_memory_is_not_a_branch_that_is_not_there(error: Exception) -> None:
    model = Hungry(error, in_training).eval()
    with pytest.raises(type(error), match="memory"):
        modes(model, Example((X,)))
    with pytest.raises(type(error), match="memory"):
        yoloprune.prune_module(model, X, yoloprune.Budget(ratio=0.5))
    assert modes(Hungry(ValueError("wants targets"), in_training), Example((X,))) == (False,)


@shortages
@pytest.mark.parametrize("side", [16, 32])
def test_an_image_that_takes_too_much_memory_is_not_too_small_a_one(error: Exception, side: int) -> None:
    def make(size: int, batch: int) -> Example:
        return Example((torch.rand(batch, 3, size, size),))

    with pytest.raises(type(error), match="memory"):
        survey(Hungry(error, lambda _, x: x.shape[-1] == side).eval(), make, 16, 32)
    with pytest.raises(type(error), match="memory"):
        survey(Hungry(error, lambda network, x: network.training and x.shape[-1] == side).eval(), make, 16, 32)


@shortages
def test_no_memory_for_the_proof_is_no_difference(error: Exception) -> None:
    hungry = Hungry(error, lambda *_: True).eval()
    fine = Hungry(error, lambda *_: False).eval()
    with pytest.raises(type(error), match="memory"):
        require_run(hungry, Example((X,)))
    with pytest.raises(type(error), match="memory"):
        prove(fine, hungry, Plan({}), X)
    fine.norm.weight.data.zero_()  # only the copy that is brought to life has other values
    fine.when = lambda network, _: bool(network.norm.weight.any())
    with pytest.raises(type(error), match="memory"):
        prove(fine, fine, Plan({}), X)


@shortages
def test_no_memory_for_an_output_does_not_make_it_opaque(error: Exception) -> None:
    class Lazy:
        def __iter__(self) -> Iterator[Tensor]:
            raise error

        def __len__(self) -> int:
            return 1

    with pytest.raises(type(error), match="memory"):
        leaves([Lazy()])


class Faint(Hungry):
    """Gives zeros as well, whatever comes in."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = super().forward(x)
        return y, y * 0.0 * y.mean()


@shortages
def test_no_memory_for_a_louder_example_is_no_example_that_the_network_does_not_take(error: Exception) -> None:
    faint = Faint(error, lambda _, x: bool(x.abs().max() > 4)).eval()
    plan = cutting_plan(trace(faint, X), 0)
    with pytest.raises(type(error), match="memory"):
        prove(faint, cut_copy(faint, plan), plan, X)
    faint.error = ValueError("too bright")
    with pytest.raises(VerifyError, match="zero, empty, not a number"):  # all else is about the example
        prove(faint, cut_copy(faint, plan), plan, X)


@shortages
def test_no_memory_to_watch_a_block_is_no_block_that_rows_cannot_say(error: Exception) -> None:
    with pytest.raises(type(error), match="memory"):
        block_calls.watch(Hungry(error, lambda *_: True), 3)
    assert block_calls.watch(Hungry(ValueError("too small"), lambda *_: True), 3) is None


@shortages
def test_no_memory_to_try_an_operation_on_a_zero_does_not_make_its_result_zero(error: Exception) -> None:
    class Starved:
        _schema = schema_of(torch.ops.aten.remainder.Tensor)

        def __call__(self, a: Tensor, b: Tensor) -> Tensor:
            if not b.any():
                raise error
            return a * 0

    whole = torch.ones(1, dtype=torch.int64)
    with pytest.raises(type(error), match="memory"):
        zero_at_zero(Call(Tracer(nn.Module(), {}, []), Starved(), (whole, whole + 1), {}, whole))


@shortages
def test_no_memory_for_many_numbers_does_not_make_them_few(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Any) -> None:
        raise error

    monkeypatch.setattr("yoloprune.probing.outputs.torch.tensor", refuse)
    with pytest.raises(type(error), match="memory"):
        leaves([*range(10_000)])


@shortages
def test_the_command_line_tells_a_shortage_in_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def dispatch(_: Any) -> None:
        raise error

    monkeypatch.setattr(cli, "_dispatch", dispatch)
    assert cli.main(["prune", "model=a.pt", "flops=0.5"]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "memory" in said and "smaller imgsz= or batch=" in said


# A changed Ultralytics ------------------------------------------------------------------------------------------------
ROW, CONFIG = yaml_rows.Row(0, (-1,), False, 1, "SPPF", (8, 5)), {"nc": 3, "backbone": [], "head": []}


def replaced_init(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def __init__(self: nn.Module, *_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(SPPF, "__init__", __init__)


@pytest.mark.parametrize("error", [AssertionError("no"), ZeroDivisionError(), KeyError("k"), TypeError("a str")])
def test_what_a_constructor_raises_is_a_refusal(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    assert yaml_rows.build(ROW, [8], CONFIG) is not None
    replaced_init(monkeypatch, error)
    assert yaml_rows.build(ROW, [8], CONFIG) is None


def test_arguments_that_a_constructor_has_no_parameters_for_are_a_refusal() -> None:
    assert yaml_rows.build(yaml_rows.Row(0, (-1,), False, 1, "SPPF", (8, *range(20))), [8], CONFIG) is None


@shortages
def test_no_memory_for_a_layer_is_no_refusal(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    replaced_init(monkeypatch, error)
    with pytest.raises(type(error), match="memory"):
        yaml_rows.build(ROW, [8], CONFIG)


@pytest.mark.parametrize(
    "changed",
    [
        lambda config, ch, verbose=True: config["scales"],  # a key more in the YAML
        lambda config, ch: None,  # a parameter less
        lambda config, *, channels, verbose=True: None,  # another name
    ],
)
@pytest.mark.slow
def test_a_changed_builder_is_told(changed: Any, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ultralytics.YOLO(tiny).model
    assert Channels(model, Limits(), 64).native is not None
    monkeypatch.setattr(tasks, "parse_model", changed)
    with pytest.raises((KeyError, TypeError), match=r"scales|<lambda>"):  # and no free widths instead
        Channels(model, Limits(), 64)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_shapes(tmp_path / "data", train=4, val=4, imgsz=64)


def test_a_changed_check_of_data_sets_is_no_wrong_data_set(
    data: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    yolo = ultralytics.YOLO(tiny)
    yolo.overrides["data"] = str(data)
    monkeypatch.setattr(host_data, "check_det_dataset", lambda dataset, download: {})
    for use in (datasets.check, lambda d: datasets.class_count(yolo, d), lambda _: datasets.own(yolo)):
        with pytest.raises(TypeError, match="autodownload"):
            use(data)


@shortages
def test_no_memory_for_a_data_set_is_no_wrong_data_set(
    error: Exception, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Any) -> None:
        raise error

    monkeypatch.setattr(host_data, "check_class_names", refuse)
    with pytest.raises(type(error), match="memory"):
        datasets.check(data)
    monkeypatch.setattr(host_data, "check_class_names", lambda _: {}[0])
    with pytest.raises(DataError, match=r"data=.*: 0$"):  # all else that is found there is about the data
        datasets.check(data)


def test_a_changed_reader_of_images_does_not_make_them_unreadable(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BaseDataset, "load_image", lambda self, i, rect_mode, /, *, mode: None)
    with pytest.raises(TypeError, match="rect_mode"):
        calibration_images.batches(data, 64)


def test_a_network_that_does_not_run_is_told_as_before() -> None:
    with pytest.raises(ModelError, match=r"does not run on an input of shape"):
        yoloprune.prune_module(Hungry(ValueError("no"), lambda *_: True), X, yoloprune.Budget(ratio=0.5))
