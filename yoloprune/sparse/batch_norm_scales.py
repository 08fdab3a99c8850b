"""The batch-norm scales (gamma) that sparse training may push to zero, as one flat vector over all layers.

Shapes: `(scales,)` has one entry per scale, layer after layer; `(classes,)` one per channel class of the graph.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np
import torch
from torch import Tensor, nn

from yoloprune.errors import ModelError
from yoloprune.importance import dead_channels, weight_criteria
from yoloprune.planning.channel_graph import ChannelGraph
from yoloprune.torch_internals import multiply_all

SMALLEST = 2.0**-14  # smallest normal number in half precision, the precision of checkpoints


class BatchNormScales:
    """The scales of a model that belong to channel classes which may die.

    Attributes:
        removable (np.ndarray): Mask of the classes that stand still once all their scales are zero, and none of whose
            scales lies in a layer that the user froze, shape (classes,).
        penalised (Tensor): Mask of the scales of these classes, shape (scales,).
        fingerprint (str): What tells these scales and classes from those of another network, of another `freeze=`, or
            in another order: positions among them mean the same where it is the same.
    """

    def __init__(self, model: nn.Module, graph: ChannelGraph) -> None:
        modules = dict(model.named_modules())
        found = [
            (axis.module, classes)
            for axis, classes in zip(graph.axes, graph.class_of, strict=True)
            if axis.side == "outputs" and weight_criteria.batch_norm(modules.get(axis.module)) is not None
        ]
        self.removable = dead_channels.removable_by_gamma(model, graph)
        for name, classes in found:
            if not modules[name].weight.requires_grad:
                self.removable[classes] = False
        found = [(name, classes) for name, classes in found if self.removable[classes].any()]
        self._names = [name for name, _ in found]
        self._layers = [modules[name] for name in self._names]
        self._widths = [len(classes) for _, classes in found]
        device = next(model.parameters()).device
        index = np.concatenate([classes for _, classes in found]) if found else np.zeros(0, dtype=int)
        self._class = torch.from_numpy(index).to(device)
        self._layer = torch.arange(len(found), device=device).repeat_interleave(
            torch.tensor(self._widths, dtype=torch.long, device=device)
        )
        self._members = torch.from_numpy(_table(index, graph.n_classes)).to(device)
        self.penalised = torch.from_numpy(self.removable).to(device)[self._class]
        told = json.dumps([(name, classes.tolist(), self.removable[classes].tolist()) for name, classes in found])
        self.fingerprint = hashlib.sha256(told.encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self._class)

    def require_same(self, fingerprint: str | None, scores: int) -> None:
        """Raise ModelError where what a run left is of other scales and classes than these.

        Args:
            fingerprint (str | None): Of those; None where a release wrote the checkpoint that kept none.
            scores (int): How many scales it kept a score of; 0 where it was done with scores.
        """
        if fingerprint not in (None, self.fingerprint) or scores not in (0, len(self)):
            raise ModelError(
                "resume: other channels may die now than when this run began, so others would be its victims. Resume "
                "with the freeze= and the yoloprune that it began with"
            )

    # ---- reading -----------------------------------------------------------------------------------------------------

    @property
    def gamma(self) -> Tensor:
        """All scales, a copy, shape (scales,)."""
        return torch.cat([layer.weight.detach() for layer in self._layers])

    @property
    def response(self) -> Tensor:
        """How much the loss hangs on each channel, shape (scales,), from the gradients that are there.

        |gamma * dL/dgamma + beta * dL/dbeta|, the derivative by a gate behind the batch-norm: closing it removes scale
        and bias, as the cut does (Molchanov et al. 2019, arXiv 1906.10771, section 3.1).
        """

        def product(p: nn.Parameter) -> Tensor:
            return torch.zeros_like(p) if p.grad is None else p.detach() * p.grad

        return torch.cat([product(layer.weight) + product(layer.bias) for layer in self._layers]).abs()

    def sums(self, values: Tensor) -> Tensor:
        """Sum of values of shape (scales,) over the members of each class, shape (classes,).

        Gathered, not scattered: atomic additions on a GPU could come out differently on every rank.
        """
        return nn.functional.pad(values, (0, 1))[self._members.to(values.device)].sum(1)

    def relative(self) -> Tensor:
        """|gamma| as a multiple of the mean of its layer, shape (scales,)."""
        means = torch.stack([layer.weight.detach().abs().mean() for layer in self._layers])
        return self.gamma.abs() / means[self._layer].clamp_min(1e-12)

    def norms(self, coupled: bool) -> Tensor:
        """Norm of the scales that a proximal step shrinks together, shape (scales,).

        Args:
            coupled (bool): Whether the members of a class are one unit, or every scale is its own.
        """
        gamma = self.gamma
        return self.sums(gamma.square()).sqrt()[self._class] if coupled else gamma.abs()

    def rates(self, optimizer: torch.optim.Optimizer) -> Tensor:
        """Present learning rate of each scale, shape (scales,); MuSGD trains some layers faster."""
        rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
        return torch.tensor([rate.get(id(layer.weight), 0.0) for layer in self._layers]).to(self._layer.device)[
            self._layer
        ]

    def spread(self, mask: np.ndarray) -> Tensor:
        """Mask of shape (classes,) to one of shape (scales,)."""
        return torch.from_numpy(mask).to(self._class.device)[self._class]

    # ---- changing ----------------------------------------------------------------------------------------------------

    def split(self, values: Tensor) -> list[Tensor]:
        """Values of shape (scales,), layer by layer."""
        return list(values.split(self._widths))

    @torch.no_grad()
    def multiply(self, factors: list[Tensor], biases: bool = True) -> None:
        """Multiply the live scales, and the biases, which a silent channel would otherwise emit through its activation.

        Args:
            factors (list[Tensor]): From `split`.
            biases (bool): Whether the batch-norm biases follow.
        """
        multiply_all([layer.weight for layer in self._layers], factors)
        if biases:
            multiply_all([layer.bias for layer in self._layers], factors)

    def shrink(self, step: float | Tensor, coupled: bool) -> None:
        """Proximal step of `step` times the sum of the norms: each unit loses `step` of its norm, down to exactly zero.

        Every scale on its own: soft threshold (Ye et al. 2018, arXiv 1802.00124, eq. 4). Coupled: group lasso (Yuan and
        Lin 2006, J. R. Stat. Soc. B 68, section 2).
        """
        factor = (1 - step / self.norms(coupled).clamp_min(1e-30)).clamp_min(0)
        self.multiply(self.split(torch.where(self.penalised, factor, 1.0)), biases=False)

    def pull(self, weight: float) -> None:
        """Add the sub-gradient of `weight` times the sum of all |gamma| (Liu et al. 2017, arXiv 1708.06519, eq. 1)."""
        for layer, sign in zip(self._layers, self.split(self.gamma.sign() * self.penalised), strict=True):
            if layer.weight.grad is not None:
                layer.weight.grad.add_(sign, alpha=weight)

    def zero(self, model: nn.Module, scales: np.ndarray, biases: np.ndarray) -> None:
        """Set scales and biases of classes to exactly zero in a model of the same structure (live or EMA).

        Args:
            model (nn.Module): The model.
            scales (np.ndarray): Classes whose scales become zero, shape (classes,).
            biases (np.ndarray): Classes whose biases become zero, shape (classes,).
        """
        modules = dict(model.named_modules())
        masks = zip(self._names, self.split(self.spread(scales)), self.split(self.spread(biases)), strict=True)
        for name, dead, quiet in masks:
            modules[name].weight.detach().masked_fill_(dead, 0.0)
            modules[name].bias.detach().masked_fill_(quiet, 0.0)

    def lift(self, model: nn.Module, alive: np.ndarray) -> None:
        """Lift scales of living classes that would all read as zero in a checkpoint, and be cut beyond the budget.

        Args:
            model (nn.Module): The model.
            alive (np.ndarray): Classes that must not read as dead, shape (classes,).
        """
        modules = dict(model.named_modules())
        weights = [modules[name].weight.detach() for name in self._names]
        seen = self.sums((torch.cat(weights).abs() >= SMALLEST).float()) > 0
        faint = self.spread(alive) & ~seen[self._class]
        for weight, mask in zip(weights, self.split(faint), strict=True):
            weight.masked_fill_(mask, SMALLEST)


def _table(index: np.ndarray, n_classes: int) -> np.ndarray:
    """Positions of the members of each class, padded with the position after the last, shape (classes, most)."""
    counts = np.bincount(index, minlength=n_classes)
    table = np.full((n_classes, max(int(counts.max(initial=0)), 1)), len(index))
    order = np.argsort(index, kind="stable")
    rank = np.arange(len(index)) - np.repeat(np.cumsum(counts) - counts, counts)
    table[index[order], rank] = order
    return table
