"""Repairs between the cut and any fine-tuning: constants folded, batch-norm statistics, least squares.

All three see a model only through its plan and through forward hooks, so they know no block class.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.hooks import RemovableHandle
from ultralytics.utils import RANK, TQDM

from yoloprune import host
from yoloprune.errors import DataError
from yoloprune.groups import Keep, Plan

CONSTANT = 1e-5
"""Spread of a channel relative to its largest absolute value below which it is constant: a few float32 roundings."""

PIXELS = 128 * 320**2
"""Most input pixels that `refit` holds at once: 128 images at 320, 32 at 640. Bounds its memory, see there."""

ROWS = 8192
"""Most positions per layer that `refit` fits."""


@dataclass(frozen=True)
class Folded:
    """What `fold` did.

    Attributes:
        into (dict[str, str]): By consumer, the bias or batch-norm that took over what its cut inputs contributed.
        channels (int): Cut inputs whose mean was moved, over all consumers.
        dropped (int): Cut inputs that were not constant and simply went; 0 with data.
        skipped (dict[str, str]): By consumer, why nothing was moved.
    """

    into: dict[str, str]
    channels: int
    dropped: int
    skipped: dict[str, str]


def fold(parent: nn.Module, model: nn.Module, plan: Plan, batches: Iterable[Tensor] | None = None) -> Folded:
    """Move what the cut inputs of a layer contribute on average into its bias, or the batch-norm that follows it.

    A channel with gamma = 0 still emits a constant, e.g. SiLU(beta). A consumer with weights W, kernel position k and cut
    inputs i loses sum_i (sum_k W[o, i, k]) * mean_i of its output o, and gets it back in its bias or, with the opposite
    sign, in the running mean of the batch-norm that takes that very output.

    The means are those of the inputs that arrive at the consumer in the running parent, so sums of residuals, upsampling,
    concatenation and pooling need no rule. They also make every correction independent of the others: let all layers
    before a consumer be right, i.e. every kept input is what it is in the parent; then its kept outputs are right once
    the parent's missing contribution is added; and so, layer by layer, is the whole network. Were the means taken in the
    cut model, each would depend on the corrections before it.

    This is exact for constant channels wherever the kernel lies inside the image. With zero padding the border sees less
    of the constant than the interior and gets too much. A transposed convolution whose kernel is not constant modulo its
    stride gets the average over the positions of the stride.

    Args:
        parent (nn.Module): The model before the cut.
        model (nn.Module): The model after the cut, changed in place.
        plan (Plan): The plan that was cut.
        batches (Iterable[Tensor] | None): Images of shape (B, C, H, W). Without them seeded noise finds the channels that
            are constant over all positions and images, and only those are moved.

    Returns:
        (Folded): What went where.

    Raises:
        DataError: If `batches` is empty.
    """
    lost = {name: _Inputs(keep) for name, keep in plan.keep.items() if _is_dense(_find(parent, name)) and keep.inputs}
    with _hooks() as hooks, _running(parent):
        for name, inputs in lost.items():
            hooks.append(parent.get_submodule(name).register_forward_pre_hook(inputs))
        followers = _follow(parent, lost, hooks)
        _feed(parent, [host.example(parent, 2)] if batches is None else batches)
    into: dict[str, str] = {}
    skipped: dict[str, str] = {}
    moved = dropped = 0
    for name, inputs in lost.items():
        if not inputs.count:
            skipped[name] = "does not run"
            continue
        means = inputs.sum / inputs.count
        constant = inputs.constant() if batches is None else torch.ones_like(means, dtype=torch.bool)
        weight = _kernel_sum(parent.get_submodule(name))[:, inputs.cut]
        shift = weight @ torch.where(constant, means, 0)
        target = _add(model, name, _kept(shift, plan, name), followers.get(name))
        if target is None:
            skipped[name] = "has no bias, and no batch-norm takes its output"
            continue
        into[name] = target
        moved, dropped = moved + int(constant.sum()), dropped + int((~constant).sum())
    return Folded(into, moved, dropped, skipped)


def reestimate(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Measure the running statistics of all batch-norm layers anew (Li et al. 2020, EagleEye, arXiv 2007.02491, section 3).

    Means and variances are averaged over the batches with equal weight. A layer sees B·H·W samples per batch and channel,
    fewest at the coarsest stride: 16 images at imgsz 320 give 16·10·10 = 1600, a standard error of 3.5 % of a variance,
    and 8 such batches 1.3 %. So batches should be as large as in training; many small ones do not help, since the
    variance within a batch leaves out the differences between batches.

    Args:
        model (nn.Module): The cut model; only running means and variances change.
        batches (Iterable[Tensor]): Images of shape (B, C, H, W), not augmented.

    Raises:
        DataError: If `batches` is empty.
    """
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    before = [(m, m.momentum, m.num_batches_tracked.clone()) for m in layers]
    try:
        for m in layers:
            m.momentum = None  # cumulative average, which the counter weighs
            m.num_batches_tracked.zero_()
        with _running(model):
            for m in layers:
                m.train()
            _feed(model, batches)
    finally:
        for m, momentum, count in before:
            m.momentum = momentum
            m.num_batches_tracked.copy_(count)


