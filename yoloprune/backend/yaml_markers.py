"""What a sparse run leaves in `model.yaml`, and the sentence there that stops a training without the callback.

`model.yaml` survives EMA, saving, stripping and resuming. A training that knows nothing of the run would bring its dead
channels back to life in silence. Ultralytics builds the network to train from `model.yaml`, and the sentence stands
where the name of the first module was: it is the text of the error that stock trainers stop with.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

STATE_KEY = "yoloprune_sparse"
MODULE = "module"  # in the state: the name that the sentence replaced

# No double quotes (KeyError prints the sentence between them) and no "nn." (Ultralytics 8.3 would look it up in torch).
STOP = (
    "This model is of a sparse training by yoloprune. Another training would bring its dead channels back to life, so "
    "it stops here. Run 'yoloprune prune model=...' first; an interrupted run goes on with 'yoloprune train-sparse "
    "model=.../last.pt resume'. Validation, prediction and export work as they are"
)


def sealed(config: Mapping[str, Any], state: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a model YAML that holds the state of a run and stops other trainings.

    Args:
        config (Mapping[str, Any]): A model YAML, sealed before or not.
        state (Mapping[str, Any]): Plain data.
    """
    config = opened(config)
    replaced = config["backbone"][0][2]
    config["backbone"][0][2] = STOP
    config[STATE_KEY] = {**state, MODULE: replaced}
    return config


def opened(config: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a model YAML that builds again; the state stays."""
    config = deepcopy(dict(config))
    if replaced := config.get(STATE_KEY, {}).pop(MODULE, None):
        config["backbone"][0][2] = replaced
    return config


def cleared(config: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a model YAML without any trace of a sparse run."""
    config = opened(config)
    config.pop(STATE_KEY, None)
    return config
