"""`imgsz=auto`: the side of the image becomes part of the budget, of FLOPs or of time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import ultralytics

from yoloprune.backend import console, evaluation
from yoloprune.checkpoint import saving
from yoloprune.errors import ArgumentError, BudgetError
from yoloprune.planning import image_side
from yoloprune.planning.greedy_selection import OutOfReachError
from yoloprune.runtimes import bench
from yoloprune.runtimes.deployment import Deployment
from yoloprune.settings.budget import Budget
from yoloprune.settings.keys import AUTO
from yoloprune.settings.requests import PruneRequest
from yoloprune.settings.slim_request import SlimRequest
from yoloprune.settings.value_kinds import write_amount
from yoloprune.settings.wanted_time import milliseconds

SECONDS = 8.0
"""Of a measurement of the parent at both sides, at most."""

STRIDE = 32
"""Sides are multiples of it, or of a larger stride of the network; Ultralytics' own."""


@dataclass(frozen=True)
class Side:
    """Sides of square images in pixels.

    Attributes:
        imgsz (int): Of the network that comes out; its FLOPs are counted there.
        parent (int): Where the parent's FLOPs count.
    """

    imgsz: int
    parent: int

    def told(self, *, of_parent: bool) -> dict[str, int]:
        """What a table says of it: nothing, unless the parent has another."""
        return {} if self.imgsz == self.parent else {"imgsz": self.parent if of_parent else self.imgsz}


def own_side(yolo: ultralytics.YOLO) -> tuple[int, int]:
    """The side that a model was trained at, which a budget for widths and image refers to, and what sides go by."""
    return saving.image_size(yolo, None), max(STRIDE, int(max(yolo.model.stride)))


def reference(yolo: ultralytics.YOLO, passed: Mapping[str, Any]) -> int:
    """The side at which budgets count: the given one, the model's own where `imgsz=auto` leaves it open."""
    given = passed.get("imgsz")
    return own_side(yolo)[0] if given == AUTO else saving.image_size(yolo, given)


def left_open(request: PruneRequest | SlimRequest, own: int, stride: int) -> PruneRequest | SlimRequest | None:
    """The same request with a side that shares its FLOPs, None where nothing would be shared, or is already.

    Args:
        request (PruneRequest | SlimRequest): What was asked for.
        own (int): The parent's own side.
        stride (int): Sides are multiples of it.
    """
    flops = request.settings["flops"]
    if flops is None or flops >= 1 or request.passed.get("imgsz") not in (None, own):
        return None
    if image_side.shared(flops, own, stride)[0] == own:
        return None
    return replace(request, passed={**request.passed, "imgsz": AUTO})


def settle(
    yolo: ultralytics.YOLO, budget: Budget, passed: Mapping[str, Any], command: str, time: float | None = None
) -> tuple[Side, Budget]:
    """Choose the side where it is left open, and what its widths may use.

    Args:
        yolo (YOLO): The parent, with the classes that stay.
        budget (Budget): What was asked for; for a side that is left open it counts against the parent at its own.
        passed (Mapping[str, Any]): Ultralytics' arguments.
        command (str): What is said begins with it.
        time (float | None): Share of the parent's time that may be used, which decides where FLOPs are not asked for:
            with the side times change about as FLOPs do.

    Returns:
        (Side): Where FLOPs count.
        (Budget): Of the FLOPs there.

    Raises:
        ArgumentError: If more FLOPs are asked for than there are.
    """
    if passed.get("imgsz") != AUTO:
        given = reference(yolo, passed)
        return Side(given, given), budget
    own, stride = own_side(yolo)
    if budget.flops is None:
        side, _ = image_side.shared(time or 1.0, own, stride)  # `checking` demands one of them
        console.log(f"{command}: ", f"imgsz=auto: {side} pixels, the parent's side is {own}")
        return Side(side, own), budget
    asked = budget.flops
    flops = asked if asked < 1 else asked / (1e9 * evaluation.gflops(yolo.model, own))
    if flops >= 1:
        raise ArgumentError(f"flops={write_amount(asked)}: at imgsz {own} the model has no more than that")
    side, left = image_side.shared(flops, own, stride)
    console.log(
        f"{command}: ",
        f"imgsz=auto: {side} pixels, where {left:.1%} of the FLOPs are {flops:.1%} of those at {own}",
    )
    return Side(side, own), replace(budget, flops=left)


@contextlib.contextmanager
def told_as_asked(yolo: ultralytics.YOLO, asked: Budget, side: Side) -> Iterator[None]:
    """While active FLOPs that are out of reach at the chosen side are told as those that were asked for.

    Args:
        yolo (YOLO): The parent, as `settle` saw it.
        asked (Budget): What was asked for, which counts at the parent's own side.
        side (Side): From `settle`.

    Raises:
        BudgetError: In place of one that names a share of the parent's FLOPs at a side which nobody named.
    """
    try:
        yield
    except OutOfReachError as e:
        if e.key != "flops" or asked.flops is None or side.imgsz == side.parent:
            raise
        met = image_side.least(e.least, side.parent, own_side(yolo)[1])
        raise BudgetError(
            f"flops={write_amount(asked.flops)} is out of reach: imgsz=auto takes {side.imgsz} pixels, where "
            f"{e.limits} leave at least {e.least:.3g} of the FLOPs. flops={met:g} and more can be met. {e.why}"
        ) from None


def share_of_time(yolo: ultralytics.YOLO, latency: float | str | None, deployment: Deployment) -> float | None:
    """A wanted time as a share of what the parent takes at its own side; measured where it is no fraction.

    Raises:
        BudgetError: If the parent takes no longer.
    """
    if not isinstance(latency, str):
        return latency
    own, _ = own_side(yolo)
    with bench.opened(deployment, yolo.model, own) as timer:
        now = timer.time(seconds=SECONDS / 2)[0].median
    share = milliseconds(latency, now) / now
    if share >= 1:
        raise BudgetError(f"latency={latency}: the model already takes no longer, {now:.2f} ms in {deployment}.")
    return share


def time_left(
    yolo: ultralytics.YOLO, latency: float | str, side: Side, deployment: Deployment, command: str
) -> float | str:
    """What widths may take at a smaller side: a fraction counts against the parent there, other times stay as they are.

    Raises:
        BudgetError: If the smaller image alone is fast enough.
    """
    if side.imgsz == side.parent:
        return latency
    with bench.opened(deployment, yolo.model, side.parent) as timer:
        before, after = timer.time(yolo.model, sides=[side.imgsz], seconds=SECONDS)
    share, wanted = after.median / before.median, milliseconds(latency, before.median)
    left = round(wanted / after.median, 4)
    if left >= 1:
        raise BudgetError(
            f"latency={latency}: at imgsz {side.imgsz} the uncut model takes no longer, {after.median:.2f} ms in "
            f"{deployment} where it takes {before.median:.2f} at {side.parent}. A smaller image is enough"
        )
    said = f"{share:.2f} of the time at {side.parent} uncut, so widths may take {left:.2f} of that"
    console.log(f"{command}: ", f"imgsz=auto: at {side.imgsz} pixels {said}")
    return latency if isinstance(latency, str) else left
