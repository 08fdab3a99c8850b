"""The tables of scripts/experiment.py: arms, and the chains of stages that they are."""

from __future__ import annotations

from typing import Any

from arm_stages import Chain, E, H, finetune, fresh, mask, prune, slim, sparse, torch_pruning, train


def ways(flops: float) -> dict[str, Chain]:
    """From the same start to the same budget in the same number of epochs."""
    each = round(flops ** (1 / 3), 3)
    return {
        "dense": [train(E)],
        "(a) train-sparse, prune": [sparse(E, flops=flops), prune()],
        "(b) train, prune, finetune": [train(H), prune(flops=flops, data=True), finetune(H)],
        "(c) three rounds of prune and finetune": [
            train(9),
            *(stage for _ in range(3) for stage in (prune(flops=each, data=True), finetune(7))),
        ],
        "(d) train-sparse, prune, finetune": [sparse(H, flops=flops), prune(), finetune(H)],
    }


def longest(flops: float) -> Chain:
    """Way (d) in twice the epochs."""
    return [sparse(E, flops=flops), prune(), finetune(E)]


THIRD = 0.705  # three cuts to this share leave 35 %
GENTLE = {"lr0": 5e-4, "warmup_epochs": 1.0}  # sparse training of a network that is trained already
PLAIN = {"flops": 0.5, "recover": "none"}  # what everybody does: rank, cut, fine-tune
STOCK = {"optimizer": "AdamW", "warmup_epochs": 3.0, "warmup_bias_lr": 0.1}
RATES: dict[str, dict[str, Any]] = {
    "AdamW 1e-3": {**STOCK, "lr0": 1e-3},
    "AdamW 1e-3, distill=parent": {**STOCK, "lr0": 1e-3, "distill": "parent"},
    "AdamW 5e-4": {**STOCK, "lr0": 5e-4},
    "AdamW 2e-4": {**STOCK, "lr0": 2e-4},
    "AdamW 2e-4, warm-up of 1 epoch": {**STOCK, "lr0": 2e-4, "warmup_epochs": 1.0},
    "AdamW 2e-3": {**STOCK, "lr0": 2e-3},
    "SGD 1e-3": {**STOCK, "optimizer": "SGD", "lr0": 1e-3},
    "Ultralytics' auto": {**STOCK, "optimizer": "auto"},
    "AdamW 5e-4, nbs=64": {**STOCK, "lr0": 5e-4, "nbs": 64},
    "Ultralytics' auto, nbs=64": {**STOCK, "optimizer": "auto", "nbs": 64},
    "yoloprune finetune": {},
}
TABLES: dict[str, dict[str, Chain]] = {
    "budgets": {
        "dense": [train(E)],
        **{f"train-sparse {f}, prune": [sparse(E, flops=f), prune()] for f in (0.5, 0.7, 0.35)},
        "train-sparse 0.5 with native=False, prune": [sparse(E, flops=0.5, native=False), prune()],
    },
    "ramps": {
        "default": [sparse(E, flops=0.5), prune()],
        "ramp 0.3-0.7": [sparse(E, flops=0.5, ramp_start=0.3, ramp_end=0.7), prune()],
        "fade 0.9": [sparse(E, flops=0.5, fade=0.9), prune()],
    },
    "deep": {
        "default": [sparse(E, flops=0.35), prune()],
        "ramp 0.05-0.4": [sparse(E, flops=0.35, ramp_start=0.05, ramp_end=0.4), prune()],
        "free widths": [sparse(E, flops=0.35, native=False), prune()],
    },
    "longer": {
        "dense": [train(2 * E)],
        **{f"(d) train-sparse, prune, finetune at {f}": longest(f) for f in (0.7, 0.5, 0.35)},
        **{f"(a) train-sparse, prune at {f}": [sparse(2 * E, flops=f), prune()] for f in (0.7, 0.5, 0.35)},
    },
    "trained": {  # what to do with a model that is trained already
        "prune, finetune": [train(E), prune(flops=0.5, data=True), finetune(H)],
        "train-sparse, prune": [train(E), sparse(H, flops=0.5, **GENTLE), prune()],
        "train-sparse 8, prune, finetune 7": [train(E), sparse(8, flops=0.5, **GENTLE), prune(), finetune(7)],
    },
    "penalties": {  # optimizer and learning rate are those of every arm, AdamW at 1e-3, where none is given
        "dense": [train(E)],
        "select": [sparse(E, flops=0.5), prune()],
        **{p: [sparse(E, flops=0.5, penalty=p), prune()] for p in ("prox", "group", "l1")},
        "l1, SGD": [sparse(E, flops=0.5, penalty="l1", optimizer="SGD", lr0=1e-2), prune()],
        **{f"select, score={s}": [sparse(E, flops=0.5, score=s), prune()] for s in ("gamma", "gamma-mean")},
        "select, normalize=none": [sparse(E, flops=0.5, normalize="none"), prune()],
    },
    "ways": ways(0.5),
    "ways-0.35": ways(0.35),
    "peers": {
        "dense": [train(E)],
        "yoloprune": [train(H), prune(flops=0.5, data=True), finetune(H)],
        "yoloprune, data=False": [train(H), prune(flops=0.5), finetune(H)],
        "l2, one global ranking": [train(H), prune(flops=0.5, score="l2"), finetune(H)],
        "Torch-Pruning, group norm": [train(H), *torch_pruning("group")],
        "Torch-Pruning, BN scale": [train(H), *torch_pruning("bn")],
        "Torch-Pruning, group norm, lr0=0.002": [train(H), *torch_pruning("group", lr0=2e-3)],
        "uniform l1, lr0=0.002": [train(H), prune(score="l1", uniform=True, **PLAIN), finetune(H, lr0=2e-3)],
        "uniform l1": [train(H), prune(score="l1", uniform=True, **PLAIN), finetune(H)],
        "random": [train(H), prune(score="random", uniform=True, **PLAIN), finetune(H)],
        "the pruned shape, fresh weights": [train(H), prune(flops=0.5, data=True), fresh(E)],
    },
    "widths": {  # what the words of native= cost, beside what a user would do instead: a smaller image
        "(a) train-sparse, prune": [sparse(E, flops=0.5), prune()],
        "(a) with native=tied": [sparse(E, flops=0.5, native="tied"), prune()],
        "dense": [train(E)],
        "dense at 224": [train(E, imgsz=224)],
        "dense at 256": [train(E, imgsz=256)],  # --model yolo11n-coco.pt: 48 % of YOLOv8n's FLOPs at 320
        "(a) with native=False": [sparse(E, flops=0.5, native=False), prune()],
        "(b) train, prune, finetune": [train(H), prune(flops=0.5, data=True), finetune(H)],
        "(b) with native=tied": [train(H), prune(flops=0.5, data=True, native="tied"), finetune(H)],
    },
    "labels": {  # what ranks the channels of a trained model: its loss on labels, or its outputs
        name: [train(H), prune(flops=0.5, data=True, **own), finetune(H)]
        for name, own in (
            ("score=taylor", {"score": "taylor"}),
            ("score=output", {"score": "output", "normalize": "cost"}),
        )
    },
    "masks": {  # single weights beside whole channels at as many parameters that are not zero
        "nothing masked": [train(H), finetune(H)],
        **{f"sparsity={share}": [train(H), mask(sparsity=share), finetune(H)] for share in (0.5, 0.7, 0.9)},
        "2:4": [train(H), mask(pattern="2:4"), finetune(H)],
        "2:4, no repair": [train(H), mask(pattern="2:4", recover="none"), finetune(H)],
        **{
            f"channels, params={params}": [train(H), prune(params=params, data=True), finetune(H)]
            for params in (0.641, 0.498, 0.355)  # what is not zero at a sparsity of 0.5, 0.7 and 0.9
        },
    },
    "unlabelled": {  # ranked and repaired on images alone, and then fine-tuned on labels, or on what the parent finds
        name: [train(H), prune(flops=0.5, images=True), finetune(H, **own)]
        for name, own in (
            ("true labels", {}),
            ("found labels", {"images": True}),
            ("found labels, distill=parent", {"images": True, "distill": "parent"}),
        )
    },
    "sides": {  # half the FLOPs of the parent at 320, shared between widths and the image's side
        "(a) at 288": [sparse(E, flops=0.617, imgsz=288), prune()],
        "(a) at 256": [sparse(E, flops=0.781, imgsz=256), prune()],
        "(a) at 256, 35 %": [sparse(E, flops=0.547, imgsz=256), prune()],
        # COCO's network cut before it has seen a label, then trained as small as it will be
        "(e) at 256": [prune(flops=0.781, imgsz=256, data=True), finetune(E, imgsz=256, lr0=0.001)],
        "(e) at 320": [prune(flops=0.5, data=True), finetune(E, lr0=0.001)],
        "dense at 192": [train(E, imgsz=192)],  # 36 % of the FLOPs
        "(a) at 256, 60 epochs": [sparse(2 * E, flops=0.781, imgsz=256), prune()],
        "dense at 224, 60 epochs": [train(2 * E, imgsz=224)],
        "dense at 320, 60 epochs": [train(2 * E)],
        "(b) at 256, finetune 30, distill=parent": [
            train(H),
            prune(flops=0.781, imgsz=256, data=True),
            finetune(E, imgsz=256, distill="parent"),
        ],
        **{
            f"(b) at 320, finetune 30, lr0={rate}": [train(H), prune(flops=0.5, data=True), finetune(E, lr0=rate)]
            for rate in (0.001, 0.002)
        },
        "(b) at 256, finetune 15, lr0=0.0002": [
            train(H),
            prune(flops=0.781, imgsz=256, data=True),
            finetune(H, imgsz=256, lr0=0.0002),
        ],
        **{
            f"{name}, finetune {n}": [train(H), *cut, finetune(n, **side)]
            for n in (H, E)
            for name, cut, side in (
                ("(b) at 320", [prune(flops=0.5, data=True)], {}),
                ("(b) at 256", [prune(flops=0.781, imgsz=256, data=True)], {"imgsz": 256}),
                ("nothing cut, at 224", [], {"imgsz": 224}),  # 49 % of the FLOPs
                ("nothing cut, at 320", [], {}),
            )
        },
    },
    "drops": {  # as small as one point allows, from a model that was trained for 15 or for 30 epochs
        name: chain
        for n in (H, E)
        for name, chain in (
            (f"trained {n} epochs", [train(n)]),
            (f"trained {n} epochs, max_drop=1", [train(n), slim(25, max_drop=1)]),
            (f"trained {n} epochs, at 256", [train(n), finetune(25, imgsz=256)]),  # nothing cut: 64 % of the FLOPs
        )
    },
    "rounds": {  # a deep cut of a trained model, at once or in three, with few epochs behind it and with many
        name: chain
        for n in (H, 3 * H)
        for name, chain in (
            (f"one cut, finetune {n}", [train(H), prune(flops=0.35, data=True), finetune(n)]),
            (
                f"three cuts, finetune {n // 3} after each",
                [train(H), *(s for _ in range(3) for s in (prune(flops=THIRD, data=True), finetune(n // 3)))],
            ),
            (f"nothing cut, finetune {n} at 192", [train(H), finetune(n, imgsz=192)]),  # 36 % of the FLOPs
        )
    },
    "native": {
        "dense": [train(E)],
        **{
            f"{kind}, finetune": [train(E), prune(flops=0.5, data=True, **own), finetune(H)]
            for kind, own in (("free", {"native": False}), ("native", {"native": True}))
        },
    },
    "rates": {name: [train(H), prune(flops=0.5, data=True), finetune(H, **own)] for name, own in RATES.items()},
    "mosaic": {  # epochs at the end without it
        f"close_mosaic={n}": [train(H), prune(flops=0.5, data=True), finetune(H, close_mosaic=n)]
        for n in (10, 15, 5, 0)
    },
    "short": {  # few epochs behind a gentle cut, as in a search by `slim`, at several learning rates
        name: [train(H), prune(flops=0.85, data=True), *more]
        for name, more in (
            ("cut", []),
            ("finetune 5", [finetune(5)]),
            *((f"finetune 5, lr0={rate}", [finetune(5, lr0=rate)]) for rate in (0.0002, 0.0001)),
        )
    },
    "choices": {
        "train 15, prune, finetune 15": [train(H), prune(flops=0.5, data=True), finetune(H)],
        **{
            f"the same with {key}={value}": [
                train(H),
                prune(flops=0.5, data=True, **{key: value}),
                finetune(H),
            ]
            for key, value in (("max_ratio", 0.6), ("uniform", True), ("normalize", "none"))
        },
        **{
            f"train {n}, prune, finetune {E - n}": [
                train(n),
                prune(flops=0.5, data=True),
                finetune(E - n),
            ]
            for n in (10, 20)
        },
    },
    "larger": {  # --model yolov8n.yaml
        "small, trained": [train(2 * E)],
        # 0.286: YOLOv8n has 0.328 GFLOPs with 3 classes at 128 pixels, YOLOv8s 1.146
        "large, trained, pruned to the small one's FLOPs, fine-tuned": [
            train(E, model="yolov8s.yaml"),
            prune(flops=0.286, data=True),
            finetune(E),
        ],
        "the same, fine-tuned at the rate of the training": [
            train(E, model="yolov8s.yaml"),
            prune(flops=0.286, data=True),
            finetune(E, lr0=3e-3),
        ],
        "large, train-sparse to the small one's FLOPs, pruned, fine-tuned at that rate": [
            sparse(E, model="yolov8s.yaml", flops=0.286),
            prune(),
            finetune(E, lr0=3e-3),
        ],
    },
}
