"""Repairs between the cut and any fine-tuning: constants folded, batch-norm statistics, least squares.

In this order; each may be left out. All three see a model through its plan and forward hooks only, and know no block.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, pad
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.hooks import RemovableHandle
from ultralytics.utils import RANK, TQDM

from yoloprune import host
from yoloprune.errors import DataError
from yoloprune.groups import Keep, Plan

CONSTANT = 1e-5
"""A channel is constant if its spread is at most this share of its largest absolute value: float32 rounding."""

PIXELS = 128 * 320**2
"""Input pixels that `refit` holds at once, 128 images at 320 or 32 at 640: what bounds its memory."""

ROWS = 8192
"""Positions per layer that `refit` fits."""

STEPS = 10
"""Iterations of a fit in which every value has a weight of its own."""

FLOOR = 0.2
"""Least weight of a value in a fit: no activation hides it altogether."""

ACTIVATIONS = (nn.SiLU, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.Mish, nn.Hardswish, nn.Sigmoid, nn.Tanh)
"""Element-wise functions whose slope says how much an error before them matters after them."""


@dataclass(frozen=True)
class Folded:
    """What `fold` did.

    Attributes:
        into (dict[str, str]): By consumer, the bias or batch-norm that took over what its cut inputs contributed.
        channels (int): Cut inputs whose mean was moved, summed over the consumers in `into`.
        dropped (int): Cut inputs of these that are not constant and simply went; 0 with data.
        skipped (dict[str, str]): By consumer, why nothing was moved.
    """

    into: dict[str, str]
    channels: int
    dropped: int
    skipped: dict[str, str]


def fold(
    parent: nn.Module,
    model: nn.Module,
    plan: Plan,
    batches: Iterable[Tensor] | None = None,
    *,
    noise: Tensor | None = None,
) -> Folded:
    """Move what the cut inputs of a layer contribute on average into its bias, or the batch-norm that follows it.

    A channel with gamma = 0 still emits a constant, e.g. SiLU(beta). A consumer with weights W and kernel taps k loses
    sum_i (sum_k W[o, i, k]) * mean_i over its cut inputs i, and gets it back in its bias or, with the opposite sign, in
    the running mean of the batch-norm that takes its very output (Ye et al. 2018, arXiv 1802.00124, do so for ReLU).

    The means are those that arrive at the consumer in the running parent, so residual sums, upsampling, concatenation
    and pooling need no rule of their own. They also make the corrections independent of each other: if every kept input
    of a consumer is what it is in the parent, adding the parent's missing contribution makes its kept outputs what they
    are in the parent, and so on layer by layer. Means taken in the cut model would depend on the corrections before.

    This is exact for constant channels where the kernel lies inside the image. At a zero-padded border the parent sees
    less of the constant, and the cut model gets too much. A transposed convolution gets the average over the positions
    of its stride. A convolution whose raw output feeds another layer beside the batch-norm would be corrected for the
    batch-norm only; no Ultralytics model has one.

    Args:
        parent (nn.Module): The model before the cut.
        model (nn.Module): The model after the cut, changed in place.
        plan (Plan): The plan that was cut.
        batches (Iterable[Tensor] | None): Images of shape (B, C, H, W). Without them, noise finds the channels that are
            the same at all positions of all its images, and only those are moved.
        noise (Tensor | None): That noise, two images at least; not needed for an Ultralytics model.

    Returns:
        (Folded): What went where.

    Raises:
        DataError: If `batches` is empty.
    """
    modules = dict(parent.named_modules())
    # A loose parameter has no inputs, and what a depthwise convolution loses its consumers lose: it has outputs only.
    lost = {name: _Inputs(keep) for name, keep in plan.keep.items() if keep.inputs is not None and name in modules}
    with _running(parent), _hooks() as hooks:
        hooks += [modules[name].register_forward_pre_hook(inputs) for name, inputs in lost.items()]
        followers = _follow(parent, lost, _BatchNorm, hooks)
        if batches is None:
            _feed(parent, [host.example(parent, 2) if noise is None else noise])
        else:
            _feed(parent, batches)
    into: dict[str, str] = {}
    skipped: dict[str, str] = {}
    moved = dropped = 0
    for name, inputs in lost.items():
        if not inputs.count:
            skipped[name] = "does not run"
            continue
        known = inputs.constant() if batches is None else torch.ones(len(inputs.cut), dtype=torch.bool)
        shift = _kernel_sum(modules[name])[:, inputs.cut] @ torch.where(known, inputs.total / inputs.count, 0)
        place = _add(model, name, _kept(shift, plan, name), followers.get(name))
        if place is None:
            skipped[name] = "has no bias, and no batch-norm takes its output"
            continue
        into[name] = place
        moved, dropped = moved + int(known.sum()), dropped + int((~known).sum())
    return Folded(into, moved, dropped, skipped)


def reestimate(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Measure all batch-norm statistics anew (Li et al. 2020, EagleEye, arXiv 2007.02491, section 3).

    Means and variances are averaged over the batches with equal weight. A channel has B·H·W samples per batch, fewest
    at the coarsest stride: 16 images at imgsz 320 give 16·10·10 = 1600, even if independent a standard error of 3.5 %
    of the variance, and 8 such batches 1.3 %. More small batches do not replace large ones, because a batch's variance
    leaves out how batches differ; the size used in training has the bias that the parent's statistics have.

    Args:
        model (nn.Module): The cut model; only running means and variances change.
        batches (Iterable[Tensor]): Images of shape (B, C, H, W), not augmented.

    Raises:
        DataError: If `batches` is empty.
    """
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    before = [(m, m.momentum, m.num_batches_tracked.clone()) for m in layers]
    try:
        with _running(model):
            for m in layers:
                m.train()
                m.momentum = None  # cumulative average, weighed by the counter
                m.num_batches_tracked.zero_()
            _feed(model, batches)
    finally:
        for m, momentum, count in before:
            m.momentum = momentum
            m.num_batches_tracked.copy_(count)


