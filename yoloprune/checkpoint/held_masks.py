"""What our trainers do about masks: a weight that is zero in the checkpoint is zero in all that the training makes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from yoloprune.backend import console, model_facts, moved_layers, yaml_markers
from yoloprune.checkpoint.growing_masks import Growing
from yoloprune.cutting import masks
from yoloprune.errors import PlanError

if TYPE_CHECKING:
    from ultralytics.engine.trainer import BaseTrainer as Trainer
else:
    Trainer = object  # a mixin: the class that takes it in is the trainer


class HoldsMasks(Trainer):
    """Mixin for Ultralytics trainers.

    Every process of a training on several devices makes its own optimizer, so each holds the same zeros; gradients are
    shared before the step.

    Attributes:
        growing (Growing | None): What lets zeros become more, where the record says so.
    """

    growing: Growing | None = None

    def build_optimizer(self, model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Build the optimizer as Ultralytics does, and hold the masks behind its steps, before the EMA is updated."""
        optimizer = super().build_optimizer(model, *args, **kwargs)
        if (told := yaml_markers.masks_of(student := model_facts.student(model))) is not None:
            holder = masks.Holder(student, told["layers"])
            if told.get(yaml_markers.RAMP):
                self.growing = Growing(self, student, holder)
                optimizer.register_step_post_hook(self.growing)
            optimizer.register_step_post_hook(holder)
            if console.is_main_process():
                console.log("mask: ", said(student))
        return optimizer

    def validate(self) -> Any:
        """Validate as Ultralytics does, after zeros that became more are in the EMA as well."""
        if self.growing is not None:
            self.growing.finish_epoch()
        return super().validate()

    def save_model(self) -> Any:
        """Write the checkpoints of an epoch; none whose masks something has filled.

        Raises:
            PlanError: If a weight that was masked is not zero.
        """
        if self.growing is not None and not self.args.val:  # else `validate` has done so
            self.growing.finish_epoch()
        for model in (self.model, self.ema.ema):
            if (filled := filled_in(model_facts.student(model))) is not None:
                raise PlanError(f"{filled}: something in this training writes weights past its optimizer")
        return super().save_model()


def said(model: nn.Module) -> str:
    """How much of a masked model is zero, in words."""
    told = yaml_markers.masks_of(model) or {"pattern": "", "layers": {}}
    layers = told["layers"]
    zero = sum(masks.zeros(model, layers).values())
    count = sum(masks.sizes(model, layers).values())
    now = f"pattern {told['pattern']}: {zero:,} of {count:,} weights in {len(layers)} layers are zero"
    filled = filled_in(model)
    now += " and stay so" if filled is None else f". {filled}, so it is not trained"
    ramp = told.get(yaml_markers.RAMP)
    return f"{now}; they become more up to sparsity {ramp['sparsity']:.4g}" if ramp else now


def filled_in(model: nn.Module) -> str | None:
    """Why the masks of a model are not those that its record tells of, in words; None where they are."""
    layers: Mapping[str, int] = (yaml_markers.masks_of(model) or {"layers": {}})["layers"]
    modules, names = dict(model.named_modules()), moved_layers.names_of(model)
    if lost := next((name for name in layers if name not in modules), None):
        return f"The masked layer {names.of(lost)} is not in the model that is trained"
    for name, count in masks.zeros(model, layers).items():
        if count < layers[name]:
            return (
                f"The mask of {names.of(name)} is filled, {count:,} of its weights are zero and {layers[name]:,} were"
            )
    return None


def settle(model: nn.Module, weights: nn.Module | None) -> None:
    """See to it that a model that is to be trained has the masks of its record.

    Args:
        model (nn.Module): As it was built, with the weights it starts from.
        weights (nn.Module | None): Where these come from. A layer that is wider or narrower there, as the last of a
            masked head for other classes, is new, and no longer masked.

    Raises:
        PlanError: If other layers have fewer zeros than their masks.
    """
    told = yaml_markers.masks_of(model)
    if told is None:
        return
    before, now = ({} if m is None else {n: p.shape for n, p in m.named_parameters()} for m in (weights, model))
    new = [n for n in told["layers"] if f"{n}.weight" in before and before[f"{n}.weight"] != now.get(f"{n}.weight")]
    for name in new:
        del told["layers"][name]
    if ramp := told.get(yaml_markers.RAMP):
        ramp["layers"] = [name for name in ramp["layers"] if name not in new]
    if new:
        console.warn(f"mask: {', '.join(new)} are made anew for these classes, and not masked")
    if (filled := filled_in(model)) is not None:
        raise PlanError(f"{filled}. Train it from its own weights, without pretrained=, or mask it again")
