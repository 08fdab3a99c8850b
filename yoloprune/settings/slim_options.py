"""Own options of `slim`, which takes those of the commands that it runs as well."""

from __future__ import annotations

from yoloprune.settings.option import Option
from yoloprune.settings.own_options import (
    CUT_OPTIONS,
    FLOPS,
    PARAMS,
    PRUNE_BUDGETS,
    SPARSITY,
    THREADS,
)
from yoloprune.settings.training_options import DISTILL, LABELS_CONF, TRAINED_ON
from yoloprune.settings.value_kinds import POINTS, SHARE, choice, integer

LATENCY = PRUNE_BUDGETS[-1]
SLIM_BUDGETS = (FLOPS, PARAMS, SPARSITY, LATENCY)
MAX_DROP = Option(
    "max_drop",
    None,
    POINTS,
    "points of mAP50-95 on the validation images that may be lost: the smallest network that holds it is searched for, "
    "in rounds of cutting and fine-tuning as long as epochs last; with a budget no further than that",
    1,
)
CONFIDENCE = Option(
    "confidence",
    None,
    SHARE,
    "max_drop holds only where the whole interval of the difference does, which a paired bootstrap over the validation "
    "images gives; not set: the difference itself counts",
    0.95,
)
STEPS = Option(
    "steps",
    None,
    integer(1),
    "rounds of cutting and fine-tuning that the epochs are spread over; not set: 1, with max_drop 5",
    3,
)
SCHEDULE = Option(
    "schedule",
    "even",
    choice("even", "cubic"),
    "how much each of several rounds takes away: the same share, or most at first (Zhu and Gupta 2017)",
)
WAY = Option(
    "way",
    "auto",
    choice("auto", "prune", "sparse", "train"),
    "prune cuts with data and fine-tunes; sparse trains sparse for half of the epochs before; train trains for half of "
    "them before; auto is prune for a model that knows the classes of data=, else sparse, and train where sparse "
    "training cannot do what is asked",
)
IMAGES = Option(
    TRAINED_ON.name,
    None,
    TRAINED_ON.kind,
    "images without labels in place of data=: what the model finds in them is written as labels into the folder of the "
    "run, and all stages look at these; a tenth of the images is for validation",
    TRAINED_ON.example,
)
SLIM_OPTIONS = (
    *SLIM_BUDGETS,
    MAX_DROP,
    CONFIDENCE,
    STEPS,
    SCHEDULE,
    WAY,
    DISTILL,
    IMAGES,
    LABELS_CONF,
    THREADS,
    *CUT_OPTIONS,
)
RANKED = ("score", "reduce", "normalize", "uniform", "depth", "recover")
"""Options of the cut that sparse training has no use for."""
