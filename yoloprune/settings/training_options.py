"""Own options of a fine-tuning: who teaches, who labels where there are no labels, and which zeros grow."""

from __future__ import annotations

from yoloprune.settings.mask_options import GROWN
from yoloprune.settings.option import Option
from yoloprune.settings.own_options import IMAGES
from yoloprune.settings.value_kinds import PLACE, SHARE, ValueKind, choice, path_or_model

DISTILL = Option(
    "distill",
    None,
    choice("parent"),
    "who teaches through Ultralytics' distillation: the unpruned parent, or nobody",
    "parent",
)
TRAINED_ON = Option(
    IMAGES.name,
    None,
    PLACE,
    "images without labels in place of data=: what labels_from= finds in them is written as labels into the folder of "
    "the run, and trained on; a tenth of them is for validation",
    IMAGES.example,
)
LABELS_FROM = Option(
    "labels_from",
    None,
    ValueKind("the path of a checkpoint", path_or_model, annotation="ModelSource"),
    "with images=, who labels them; not set: distill_model= where that is given, else the parent that the model was "
    "pruned from",
    "parent.pt",
)
LABELS_CONF = Option(
    "labels_conf",
    0.25,
    SHARE,
    "with images=, least score of what becomes a label",
)
FINETUNE_OPTIONS = (DISTILL, TRAINED_ON, LABELS_FROM, LABELS_CONF, *GROWN)
GENTLE = {  # for weights that are trained already; Ultralytics' own choice, optimizer=auto, ignores lr0
    "optimizer": "AdamW",
    "lr0": 0.0005,
    "warmup_epochs": 1.0,
    "warmup_bias_lr": 0.0,
    "nbs": 16,  # at 64 a small data set has too few steps for this rate
}
