"""What an Ultralytics model is: its parts, its widths, what it needs to be trained."""

from __future__ import annotations

from copy import deepcopy
from hashlib import sha256
from typing import Any, Protocol, cast

import torch
from torch import nn

from yoloprune.backend import compat
from yoloprune.errors import ModelError
from yoloprune.probing.computed_weights import require_plain_weights
from yoloprune.torch_internals import BatchNorm


class Network(Protocol):
    """What a network of Ultralytics has beside what every module has; torch takes all of it for tensors and modules.

    Attributes:
        model (nn.Sequential): Its layers, the head last.
        yaml (dict[str, Any]): The YAML that it was built from.
        save (list[int]): Layers whose output later ones read.
        names (dict[int, str] | list[str]): Its classes.
    """

    model: nn.Sequential
    yaml: dict[str, Any]
    save: list[int]
    names: dict[int, str] | list[str]
    args: Any
    criterion: Any
    nc: Any

    def fuse(self, *, verbose: bool) -> nn.Module: ...
    def info(self) -> Any: ...
    def is_fused(self) -> bool: ...
    def load(self, weights: nn.Module, *, verbose: bool = True) -> None: ...


NORMS = (BatchNorm, nn.GroupNorm, nn.LayerNorm)


def network(model: nn.Module) -> Network:
    """The same object with the types that it has as a network of Ultralytics."""
    return cast(Network, model)


def check_prunable(model: Any) -> None:
    """Raise ModelError unless this is an unfused Ultralytics model."""
    if not isinstance(model, compat.BaseModel) or not isinstance(getattr(model, "model", None), nn.Sequential):
        raise ModelError(f"Not an Ultralytics YOLO model. Received: {type(model).__name__}.")
    require_plain_weights(model)
    normed = any(isinstance(m, NORMS) for m in model.modules())
    if not normed and any(isinstance(m, compat.Conv) and not hasattr(m, "bn") for m in model.modules()):
        raise ModelError(
            "The model is fused: its batch-norm layers are folded into the convolutions and there is no gamma left. "
            "Use the checkpoint from before fuse()."
        )


def student(model: nn.Module) -> nn.Module:
    """The network that is trained, out of the wrappers for several GPUs, compilation and distillation."""
    model = compat.unwrap_model(model)
    return getattr(model, "student_model", model)


def own_yaml(model: nn.Module) -> None:
    """Give the network that is trained, and a wrapper with a teacher, a `yaml` that no other model shares.

    A fresh build shares it with the model that it is built for, i.e. the user's.
    """
    whole, inner = compat.unwrap_model(model), student(model)
    whole.yaml = inner.yaml = deepcopy(inner.yaml)


def is_untrained(model: nn.Module) -> bool:
    """Whether no batch-norm has moved from where a build puts it; False without any."""
    norms = [m for m in model.modules() if isinstance(m, BatchNorm) and m.affine]
    built = ((m.weight.detach(), m.bias.detach()) for m in norms)
    return bool(norms) and all(bool(((w == 0) | (w == 1)).all() and (b == 0).all()) for w, b in built)


def with_loss(yolo: Any) -> nn.Module:
    """A copy of the model on which `model(batch)` is Ultralytics' training loss, with its default weights.

    A copy, because the model keeps the criterion that it makes, and a checkpoint's arguments lack the weights.

    Raises:
        ModelError: If the loss needs prompts beside labels.
    """
    if is_prompted(yolo.model):
        raise ModelError("score=taylor: the loss of this model needs prompts beside labels. Use score=output.")
    model: nn.Module = deepcopy(yolo.model)
    theirs = network(model)
    theirs.args, theirs.criterion = compat.get_cfg(overrides={"task": yolo.task}), None
    theirs.nc = theirs.yaml.get("nc")  # which RT-DETR's loss asks for, and only Ultralytics' trainer attaches
    return model


def is_prompted(model: nn.Module) -> bool:
    """Whether the model is trained on prompts: YOLO-World and YOLOE."""
    return isinstance(model, compat.prompted_models())


def can_be_taught(model: nn.Module) -> bool:
    """Whether Ultralytics' distillation takes a model: it compares the inputs of a detection head."""
    return any(isinstance(m, compat.Detect) for m in model.modules())


def head_name(model: nn.Module) -> str:
    """Dotted name of the head, the last layer."""
    return f"model.{len(network(model).model) - 1}"


def stride(model: nn.Module) -> int:
    """Pixels per cell of the coarsest feature map, 32 at least."""
    told = getattr(model, "stride", None)
    return max(32, int(told.max())) if isinstance(told, torch.Tensor) else 32


def channels(model: nn.Module) -> int:
    """Number of input channels, 3 unless the model YAML says otherwise."""
    config = getattr(model, "yaml", {})
    return int(config.get("channels", config.get("ch", 3)))  # the key of Ultralytics up to 8.3.120


def parts(model: nn.Module) -> dict[str, list[str]]:
    """What `keep=backbone` and `keep=neck` stand for: names of layers."""
    theirs = network(model)
    n = len(theirs.yaml["backbone"])
    return {
        "backbone": [f"model.{i}" for i in range(n)],
        "neck": [f"model.{i}" for i in range(n, len(theirs.model) - 1)],
    }


def widths(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shapes of all weights outside the head, by name."""
    head = head_name(model)
    return {n: tuple(p.shape) for n, p in model.named_parameters() if not n.startswith(f"{head}.")}


def digest(model: nn.Module) -> str:
    """What tells the weights of a network from all others, be it in a file or live."""
    found = sha256()
    for name, value in model.state_dict().items():
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()
