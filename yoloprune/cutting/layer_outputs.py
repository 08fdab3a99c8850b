"""What the layers of a masked parent and of a cut model give, side by side: a wrong cut deep inside shows where it is.

Behind it every layer that averages lets less of it through, until it is below what rounding may do to an output.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import torch
from torch import Tensor, nn

from yoloprune.planning.plan import REMOVED, Plan
from yoloprune.probing.examples import Run, is_of_layer, layer_of
from yoloprune.probing.outputs import Leaf
from yoloprune.torch_internals import BatchNorm, channel_dim


class LayerOutputs:
    """Which of the channels that layers of the parent give are left in the cut model."""

    def __init__(self, parent: nn.Module, model: nn.Module, plan: Plan) -> None:
        self.modules, self.theirs, self.plan = dict(parent.named_modules()), dict(model.named_modules()), plan

    def left(self, leaves: list[Leaf]) -> list[Leaf]:
        """Leaves of the parent without the channels that layers lost."""
        return [Leaf(path, self._left(layer_of(path), value) if is_of_layer(path) else value) for path, value in leaves]

    def _left(self, name: str, value: Tensor) -> Tensor:
        keep = self.plan.keep.get(name)
        if keep is None or keep == REMOVED or keep.outputs is None:
            return value
        dim = channel_dim(self.modules[name])
        if value.ndim < -dim or value.shape[dim] != keep.of[0]:
            return value  # of a class of the user's that does more
        return value.index_select(dim, torch.tensor(keep.outputs, device=value.device))

    def both(self, wanted: Run, got: Run) -> tuple[Run, Run]:
        """Two runs with the leaves of those layers alone that can be compared.

        A block whose width changed is not in the plan, and the last layer in it is. A batch-norm whose parameters a
        cut did not only shorten, as those of attention's queries, gives something else, which is made up for later. A
        layer that does not run as often in both, since a branch that it was in is gone, is left out as well.
        """
        mine, theirs = _shapes(wanted), _shapes(got)
        alike = {name for name in mine if mine[name] == theirs.get(name) and self._is_shortened(name)}

        def of_both(one: Run) -> Run:
            left = [leaf for leaf in one.leaves if not is_of_layer(leaf.path) or layer_of(leaf.path) in alike]
            return replace(one, leaves=left)

        return of_both(wanted), of_both(got)

    def _is_shortened(self, name: str) -> bool:
        mine, theirs = self.modules[name], self.theirs[name]
        if not isinstance(mine, BatchNorm) or not isinstance(theirs, BatchNorm):
            return True
        keep = self.plan.keep.get(name)
        rows = slice(None) if keep is None or keep.outputs is None else list(keep.outputs)
        values = ((getattr(mine, key), getattr(theirs, key)) for key in ("weight", "bias"))
        return all(a is None or b is None or torch.equal(a.detach()[rows], b.detach()) for a, b in values)


def _shapes(one: Run) -> dict[str, list[torch.Size]]:
    """By layer, the shapes of all that it gave."""
    found: dict[str, list[torch.Size]] = defaultdict(list)
    for path, value in one.leaves:
        if is_of_layer(path):
            found[layer_of(path)].append(value.shape)
    return found
