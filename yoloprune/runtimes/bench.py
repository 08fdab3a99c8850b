"""A parent on its runtime, with which other networks take turns: what a cut saves is a ratio, and machines drift."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import nn

from yoloprune.runtimes import engines, registry, threads
from yoloprune.runtimes.deployment import Deployment
from yoloprune.runtimes.timing import WELL_KNOWN, Times, take_turns

SECONDS = 10.0
"""When to stop although medians are not known well enough."""


class Bench:
    """Times networks beside one that is exported and opened once.

    Attributes:
        deployment (Deployment): How they run.
        imgsz (int): Side of the square images.
    """

    def __init__(
        self, deployment: Deployment, imgsz: int, parent: Callable[[], None], runtime: str = registry.TORCH
    ) -> None:
        """Wrap a parent that is open on a runtime; see `opened`."""
        self.deployment, self.imgsz, self.parent, self.runtime = deployment, imgsz, parent, runtime

    def time(
        self, *others: nn.Module | str, sides: Sequence[int] | None = None, seconds: float = SECONDS
    ) -> list[Times]:
        """Time per image of the parent and of others, those of one runtime taking turns.

        Runtimes come one after the other: threads of one may wait busily for its next image, and would take the cores
        of another.

        Args:
            *others (nn.Module | str): Ultralytics models, which stay untouched, or files that were exported.
            sides (Sequence[int] | None): Side of the images of each of these; the parent's unless given.
            seconds (float): When to stop although the medians are not known well enough.

        Returns:
            (list[Times]): The parent first.

        Raises:
            ArgumentError: If one cannot be exported or run.
        """
        with TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # a runtime may hold its file a little longer
            runs, runtimes = [self.parent], [self.runtime]
            for i, (model, side) in enumerate(zip(others, sides or [self.imgsz] * len(others), strict=True)):
                place = Path(folder) / str(i)
                place.mkdir()
                runs.append(engines.opened(model, self.deployment, side, place))
                runtimes.append(_runtime(model, self.deployment))
            found: dict[int, Times] = {}
            for runtime in dict.fromkeys(runtimes):
                mine = [i for i, other in enumerate(runtimes) if other == runtime]
                times = take_turns([runs[i] for i in mine], seconds, share=1 / self.deployment.batch)
                found.update(zip(mine, times, strict=True))
            return [found[i] for i in range(len(runs))]

    def facts(self, times: Sequence[Times]) -> dict[str, Any]:
        """What was measured and on what, for reports."""
        return {
            **self.deployment.facts(),
            "imgsz": self.imgsz,
            "ms": [t.median for t in times],
            "p95": [t.p95 for t in times],
            "spread": [t.spread for t in times],
            "runs": [t.runs for t in times],
        }


@contextmanager
def opened(deployment: Deployment, parent: nn.Module | str, imgsz: int) -> Iterator[Bench]:
    """A bench around a parent, as long as a `with` block lasts.

    Args:
        deployment (Deployment): How networks run.
        parent (nn.Module | str): An Ultralytics model, which stays untouched, or a file that was exported.
        imgsz (int): Side of the square images.

    Raises:
        ArgumentError: If it cannot be exported or run here.
    """
    with (
        threads.pinned(deployment.format, deployment.threads),
        TemporaryDirectory(ignore_cleanup_errors=True) as folder,
    ):
        run = engines.opened(parent, deployment, imgsz, Path(folder))
        yield Bench(deployment, imgsz, run, _runtime(parent, deployment))


def _runtime(model: nn.Module | str, deployment: Deployment) -> str:
    """What a network runs on: a file on that of its format."""
    return registry.format_of(model) if isinstance(model, str) else deployment.format


def unsteady(times: Sequence[Times]) -> str | None:
    """What to say of times that are not known well, None where they are."""
    widest = max(times, key=lambda t: t.spread)
    if widest.spread <= WELL_KNOWN:
        return None
    return f"medians of {widest.runs} runs, known to ±{widest.spread:.1%}"
