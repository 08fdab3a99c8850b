"""From a plan to the repaired child: cut, prove, repair, and say how far the outputs moved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import ultralytics
from torch import Tensor

from yoloprune.backend import console, progress_bar, yolo_tracing
from yoloprune.checkpoint import saving
from yoloprune.cutting import comparison, proof, surgery
from yoloprune.planning.plan import Plan
from yoloprune.probing.examples import Example, Probe
from yoloprune.probing.forward import placed
from yoloprune.probing.held_state import copied
from yoloprune.repair import batch_norm_statistics, constant_folding, least_squares, recipes


class Cut(NamedTuple):
    """A child and what is known of it.

    Attributes:
        child (YOLO): The smaller model, repaired.
        proof (Proof): How well it stood before the repair.
        moved (dict[str, float]): How far the outputs are from the parent's, right after the cut and repaired: root mean
            square of the difference over that of the outputs, of the one that is furthest.
    """

    child: ultralytics.YOLO
    proof: proof.Proof
    moved: dict[str, float]


def cut(
    parent: ultralytics.YOLO,
    plan: Plan,
    how: str,
    calibrate: list[Tensor] | None,
    probe: Probe | None = None,
    *,
    dead: bool = False,
) -> Cut:
    """Cut, prove and repair.

    Args:
        parent (YOLO): The model before the cut, stays untouched.
        plan (Plan): What is kept.
        how (str): `recover=`.
        calibrate (list[Tensor] | None): Batches of images, where there are any.
        probe (Probe | None): From `yolo_tracing.probe`, where there is one already.
        dead (bool): Whether nothing but dead channels go: then the repaired child has to compute what the parent does.

    Returns:
        (Cut): The child, its proof, and what the repair did.

    Raises:
        VerifyError: If the cut model does not compute what its masked parent computes.
    """
    probe = probe or yolo_tracing.probe(parent.model)
    child = narrowed(parent, plan)
    proved = proof.prove(parent.model, child.model, plan, probe)
    console.log(
        "prune: ",
        f"cut model equals masked parent: error {proved.error:.1e} (accepted: {comparison.TOLERANCE:.0e}), "
        f"{len(proved.looks)} comparisons",
    )
    for line in proved.not_compared:
        console.log("prune: ", f"not compared: {line}")
    sample = Example((calibrate[0][:2],)) if calibrate else probe.proving[0]
    home = next(parent.model.parameters()).device
    with placed(calibrate[0].device if calibrate else home, parent.model, child.model):
        moved = {"cut": comparison.distance(parent.model, child.model, sample)}
        changed = repair(parent, child, plan, how, calibrate, probe, dead=dead)
        moved["repaired"] = comparison.distance(parent.model, child.model, sample) if changed else moved["cut"]
    return Cut(child, proved, moved)


def narrowed(parent: ultralytics.YOLO, plan: Plan) -> ultralytics.YOLO:
    """A child that nothing is known of yet."""
    return saving.with_model(parent, surgery.cut(copied(parent.model), plan))


def repair(
    parent: ultralytics.YOLO,
    child: ultralytics.YOLO,
    plan: Plan,
    how: str,
    calibrate: list[Tensor] | None,
    probe: Probe,
    *,
    dead: bool = False,
) -> bool:
    """Repair the cut model in place, in the way that `recover=` names, see `cut`; whether that changed anything."""
    steps = recipes.steps_of(how, images=bool(calibrate))
    if "fold" not in steps:
        return False
    folded = constant_folding.fold(parent.model, child.model, plan, calibrate, noise=probe.proving)
    if folded.channels:  # without data only constants move, and a trained network has none
        into = f"the biases of the {len(folded.into)} layers behind them"
        console.log("prune: ", f"the mean of {folded.channels:,} cut inputs went into {into}")
    if dead:
        _require_same(parent, child, folded, probe)
    if calibrate and "bn" in steps:
        batch_norm_statistics.reestimate(child.model, calibrate)
    if calibrate and "lsq" in steps:
        refit(parent, child, plan, calibrate)
    return bool(calibrate) or folded.channels > 0


def refit(
    parent: ultralytics.YOLO,
    child: ultralytics.YOLO,
    plan: Plan,
    images: list[Tensor],
    free: Mapping[str, Tensor] | None = None,
    *,
    command: str = "prune",
) -> None:
    """Fit the weights of a child, see `least_squares.refit`, and say how much that was worth."""
    with progress_bar.counted(len(least_squares.layers(parent.model)), "refitting layers") as tick:
        missed = least_squares.refit(parent.model, child.model, plan, images, free=free, tick=tick)
    # Where the parent's output hardly varies, as in an untrained network, any error is many times that.
    before, after = (float(np.mean([min(m[i], 1.0) for m in missed.values()])) for i in (0, 1))
    said = f"weights refitted to the parent's outputs: off by {before:.1%} of their variance before, by {after:.1%} now"
    console.log(f"{command}: ", said)


def _require_same(
    parent: ultralytics.YOLO, child: ultralytics.YOLO, folded: constant_folding.Folded, probe: Probe
) -> None:
    """A cut of the dead changes nothing: prove it, or say what keeps it from being so.

    Raises:
        VerifyError: If what the child computes is not what the parent computes.
    """
    why = [f"{name} cannot take them over ({reason})" for name, reason in folded.skipped.items()]
    if folded.bordered:
        why.append(f"{len(folded.bordered)} layers that read them pad with zeros, and see less near the border")
    if folded.dropped:
        why.append(f"{folded.dropped} of them are not constant")
    if why:
        away = comparison.distance(parent.model, child.model, probe.proving[0])
        console.warn(
            f"prune: dead channels emit constants that cannot be moved exactly: {'; '.join(why)}. The outputs move by "
            f"{away:.1%}"
        )
        return
    error = comparison.verify(parent.model, child.model, Plan({}), probe)
    console.log("prune: ", f"nothing changes: the pruned model computes what its parent computes, error {error:.1e}")
