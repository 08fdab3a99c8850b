"""The commands and their own options as one table: defaults, what is allowed, what it means."""

from __future__ import annotations

from yoloprune.settings.command import Command
from yoloprune.settings.latency_options import LATENCY_OPTIONS
from yoloprune.settings.mask_options import MASK_OPTIONS
from yoloprune.settings.own_options import DEMO_FLOPS, KEEP, PRUNE_OPTIONS, SPARSE_OPTIONS, THREADS
from yoloprune.settings.sensitivity_options import SENSITIVITY_OPTIONS
from yoloprune.settings.slim_options import SLIM_OPTIONS
from yoloprune.settings.sweep_options import SWEEP_OPTIONS
from yoloprune.settings.training_options import FINETUNE_OPTIONS, GENTLE
from yoloprune.settings.view_options import AGAINST, KIND, LAYER, MODELS

_RUN = ("project", "name", "exist_ok", "seed")
EXPORT = ("format", "half", "int8", "quantize", "dynamic", "nms", "simplify", "opset", "workspace")
TIMED = (*EXPORT, "compile", "channels_last")
"""Ultralytics' arguments that say how a network runs whose time is measured."""
OWN_DATA = "Without data= the data set that the model was trained on is taken, if it is at hand; nothing is downloaded."
OF_VIDEOS = "images= takes videos as well; vid_stride=30 takes every 30th frame of them."
OF_ZEROS = "With sparsity= or pattern= more and more weights become zero on the way; resume goes on with that."
SHARED_SIDE = "imgsz=auto shares flops= between widths and a smaller image; it counts against the model's own imgsz."
_COMMANDS = (
    Command(
        "slim",
        "prune, fine-tune, validate and export in one command, from a trained model to the one shipped",
        SLIM_OPTIONS,
        host_keys=None,
        required=("model",),
        chooses_side=True,
        examples=(
            "slim model=best.pt data=my.yaml flops=0.5 epochs=50",
            "slim model=best.pt data=my.yaml max_drop=1 epochs=100",
            "slim model=best.pt data=my.yaml latency=20ms format=openvino epochs=50",
            "slim model=yolov8n.pt data=my.yaml flops=0.5 epochs=60 format=onnx",
            "slim model=best.pt images=photos/ flops=0.5 epochs=50",
        ),
        notes=(
            "All budgets that are given hold; flops=0.5 when none is given and max_drop neither. epochs= are those of",
            "all trainings together. Interrupted, the same command goes on where it was; when all is over, it tells",
            "what came of it and does nothing again. With format= and its arguments, those of 'yolo export', the model",
            "is exported, and the export checked against torch.",
            SHARED_SIDE.replace("flops=", "flops=, or a fraction in latency=,"),
            OWN_DATA,
            OF_VIDEOS,
        ),
    ),
    Command(
        "train-sparse",
        "train with Ultralytics while the least useful channels fade to exactly zero",
        SPARSE_OPTIONS,
        host_keys=None,
        required=("model", "data"),
        chooses_side=True,
        examples=(
            "train-sparse model=yolov8n.pt data=my.yaml epochs=50 flops=0.5",
            "train-sparse model=yolov8n.pt data=my.yaml epochs=50 flops=0.5 imgsz=auto",
            "train-sparse model=yolo11s.pt data=my.yaml epochs=100 params=2.0M imgsz=320 nbs=16",
            "train-sparse model=runs/detect/train-sparse/weights/last.pt resume",
        ),
        notes=("Exactly one of flops, params and sparsity; flops=0.5 when none is given.", SHARED_SIDE),
    ),
    Command(
        "prune",
        "cut channels out; the smaller checkpoint is a stock Ultralytics model",
        PRUNE_OPTIONS,
        host_keys=("model", "data", "val", "imgsz", "device", *_RUN, "batch", *TIMED),
        required=("model",),
        chooses_side=True,
        examples=(
            "prune model=runs/detect/train-sparse/weights/best.pt",
            "prune model=best.pt flops=0.5 keep=backbone",
            "prune model=best.pt params=2.0M score=lamp data=my.yaml",
            "prune model=best.pt latency=0.6 device=0",
            "prune model=best.pt data=my.yaml classes=person,dog flops=0.5",
            "prune model=best.pt latency=30fps format=openvino threads=4",
            "prune model=best.pt latency=0.6 times=times.csv",
        ),
        notes=(
            "Without a budget exactly the dead channels go (with classes= that may be none); all that are given hold.",
            "Scores and repairs look at data=, which is the data set the model was trained on if that is at hand;",
            "data=False draws images instead. They are measured on device=, the CPU when none is given.",
            "Where data= is given both models are validated on it and set side by side in report.html; val=False goes",
            "without, as a CPU does where there are more than 1000 images; val=True does it, on its own data too.",
            "With format= and its arguments, those of 'yolo export', times are those of the exported network, at",
            "batch=1 unless it is given; without latency= they are shown only.",
            SHARED_SIDE.replace("flops=", "flops= or latency="),
        ),
    ),
    Command(
        "sweep",
        "show where accuracy falls off: cut and repair at several budgets, evaluate each, no training",
        SWEEP_OPTIONS,
        host_keys=("model", "data", "split", "imgsz", "batch", "device", "workers", *_RUN, "verbose", *TIMED),
        required=("model",),
        examples=(
            "sweep model=best.pt data=my.yaml",
            "sweep model=best.pt data=my.yaml flops=0.9,0.7,0.5 score=taylor imgsz=320",
        ),
        notes=(
            "One of flops, params, ratio, or masks by sparsity= or pattern=; flops=0.9,0.8,...,0.3 when none is given.",
            "sweep.csv grows row by row; interrupted, the same command goes on where it was.",
            "With format=, as of 'yolo export', or threads= the table shows the time per image as well, at batch 1.",
            "With ray=True the points are worked on at the same time, where RAY_ADDRESS or 'ray start' says; the data",
            "set has to be there under the same path.",
            OWN_DATA,
        ),
    ),
    Command(
        "sensitivity",
        "show where a network is tender: each group of layers narrowed alone, on held images",
        SENSITIVITY_OPTIONS,
        host_keys=("model", "data", "split", "imgsz", "batch", "device", "workers", *_RUN, "verbose"),
        required=("model",),
        examples=(
            "sensitivity model=best.pt data=my.yaml",
            "sensitivity model=best.pt data=my.yaml widths=0.5 held=64 layer=model.2.*,model.4.*",
        ),
        notes=(
            "sensitivity.csv grows row by row; interrupted, the same command goes on where it was. The names in its",
            "table are those that keep= and layers= of the other commands take.",
            OWN_DATA,
        ),
    ),
    Command(
        "mask",
        "set weights to zero in a pattern; only runtimes that skip zeros become faster",
        MASK_OPTIONS,
        host_keys=("model", "data", "val", "imgsz", "device", *_RUN),
        required=("model",),
        examples=(
            "mask model=best.pt data=my.yaml pattern=2:4",
            "mask model=best.pt data=my.yaml sparsity=0.7 score=wanda",
            "mask model=pruned.pt pattern=filter sparsity=0.3 keep=backbone",
        ),
        notes=(
            "The checkpoint is a stock one whose zeros are zeros. 'yoloprune finetune' keeps them without being told;",
            "stock 'yolo train' stops instead of filling them. Cut channels first: prune does not take masked models.",
            "Without data= the model's own data set is looked at if it is at hand, else drawn images.",
        ),
    ),
    Command(
        "finetune",
        "train a pruned or masked model with Ultralytics; its widths and zeros stay",
        FINETUNE_OPTIONS,
        host_keys=None,
        required=("model",),
        own_defaults=GENTLE,
        examples=(
            "finetune model=runs/detect/prune/weights/pruned.pt data=my.yaml epochs=50",
            "finetune model=runs/detect/prune/weights/pruned.pt data=my.yaml epochs=50 distill=parent",
            "finetune model=runs/detect/prune/weights/pruned.pt images=photos/ epochs=50",
            "finetune model=best.pt data=my.yaml sparsity=0.9 epochs=50",
        ),
        notes=(OF_ZEROS, OWN_DATA, OF_VIDEOS),
    ),
    Command(
        "val",
        "validate with Ultralytics, side by side with the parent when against= is given",
        (AGAINST, THREADS),
        host_keys=None,
        required=("model",),
        examples=(
            "val model=pruned.pt data=my.yaml against=parent.pt",
            "val model=pruned.pt data=my.yaml imgsz=320",
            "val model=pruned.pt data=my.yaml against=parent.pt format=onnx threads=1",
        ),
        notes=(
            OWN_DATA,
            "Accuracy is that of torch. Times are at batch 1, in torch or in what format= names, as of 'yolo export'.",
        ),
    ),
    Command(
        "compare",
        "validate models side by side: table, page, and which of them are worth their cost",
        (MODELS, THREADS),
        host_keys=None,
        examples=(
            "compare yolov8n.pt pruned.pt tuned.pt data=my.yaml",
            "compare models=parent.pt,pruned.pt,pruned.onnx data=my.yaml imgsz=320",
        ),
        notes=(
            "Exports run on their own runtime and at the size they were made for; checkpoints in torch, or exported",
            "anew where format= is given. One checkpoint at least says for which task and data.",
        ),
    ),
    Command(
        "plot",
        "draw the weights of layers, before and after a cut on one sheet",
        (AGAINST, LAYER, KIND),
        host_keys=("model", *_RUN),
        required=("model",),
        examples=(
            "plot model=best.pt layer=model.2.cv1 kind=3d",
            "plot model=pruned.pt against=best.pt layer=model.4.* kind=2d",
            "plot model=runs/detect/train-sparse/weights/best.pt kind=gamma",
        ),
    ),
    Command(
        "info",
        "show groups, widths, and what is frozen and why",
        (KEEP, THREADS),
        host_keys=("model", "imgsz", "device", "batch", *TIMED),
        required=("model",),
        examples=("info model=yolov8n.pt", "info model=yolo11n.yaml keep=neck", "info model=yolov8n.pt format=onnx"),
        notes=("With format=, as of 'yolo export', or threads= the time per image is measured.",),
    ),
    Command(
        "latency",
        "have networks timed on another device: exports, and one script that runs there",
        LATENCY_OPTIONS,
        host_keys=("model", "data", "imgsz", "batch", *_RUN[:3], *EXPORT),
        required=("model", "format"),
        examples=(
            "latency model=best.pt format=ncnn imgsz=320",
            "latency model=pruned.pt against=best.pt format=ncnn imgsz=320",
        ),
        notes=(
            "The folder goes to the device, 'python3 measure.py' there writes times.csv, and back here",
            "'yoloprune prune model=best.pt latency=0.6 times=times.csv' uses it. With against= it holds two models.",
            "The script needs neither torch nor yoloprune, but the Python package of the runtime (onnxruntime,",
            "openvino, ncnn, ai-edge-litert, rknn-toolkit-lite2), TensorRT's trtexec, or a command, cmd=, and nothing",
            "else. target='ssh pi@host' does all of it over a connection, which needs a shell with tar there.",
        ),
    ),
    Command(
        "demo",
        "train a model on images drawn by code, and slim it; no download, no GPU",
        (DEMO_FLOPS,),
        host_keys=(*_RUN, "device", "epochs", "format"),
        examples=("demo", "demo flops=0.4 device=cpu project=runs/demo"),
        notes=("epochs= are those of the model and those of slim; not set: 9 and 15.",),
    ),
    Command("help", "show this, or the options of a command", examples=("help", "help prune")),
    Command("completion", "print what a shell completes words with: bash, zsh or fish", examples=("completion bash",)),
    Command(
        "schema", "print what the keys of report.json mean, as a JSON Schema", examples=("schema > report.schema.json",)
    ),
    Command("version", "show the versions", examples=("version",)),
)
COMMANDS: dict[str, Command] = {command.name: command for command in _COMMANDS}
