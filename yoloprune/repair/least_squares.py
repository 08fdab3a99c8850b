"""Repair after the cut: every layer's weights fitted to what the parent's layer puts out, by ridge least squares."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, pad

from yoloprune.errors import DataError
from yoloprune.planning.plan import Keep, Plan
from yoloprune.probing.forward import Readers, feed, follow, hooked, in_batch, input_of, running
from yoloprune.repair import ridge_solver
from yoloprune.repair.constants import Layer, add_constant, kept, layer_of, norm_of, running_mean_of
from yoloprune.torch_internals import BatchNorm, padding_of

PIXELS = 128 * 320**2
"""Input pixels that `refit` holds at once, 128 images at 320 or as many windows at 640: what bounds its memory."""

ROWS = 8192
"""Positions per layer that `refit` fits."""

FLOOR = 0.2
"""Least weight of a value in a fit: no activation hides it altogether."""

FITTED = (nn.Conv2d, nn.Linear)
"""Layers that are fitted."""

ACTIVATIONS = (nn.SiLU, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.Mish, nn.Hardswish, nn.Sigmoid, nn.Tanh)
"""Element-wise functions whose slope says how much an error before them matters after them."""


def refit(
    parent: nn.Module,
    model: nn.Module,
    plan: Plan,
    batches: Iterable[Tensor],
    *,
    ridge: float = 0.01,
    free: Mapping[str, Tensor] | None = None,
    tick: Callable[[], None] = lambda: None,
) -> dict[str, tuple[float, float]]:
    """Fit each layer, in network order, to the outputs of the parent's (He et al. 2017, arXiv 1707.06168, section 3).

    For layer inputs X of the cut model, kept outputs Y of the parent and present weights W, all centred, the D is added
    to W that minimises |Y - X (W + D)|² + λ |D|², λ = `ridge` times the squares of an input, summed over the positions
    and averaged over the inputs. The means go where `fold` puts them. So a large `ridge` leaves the weights alone and
    corrects means only.

    Both models see all images as one batch: a hook before each layer of the cut model finds inputs that come from
    layers already refitted, so one pass is enough. `PIXELS` bounds the memory, 2 GB for yolov8n; images beyond it are
    not used. Of each layer `ROWS` positions are fitted, unusual ones with preference (`_Target`), so that objects count
    beside all the background.

    Where a mask holds weights at zero, the others of each output are fitted to make up for them, all at once and not
    one by one as in SparseGPT (Frantar and Alistarh 2023, arXiv 2301.00774, section 3.2: its exact reconstruction).

    Args:
        parent (nn.Module): The model before the cut.
        model (nn.Module): The model after the cut, changed in place.
        plan (Plan): The plan that was cut.
        batches (Iterable[Tensor]): Images of shape (B, C, H, W), all of one size.
        ridge (float): How strongly weights are held where they are, above 0.
        free (Mapping[str, Tensor] | None): By layer, which of its weights may change, bool of the weight's shape; all
            of those of layers that are not in it.
        tick (Callable): Called after each layer, of which there are at most as many as `layers` finds.

    Returns:
        (dict[str, tuple[float, float]]): By layer, the share of the variance of the parent's output that is missed
            before and after. Transposed convolutions and layers that do not run exactly once, or on nothing, are left
            alone.

    Raises:
        DataError: If `batches` is empty.
    """
    images = _together(batches)
    left = {name for name, _ in model.named_modules()}  # a branch that was removed leaves nothing to fit
    targets = {
        name: _Target(plan.keep.get(name, Keep()), seed)
        for seed, (name, module) in enumerate(parent.named_modules())
        if isinstance(module, FITTED) and name in left
    }
    with running(parent), hooked() as hooks, Readers() as readers:
        hooks += [parent.get_submodule(name).register_forward_hook(target) for name, target in targets.items()]
        followers = follow(parent, targets, BatchNorm, hooks)
        norms = [name for name, module in parent.named_modules() if isinstance(module, BatchNorm)]
        activations = follow(parent, [*targets, *norms], ACTIVATIONS, hooks)
        feed(parent, [images])
    followers = {name: norm for name, norm in followers.items() if name not in readers.others}
    targets = {name: target for name, target in targets.items() if target.calls == 1 and len(target.rows)}
    missed: dict[str, tuple[float, float]] = {}

    def fit(name: str, module: Layer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        target, follower = targets[name], followers.get(name)
        x, y = _rows(module, in_batch(module, input_of(args, kwargs)), target.positions), target.rows
        constant = _constant(parent, model, plan, name, follower)
        importance = _importance(parent, plan, y, follower, activations.get(follower or name))
        movable = module.bias is not None or follower is not None
        may = None if free is None else free.get(name)
        change, shift, missed[name] = ridge_solver.solve(
            module.weight.data, constant, x, y, ridge, importance, may, movable=movable
        )
        module.weight.data += change.to(module.weight)
        add_constant(model, name, shift, follower)
        del target.rows  # the largest part of the memory, not needed again
        tick()

    with running(model), hooked() as hooks:
        hooks += [
            model.get_submodule(name).register_forward_pre_hook(partial(fit, name), with_kwargs=True)
            for name in targets
        ]
        feed(model, [images])
    return missed


def layers(model: nn.Module) -> list[str]:
    """Names of the layers that can be fitted."""
    return [name for name, module in model.named_modules() if isinstance(module, FITTED)]


def _together(batches: Iterable[Tensor]) -> Tensor:
    """Images as one batch, as many as `PIXELS` allows, at least one."""
    parts = list(batches)
    if not parts:
        raise DataError("There are no calibration images.")
    height, width = parts[0].shape[-2:]
    return torch.cat(parts)[: max(1, PIXELS // (height * width))]


class _Target:
    """Hook after a layer of the parent: what it puts out at some positions, kept outputs only, shape (P, outputs).

    The energy of a position is its squared deviation from the mean in units of the variance, averaged over channels;
    its chance to be drawn is the square of that.
    """

    def __init__(self, keep: Keep, seed: int) -> None:
        self.keep, self.generator, self.calls = keep, torch.Generator().manual_seed(seed), 0
        self.rows = torch.zeros(0, 0)

    def __call__(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.calls += 1
        output = in_batch(module, output)
        if not output.numel():
            return
        flat = output.flatten(0, -2) if isinstance(module, nn.Linear) else output.movedim(1, -1)
        variance, mean = torch.var_mean(flat, tuple(range(flat.ndim - 1)), correction=0)  # of one position as well
        energy = ((flat - mean).square() / variance.clamp_min(1e-12)).mean(-1).cpu()
        chance = energy.flatten().square() + 1e-12  # never 0, so that all can be drawn where there are few
        chosen = chance.multinomial(min(ROWS, len(chance)), generator=self.generator).to(output.device)
        self.positions = torch.unravel_index(chosen, energy.shape)
        rows = flat[self.positions]
        self.rows = rows if self.keep.outputs is None else rows[:, list(self.keep.outputs)]


def _rows(module: Layer, x: Tensor, positions: tuple[Tensor, ...]) -> Tensor:
    """What a layer multiplies with its weights at some output positions, shape (groups, P, inputs per output)."""
    if isinstance(module, nn.Linear):
        return x.flatten(0, -2)[positions][None]
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    x = pad(x, padding_of(module), mode)  # torch's own form of it, which knows "same" as well
    image, row, column = positions
    (sy, sx), (dy, dx), (height, width) = module.stride, module.dilation, module.kernel_size
    taps = [x[image, :, row * sy + i * dy, column * sx + j * dx] for i in range(height) for j in range(width)]
    rows = torch.stack(taps, -1)  # (P, inputs, taps), in the order of the weights
    return rows.reshape(len(rows), module.groups, -1).transpose(0, 1)


def _constant(parent: nn.Module, model: nn.Module, plan: Plan, name: str, follower: str | None) -> Tensor:
    """What is added to a layer's products so far: its bias, or what went into the batch-norm, shape (outputs,)."""
    module = layer_of(model, name)
    if module.bias is not None:
        return module.bias.detach()
    if follower is None:
        return module.weight.new_zeros(len(module.weight))
    return kept(running_mean_of(parent, follower), plan, follower) - running_mean_of(model, follower)


def _importance(
    parent: nn.Module, plan: Plan, y: Tensor, follower: str | None, activation: str | None
) -> Tensor | None:
    """How much an error of each output matters past the activation: squared slope, at most 1, shape (P, outputs)."""
    if activation is None:
        return None
    if follower is not None:
        norm = norm_of(parent, follower)
        tensors = (norm.running_mean, norm.running_var, norm.weight, norm.bias)
        mean, variance, weight, bias = (None if t is None else kept(t, plan, follower) for t in tensors)
        y = batch_norm(y, mean, variance, weight, bias, eps=norm.eps)
    with torch.enable_grad():
        y = y.detach().requires_grad_()
        result = parent.get_submodule(activation)(y.clone())  # a copy, because it may work in place
        (slope,) = torch.autograd.grad(result.sum(), y)
    return (slope.square() / slope.square().max().clamp_min(1e-30)).clamp_min(FLOOR)
