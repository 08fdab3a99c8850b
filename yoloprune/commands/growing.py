"""The beginning of a training in which more and more weights become zero."""

from __future__ import annotations

from typing import Any

import ultralytics

from yoloprune.backend import console, host_arguments, run_folders, yaml_markers
from yoloprune.checkpoint import growing_masks, rebuild, saving
from yoloprune.cutting import masks
from yoloprune.errors import ArgumentError, ModelError
from yoloprune.selection import mask_choice
from yoloprune.settings.mask_options import n_of_m
from yoloprune.settings.mask_request import Growth


def begin(yolo: ultralytics.YOLO, asked: Growth, freeze: Any = None) -> None:
    """Write into a model's record what its training is to reach.

    Args:
        yolo (YOLO): What is to be trained; changed.
        asked (Growth): Which weights are to be zero, and when.
        freeze (int | list | None): `freeze=` as the trainer gets it: these layers stay as they are.

    Raises:
        ArgumentError: If nothing fits the pattern, all that does is frozen, or as many weights are zero already.
        ModelError: If no trainer of ours would hold them.
    """
    if (family := yaml_markers.untrainable(yolo.model)) is not None:
        raise ModelError(f"yoloprune has no trainer for {family} models, which would fill the zeros of a mask.")
    fitting, left = mask_choice.layers(yolo.model, asked)
    still = host_arguments.held_still(yolo.model, freeze)
    names = [name for name in fitting if f"{name}.weight" not in still]
    if not names:
        raise ArgumentError(f"freeze={freeze}: holds all layers in which weights could become zero. Freeze fewer")
    mask_choice.require_more(yolo.model, names, asked)
    score = asked.score if asked.score != "auto" else "magnitude" if n_of_m(asked.pattern) else "taylor"
    told = {
        "pattern": asked.pattern,
        "sparsity": float(asked.sparsity),
        "score": score,
        "scope": mask_choice.scope_of(asked, score),
        "steps": asked.steps,
        "start": asked.ramp_start,
        "end": asked.ramp_end,
    }
    ramp = growing_masks.begin(yolo.model, names, told, run_folders.plain(asked.changed()))
    facts = saving.make_provenance(yolo.ckpt_path, {"command": "finetune", **asked.changed()})
    rebuild.mark_masked(yolo.model, asked.pattern, masks.zeros(yolo.model, names), facts, ramp)
    others = len(left) + len(fitting) - len(names)
    kept = f"; {others} others stay as they are" if others else ""
    console.log(
        "mask: ",
        f"{asked.sparsity:.4g} of the weights of {len(names)} layers become zero from {asked.ramp_start:g} to "
        f"{asked.ramp_end:g} of the run, by {score}{kept}",
    )
