"""Training that keeps a pruned shape: Ultralytics' own trainers with one method overridden.

Ultralytics builds the network to train from `model.yaml`. Of a native plan that is the pruned network, and stock
trainers will do. Of a free plan, of a network that somebody changed or that an older release built, it is another. So
these trainers compare the two, and where they differ train a copy of the network itself. Everything else (class names,
EMA, resume, multi-GPU) stays in Ultralytics' hands. For stock trainers the first module's name in `model.yaml` is
replaced by a sentence: the text of the error they stop with.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import ultralytics
from torch import nn
from ultralytics.models import yolo
from ultralytics.models.rtdetr import train as rtdetr

from yoloprune.backend import console, model_facts, own_network, yaml_markers
from yoloprune.checkpoint import held_masks, rebuild
from yoloprune.checkpoint.held_masks import HoldsMasks
from yoloprune.checkpoint.trainer_files import WholeFiles
from yoloprune.errors import ModelError, PlanError


@runtime_checkable
class SparseDriver(Protocol):
    """What drives a sparse training from a trainer's callbacks, as far as building the network must know it."""

    def keeps_the_dead(self) -> bool:
        """Whether channels that died stay dead in the training that it drives."""


def driver_of(trainer: Any) -> SparseDriver | None:
    """The sparse training that a trainer is driven by, None if it is driven by none."""
    owners = [getattr(f, "__self__", None) for f in getattr(trainer, "callbacks", {}).get("on_train_start", [])]
    return next((owner for owner in owners if isinstance(owner, SparseDriver)), None)


class KeepsWidths(HoldsMasks, WholeFiles):
    """Mixin for Ultralytics trainers: the network that is trained is the one in the checkpoint, with its masks."""

    args: Any
    data: Any
    resume: Any

    def get_model(self, cfg: Any = None, weights: nn.Module | None = None, verbose: bool = True) -> nn.Module:
        """Build the network to train through the stock trainer, or take the checkpoint's own where that is another.

        Args:
            cfg (str | dict | None): Model YAML.
            weights (nn.Module | None): Model whose weights are loaded.
            verbose (bool): Whether to print the model summary.

        Returns:
            (nn.Module): The network, all of it trainable.

        Raises:
            ModelError: If sparse training left dead channels that are not cut yet, and this is another training.
            PlanError: If anything but the pruned network would be trained.
        """
        if isinstance(cfg, Mapping) and yaml_markers.STATE_KEY in cfg:
            if driver_of(self) is None:
                raise ModelError(yaml_markers.STOP_SPARSE)
            cfg = yaml_markers.opened(cfg)
        if (later := yaml_markers.later(cfg)) is not None:
            raise PlanError(later)
        entry = yaml_markers.entry_of(cfg)
        own = self._own(cfg, weights)
        self._tell_of_new_classes(weights)
        if own is None and entry and not entry.get("native"):
            raise PlanError("The widths of a free plan are in its checkpoint only. Give the .pt file as model=.")
        why = None if own is None else own_network.difference(own)
        if own is None or why is None:
            built = yaml_markers.true_yaml(cfg) if entry else cfg
            model: nn.Module = super().get_model(cfg=built, weights=weights, verbose=verbose)
            if entry:
                yaml_markers.mark(model, entry)
            if weights is not None and (own is weights or yaml_markers.entry_of(weights)):
                rebuild.require_same_shape(model, weights)
            held_masks.settle(model, weights)
            return model
        model = self._as_it_is(own, weights)
        if console.is_main_process():
            console.log("prune: ", f"the network of the checkpoint is trained as it is: {why}")
            if verbose:
                model_facts.network(model).info()
        return model

    def _tell_of_new_classes(self, weights: nn.Module | None) -> None:
        """Say that the class layers begin anew where the data has another number of classes than the weights."""
        nc, had = self.data.get("nc"), None if weights is None else model_facts.network(weights).yaml.get("nc")
        if nc is None or had is None or nc == had or not console.is_main_process():
            return
        said = f"data= has {nc} class{'' if nc == 1 else 'es'}, the model {had}: the class layers begin anew"
        if getattr(self.args, "cls_remap", False) and hasattr(self, "set_model_names_for_load"):
            known, there = (_plain_names(names) for names in (getattr(weights, "names", None), self.data.get("names")))
            if there and there <= known:
                return
            said += " but for those of the same name" if there & known else ""
        console.log("train: ", said)

    def _own(self, cfg: Any, weights: nn.Module | None) -> nn.Module | None:
        """The network that the model to be trained is, None where there is but a YAML."""
        foreign = isinstance(self.args.pretrained, (str, Path)) and not self.resume
        if weights is not None and not foreign:
            return weights if cfg is None or (isinstance(cfg, Mapping) and not _other(cfg, weights)) else None
        file = Path(str(getattr(self.args, "model", None) or ""))
        if file.suffix != ".pt" or not file.is_file():
            return None
        own: nn.Module = ultralytics.YOLO(file).model
        return own

    def _as_it_is(self, own: nn.Module, weights: nn.Module | None) -> nn.Module:
        """A copy of the checkpoint's network for this data set, with the weights that the training begins with."""
        if model_facts.network(own).is_fused():
            raise PlanError("These weights are fused for inference and cannot be trained. Load the checkpoint again.")
        points, there = model_facts.network(own).yaml.get("kpt_shape"), self.data.get("kpt_shape")
        if points and there and list(points) != list(there):
            raise ModelError(f"data: its kpt_shape is {there}, the model's {points}. Train the parent on it.")
        model = own_network.to_train(own, self.data.get("nc"), self.data.get("channels", 3), fresh=weights is None)
        theirs = model_facts.network(model)
        theirs.yaml = yaml_markers.opened(theirs.yaml)
        if yaml_markers.entry_of(model) is None:
            yaml_markers.mark(model, yaml_markers.OWN)
        if hasattr(self, "set_model_names_for_load"):
            self.set_model_names_for_load(model)
        if weights is not None:
            rebuild.require_same_shape(model, weights)
            theirs.load(weights, verbose=False)
        for module in model.modules():
            if isinstance(module, nn.Dropout) and getattr(self.args, "dropout", None):
                module.p = self.args.dropout  # as Ultralytics sets it in a classifier
        held_masks.settle(model, own)
        return model


