"""With `builder`, the only file that touches names of Ultralytics which are not public API."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from math import ceil, sqrt
from pathlib import Path
from typing import Any

import torch
from torch import nn
from ultralytics.cfg import get_cfg
from ultralytics.nn import tasks
from ultralytics.nn.modules import Detect
from ultralytics.nn.tasks import BaseModel, WorldModel
from ultralytics.utils import LOGGER, RANK, colorstr
from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES, attempt_download_asset
from ultralytics.utils.torch_utils import get_flops, select_device

try:
    from ultralytics.utils.torch_utils import unwrap_model
except ImportError:  # before 8.3.212
    from ultralytics.utils.torch_utils import de_parallel as unwrap_model

from yoloprune import tracing
from yoloprune.errors import ModelError
from yoloprune.examples import Example, Probe
from yoloprune.groups import ChannelGraph
from yoloprune.surgery import has_width_attributes
from yoloprune.survey import survey


def trace_yolo(
    model: nn.Module, *, imgsz: int = 640, keep: Iterable[str] = (), probe: Probe | None = None
) -> ChannelGraph:
    """Trace an Ultralytics model: probe size from its stride, head frozen, FLOPs counted at `imgsz`.

    Args:
        model (nn.Module): An Ultralytics model (`YOLO(...).model`), unfused.
        imgsz (int): Image size for which FLOPs are counted.
        keep (Iterable[str]): Module names or shell patterns whose output channels stay; also "backbone" and "neck".
        probe (Probe | None): From `probe`, where there is one already.

    Returns:
        (ChannelGraph): See `tracing.trace`.

    Raises:
        ModelError: If the model is not an Ultralytics model, is fused, or does not run.
        ArgumentError: If a `keep` pattern matches nothing.
    """
    check_prunable(model)
    with _forgetting_the_last_size(model):
        found = _survey(model, imgsz) if probe is None else probe
        size = found.examples[0].inputs[0].shape[-1]
        return tracing.trace(
            model,
            found,
            frozen={head_name(model): f"{type(model.model[-1]).__name__} head"},
            keep=tracing.match(model, keep, parts(model)),
            sized=has_width_attributes,
            outputs=True,  # the neck's features are among the outputs, and follow the head's input side
            area=(imgsz / size) ** 2,
            handing_on=[f"model.{i}" for i in range(len(model.model))],
        )


def probe(model: nn.Module, imgsz: int = 640) -> Probe:
    """Examples that stand for an Ultralytics model at an image size, for one image and for two: see `survey`.

    Raises:
        ModelError: If the model is not an Ultralytics model, is fused, or does not run.
    """
    check_prunable(model)
    with _forgetting_the_last_size(model):
        return _survey(model, imgsz)


def _survey(model: nn.Module, imgsz: int) -> Probe:
    def images(size: int, batch: int) -> Example:
        title = f"{'an image' if batch == 1 else f'{batch} images'} of {size} pixels"
        return Example((example(model, batch, size),), title)

    smallest = example(model).shape[-1]
    asked = max(smallest, ceil(imgsz / stride(model)) * stride(model))  # Ultralytics makes it a multiple as well
    prompts = Example(images(smallest, 2).inputs, "a visual prompt", visual_prompts)
    return survey(model, images, smallest, asked, (prompts,) if hasattr(model.model[-1], "savpe") else ())


@contextlib.contextmanager
def _forgetting_the_last_size(model: nn.Module) -> Iterator[None]:
    """Without the size of the last image that a head has seen: comparing with it would count as a use of widths."""
    head = model.model[-1]
    remembered = vars(head).pop("shape", None)
    try:
        yield
    finally:
        if remembered is not None:
            head.shape = remembered


def visual_prompts(model: nn.Module, image: torch.Tensor) -> torch.Tensor:
    """Embedding of one visual prompt, the middle of the image, by YOLOE: shape (B, 1, D)."""
    side = image.shape[-1] // 8  # the prompt is a mask on the finest feature map
    mask = image.new_zeros(len(image), 1, side, side)
    mask[..., side // 4 : -side // 4, side // 4 : -side // 4] = 1
    return model(image, vpe=mask, return_vpe=True)  # `get_visual_pe` without its inference mode


def check_prunable(model: Any) -> None:
    """Raise ModelError unless this is an unfused Ultralytics model."""
    if not isinstance(model, BaseModel) or not isinstance(getattr(model, "model", None), nn.Sequential):
        raise ModelError(f"Not an Ultralytics YOLO model. Received: {type(model).__name__}.")
    if not any(isinstance(m, nn.BatchNorm2d) for m in model.modules()):
        raise ModelError(
            "The model is fused: its batch-norm layers are folded into the convolutions and there is no gamma left. "
            "Use the checkpoint from before fuse()."
        )


def student(model: nn.Module) -> nn.Module:
    """The network that is trained, out of the wrappers for several GPUs, compilation and distillation."""
    model = unwrap_model(model)
    return getattr(model, "student_model", model)


def own_yaml(model: nn.Module) -> None:
    """Give the network that is trained, and a wrapper with a teacher, a `yaml` that no other model shares.

    A fresh build shares it with the model that it is built for, i.e. the user's.
    """
    whole, inner = unwrap_model(model), student(model)
    whole.yaml = inner.yaml = deepcopy(inner.yaml)


def is_main_process() -> bool:
    """Whether this process logs and saves."""
    return RANK in {-1, 0}


def log(prefix: str, message: str) -> None:
    """Log as Ultralytics does, with a coloured prefix."""
    LOGGER.info(f"{colorstr(prefix)}{message}")


def warn(message: str) -> None:
    """Warn as Ultralytics does."""
    LOGGER.warning(message)


def official_name(name: str) -> str | None:
    """File of the official checkpoint that a bare name stands for ("yolov8n", "yolo11s.pt"), None for any other."""
    file = name if name.endswith(".pt") else f"{name}.pt"
    return file if Path(file).name == file and file in GITHUB_ASSETS_NAMES else None


def fetch(name: str) -> str:
    """Let Ultralytics find an official checkpoint among its weights, or download it, because the user named it.

    Returns:
        (str): Where it is.

    Raises:
        ModelError: If it cannot be fetched.
    """
    log("model: ", f"{name} is not here; Ultralytics looks among its weights or downloads it")
    try:
        return str(attempt_download_asset(name))
    except Exception as e:  # half a dozen libraries below may raise
        reason = (str(e).strip() or type(e).__name__).splitlines()[0]
        raise ModelError(f"{name} is not here and could not be downloaded: {reason}") from e


def with_loss(yolo: Any) -> nn.Module:
    """A copy of the model on which `model(batch)` is Ultralytics' training loss, with its default weights.

    A copy, because the model keeps the criterion that it makes, and a checkpoint's arguments lack the weights.

    Raises:
        ModelError: If the loss needs prompts beside labels.
    """
    if is_prompted(yolo.model):
        raise ModelError("score=taylor: the loss of this model needs prompts beside labels. Use score=activation.")
    model = deepcopy(yolo.model)
    model.args, model.criterion = get_cfg(overrides={"task": yolo.task}), None
    model.nc = model.yaml.get("nc")  # which RT-DETR's loss asks for, and only Ultralytics' trainer attaches
    return model


def is_prompted(model: nn.Module) -> bool:
    """Whether the model is trained on prompts: YOLO-World and YOLOE."""
    return isinstance(model, (WorldModel, getattr(tasks, "YOLOEModel", WorldModel)))  # early 8.3 has no YOLOE


def can_be_taught(model: nn.Module) -> bool:
    """Whether Ultralytics' distillation takes a model: it compares the inputs of a detection head."""
    return any(isinstance(m, Detect) for m in model.modules())


