"""What scores and repairs look at: data set, images, device; once for `prune`, once for all points of `sweep`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import ultralytics
from torch import Tensor

from yoloprune.backend import calibration_images, console, datasets, evaluation, model_facts
from yoloprune.errors import ArgumentError
from yoloprune.importance import criteria
from yoloprune.probing import examples
from yoloprune.repair import least_squares, recipes
from yoloprune.selection import drawn_images
from yoloprune.settings.requests import PruneRequest

CPU = torch.device("cpu")

RANKED = (calibration_images.DRAWN, 512)
"""So many labelled images rank channels, at least and at most."""

MINUTE = 1000.0
"""GFLOPs of a forward pass over all of them: with its gradients about a minute of one core."""


@dataclass(frozen=True)
class Calibration:
    """What scores and repairs look at.

    Attributes:
        imgsz (int): Side of the images in pixels; FLOPs are counted there.
        data (str | Path | None): The data set, None without one.
        declined (bool): Whether none is wanted, rather than none at hand.
        device (torch.device): Where scores and repairs are measured.
        seed (int): Chooses the images, and what random scores draw.
        images (list[Tensor] | None): Batches of shape (n, channels, imgsz, imgsz), without a data set drawn ones; None
            where nothing looks at images. 128 images at imgsz 320 take 157 MB.
        drawn (bool): Whether these are no images of anything.
        windows (list[Tensor] | None): What repairs look at instead: as many pixels, of more images.
    """

    imgsz: int
    data: str | Path | None = None
    declined: bool = False
    device: torch.device = CPU
    seed: int = 0
    images: list[Tensor] | None = None
    drawn: bool = False
    windows: list[Tensor] | None = None

    @property
    def repairing(self) -> list[Tensor] | None:
        """Images that repairs look at."""
        return self.images if self.windows is None else self.windows


def calibration(
    parent: ultralytics.YOLO,
    data: Any,
    imgsz: int,
    passed: Mapping[str, Any],
    *,
    folder: str | None = None,
    drawn: bool = False,
    command: str = "prune",
) -> Calibration:
    """Load the images of `data=` or `images=` at `imgsz=`.

    Args:
        parent (YOLO): The model before the cut.
        data (str | Path | bool | None): The data set.
        imgsz (int): Side of the images.
        passed (Mapping[str, Any]): Ultralytics' arguments, of which `device` and `seed` count.
        folder (str | None): Images in place of a data set.
        drawn (bool): Whether images are drawn without either. Where weights are untrained, there is nothing to see.
        command (str): Who says what is slow.
    """
    seed, device = passed.get("seed") or 0, place(passed.get("device"))
    if (data or folder or drawn) and passed.get("device") in (None, "") and torch.cuda.is_available():
        console.log(f"{command}: ", "scores and repairs are computed on the CPU; device=0 is faster")
    channels = model_facts.channels(parent.model)
    if not data and not folder:
        drawn = drawn and not model_facts.is_untrained(parent.model)  # which make nothing of images
        images = drawn_images.batches(imgsz, channels, device, seed) if drawn else None
        return Calibration(imgsz, None, data is False, device, seed, images, drawn)
    if data:
        datasets.require_channels(parent, data)
    images, windows = calibration_images.batches(
        data,
        imgsz,
        side=lambda count: _window(parent, imgsz, count),
        folder=folder,
        task=parent.task,
        channels=channels,
        device=device,
        seed=seed,
    )
    return Calibration(imgsz, data or None, False, device, seed, images, windows=windows)


def _window(parent: ultralytics.YOLO, imgsz: int, count: int) -> int:
    """Side of the windows of so many images: together as many pixels as a refit holds, half an image's side at least.

    More images tell it more than whole ones. Classification sees whole images, and so do networks that do not run at
    another size.
    """
    step = max(model_facts.stride(parent.model), 32)
    wanted = int((least_squares.PIXELS / count) ** 0.5) // step * step
    wanted = max(wanted, -(-imgsz // 2 // step) * step)
    if wanted >= imgsz or parent.task == "classify":
        return imgsz
    image = torch.zeros(1, model_facts.channels(parent.model), wanted, wanted)
    if examples.runs(parent.model, examples.Example((image,)), False):
        return wanted
    console.log("calibrate: ", f"the network does not run at {wanted} pixels, so repairs look at fewer, whole images")
    return imgsz


def labelled(parent: ultralytics.YOLO, sight: Calibration, instead: str = "output") -> Iterator[dict[str, Any]]:
    """Labelled images for scores: more rank better, so as many as a core looks at in about a minute, or 512 on a GPU.

    Args:
        parent (YOLO): The model before the cut.
        sight (Calibration): Whose data set, size, device and seed count.
        instead (str): A score that needs no labels.

    Yields:
        (dict[str, Any]): Batches, see `calibration_images.labelled`.
    """
    least, most = RANKED
    affordable = most if sight.device.type != "cpu" else MINUTE / evaluation.gflops(parent.model, sight.imgsz)
    n = round(min(most, max(least, affordable)))
    wanted = f"score=taylor needs some. Use score={instead}."
    told: dict[str, Any] = {"n": n, "device": sight.device, "seed": sight.seed, "wanted": wanted}
    return calibration_images.labelled(parent, sight.data or "", sight.imgsz, **told)


def place(device: Any) -> torch.device:
    """Where scores and repairs are measured: `device=`, and the CPU without it."""
    return CPU if device in (None, "") else evaluation.device(device)


def data_set(parent: ultralytics.YOLO, request: PruneRequest) -> Any:
    """The data set of a `prune`: `data=`, else the one that the model was trained on, where it is at hand.

    `data=False` stands for none, and so does a cut without a budget, which takes only what is dead already.

    Raises:
        ArgumentError: If a score or repair needs images and there are none.
    """
    score, recover = request.criterion.score, request.recover
    scored = criteria.CRITERIA.get(score)
    needs = Needs(score, "nothing" if scored is None else scored.needs, recover, "output")
    wished = request.budgeted and "auto" in (score, recover)
    return data_for(parent, request.passed.get("data"), request.images, needs, wished=wished, command="prune")


class Needs(NamedTuple):
    """What a ranking and a repair look at.

    Attributes:
        score (str): The word of `score=`.
        scored (str): What it needs beside the weights: "nothing", "images" or "labels".
        recover (str): The word of `recover=`.
        instead (str): A score that needs no labels.
    """

    score: str
    scored: str
    recover: str
    instead: str


def data_for(
    parent: ultralytics.YOLO, given: Any, images: str | None, needs: Needs, *, wished: bool, command: str
) -> Any:
    """The data set that a command looks at, False or None for none.

    Args:
        parent (YOLO): Whose own data set is taken where none is given, if it is at hand.
        given (Any): `data=`.
        images (str | None): `images=`, which stands in place of a data set.
        needs (Needs): What has to be there.
        wished (bool): Whether a data set is taken that need not be there.
        command (str): Who says so.

    Raises:
        ArgumentError: If images or labels are needed and there are none.
        DataError: If the labels are of another kind than the model's task needs.
    """
    if given:
        datasets.require_labels(parent, given, command)
        return given
    if images is not None:
        if needs.scored == "labels":
            raise ArgumentError(
                f"score={needs.score}: must come with data=, for its labels; {needs.instead} needs none"
            )
        return False
    needy = []
    if recipes.NEED_IMAGES.intersection(recipes.RECIPES.get(needs.recover, ())):
        needy.append(f"recover={needs.recover}")
    if needs.scored != "nothing":
        needy.append(f"score={needs.score}")
    found = datasets.own(parent) if given is None and (needy or wished) else given
    if found:
        console.log(
            f"{command}: ", f"scores and repairs look at data={found}, the model's own; data=False goes without"
        )
    elif needy:
        raise ArgumentError(f"{needy[0]}: must come with data=, whose images it needs. Received no data")
    return found
