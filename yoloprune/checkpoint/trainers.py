"""Training that keeps a pruned shape: Ultralytics' own trainers with one method overridden.

Ultralytics builds the network to train from `model.yaml`. Of a native plan that is the pruned network, and stock
trainers will do. Of a free plan it describes the parent. So such a model carries in
`model.yaml["yoloprune"]` what its true YAML lacks, and these trainers cut the fresh build to it before weights are
loaded. Everything else (class names, number of classes, EMA, resume, multi-GPU) stays in Ultralytics' hands. For stock
trainers the first module's name in `model.yaml` is replaced by a sentence: the text of the error they stop with.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import ultralytics
from torch import nn
from ultralytics.models import yolo

from yoloprune.backend import console, model_builder, model_facts, yaml_markers
from yoloprune.backend.model_facts import network
from yoloprune.checkpoint import rebuild
from yoloprune.checkpoint.trainer_files import WholeFiles
from yoloprune.errors import ModelError


@runtime_checkable
class SparseDriver(Protocol):
    """What drives a sparse training from a trainer's callbacks, as far as building the network must know it."""

    def keeps_the_dead(self) -> bool:
        """Whether channels that died stay dead in the training that it drives."""


def driver_of(trainer: Any) -> SparseDriver | None:
    """The sparse training that a trainer is driven by, None if it is driven by none."""
    owners = [getattr(f, "__self__", None) for f in getattr(trainer, "callbacks", {}).get("on_train_start", [])]
    return next((owner for owner in owners if isinstance(owner, SparseDriver)), None)


class KeepsWidths(WholeFiles):
    """Mixin for Ultralytics trainers: the network that is built has the widths that `model.yaml` promises."""

    def get_model(self, cfg: Any = None, weights: nn.Module | None = None, verbose: bool = True) -> nn.Module:
        """Build the network to train through the stock trainer, at its pruned widths if it was pruned.

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
        if (entry := yaml_markers.entry_of(cfg)) is None:
            # A copy, because Ultralytics writes the number of channels of the data into what may be the weights' YAML
            model = super().get_model(cfg=deepcopy(cfg), weights=weights, verbose=verbose)
            if weights is not None and (
                yaml_markers.entry_of(weights)
                or (cfg is not None and cfg is getattr(weights, "yaml", None) and not network(weights).is_fused())
            ):  # pruned weights in another network, or a model cut but not saved
                rebuild.require_same_shape(model, weights)
            return model
        model = super().get_model(cfg=yaml_markers.true_yaml(cfg), weights=None, verbose=False)
        rebuild.reshape(model, entry)
        yaml_markers.mark(model, entry)
        if weights is not None:
            rebuild.require_same_shape(model, weights)
            network(model).load(weights)
        if console.is_main_process():
            how = f"{len(entry['widths'])} layers" if entry["widths"] else "its YAML says them"
            console.log("prune: ", f"rebuilt at the pruned widths ({how})")
            if verbose:
                network(model).info()
        return model


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


class YOLO(ultralytics.YOLO):
    """`ultralytics.YOLO` whose training keeps the widths of a pruned model; all else is Ultralytics'.

    YOLO-World, YOLOE and RT-DETR models become the stock classes, as Ultralytics does; pruned ones refuse to train.
    """

    @property
    def task_map(self) -> dict[str, dict[str, Any]]:
        """Map task to model, trainer, validator and predictor classes; the trainers are those of this module."""
        return {t: {**s, "trainer": TRAINERS.get(t, s["trainer"])} for t, s in super().task_map.items()}

    def train(self, trainer: Any = None, **kwargs: Any) -> Any:
        """Train as Ultralytics does, at the pruned widths if the model was pruned; see `ultralytics.YOLO.train`.

        Raises:
            ModelError: If sparse training left dead channels that are not cut yet, and this is another training.
            PlanError: If other widths would be trained, or weights of other widths be mixed in.
        """
        if yaml_markers.STATE_KEY in getattr(self.model, "yaml", {}) and driver_of(self) is None:
            raise ModelError(yaml_markers.STOP_SPARSE)
        if isinstance(kwargs.get("pretrained"), (str, Path)) and not kwargs.get("resume"):
            self._require_fitting(kwargs["pretrained"])  # before there is a folder
        if yaml_markers.entry_of(self) is not None:
            # Naming the trainer keeps a list of data sets in this process, else each is left to a stock command line;
            # without a checkpoint Ultralytics would build anew from the YAML file that the model came from.
            trainer, self.ckpt = trainer or self._smart_load("trainer"), self.ckpt or {"model": self.model}
        elif not self.ckpt and isinstance(self.model, nn.Module) and not network(self.model).is_fused():
            # Ultralytics builds anew from the YAML file; a model that was cut in memory would grow back.
            config = yaml_markers.true_yaml(network(self.model).yaml)
            built = model_builder.build(type(self.model), config, model_facts.channels(self.model))
            rebuild.require_same_shape(built, self.model)
        return super().train(trainer=trainer, **kwargs)

    def tune(self, *args: Any, **kwargs: Any) -> Any:
        """Search hyperparameters as Ultralytics does; pruned models refuse, since every trial is a stock process."""
        if (entry := yaml_markers.entry_of(self)) and entry["widths"]:
            raise ModelError(
                "tune starts stock Ultralytics for every trial, which cannot train a pruned model. Tune the parent."
            )
        return super().tune(*args, **kwargs)

    def load(self, weights: str | Path | dict[str, Any] | nn.Module = "yolo26n.pt") -> YOLO:
        """Load weights as Ultralytics does; into a pruned model, and those of one, only where the widths are equal."""
        self._require_fitting(weights)
        return super().load(weights)

    def _require_fitting(self, weights: str | Path | dict[str, Any] | nn.Module) -> None:
        """Raise PlanError where Ultralytics would mix a pruned model with weights of other widths."""
        source = ultralytics.YOLO(weights).model if isinstance(weights, (str, Path)) else weights
        source = (source.get("ema") or source["model"]) if isinstance(source, dict) else source
        if yaml_markers.entry_of(self) is not None or yaml_markers.entry_of(source) is not None:
            rebuild.require_same_shape(self.model, source)
