"""Measure the proof: cut networks wrongly in hundreds of ways and count which of these cuts it accepts.

    python scripts/proof.py figures --data FOLDER                   # with weights/ and coco128/, if there is one
    python scripts/proof.py others --names yolov8n yolo12n --mode training --imgsz 320

A campaign that was interrupted goes on with the first parent that it has not finished.

A fault is made in the cut network and, but for every fourth, in the cut that the proof repeats on a copy of the parent
brought to life as well, as wrong surgery would. What is accepted is compared with the masked parent on images in
float64, by code of `reference.py` alone: if anything that comes out differs by more than `TOLERANCE`, it was missed.
"""

from __future__ import annotations

import argparse
import copy
import platform
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from unittest.mock import patch

import torch
from fault_scene import Fault, Scene
from faults import chosen
from proof_networks import NAMES, Subject, seed_of, subjects
from proof_table import Figures, Right, Trial
from reference import Reference, images
from seams import seams
from torch import Tensor, nn

from yoloprune.backend import model_facts
from yoloprune.cutting import proof, surgery
from yoloprune.errors import PlanError, VerifyError
from yoloprune.planning.plan import Plan
from yoloprune.probing import examples

TOLERANCE = 1e-4
"""What counts as something else: largest error of a channel of an output relative to the channel's largest value."""

PLANS = 2
"""Plans per parent, between which its faults are shared out."""

MODES = {"both": (False, True), "evaluation": (False,), "training": (True,)}


@dataclass(frozen=True)
class Case:
    """One plan of one parent."""

    subject: Subject
    plan: Plan
    modes: tuple[bool, ...]
    pictures: Tensor

    @cached_property
    def child(self) -> nn.Module:
        """The right cut."""
        return surgery.cut(copy.deepcopy(self.subject.model), self.plan)

    @cached_property
    def reference(self) -> Reference:
        """The masked parent, in those of the modes that it runs in."""
        runs = examples.modes(self.subject.model, self.subject.probe.examples[0])
        modes = [m for m in self.modes if m in runs]
        return Reference.of(self.subject.model, self.plan, self.pictures, modes)

    def scene(self, seed: int) -> Scene:
        """What faults are chosen by."""
        model, child = self.subject.model, self.child
        layers = [n for n, m in child.named_modules() if hasattr(m, "weight") and n in self.plan.keep]
        last = f"{model_facts.head_name(model)}." if hasattr(model, "yaml") else layers[-1]
        heads = frozenset(n for n in layers if n.startswith(last))
        chance = random.Random(seed_of(self.subject.title, seed))
        return Scene(model, child, self.plan, seams(child, self.subject.probe.examples[0]), heads, chance)

    def prove(self, child: nn.Module) -> tuple[proof.Proof, float]:
        """The proof in the modes that are measured, and its seconds; the surgery is whatever `surgery.cut` is."""
        runs = examples.Probe.modes
        with patch.object(examples.Probe, "modes", lambda *args: tuple(m for m in runs(*args) if m in self.modes)):
            start = time.process_time()
            found = proof.prove(self.subject.model, child, self.plan, self.subject.probe)
            return found, time.process_time() - start

    def right(self) -> Right:
        """Prove the right cut; an error here would be a false refusal."""
        found, seconds = self.prove(self.child)
        return Right(self.subject.title, found.error, found.error_at_size, self.reference.error(self.child), seconds)

    def trial(self, fault: Fault, repeated: bool) -> Trial | None:
        """Try one fault; None if the surgery refuses itself, or nothing is another than in the right cut."""
        wrong = partial(fault.wrong, surgery.cut)
        try:
            child = wrong(copy.deepcopy(self.subject.model), self.plan)
        except PlanError:
            return None
        if fault.kind not in {"a stale width", "scale of an attention"} and _alike(self.child, child):
            return None
        made = partial(Trial, self.subject.title, fault.kind, fault.layer, fault.block, fault.told, repeated)
        start = time.process_time()
        with ExitStack() as stack:
            if repeated:
                stack.enter_context(patch.object(surgery, "cut", wrong))
            try:
                _, seconds = self.prove(child)
            except VerifyError as e:
                return made("refused", str(e), None, time.process_time() - start)
        error = self.reference.error(child)
        why = _why_equal(self.reference.change_at(fault.layer, self.child, child))
        return made("missed" if error > TOLERANCE else "equivalent", why, error, seconds)


def _alike(a: nn.Module, b: nn.Module) -> bool:
    mine, theirs = a.state_dict(), b.state_dict()
    return all(mine[k].shape == theirs[k].shape and torch.equal(mine[k], theirs[k]) for k in mine)


def _why_equal(near: float) -> str:
    if near == 0:
        return "the module gives the same to the last bit: what it mistakes is zero, equal or not read"
    if near <= TOLERANCE:
        return "the module gives the same: the channels are as good as dead or equal"
    return "the module gives something else, and it dies out on the way to the outputs"


def campaign(subject: Subject, count: int, modes: tuple[bool, ...], data: Path | None) -> Iterator[Right | Trial]:
    """Right cuts and faults of one parent."""
    pictures = images(data, 4, subject.imgsz)
    tried = 0
    for seed in range(PLANS):
        case = Case(subject, subject.plan(seed), modes, pictures)
        yield case.right()
        share = count // PLANS
        numbered = enumerate(chosen(case.scene(seed)), start=tried)
        trials = (case.trial(fault, repeated=i % 4 != 3) for i, fault in numbered)
        for trial in islice((t for t in trials if t is not None), share):
            tried += 1
            yield trial


def main() -> None:
    """Run the campaign and write its table, as Markdown and as JSON with every fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for proof.md and proof.json")
    parser.add_argument("--data", type=Path, help="folder with weights/ and coco128/; else fresh weights, drawn images")
    parser.add_argument("--names", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--count", type=int, default=32, help="faults per parent")
    parser.add_argument("--imgsz", type=int, default=640, help="image size that the proof is asked for")
    parser.add_argument("--mode", choices=tuple(MODES), default="both", help="modes in which cuts are proved")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    settings = {"imgsz": arguments.imgsz, "mode": arguments.mode, "count": arguments.count}
    figures = Figures.open(arguments.out, {**settings, "machine": platform.machine(), "torch": torch.__version__})
    start = time.perf_counter()
    for title, build in subjects(tuple(arguments.names), arguments.data, arguments.imgsz).items():
        if figures.has(title):
            continue
        found = []
        for one in campaign(build(), arguments.count, MODES[arguments.mode], arguments.data):
            found.append(one)
            print(f"{time.perf_counter() - start:6.0f} s", *_line(one), flush=True)
        figures.add(found)


def _line(found: Right | Trial) -> tuple[str, ...]:
    if isinstance(found, Right):
        return found.network, "right cut", f"{found.error:.0e}", f"{found.seconds:.1f} s"
    accepted = () if found.verdict == "refused" else (f"{found.error:.1e}", found.said)
    return (found.network, found.verdict.upper(), found.kind, found.layer, f"({found.told})", *accepted)


if __name__ == "__main__":
    main()