def refit(
    parent: nn.Module, model: nn.Module, plan: Plan, batches: Iterable[Tensor], *, ridge: float = 0.1
) -> dict[str, tuple[float, float]]:
    """Fit each layer, in network order, to the outputs of the parent's (He et al. 2017, arXiv 1707.06168, section 3).

    For layer inputs X of the cut model, kept outputs Y of the parent and present weights W, all centred, the D is added
    to W that minimises |Y - X (W + D)|² + λ |D|², λ = `ridge` times the mean square of the inputs. The means go where
    `fold` puts them. So a large `ridge` leaves the weights alone and corrects means only.

    Both models see all images as one batch: a hook before each layer of the cut model finds inputs that come from
    layers already refitted, so one pass is enough. `PIXELS` bounds the memory, 2 GB for yolov8n; images beyond it are
    not used. Of each layer `ROWS` positions are fitted, unusual ones with preference (`_Target`), so that objects count
    beside all the background: mAP50-95 of a yolov8n on BCCD cut to 0.7 of its FLOPs is 0.588 with it, 0.576 without.

    Args:
        parent (nn.Module): The model before the cut.
        model (nn.Module): The model after the cut, changed in place.
        plan (Plan): The plan that was cut.
        batches (Iterable[Tensor]): Images of shape (B, C, H, W), all of one size.
        ridge (float): How strongly weights are held where they are, above 0.

    Returns:
        (dict[str, tuple[float, float]]): By layer, the share of the variance of the parent's output that is missed
            before and after. Transposed convolutions and layers that do not run exactly once are left alone.

    Raises:
        DataError: If `batches` is empty.
    """
    images = _together(batches)
    targets = {
        name: _Target(plan.keep.get(name, Keep()), seed)
        for seed, (name, module) in enumerate(parent.named_modules())
        if isinstance(module, (nn.Conv2d, nn.Linear))
    }
    with _running(parent), _hooks() as hooks:
        hooks += [parent.get_submodule(name).register_forward_hook(target) for name, target in targets.items()]
        followers = _follow(parent, targets, _BatchNorm, hooks)
        norms = [name for name, module in parent.named_modules() if isinstance(module, _BatchNorm)]
        activations = _follow(parent, [*targets, *norms], ACTIVATIONS, hooks)
        _feed(parent, [images])
    targets = {name: target for name, target in targets.items() if target.calls == 1}
    missed: dict[str, tuple[float, float]] = {}
    bar = TQDM(total=len(targets), desc="refitting layers", disable=RANK not in {-1, 0})

    def fit(name: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        target, follower = targets[name], followers.get(name)
        x, y = _rows(module, inputs[0], target.positions), target.rows
        constant = _constant(parent, model, plan, name, follower)
        importance = _importance(parent, plan, y, follower, activations.get(follower or name))
        movable = module.bias is not None or follower is not None
        change, shift, missed[name] = _solve(module.weight.data, constant, x, y, ridge, importance, movable=movable)
        module.weight.data += change.to(module.weight)
        _add(model, name, shift, follower)
        del target.rows  # the largest part of the memory, not needed again
        bar.update(1)

    with _running(model), _hooks() as hooks:
        hooks += [model.get_submodule(name).register_forward_pre_hook(partial(fit, name)) for name in targets]
        _feed(model, [images])
    bar.close()
    return missed


# ---- running a model -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _running(model: nn.Module) -> Iterator[None]:
    """No gradients; training mode, in which heads run all their branches, but not for dropout and batch-norm."""
    modes = [(m, m.training) for m in model.modules()]
    try:
        model.train()
        for m in model.modules():
            if isinstance(m, (_BatchNorm, _DropoutNd)):
                m.eval()
        with torch.no_grad():
            yield
    finally:
        for m, training in modes:
            m.training = training


@contextlib.contextmanager
def _hooks() -> Iterator[list[RemovableHandle]]:
    """A list of hooks that are removed at the end."""
    handles: list[RemovableHandle] = []
    try:
        yield handles
    finally:
        for handle in handles:
            handle.remove()


def _feed(model: nn.Module, batches: Iterable[Tensor]) -> None:
    weight, fed = next(model.parameters()), False
    for batch in batches:
        model(batch.to(weight.device, weight.dtype))
        fed = True
    if not fed:
        raise DataError("There are no calibration images.")


def _together(batches: Iterable[Tensor]) -> Tensor:
    """Images as one batch, as many as `PIXELS` allows, at least one."""
    parts = list(batches)
    if not parts:
        raise DataError("There are no calibration images.")
    height, width = parts[0].shape[-2:]
    return torch.cat(parts)[: max(1, PIXELS // (height * width))]


def _follow(
    parent: nn.Module, names: Iterable[str], kinds: type | tuple[type, ...], hooks: list[RemovableHandle]
) -> dict[str, str]:
    """From modules to the one of these kinds whose input is their output itself; filled when the parent runs."""
    found: dict[str, str] = {}

    def mark(name: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
        output.made_by = name  # type: ignore[attr-defined]  # on the tensor itself: it lives and dies with it

    def look(name: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if (source := getattr(inputs[0], "made_by", None)) is not None:
            found[source] = name

    for name, module in parent.named_modules():
        if isinstance(module, kinds) and getattr(module, "track_running_stats", True):
            hooks.append(module.register_forward_pre_hook(partial(look, name)))
    hooks += [parent.get_submodule(name).register_forward_hook(partial(mark, name)) for name in names]
    return found


# ---- constants -------------------------------------------------------------------------------------------------------


class _Inputs:
    """Hook before a consumer in the parent: sum, least and largest value of each of its cut inputs, shape (cut,)."""

    def __init__(self, keep: Keep) -> None:
        kept = set(keep.inputs or ())
        self.cut = [i for i in range(keep.of[1] or 0) if i not in kept]
        self.total, self.count = torch.zeros(len(self.cut), dtype=torch.float64), 0
        self.low, self.high = torch.full((2, len(self.cut)), torch.inf) * torch.tensor([[1], [-1]])

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        x = inputs[0].movedim(-1 if isinstance(module, nn.Linear) else 1, 0)[self.cut].flatten(1).float()
        self.total += x.mean(1).double().cpu() * x.shape[1]
        self.count += x.shape[1]
        self.low, self.high = torch.minimum(self.low, x.amin(1).cpu()), torch.maximum(self.high, x.amax(1).cpu())

    def constant(self) -> Tensor:
        """Mask of the cut inputs that never changed, shape (cut,)."""
        return self.high - self.low <= CONSTANT * torch.maximum(self.low.abs(), self.high.abs())


def _kernel_sum(module: nn.Module) -> Tensor:
    """Output per input that is constant, far from the border, shape (outputs, inputs), float64."""
    weight = module.weight.detach().double().cpu().flatten(2) if module.weight.ndim > 2 else module.weight[..., None]
    if isinstance(module, _ConvTransposeNd):  # each output position meets one tap in stride²
        return weight.sum(2).T / torch.tensor(module.stride).prod()
    return weight.double().cpu().sum(2)


def _kept(values: Tensor, plan: Plan, name: str) -> Tensor:
    """From values per output of a module of the parent to those of the cut model, shape (outputs,)."""
    outputs = plan.keep.get(name, Keep()).outputs
    return values if outputs is None else values[list(outputs)]


def _add(model: nn.Module, name: str, shift: Tensor, follower: str | None) -> str | None:
    """Add a constant to the outputs of a layer, shape (outputs,); the name of what took it, None if nothing can."""
    bias = model.get_submodule(name).bias
    if bias is not None:
        bias.data += shift.to(bias)
        return f"{name}.bias"
    if follower is not None:
        mean = model.get_submodule(follower).running_mean
        mean -= shift.to(mean)
        return f"{follower}.running_mean"
    return None


# ---- least squares ---------------------------------------------------------------------------------------------------


class _Target:
    """Hook after a layer of the parent: what it puts out at some positions, kept outputs only, shape (P, outputs).

    The energy of a position is its squared deviation from the mean in units of the variance, averaged over channels;
    its chance to be drawn is the square of that.
    """

    def __init__(self, keep: Keep, seed: int) -> None:
        self.keep, self.generator, self.calls = keep, torch.Generator().manual_seed(seed), 0

    def __call__(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.calls += 1
        flat = output.flatten(0, -2) if isinstance(module, nn.Linear) else output.movedim(1, -1)
        variance, mean = torch.var_mean(flat, tuple(range(flat.ndim - 1)))
        energy = ((flat - mean).square() / variance.clamp_min(1e-12)).mean(-1).cpu()
        chance = energy.flatten().square() + 1e-12  # never 0, so that all can be drawn where there are few
        chosen = chance.multinomial(min(ROWS, len(chance)), generator=self.generator).to(output.device)
        self.positions = torch.unravel_index(chosen, energy.shape)
        rows = flat[self.positions]
        self.rows = rows if self.keep.outputs is None else rows[:, list(self.keep.outputs)]


def _rows(module: nn.Module, x: Tensor, positions: tuple[Tensor, ...]) -> Tensor:
    """What a layer multiplies with its weights at some output positions, shape (groups, P, inputs per output)."""
    if isinstance(module, nn.Linear):
        return x.flatten(0, -2)[positions][None]
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    x = pad(x, module._reversed_padding_repeated_twice, mode)  # torch's own form of it, which knows "same" as well
    image, row, column = positions
    (sy, sx), (dy, dx), (height, width) = module.stride, module.dilation, module.kernel_size
    taps = [x[image, :, row * sy + i * dy, column * sx + j * dx] for i in range(height) for j in range(width)]
    rows = torch.stack(taps, -1)  # (P, inputs, taps), in the order of the weights
    return rows.reshape(len(rows), module.groups, -1).transpose(0, 1)


def _constant(parent: nn.Module, model: nn.Module, plan: Plan, name: str, follower: str | None) -> Tensor:
    """What is added to a layer's products so far: its bias, or what went into the batch-norm, shape (outputs,)."""
    module = model.get_submodule(name)
    if module.bias is not None:
        return module.bias.detach()
    if follower is None:
        return module.weight.new_zeros(len(module.weight))
    before, now = (m.get_submodule(follower).running_mean for m in (parent, model))
    return _kept(before, plan, follower) - now


def _importance(
    parent: nn.Module, plan: Plan, y: Tensor, follower: str | None, activation: str | None
) -> Tensor | None:
    """How much an error of each output matters past the activation: squared slope, at most 1, shape (P, outputs)."""
    if activation is None:
        return None
    if follower is not None:
        norm = parent.get_submodule(follower)
        parameters = (norm.running_mean, norm.running_var, norm.weight, norm.bias)
        y = batch_norm(y, *(None if p is None else _kept(p, plan, follower) for p in parameters), eps=norm.eps)
    with torch.enable_grad():
        y = y.detach().requires_grad_()
        result = parent.get_submodule(activation)(y.clone())  # a copy, because it may work in place
        (slope,) = torch.autograd.grad(result.sum(), y)
    return (slope.square() / slope.square().max().clamp_min(1e-30)).clamp_min(FLOOR)


def _solve(
    weight: Tensor,
    constant: Tensor,
    x: Tensor,
    y: Tensor,
    ridge: float,
    importance: Tensor | None = None,
    *,
    movable: bool = True,
) -> tuple[Tensor, Tensor, tuple[float, float]]:
    """Ridge regression of what is missed, in float64, each group of a grouped layer for itself.

    Every output has its own weights over the positions, but one matrix is factored for all: the first step solves the
    unweighted problem, and as weights are at most 1, each further step with its matrix comes closer (majorisation).

    Args:
        weight (Tensor): Present weights, shape (O, …).
        constant (Tensor): What is added to the products, shape (O,).
        x (Tensor): Inputs, shape (groups, P, I).
        y (Tensor): Wanted outputs, shape (P, O).
        ridge (float): Relative to the mean square of the inputs.
        importance (Tensor | None): Weight of each value of `y`, shape (P, O), in (0, 1]; None for 1.
        movable (bool): Whether the constant can change; if not, the weights have to make the mean as well.

    Returns:
        (Tensor): Change of the weights, shape of `weight`.
        (Tensor): Change of the constant, shape (O,).
        (tuple[float, float]): Shares of the weighted variance of `y` missed before and after.
    """
    groups, count, width = x.shape
    x, y = x.double(), y.double().reshape(count, groups, -1).transpose(0, 1)
    matters = torch.ones_like(y) if importance is None else importance.to(y).reshape(count, groups, -1).transpose(0, 1)
    mean = (matters * y).sum(1, keepdim=True) / matters.sum(1, keepdim=True)
    variance = (matters * (y - mean).square()).sum().clamp_min(1e-30)
    missing = y - x @ weight.double().reshape(groups, -1, width).mT - constant.double().reshape(groups, 1, -1)
    before = float((matters * missing.square()).sum() / variance)
    if before < 1e-10:  # nothing has changed up to here
        return torch.zeros_like(weight), torch.zeros_like(constant), (before, before)
    middle = x.mean(1, keepdim=True) * movable
    if movable:
        x = torch.cat((x - middle, torch.ones_like(x[:, :, :1])), 2)
    gram = x.mT @ x
    diagonal = gram.diagonal(dim1=1, dim2=2)
    held = torch.zeros_like(diagonal)  # the constant is not
    held[:, :width] = ridge * diagonal[:, :width].mean(1, keepdim=True).clamp_min(1e-30)
    diagonal += held
    factor = torch.linalg.cholesky(gram)
    change = torch.cholesky_solve(x.mT @ missing, factor)
    for _ in range(0 if importance is None else STEPS):
        rest = matters * (missing - x @ change)
        change += torch.cholesky_solve(x.mT @ rest - held[..., None] * change, factor)
    after = float((matters * (missing - x @ change).square()).sum() / variance)
    change, shift = change[:, :width].mT, change[:, width:].sum(1)  # without a constant the sum is empty
    return change.reshape(weight.shape), (shift - (change @ middle.mT)[..., 0]).flatten(), (before, after)
