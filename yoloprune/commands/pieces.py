"""Pieces of work that do not need each other: in this process, a few at a time, or spread over a Ray cluster."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, TypeVar

from yoloprune.backend import console
from yoloprune.errors import ArgumentError, PruneError

Piece = TypeVar("Piece")
Result = TypeVar("Result")

RETRIES = 3  # so often a piece begins again whose process, or machine, is gone


@dataclass(frozen=True)
class Ray:
    """Where Ray runs pieces: the cluster that RAY_ADDRESS or `ray start` names, else one on this machine.

    Attributes:
        cpus (int): Cores that each piece takes; as many threads are allowed to it.
        gpus (int): GPUs that each piece takes. It sees no others, and its own as device=0.
    """

    cpus: int = 1
    gpus: int = 0

    @staticmethod
    def require() -> None:
        """Raise ArgumentError where Ray is not installed."""
        found = find_spec("ray")
        if found is None or found.origin is None:  # a folder of that name
            raise ArgumentError('ray=True: needs the package ray, which is not installed: pip install "yoloprune[ray]"')


@contextlib.contextmanager
def spread(
    work: Callable[[Piece], Result], pieces: Sequence[Piece], *, at_once: int = 1, ray: Ray | None = None
) -> Iterator[Iterator[Result]]:
    """Work on pieces for the time of a `with` block.

    Args:
        work (Callable): From a piece to its result. On a cluster both are pickled: small results, no files, unless on
            storage that all machines share.
        pieces (Sequence): What is worked on.
        at_once (int): How many at the same time in this process, in threads.
        ray (Ray | None): The cluster that takes its place.

    Yields:
        (Iterator): The results in the order of the pieces, each as soon as it and those before it are there.

    Raises:
        PruneError: If no machine of the cluster has what a piece takes, or a piece was lost with its process too often.
    """
    if ray is not None:
        with _on_ray(work, pieces, ray) as results:
            yield results
    elif at_once == 1:
        yield map(work, pieces)
    else:
        with ThreadPoolExecutor(at_once) as pool:
            yield pool.map(work, pieces)


@contextlib.contextmanager
def _on_ray(work: Callable[[Piece], Result], pieces: Sequence[Piece], share: Ray) -> Iterator[Iterator[Result]]:
    share.require()
    # Late: an extra, and slow to import
    ray: Any = import_module("ray")
    begun = not ray.is_initialized()
    if begun:
        ray.init(log_to_driver=False)  # bars of several processes at once; Ray keeps what they say in its own folder
    waiting: list[Any] = []
    try:
        share = _fitting(share, [node["Resources"] for node in ray.nodes() if node["Alive"]])
        task = ray.remote(num_cpus=share.cpus, num_gpus=share.gpus, max_retries=RETRIES)(_elsewhere)
        shared = ray.put(work)  # once for all pieces
        waiting += [task.remote(shared, piece, os.getcwd()) for piece in pieces]
        yield (_result(ray, one) for one in waiting)
    finally:
        for one in waiting:
            ray.cancel(one, force=True)  # does nothing to what is done
        if begun:
            ray.shutdown()


def _fitting(share: Ray, machines: Sequence[Any]) -> Ray:
    """What a piece may take on these machines: Ray waits for ever for more than any of them has."""
    able = [m for m in machines if m.get("GPU", 0) >= share.gpus]
    cores = int(max((m.get("CPU", 0) for m in able), default=0))
    if cores < 1:
        raise PruneError(f"ray: no machine of the cluster has a core and {share.gpus} GPU to spare for a piece of work")
    share = Ray(min(share.cpus, cores), share.gpus)
    takes = f"{share.cpus} of {sum(int(m.get('CPU', 0)) for m in able)} cores" + (" and a GPU" if share.gpus else "")
    console.log("ray: ", f"{len(able)} machine{'s' if len(able) > 1 else ''}; a piece of work takes {takes}")
    return share


def _elsewhere(work: Callable[[Piece], Result], piece: Piece, folder: str) -> Result:
    """Work in a process of the cluster, where relative paths mean what they mean here, if that folder is there."""
    with contextlib.suppress(OSError):
        os.chdir(folder)
    return work(piece)


def _result(ray: Any, one: Any) -> Any:
    """Wait for a result; errors of the work are raised as if it had been done here."""
    try:
        return ray.get(one)
    except ray.exceptions.RayTaskError as e:
        raise (e.cause if isinstance(e.cause, Exception) else PruneError(f"ray: {e}")) from None
    except ray.exceptions.RayError as e:
        first = str(e).strip().partition("\n")[0]
        raise PruneError(f"ray: a piece of work was lost {1 + RETRIES} times: {type(e).__name__}: {first}") from None
