"""`ultralytics.YOLO` and `ultralytics.RTDETR` that train the network they hold, whatever its YAML says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ultralytics
from torch import nn

from yoloprune.backend import model_facts, own_network, yaml_markers
from yoloprune.checkpoint import rebuild
from yoloprune.checkpoint.trainers import TRAINERS, KeepsWidths, RTDETRTrainer, driver_of
from yoloprune.errors import ArgumentError, ModelError


class TrainsItsNetwork:
    """Mixin for Ultralytics' model objects: what is trained is the network that they hold."""

    model: Any
    ckpt: Any
    ckpt_path: Any

    def train(self, trainer: Any = None, **kwargs: Any) -> Any:
        """Train as Ultralytics does, at the pruned widths if the model was pruned; see `ultralytics.YOLO.train`.

        Raises:
            ArgumentError: If a trainer of one's own would not keep the network.
            ModelError: If sparse training left dead channels that are not cut yet, and this is another training.
            PlanError: If other widths would be trained, or weights of other widths be mixed in.
        """
        if yaml_markers.STATE_KEY in getattr(self.model, "yaml", {}) and driver_of(self) is None:
            raise ModelError(yaml_markers.STOP_SPARSE)
        pretrained = None if kwargs.get("resume") else kwargs.get("pretrained")
        if isinstance(pretrained, (str, Path)):
            self._require_fitting(pretrained)  # before there is a folder
        if pretrained is False or isinstance(pretrained, (str, Path)):
            self._require_in_its_file()
        entry, why = yaml_markers.entry_of(self), self._difference()
        held = why or driver_of(self) or yaml_markers.masks_of(self)
        if trainer is not None and held and not issubclass(trainer, KeepsWidths):
            raise ArgumentError(
                f"trainer={trainer.__name__}: must derive from yoloprune's trainer, or another network than the "
                f"checkpoint's is trained: from yoloprune.trainers import {self._smart_load('trainer').__name__}"
            )
        if entry is not None or why:
            # Naming the trainer keeps a list of data sets in this process, else each is left to a stock command line;
            # without a checkpoint Ultralytics would build anew from the YAML file that the model came from.
            trainer, self.ckpt = trainer or self._smart_load("trainer"), self.ckpt or {"model": self.model}
        if why and not kwargs.get("resume"):
            kwargs.setdefault("pretrained", True)  # a model from a YAML file is drawn anew otherwise
        return super().train(trainer=trainer, **kwargs)  # type: ignore[misc]

    def tune(self, *args: Any, **kwargs: Any) -> Any:
        """Search hyperparameters as Ultralytics does; every trial is a stock process, which builds from the YAML.

        Raises:
            ModelError: If that would be another network than this one.
        """
        if yaml_markers.STATE_KEY in getattr(self.model, "yaml", {}):
            raise ModelError(yaml_markers.STOP_SPARSE)
        if yaml_markers.masks_of(self) is not None:
            raise ModelError(
                "tune starts stock Ultralytics for every trial, which would fill the zeros of this masked model"
            )
        if (why := self._difference()) is not None:
            raise ModelError(
                "tune starts stock Ultralytics for every trial, which cannot train this network, and no pruned model "
                f"with free widths: {why}. Tune the parent."
            )
        return super().tune(*args, **kwargs)  # type: ignore[misc]

    def load(self, weights: Any = "yolo26n.pt") -> Any:
        """Load weights as Ultralytics does; into a pruned model, and those of one, only where the widths are equal."""
        self._require_fitting(weights)
        return super().load(weights)  # type: ignore[misc]

    def _difference(self) -> str | None:
        """What of the network is not as its YAML says; fused ones are refused by the trainer."""
        network = model_facts.student(self.model) if isinstance(self.model, nn.Module) else None
        if network is None or model_facts.network(network).is_fused():
            return None
        return own_network.difference(network)

    def _require_in_its_file(self) -> None:
        """Raise ArgumentError where other weights, or fresh ones, would go into a network that no file holds."""
        if self._difference() is None:
            return
        file = Path(str(self.ckpt_path or ""))
        if not file.is_file() or own_network.between(ultralytics.YOLO(file).model, self.model) is not None:
            raise ArgumentError(
                "pretrained: this network was changed in memory, and what its file or YAML says would be trained. Save "
                "it first, and train that file"
            )

    def _smart_load(self, key: str) -> Any:
        return super()._smart_load(key)  # type: ignore[misc]

    def _require_fitting(self, weights: str | Path | dict[str, Any] | nn.Module) -> None:
        """Raise PlanError where Ultralytics would mix a pruned model with weights of other widths."""
        source: Any = ultralytics.YOLO(weights).model if isinstance(weights, (str, Path)) else weights
        source = (source.get("ema") or source["model"]) if isinstance(source, dict) else source
        if yaml_markers.entry_of(self) is not None or yaml_markers.entry_of(source) is not None:
            rebuild.require_same_shape(self.model, source)


class YOLO(TrainsItsNetwork, ultralytics.YOLO):
    """`ultralytics.YOLO` whose training keeps the widths of a pruned model; all else is Ultralytics'.

    RT-DETR models become `RTDETR`; YOLO-World and YOLOE models the stock classes, as Ultralytics does, and pruned ones
    refuse to train.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """See `ultralytics.YOLO`."""
        super().__init__(*args, **kwargs)
        kind: type = type(self)  # which Ultralytics may have changed
        if kind is ultralytics.RTDETR:
            object.__setattr__(self, "__class__", RTDETR)

    @property
    def task_map(self) -> dict[str, dict[str, Any]]:
        """Map task to model, trainer, validator and predictor classes; the trainers are those of this module."""
        return {t: {**s, "trainer": TRAINERS.get(t, s["trainer"])} for t, s in super().task_map.items()}


class RTDETR(TrainsItsNetwork, ultralytics.RTDETR):
    """`ultralytics.RTDETR` whose training keeps the widths of a pruned model."""

    @property
    def task_map(self) -> dict[str, dict[str, Any]]:
        """Map task to model, trainer, validator and predictor classes; the trainer is that of this module."""
        return {t: {**s, "trainer": RTDETRTrainer} for t, s in super().task_map.items()}