def refit(
    parent: nn.Module, model: nn.Module, plan: Plan, batches: Iterable[Tensor], *, ridge: float = 0.01
) -> dict[str, tuple[float, float]]:
    """Fit the weights of every layer, in network order, to what the parent's layer puts out (He et al. 2017, arXiv
    1707.06168, section 3.1).

    For layer inputs X of the cut model, kept outputs Y of the parent and present weights W, all centred, this adds to W
    the D that minimises |Y - X (W + D)|² + λ |D|², λ = `ridge` times the mean square of X; the means go where `fold` puts
    them. So with a large `ridge` the weights stay and only means are corrected.

    Both models see all images as one batch: a hook before each layer of the cut model finds inputs that come from layers
    already refitted, and one pass is enough. At most `PIXELS` input pixels are used, which holds the peak for yolov8n
    near 1.5 GB, and grows with the width of the model. Rows are `ROWS` seeded positions per layer.

    Args:
        parent (nn.Module): The model before the cut.
        model (nn.Module): The model after the cut, changed in place.
        plan (Plan): The plan that was cut.
        batches (Iterable[Tensor]): Images of shape (B, C, H, W), all of one size.
        ridge (float): Strength that holds the weights where they are.

    Returns:
        (dict[str, tuple[float, float]]): By layer, the share of the variance of the parent's output that is missed before
            and after. Layers that run twice, or not at all, or transposed, keep their weights.

    Raises:
        DataError: If `batches` is empty.
    """
    images = _together(batches)
    targets: dict[str, _Target] = {
        name: _Target(plan.keep.get(name, Keep()), i)
        for i, (name, m) in enumerate(parent.named_modules())
        if isinstance(m, (nn.Conv2d, nn.Linear))
    }
    with _hooks() as hooks, _running(parent):
        for name, target in targets.items():
            hooks.append(parent.get_submodule(name).register_forward_hook(target))
        followers = _follow(parent, targets, hooks)
        _feed(parent, [images])
    targets = {name: target for name, target in targets.items() if target.calls == 1}
    bar = TQDM(total=len(targets), desc="refitting layers", disable=RANK not in {-1, 0})
    missed: dict[str, tuple[float, float]] = {}

    def fit(name: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        x = _rows(module, inputs[0], targets[name].positions)
        missed[name] = _fit(parent, model, plan, name, followers.get(name), x, targets.pop(name).rows, ridge)
        bar.update(1)

    with _hooks() as hooks, _running(model):
        for name in list(targets):
            hooks.append(model.get_submodule(name).register_forward_pre_hook(partial(fit, name)))
        _feed(model, [images])
    bar.close()
    return missed


# ---- running a model ---------------------------------------------------------------------------------------------------


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
    handles: list[RemovableHandle] = []
    try:
        yield handles
    finally:
        for handle in handles:
            handle.remove()


def _feed(model: nn.Module, batches: Iterable[Tensor]) -> None:
    weight, n = next(model.parameters()), 0
    for batch in batches:
        model(batch.to(weight.device, weight.dtype))
        n += 1
    if not n:
        raise DataError("There are no calibration images.")


def _together(batches: Iterable[Tensor]) -> Tensor:
    """All images as one batch, as many as `PIXELS` allows, at least one."""
    parts = list(batches)
    if not parts:
        raise DataError("There are no calibration images.")
    height, width = parts[0].shape[-2:]
    return torch.cat(parts)[: max(1, PIXELS // (height * width))]


def _follow(parent: nn.Module, names: Iterable[str], hooks: list[RemovableHandle]) -> dict[str, str]:
    """Fill, while the parent runs, a dictionary from layers to the batch-norm whose input is the layer's output itself."""
    found: dict[str, str] = {}

    def mark(name: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
        output.made_by = name  # type: ignore[attr-defined]  # on the tensor: lives and dies with it

    def look(name: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if (source := getattr(inputs[0], "made_by", None)) is not None:
            found[source] = name

    for name in names:
        hooks.append(parent.get_submodule(name).register_forward_hook(partial(mark, name)))
    for name, module in parent.named_modules():
        if isinstance(module, _BatchNorm) and module.running_mean is not None:
            hooks.append(module.register_forward_pre_hook(partial(look, name)))
    return found


def _find(model: nn.Module, name: str) -> nn.Module | None:
    try:
        return model.get_submodule(name)
    except AttributeError:
        return None  # a loose parameter


# ---- constants ---------------------------------------------------------------------------------------------------------


class _Inputs:
    """Hook before a consumer in the parent: sum, least and largest value of each of its cut inputs, shape (cut,)."""

    def __init__(self, keep: Keep) -> None:
        kept = set(keep.inputs or ())
        self.cut = [i for i in range(keep.of[1] or 0) if i not in kept]
        self.sum, self.count = torch.zeros(len(self.cut), dtype=torch.float64), 0
        self.low, self.high = torch.full((len(self.cut),), torch.inf), torch.full((len(self.cut),), -torch.inf)

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        x = inputs[0].movedim(-1 if isinstance(module, nn.Linear) else 1, 0)[self.cut].flatten(1).float()
        self.sum += x.mean(1).double().cpu() * x.shape[1]
        self.count += x.shape[1]
        self.low, self.high = torch.minimum(self.low, x.amin(1).cpu()), torch.maximum(self.high, x.amax(1).cpu())

    def constant(self) -> Tensor:
        """Mask of the cut inputs that never changed, shape (cut,)."""
        return self.high - self.low <= CONSTANT * torch.maximum(self.low.abs(), self.high.abs())


def _is_dense(module: nn.Module | None) -> bool:
    return isinstance(module, nn.Linear) or (isinstance(module, _ConvNd) and module.groups == 1)


def _kernel_sum(module: nn.Module) -> Tensor:
    """Output per input when all inputs are constant, far from the border, shape (outputs, inputs), float64."""
    weight = module.weight.detach().double().cpu()
    if isinstance(module, _ConvTransposeNd):
        stride = torch.tensor(module.stride).prod()  # every stride-th position meets the same part of the kernel
        return weight.flatten(2).sum(2).T / stride
    return weight.flatten(2).sum(2) if weight.ndim > 2 else weight


def _kept(values: Tensor, plan: Plan, name: str) -> Tensor:
    """Values per output of a module of the parent, shape (outputs,), to those of the cut model."""
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


# ---- least squares -----------------------------------------------------------------------------------------------------


class _Target:
    """Hook after a layer of the parent: what it puts out at some positions, kept outputs only, shape (P, outputs)."""

    def __init__(self, keep: Keep, seed: int) -> None:
        self.keep, self.generator, self.calls = keep, torch.Generator().manual_seed(seed), 0

    def __call__(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.calls += 1
        flat = output.flatten(0, -2) if isinstance(module, nn.Linear) else output.movedim(1, -1)
        variance, mean = torch.var_mean(flat, tuple(range(flat.ndim - 1)))
        energy = ((flat - mean).square() / variance.clamp_min(1e-12)).mean(-1).cpu()
        chances = energy.flatten().square() + 1e-12
        chosen = chances.multinomial(min(ROWS, len(chances)), generator=self.generator).to(output.device)
        self.positions = torch.unravel_index(chosen, energy.shape)
        rows = flat[self.positions]
        self.rows = rows if self.keep.outputs is None else rows[:, list(self.keep.outputs)]


def _rows(module: nn.Module, x: Tensor, positions: tuple[Tensor, ...]) -> Tensor:
    """What a layer multiplies with its weights at some output positions, shape (groups, P, inputs per output)."""
    if isinstance(module, nn.Linear):
        return x.flatten(0, -2)[positions][None]
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    x = pad(x, module._reversed_padding_repeated_twice, mode)  # also knows padding="same"
    image, row, column = positions
    (sy, sx), (dy, dx) = module.stride, module.dilation
    taps = [
        x[image, :, row * sy + i * dy, column * sx + j * dx]
        for i in range(module.kernel_size[0])
        for j in range(module.kernel_size[1])
    ]
    rows = torch.stack(taps, -1)  # (P, C, taps), the order of the weights
    return rows.reshape(len(rows), module.groups, -1).transpose(0, 1)


def _fit(
    parent: nn.Module, model: nn.Module, plan: Plan, name: str, follower: str | None, x: Tensor, y: Tensor, ridge: float
) -> tuple[float, float]:
    """Refit one layer in place on x (groups, P, inputs) and y (P, outputs): shares of variance missed before and after."""
    module = model.get_submodule(name)
    x, y = x.double(), y.double().reshape(len(y), len(x), -1).transpose(0, 1)
    weight = module.weight.double().reshape(len(x), y.shape[2], -1)
    rest = y - x @ weight.mT - _constant(parent, model, plan, name, follower).to(y).reshape(len(x), 1, -1)
    total = (y - y.mean(1, keepdim=True)).square().sum().clamp_min(1e-30)
    before = float(rest.square().sum() / total)
    if before < 1e-10:  # nothing changed up to here
        return before, before
    movable = module.bias is not None or follower is not None  # else the weights have to make the mean as well
    a, b = (x - x.mean(1, keepdim=True), rest - rest.mean(1, keepdim=True)) if movable else (x, rest)
    gram = a.mT @ a
    diagonal = gram.diagonal(dim1=1, dim2=2)
    diagonal += ridge * diagonal.mean(1, keepdim=True).clamp_min(1e-30)
    change = torch.linalg.solve(gram, a.mT @ b).mT
    module.weight.data += change.reshape(module.weight.shape).to(module.weight)
    rest -= x @ change.mT
    if movable:
        mean = rest.mean(1, keepdim=True)
        _add(model, name, mean.flatten(), follower)
        rest -= mean
    return before, float(rest.square().sum() / total)


def _constant(parent: nn.Module, model: nn.Module, plan: Plan, name: str, follower: str | None) -> Tensor:
    """What the cut model adds to the products of a layer so far: its bias, or what `fold` moved into the batch-norm."""
    module = model.get_submodule(name)
    if module.bias is not None:
        return module.bias.detach()
    if follower is None:
        return torch.zeros(len(module.weight), device=module.weight.device)
    return (
        _kept(parent.get_submodule(follower).running_mean, plan, follower) - model.get_submodule(follower).running_mean
    )
