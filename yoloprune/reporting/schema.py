"""What report.json holds: a JSON Schema, whose descriptions are its documentation."""

from __future__ import annotations

from typing import Any

NAME = "yoloprune report 1"
"""What a report says that it is. The number rises when a key goes or changes its meaning; new keys may come."""


def _object(description: str, **properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "description": description, "properties": properties}


def _array(description: str, items: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"type": "array", "description": description, **({"items": items} if items else {})}


def _one(kind: str | list[str], description: str) -> dict[str, Any]:
    return {"type": kind, "description": description}


_OUTLINE = _object(
    "An object in an image.",
    name=_one("string", "Its class."),
    colour=_one("string", "Of the class, '#' and six hexadecimal digits: the one in which 'yolo predict' draws it."),
    score=_one(["number", "null"], "How sure the model is, 0 to 1; null of a label."),
    points=_array("Its corners, x and y as fractions of width and height."),
    matched=_one("boolean", "Whether the other model has one of that class with an IoU of at least 0.5."),
)
_NUMBERS = {"type": "array", "items": {"type": "number"}}

PROPERTIES: dict[str, dict[str, Any]] = {
    "schema": {"const": NAME, "description": "What this file is."},
    "command": _one("string", "Which command wrote it."),
    "table": _array("One row per model or point, as printed: 'model' and its figures.", {"type": "object"}),
    "verdict": _one("string", "What came of it, in one sentence."),
    "metric": _one("string", "Which figure of the table is the headline, e.g. mAP50-95 as a fraction of 1."),
    "by_class": _array(
        "Validated, by class of the data.",
        _object(
            "One class.",
            name=_one("string", "Its name."),
            boxes=_one(["integer", "null"], "Labelled objects in the validation data."),
            figures=_object("mAP50-95, 0 to 1, by the name of the model in the table."),
        ),
    ),
    "images": _array(
        "The same validation images through the first and the last model.",
        _object(
            "One image.",
            file=_one("string", "Its file name."),
            size=_array("Width and height as shown in the page, in pixels."),
            changed=_one("number", "0 where both find the same, 1 where nothing is in common."),
            labels=_array("From the label file.", _OUTLINE),
            before=_array("Found by the first model, confidence 0.25 and above.", _OUTLINE),
            after=_array("Found by the last one.", _OUTLINE),
        ),
    ),
    "layers": _array(
        "Layers that make channels, from input to head.",
        _object(
            "One layer.",
            layer=_one("string", "The name that keep= takes."),
            width=_one("integer", "Channels before the cut."),
            kept=_one("integer", "Channels after it."),
            state=_one(
                "string", "'prunable', 'frozen' with the reason, or 'removed' with the branch that went as a whole."
            ),
            parts=_one(["string", "null"], "Widths that keep their proportion, e.g. the halves of a chunk."),
            **{
                "MFLOPs": _one("number", "Operations before, in millions, at the image size of the run."),
                "MFLOPs kept": _one("number", "Operations after."),
                "ms": _one("number", "Milliseconds before, where times were measured: fused, torch on this machine."),
                "ms kept": _one("number", "Milliseconds after."),
                "coupled with": _array("Layers that lose the same channels.", {"type": "string"}),
            },
        ),
    ),
    "importance": _object(
        "How the scores of the channels that may go were distributed.",
        what=_one("string", "What a score says."),
        edges={**_NUMBERS, "description": "Bounds of the bins, log10 of the score."},
        kept={**_NUMBERS, "description": "Channels that stay, by bin."},
        cut={**_NUMBERS, "description": "Channels that go, by bin."},
        threshold=_one("number", "log10 of the score that separates the two best."),
        across=_one("integer", "Channels on the wrong side of it."),
        zeros=_array("Channels kept, and cut, whose score is 0."),
    ),
    "gamma": _array("Rows of sparsity.csv, one per epoch: quantiles of |gamma|, shares.", {"type": "object"}),
    "points": _array("Models against their costs: 'model', 'quality', 'GFLOPs', 'ms', 'runtime'.", {"type": "object"}),
    "zeros": _array(
        "mask: what is zero, from input to head.",
        _object(
            "One layer.",
            layer=_one("string", "The name that keep= takes."),
            weights=_one("integer", "How many it has."),
            zeros=_one("integer", "How many of them are zero."),
            share=_one("number", "The same as a fraction."),
        ),
    ),
    "pair": _array("val, compare: the two models whose findings 'images' show.", {"type": "string"}),
    "notes": _array("What stands below the table, in sentences.", {"type": "string"}),
    "pages": _object("slim: pages of its stages, by their names: paths from the folder of the run."),
    "pattern": _one("string", "mask: in which pattern."),
    "frozen": _array("What may not be cut, and why.", {"type": "string"}),
    "repeat": _array("Commands that do it again.", {"type": "string"}),
    "versions": _object("Of the packages that ran, by name."),
    "kept": _object(
        "prune: what is left of the parent, as fractions.",
        flops=_one("number", "Of its FLOPs."),
        params=_one("number", "Of its parameters."),
        channels=_one("number", "Of its prunable channels."),
    ),
    "plan": _object(
        "prune: by module, which output and input channels stay ('outputs', 'inputs') 'of' how many; none of a branch "
        "that is gone."
    ),
    "relative_error": _one("number", "prune: how far the cut model was from its masked parent; accepted is 1e-4."),
    "proof": _object("prune: what was compared, and what could not be."),
    "outputs_moved": _object(
        "prune: how far outputs are from the parent's, root mean square over theirs.",
        cut=_one("number", "Right after the cut."),
        repaired=_one("number", "After the repair."),
    ),
    "classes": _object("prune: with classes=, the names that stayed and 'of' how many."),
    "unknown_operations": _object("prune: operations without a rule, which froze channels, and where."),
    "timing": _object(
        "On what the time was measured, and by model the median, 95th percentile and spread in ms; of prune with "
        "times= the share of the parent's time that is 'predicted', and what that rests on."
    ),
    "met": _one("boolean", "train-sparse: whether the target was met."),
    "settings": _object("train-sparse: its own settings."),
    "history": _array("train-sparse: rows of sparsity.csv.", {"type": "object"}),
    "widths_kept": _one("boolean", "finetune: whether all widths are what they were."),
    "start": _object("finetune: figures before the first epoch."),
    "metrics": _object("finetune: figures of the best epoch."),
    "labels_from": _one(
        "string", "finetune: with images=, the model whose findings are the labels, of validation too."
    ),
    "cliff": {
        "type": ["object", "null"],
        "description": "sweep: 'safe', the smallest point within the loss allowed; what is 'lost' there, in points; "
        "'steepest', between which points most is lost per FLOP, null where nothing is. null where the parent finds "
        "nothing.",
    },
    "widths": _array("sensitivity: rows of sensitivity.csv, the parent first.", {"type": "object"}),
    "out_of_reach": _object("sweep: budgets that could not be met, and why."),
    "differences": _object(
        "val, compare, sweep: how far mAP50-95 is from the first model's, with the interval, by model."
    ),
    "difference": {"type": ["object", "null"], "description": "slim: the same for the model that is shipped."},
    "way": _one("string", "slim: 'prune', 'sparse' or 'train'."),
    "rounds": _array("slim: one row per round of cutting and fine-tuning.", {"type": "object"}),
    "said": _array("slim: what happened on the way, in sentences.", {"type": "string"}),
    "exported": {"type": ["object", "null"], "description": "slim: the exported file, and how far it is from torch."},
    "stages": _object("slim: seconds of each stage."),
    "seconds": _object("slim: where the time went."),
    "arguments": _object("sweep, sensitivity, val, compare: what the command was given."),
    "device": _one("string", "val, compare: where the models ran."),
    "imgsz": _one(["integer", "array"], "val, compare, slim: size of the images."),
}

SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": NAME,
    "type": "object",
    "required": ["schema", "command", "table"],
    "properties": PROPERTIES,
}