def head_name(model: nn.Module) -> str:
    """Dotted name of the head, the last layer."""
    return f"model.{len(model.model) - 1}"


def example(model: nn.Module, batch: int = 1, size: int | None = None) -> torch.Tensor:
    """Seeded noise, square images of a size, shape (batch, C, S, S).

    Without a size it is a small one, on which most models do what they do on any: the coarsest feature map has at least
    2x2 cells, and a decoder that selects queries has enough to select from.
    """
    coarsest, weight = stride(model), next(model.parameters())
    queries = getattr(model.model[-1], "num_queries", 0)
    per_cell = sum(4**level for level in range(getattr(model.model[-1], "nl", 1)))
    size = size or coarsest * max(2, ceil(sqrt(queries / per_cell)))
    noise = torch.rand(batch, channels(model), size, size, generator=torch.Generator().manual_seed(0))
    return noise.to(weight.device, weight.dtype)


def stride(model: nn.Module) -> int:
    """Pixels per cell of the coarsest feature map, 32 at least."""
    told = getattr(model, "stride", None)
    return max(32, int(told.max())) if isinstance(told, torch.Tensor) else 32


def channels(model: nn.Module) -> int:
    """Number of input channels, 3 unless the model YAML says otherwise."""
    return int(getattr(model, "yaml", {}).get("channels", 3))


def parts(model: nn.Module) -> dict[str, list[str]]:
    """What `keep=backbone` and `keep=neck` stand for: names of layers."""
    n = len(model.yaml["backbone"])
    return {
        "backbone": [f"model.{i}" for i in range(n)],
        "neck": [f"model.{i}" for i in range(n, len(model.model) - 1)],
    }


def gflops(model: nn.Module, imgsz: int) -> float:
    """GFLOPs as Ultralytics prints them."""
    return float(get_flops(model, imgsz))


def widths(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shapes of all weights outside the head, by name."""
    head = head_name(model)
    return {n: tuple(p.shape) for n, p in model.named_parameters() if not n.startswith(f"{head}.")}


def fused_copy(model: nn.Module) -> nn.Module:
    """The model as it runs in deployment, batch-norm folded; the original stays."""
    return deepcopy(model).float().eval().fuse(verbose=False)


def device(name: Any) -> torch.device:
    """Device from Ultralytics' `device=` argument."""
    return select_device("" if name is None else name, verbose=False)


def validate(yolo: Any, arguments: Mapping[str, Any]) -> None:
    """Run Ultralytics' validation with its own defaults for what is not given."""
    yolo.val(**{"plots": False, **arguments})


def metrics(yolo: Any) -> dict[str, float]:
    """Figures of the last validation, named as the field does: mAP50, mAP50-95, with the branch where there are two."""
    results = getattr(yolo.metrics, "results_dict", yolo.metrics) or {}
    short = {}
    for key, value in results.items():
        name, _, branch = key.removeprefix("metrics/").partition("(")
        if name.startswith(("mAP", "accuracy", "mIoU", "delta")) or "IoU" in name:
            short[name + (f"({branch}" if branch not in {"", "B)"} else "")] = round(float(value), 5)
    return short