def _plain_names(names: Any) -> set[str]:
    """Names of classes as Ultralytics compares them; none where they are but numbers."""
    found = dict(names if isinstance(names, Mapping) else enumerate(names or ()))
    return (
        set() if all(str(k) == str(v) for k, v in found.items()) else {str(v).strip().lower() for v in found.values()}
    )


def _other(cfg: Mapping[str, Any], weights: nn.Module) -> bool:
    """Whether a YAML is of another model than the weights: others are loaded into what it builds."""
    theirs = model_facts.network(weights).yaml
    return any(cfg.get(key) != theirs.get(key) for key in ("head", yaml_markers.KEY))


class DetectionTrainer(KeepsWidths, yolo.detect.DetectionTrainer):
    """Ultralytics' detection trainer that keeps pruned widths."""


class SegmentationTrainer(KeepsWidths, yolo.segment.SegmentationTrainer):
    """Ultralytics' instance segmentation trainer that keeps pruned widths."""


class PoseTrainer(KeepsWidths, yolo.pose.PoseTrainer):
    """Ultralytics' pose trainer that keeps pruned widths."""


class OBBTrainer(KeepsWidths, yolo.obb.OBBTrainer):
    """Ultralytics' trainer for oriented boxes that keeps pruned widths."""


class ClassificationTrainer(KeepsWidths, yolo.classify.ClassificationTrainer):
    """Ultralytics' classification trainer that keeps pruned widths."""


class RTDETRTrainer(KeepsWidths, rtdetr.RTDETRTrainer):
    """Ultralytics' trainer of RT-DETR that keeps pruned widths."""


TRAINERS: dict[str, type] = {
    "detect": DetectionTrainer,
    "segment": SegmentationTrainer,
    "pose": PoseTrainer,
    "obb": OBBTrainer,
    "classify": ClassificationTrainer,
}
"""By task. Classes of this module and not made on the fly: multi-GPU workers import them by name."""

if hasattr(yolo, "semantic"):  # Ultralytics 8.4

    class SemanticSegmentationTrainer(KeepsWidths, yolo.semantic.SemanticSegmentationTrainer):
        """Ultralytics' semantic segmentation trainer that keeps pruned widths."""

    TRAINERS["semantic"] = SemanticSegmentationTrainer

if hasattr(yolo, "depth"):  # Ultralytics 8.4

    class DepthTrainer(KeepsWidths, yolo.depth.DepthTrainer):
        """Ultralytics' depth trainer that keeps pruned widths."""

    TRAINERS["depth"] = DepthTrainer
