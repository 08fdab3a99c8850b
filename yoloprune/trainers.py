"""Trainers to derive from: Ultralytics' own, which keep the widths of a pruned model; see `checkpoint.trainers`."""

from yoloprune.checkpoint.trainers import (
    TRAINERS,
    YOLO,
    ClassificationTrainer,
    DetectionTrainer,
    KeepsWidths,
    OBBTrainer,
    PoseTrainer,
    SegmentationTrainer,
)

__all__ = [
    "TRAINERS",
    "YOLO",
    "ClassificationTrainer",
    "DetectionTrainer",
    "KeepsWidths",
    "OBBTrainer",
    "PoseTrainer",
    "SegmentationTrainer",
]
