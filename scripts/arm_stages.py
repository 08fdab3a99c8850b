"""The stages that arms of scripts/experiment.py are chains of."""

from __future__ import annotations

from typing import Any, NamedTuple

E, H = 30, 15  # epochs of every arm in all, where totals are compared, and half of them


class Stage(NamedTuple):
    """One step of a chain: what is done (see `experiment_stages.run_stage`) with which arguments."""

    verb: str
    arguments: dict[str, Any]

    @property
    def name(self) -> str:
        """Name of the stage's folder."""
        return "-".join([self.verb, *(f"{k}={v}" for k, v in self.arguments.items())])


Chain = list[Stage]


def side_of(chain: Chain, own: int) -> int:
    """Image size at which the last stage of a chain works and is measured: the last one that is named, else `own`."""
    named: list[int] = [stage.arguments["imgsz"] for stage in chain if "imgsz" in stage.arguments]
    return named[-1] if named else own


def train(epochs: int, **own: Any) -> Stage:
    return Stage("train", {"epochs": epochs, **own})


def sparse(epochs: int, **own: Any) -> Stage:
    return Stage("sparse", {"epochs": epochs, **own})


def prune(**own: Any) -> Stage:
    return Stage("prune", own)


def mask(**own: Any) -> Stage:
    """Single weights become zero, chosen and repaired on the training images."""
    return Stage("mask", own)


def finetune(epochs: int, **own: Any) -> Stage:
    return Stage("finetune", {"epochs": epochs, **own})


def slim(epochs: int, **own: Any) -> Stage:
    """All of it in one command, at its defaults."""
    return Stage("slim", {"epochs": epochs, **own})


def fresh(epochs: int) -> Stage:
    """Train a pruned network from random weights, with stock Ultralytics."""
    return Stage("fresh", {"epochs": epochs})


def torch_pruning(importance: str, **own: Any) -> Chain:
    """Prune with Torch-Pruning and fine-tune, see scripts/peers.py."""
    return [Stage("peer", {"importance": importance, "flops": 0.5}), Stage("peertune", {"epochs": H, **own})]
