"""The figures of the campaign that measures the proof: kept as JSON, told as Markdown."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from yoloprune.reporting.run_report import write_text


@dataclass(frozen=True)
class Trial:
    """What became of one fault.

    Attributes:
        network (str): Name, and where the parent's weights are from.
        kind (str): Of the fault; `layer`, `block` and `told` say where and what.
        repeated (bool): Whether the proof repeats it on its copy; else it is in the finished network alone.
        verdict (str): "refused", "equivalent" or "missed".
        said (str): The refusal, or why the network computes the same.
        error (float | None): How far from the masked parent, where it was accepted.
        seconds (float): What the proof took.
    """

    network: str
    kind: str
    layer: str
    block: str
    told: str
    repeated: bool
    verdict: str
    said: str
    error: float | None
    seconds: float


@dataclass(frozen=True)
class Right:
    """A right cut that was proved.

    Attributes:
        network (str): Name, and where the parent's weights are from.
        error (float): That the proof found.
        error_at_size (float | None): The same at the size that was asked for.
        independent (float): That on images in float64, found without the proof.
        seconds (float): What the proof took.
    """

    network: str
    error: float
    error_at_size: float | None
    independent: float
    seconds: float


@dataclass
class Figures:
    """All that was tried so far, in a folder."""

    folder: Path
    settings: Mapping[str, Any]
    right: list[Right]
    trials: list[Trial]

    @classmethod
    def open(cls, folder: Path, settings: Mapping[str, Any]) -> Figures:
        """Those of an interrupted campaign with the same settings, or none."""
        file = folder / "proof.json"
        kept = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        if kept.get("settings") != settings:
            return cls(folder, settings, [], [])
        return cls(folder, settings, [Right(**r) for r in kept["right"]], [Trial(**t) for t in kept["faults"]])

    def has(self, network: str) -> bool:
        """Whether a parent is finished."""
        return any(t.network == network for t in self.trials)

    def add(self, found: Iterable[Right | Trial]) -> None:
        """Add those of one parent and write both files."""
        for one in found:
            (self.right if isinstance(one, Right) else self.trials).append(one)  # type: ignore[arg-type]
        kept = {
            "settings": dict(self.settings),
            "right": [asdict(r) for r in self.right],
            "faults": [asdict(t) for t in self.trials],
        }
        write_text(self.folder / "proof.json", json.dumps(kept, indent=1) + "\n")
        write_text(self.folder / "proof.md", self.markdown())

    def markdown(self) -> str:
        """The tables."""
        return "\n".join([*self._by_network(), "", *self._by_kind(), "", *self._accepted(), ""])

    def _by_network(self) -> list[str]:
        lines = _head("network, weights", "kinds", *COUNTS, "right cuts: largest error", "on images", "proof, s")
        for name in [*dict.fromkeys(t.network for t in self.trials), ""]:
            trials = [t for t in self.trials if name in ("", t.network)]
            right = [r for r in self.right if name in ("", r.network)]
            cells = [name or "**all**", len({t.kind for t in trials}), *_counts(trials)]
            cells += [f"{max(r.error for r in right):.0e}", f"{max(r.independent for r in right):.0e}"]
            lines.append(_row([*cells, f"{median(r.seconds for r in right):.1f}"]))
        return lines

    def _by_kind(self) -> list[str]:
        lines = _head("what is wrong", "blocks", *COUNTS, "in the finished network alone", "does not run")
        for kind, trials in _grouped(self.trials, lambda t: t.kind).items():
            alone = sum(not t.repeated for t in trials)
            crashed = sum("does not run" in t.said for t in trials)
            lines.append(_row([kind, len({t.block for t in trials}), *_counts(trials), alone, crashed]))
        return lines

    def _accepted(self) -> list[str]:
        accepted = [t for t in self.trials if t.verdict != "refused"]
        lines = _head("accepted", "why it computes the same", "faults", "where", "largest error on images")
        for (kind, said), trials in _grouped(accepted, lambda t: (t.kind, t.said)).items():
            where = Counter(t.network for t in trials).most_common()
            told = "; ".join(f"{n} {name}" for name, n in where)
            lines.append(_row([kind, said, len(trials), told, f"{max(t.error or 0.0 for t in trials):.0e}"]))
        return lines


COUNTS = ("tried", "refused", "equivalent", "missed")


def _counts(trials: Sequence[Trial]) -> list[int]:
    verdicts = Counter(t.verdict for t in trials)
    return [len(trials), *(verdicts[v] for v in COUNTS[1:])]


def _grouped(trials: Iterable[Trial], key: Callable[[Trial], Any]) -> dict[Any, list[Trial]]:
    groups: dict[Any, list[Trial]] = {}
    for t in trials:
        groups.setdefault(key(t), []).append(t)
    return groups


def _head(*names: str) -> list[str]:
    return [_row(names), _row(["---", *("---:" for _ in names[1:])])]


def _row(cells: Iterable[Any]) -> str:
    return f"| {' | '.join(map(str, cells))} |"
