"""Folders of runs and their args.yaml, whatever kinds of values were given."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

import yoloprune
from yoloprune import runs


def test_args_are_plain_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here.yaml").touch()
    given = {
        "model": Path("gone.pt"),
        "data": Path("here.yaml"),
        "project": Path("a") / "b",
        "device": torch.device("cpu"),
        "flops": 0.5,
        "keep": ("backbone", Path("x")),
        "name": None,
        "native": True,
    }
    runs.write_args(tmp_path, given)
    assert yaml.safe_load((tmp_path / "args.yaml").read_text()) == {
        "model": "gone.pt",
        "data": str(tmp_path / "here.yaml"),
        "project": str(Path("a") / "b"),
        "device": "cpu",
        "flops": 0.5,
        "keep": ["backbone", "x"],
        "name": None,
        "native": True,
    }


def test_prune_takes_paths_and_devices(tiny: Path, tmp_path: Path) -> None:
    told = {"project": tmp_path, "name": Path("mine"), "device": torch.device("cpu"), "data": False}
    yoloprune.prune(tiny, flops=0.7, round_to=1, min_width=2, **told)
    assert {f.name for f in (tmp_path / "mine").iterdir()} >= {"args.yaml", "report.json", "weights"}
