"""Trainers to derive from: Ultralytics' own, which keep the widths of a pruned model; see `checkpoint.trainers`."""

from yoloprune.checkpoint.models import YOLO
from yoloprune.checkpoint.trainers import (
    TRAINERS,
    ClassificationTrainer,
    DetectionTrainer,
    KeepsWidths,
    OBBTrainer,
    PoseTrainer,
    RTDETRTrainer,
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
    "RTDETRTrainer",
    "SegmentationTrainer",
]
