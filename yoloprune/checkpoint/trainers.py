"""Training that keeps a pruned shape: Ultralytics' own trainers with one method overridden.

Ultralytics builds the network to train from `model.yaml`. Of a native plan that is the pruned network, and stock
trainers will do. Of a free plan it describes the parent. So such a model carries in
`model.yaml["yoloprune"]` what its true YAML lacks, and these trainers cut the fresh build to it before weights are
loaded. Everything else (class names, number of classes, EMA, resume, multi-GPU) stays in Ultralytics' hands. For stock
trainers the first module's name in `model.yaml` is replaced by a sentence: the text of the error they stop with.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import ultralytics
from torch import Tensor, nn
from ultralytics.models import yolo

from yoloprune.backend import console, model_builder, model_facts, yaml_markers, yolo_tracing
from yoloprune.checkpoint.trainer_files import WholeFiles
from yoloprune.cutting import comparison, surgery
from yoloprune.errors import ModelError, PlanError, VerifyError
from yoloprune.native.described import moved
from yoloprune.planning.plan import Plan

KEY = "yoloprune"
LAYERS = "layers"  # in the record: where the parent's modules are, by name, in a model whose blocks became several rows
VERSION = 1

# No double quotes (KeyError prints the sentence between them) and no "nn." (Ultralytics 8.3 would look it up in torch).
STOP = (
    "This model was pruned by yoloprune. Stock Ultralytics would build the unpruned network and train that, so it "
    "stops here. Install yoloprune and run 'yoloprune finetune model=... data=...', or in Python 'from yoloprune "
    "import YOLO'. Validation, prediction and export work as they are"
)
STOP_FOR_GOOD = (
    "This {family} model was pruned by yoloprune. Its trainer would build the unpruned network and train that, so it "
    "stops here. yoloprune has no trainer for pruned {family} models: train the parent first, then prune. "
    "Validation, prediction and export work as they are"
)
UNTRAINABLE = {"WorldModel": "YOLO-World", "YOLOEModel": "YOLOE", "RTDETRDetectionModel": "RT-DETR"}


# ---- the entry in model.yaml -----------------------------------------------------------------------------------------


def entry_of(source: Any) -> dict[str, Any] | None:
    """Return the `yoloprune` entry of a model, a `YOLO` object or a model YAML; None if it has none."""
    inner = getattr(source, "model", None)  # older releases do not hand `yaml` on from a model to its YOLO object
    config = source if isinstance(source, Mapping) else getattr(source, "yaml", None) or getattr(inner, "yaml", None)
    return config.get(KEY) if isinstance(config, Mapping) else None


def true_yaml(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a model YAML that builds the parent: without our entry, the names we replaced put back."""
    config = yaml_markers.opened(config)
    if entry := config.pop(KEY, None):
        config["backbone"][0][2] = entry["yaml"]["module"]
        if "yaml_file" in entry["yaml"]:
            config["yaml_file"] = str(Path(config["yaml_file"]).with_name(entry["yaml"]["yaml_file"]))
    return config


def mark(model: nn.Module, entry: Mapping[str, Any]) -> None:
    """Write an entry into `model.yaml`, and the sentence that stops stock training unless nothing was cut.

    Args:
        model (nn.Module): An Ultralytics model that has the entry's widths.
        entry (Mapping): `version`, `widths`, `numbers` and `provenance`; `yaml`, what must be put back, is filled in.
    """
    config = true_yaml(model.yaml)
    replaced, how = {"module": config["backbone"][0][2]}, ""
    if entry["widths"]:
        family = next((UNTRAINABLE[c.__name__] for c in type(model).__mro__ if c.__name__ in UNTRAINABLE), None)
        config["backbone"][0][2] = STOP_FOR_GOOD.format(family=family) if family else STOP
        how = (
            f" (which cannot train {family}: train first, then prune)" if family else " (train with yoloprune finetune)"
        )
    if "yaml_file" in config and (entry["widths"] or entry.get("native")):
        # YOLO-World's and YOLOE's trainers, which take any model, build from the file of this name instead, native or
        # not; summaries begin with it.
        file = Path(config["yaml_file"])
        replaced["yaml_file"] = file.name
        config["yaml_file"] = str(file.with_name(f"{file.stem} pruned by yoloprune{how}.yaml"))
    config[KEY] = {**deepcopy(dict(entry)), "yaml": replaced}
    model.yaml = config


def reshape(model: nn.Module, entry: Mapping[str, Any]) -> None:
    """Cut a fresh build of the parent to the widths of an entry, in place.

    Args:
        model (nn.Module): Built from the true YAML, with any number of classes.
        entry (Mapping): See `mark`.

    Raises:
        PlanError: If the entry is damaged, of a later version, or does not fit the model.
    """
    try:
        if entry["version"] > VERSION:
            raise PlanError(
                f"This model was pruned by a later yoloprune (format {entry['version']}). Upgrade yoloprune."
            )
        surgery.cut(model, Plan.from_widths(entry["widths"]))
        for name, numbers in entry["numbers"].items():
            vars(model.get_submodule(name)).update(deepcopy(numbers))
        _require_widths(model, entry["widths"])
    except (KeyError, TypeError, AttributeError) as e:
        raise PlanError(f"The '{KEY}' entry of this model is damaged: {type(e).__name__} {e}.") from e


def _require_widths(model: nn.Module, widths: Mapping[str, Mapping[str, Any]]) -> None:
    for name, width in widths.items():
        for side in {"outputs", "inputs"} & set(width):
            if (got := _width(model, name, side)) != width[side]:
                raise PlanError(f"{name} has {got} {side}, the plan says {width[side]}.")


def _width(model: nn.Module, name: str, side: str) -> int:
    parent, _, child = name.rpartition(".")
    owner = getattr(model.get_submodule(parent), child)
    if isinstance(owner, Tensor):
        return max(owner.shape)
    names = ("out_channels", "out_features", "num_features") if side == "outputs" else ("in_channels", "in_features")
    return next(getattr(owner, n) for n in names if hasattr(owner, n))


def require_same_shape(model: nn.Module, weights: nn.Module) -> None:
    """Raise PlanError unless all parameters outside the head have the same names and shapes.

    The first layer may differ in its input channels, and the head in all that follows the number of classes.
    """
    mine, theirs = model_facts.widths(model), model_facts.widths(weights)
    if model_facts.channels(model) != model_facts.channels(weights):
        first = next(iter(theirs), None)
        mine.pop(first, None), theirs.pop(first, None)
    if mine == theirs:
        return
    name = next(k for k in [*theirs, *mine] if mine.get(k) != theirs.get(k))
    if getattr(weights, "is_fused", lambda: False)():
        raise PlanError("These weights are fused for inference and cannot be trained. Load the checkpoint again.")
    sizes = [s.get(name, "missing") for s in (mine, theirs)]
    raise PlanError(
        f"The weights do not have the shape of the model to be trained: {name} is {sizes[0]} in the model, "
        f"{sizes[1]} in the weights. A pruned network is trained from its own checkpoint: YOLO('pruned.pt').train(...)."
    )


def mark_pruned(
    model: nn.Module,
    plan: Plan,
    provenance: Mapping[str, Any],
    native: Mapping[str, Any] | None = None,
    layers: Mapping[str, list[str]] | None = None,
) -> None:
    """Write into `model.yaml` what rebuilds this cut model, and stop stock trainers; `save` does it to its copy.

    The plan is proved first: the true YAML is built, cut, and compared with the model, tensor by tensor. A native YAML
    is built as it is, and stock trainers need not be stopped.

    Args:
        model (nn.Module): The cut model; its `model.yaml` is still the parent's.
        plan (Plan): What was cut from the parent.
        provenance (Mapping): From `make_provenance`; that of earlier prunings is kept under "earlier".
        native (Mapping | None): A stock YAML of the cut model, from `native.Stock.describe`.
        layers (Mapping | None): Where the modules of the model that was pruned went, where they moved.

    Raises:
        PlanError: If the parent's YAML, cut by the plan, or the native YAML does not give this model.
    """
    model.yaml = yaml_markers.cleared(model.yaml)  # a sparse run that came before is the parent's
    before = entry_of(model) or {"widths": {}, "provenance": None}
    history = before["provenance"]
    earlier = [] if history is None else [*history["earlier"], {k: v for k, v in history.items() if k != "earlier"}]
    entry = {
        "version": VERSION,
        "widths": _merge(before["widths"], plan.widths()),
        "numbers": {},
        "provenance": {**deepcopy(dict(provenance)), "earlier": earlier},
    }
    if native is not None:
        entry["widths"], entry["native"] = {}, True
        if table := _joined(before.get(LAYERS) or {}, layers or {}):
            entry[LAYERS] = table
        said = {k: v for k, v in native.items() if k in model.yaml}  # not what the cut model has lost
        require_stock_build(model, said)
        model.yaml = said
        mark(model, entry)
        return
    fresh = model_builder.build(type(model), true_yaml(model.yaml), model_facts.channels(model))
    reshape(fresh, entry)
    _require_widths(model, entry["widths"])
    require_same_shape(fresh, model)
    # Widths do not say how an attention's channels divide into queries and values: carry those numbers as they are.
    rebuilt = dict(fresh.named_modules())
    for name, module in model.named_modules():
        if (own := model_builder.numbers(module)) and own != (built := model_builder.numbers(rebuilt[name])):
            entry["numbers"][name] = {k: v for k, v in own.items() if built.get(k) != v}
    mark(model, entry)


def _merge(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Widths of two prunings in a row, relative to what the first one started from."""
    merged = {name: deepcopy(dict(width)) for name, width in first.items()}
    for name, width in second.items():
        old = merged.setdefault(name, {"of": [None, None]})
        for i, side in enumerate(("outputs", "inputs")):
            if side not in width:
                continue
            if side in old and old[side] != width["of"][i]:
                raise PlanError(
                    f"The plan does not fit this model: {name} has {old[side]} {side}. Received: {width['of'][i]}."
                )
            old["of"][i] = old["of"][i] if side in old else width["of"][i]
            old[side] = width[side]
    return merged


def _joined(first: Mapping[str, list[str]], second: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Where modules went in two prunings in a row."""
    if not first or not second:
        return deepcopy(dict(first or second))
    return {name: moved(places, second) for name, places in first.items()}


def require_stock_build(model: nn.Module, config: Mapping[str, Any]) -> None:
    """Raise PlanError unless stock training goes on with this very network: tensors, widths and what it computes."""
    try:
        fresh = model_builder.rebuild(model, config)
    except Exception as e:  # whatever Ultralytics may raise while it builds
        raise PlanError(f"Stock Ultralytics cannot build the pruned model: {e}. Use native=False.") from e
    model = deepcopy(model).float().cpu().eval()
    mine, theirs = model.state_dict(), fresh.state_dict()
    wrong = [k for k in mine if k not in theirs or not mine[k].equal(theirs[k])] + [k for k in theirs if k not in mine]
    modules = dict(fresh.named_modules())
    kept = {name: told for name, module in model.named_modules() if (told := model_builder.numbers(module))}
    wrong += [
        name for name, told in kept.items() if name not in modules or model_builder.numbers(modules[name]) != told
    ]
    if wrong:
        raise PlanError(f"Stock Ultralytics builds {wrong[0]} otherwise than it was cut. Use native=False.")
    try:
        comparison.verify(model, fresh.eval(), Plan({}), yolo_tracing.example(model, 2))
    except VerifyError as e:
        raise PlanError(f"What stock Ultralytics builds computes something else. Use native=False. ({e})") from e


# ---- trainers --------------------------------------------------------------------------------------------------------


@runtime_checkable
class SparseDriver(Protocol):
    """What drives a sparse training from a trainer's callbacks, as far as building the network must know it."""

    def keeps_the_dead(self) -> bool:
        """Whether channels that died stay dead in the training that it drives."""


def driver_of(trainer: Any) -> SparseDriver | None:
    """The sparse training that a trainer is driven by, None if it is driven by none."""
    owners = [getattr(f, "__self__", None) for f in getattr(trainer, "callbacks", {}).get("on_train_start", [])]
    return next((owner for owner in owners if isinstance(owner, SparseDriver)), None)


class KeepsWidths(WholeFiles):
    """Mixin for Ultralytics trainers: the network that is built has the widths that `model.yaml` promises."""

    def get_model(self, cfg: Any = None, weights: nn.Module | None = None, verbose: bool = True) -> nn.Module:
        """Build the network to train through the stock trainer, at its pruned widths if it was pruned.

        Args:
            cfg (str | dict | None): Model YAML.
            weights (nn.Module | None): Model whose weights are loaded.
            verbose (bool): Whether to print the model summary.

        Returns:
            (nn.Module): The network, all of it trainable.

        Raises:
            ModelError: If sparse training left dead channels that are not cut yet, and this is another training.
            PlanError: If anything but the pruned network would be trained.
        """
        if isinstance(cfg, Mapping) and yaml_markers.STATE_KEY in cfg:
            if driver_of(self) is None:
                raise ModelError(yaml_markers.STOP)
            cfg = yaml_markers.opened(cfg)
        if (entry := entry_of(cfg)) is None:
            model = super().get_model(cfg=cfg, weights=weights, verbose=verbose)
            if entry_of(weights) or (
                cfg is not None and cfg is getattr(weights, "yaml", None) and not weights.is_fused()
            ):
                require_same_shape(model, weights)  # pruned weights in another network, or a model cut but not saved
            return model
        model = super().get_model(cfg=true_yaml(cfg), weights=None, verbose=False)
        reshape(model, entry)
        mark(model, entry)
        if weights is not None:
            require_same_shape(model, weights)
            model.load(weights)
        if console.is_main_process():
            how = f"{len(entry['widths'])} layers" if entry["widths"] else "its YAML says them"
            console.log("prune: ", f"rebuilt at the pruned widths ({how})")
            if verbose:
                model.info()
        return model


class DetectionTrainer(KeepsWidths, yolo.detect.DetectionTrainer):
    """Ultralytics' detection trainer that keeps pruned widths."""


class SegmentationTrainer(KeepsWidths, yolo.segment.SegmentationTrainer):
    """Ultralytics' instance segmentation trainer that keeps pruned widths."""


class PoseTrainer(KeepsWidths, yolo.pose.PoseTrainer):
    """Ultralytics' pose trainer that keeps pruned widths."""


class OBBTrainer(KeepsWidths, yolo.obb.OBBTrainer):
    """Ultralytics' trainer for oriented boxes that keeps pruned widths."""


class ClassificationTrainer(KeepsWidths, yolo.classify.ClassificationTrainer):
    """Ultralytics' classification trainer that keeps pruned widths."""


TRAINERS: dict[str, type] = {
    "detect": DetectionTrainer,
    "segment": SegmentationTrainer,
    "pose": PoseTrainer,
    "obb": OBBTrainer,
    "classify": ClassificationTrainer,
}
"""By task. Classes of this module and not made on the fly: multi-GPU workers import them by name."""

if hasattr(yolo, "semantic"):  # Ultralytics 8.4

    class SemanticSegmentationTrainer(KeepsWidths, yolo.semantic.SemanticSegmentationTrainer):
        """Ultralytics' semantic segmentation trainer that keeps pruned widths."""

    TRAINERS["semantic"] = SemanticSegmentationTrainer

if hasattr(yolo, "depth"):  # Ultralytics 8.4

    class DepthTrainer(KeepsWidths, yolo.depth.DepthTrainer):
        """Ultralytics' depth trainer that keeps pruned widths."""

    TRAINERS["depth"] = DepthTrainer


def network(yolo: ultralytics.YOLO, nc: int | None, pretrained: Any = True) -> nn.Module:
    """The network that `YOLO.train` builds for a model, built before there is a trainer.

    Args:
        yolo (YOLO): The model, pruned or not.
        nc (int | None): Number of classes of the data set; None stands for the model's own.
        pretrained (bool | str | Path): Ultralytics' argument: whether weights are taken over, or whose.

    Returns:
        (nn.Module): With the weights it starts from, because a head may be taken over at the widths that it has.
    """
    config = true_yaml(yaml_markers.cleared(yolo.model.yaml))
    built = model_builder.build(
        type(yolo.model), {**config, "nc": nc or config.get("nc")}, model_facts.channels(yolo.model)
    )
    if (entry := entry_of(yolo)) is not None:
        reshape(built, entry)
    if isinstance(pretrained, (str, Path)):
        built.load(ultralytics.YOLO(pretrained).model, verbose=False)
    elif pretrained is not False and yolo.ckpt:
        built.load(deepcopy(yolo.model).cpu(), verbose=False)
    return built


class YOLO(ultralytics.YOLO):
    """`ultralytics.YOLO` whose training keeps the widths of a pruned model; all else is Ultralytics'.

    YOLO-World, YOLOE and RT-DETR models become the stock classes, as Ultralytics does; pruned ones refuse to train.
    """

    @property
    def task_map(self) -> dict[str, dict[str, Any]]:
        """Map task to model, trainer, validator and predictor classes; the trainers are those of this module."""
        return {t: {**s, "trainer": TRAINERS.get(t, s["trainer"])} for t, s in super().task_map.items()}

    def train(self, trainer: Any = None, **kwargs: Any) -> Any:
        """Train as Ultralytics does, at the pruned widths if the model was pruned; see `ultralytics.YOLO.train`.

        Raises:
            ModelError: If sparse training left dead channels that are not cut yet, and this is another training.
            PlanError: If other widths would be trained, or weights of other widths be mixed in.
        """
        if yaml_markers.STATE_KEY in getattr(self.model, "yaml", {}) and driver_of(self) is None:
            raise ModelError(yaml_markers.STOP)
        if isinstance(kwargs.get("pretrained"), (str, Path)) and not kwargs.get("resume"):
            self._require_fitting(kwargs["pretrained"])  # before there is a folder
        if entry_of(self) is not None:
            # Naming the trainer keeps a list of data sets in this process, else each is left to a stock command line;
            # without a checkpoint Ultralytics would build anew from the YAML file that the model came from.
            trainer, self.ckpt = trainer or self._smart_load("trainer"), self.ckpt or {"model": self.model}
        elif not self.ckpt and isinstance(self.model, nn.Module) and not self.model.is_fused():
            # Ultralytics builds anew from the YAML file; a model that was cut in memory would grow back.
            require_same_shape(
                model_builder.build(type(self.model), true_yaml(self.model.yaml), model_facts.channels(self.model)),
                self.model,
            )
        return super().train(trainer=trainer, **kwargs)

    def tune(self, *args: Any, **kwargs: Any) -> Any:
        """Search hyperparameters as Ultralytics does; pruned models refuse, since every trial is a stock process."""
        if (entry := entry_of(self)) and entry["widths"]:
            raise ModelError(
                "tune starts stock Ultralytics for every trial, which cannot train a pruned model. Tune the parent."
            )
        return super().tune(*args, **kwargs)

    def load(self, weights: str | Path | dict[str, Any] | nn.Module = "yolo26n.pt") -> YOLO:
        """Load weights as Ultralytics does; into a pruned model, and those of one, only where the widths are equal."""
        self._require_fitting(weights)
        return super().load(weights)

    def _require_fitting(self, weights: str | Path | dict[str, Any] | nn.Module) -> None:
        """Raise PlanError where Ultralytics would mix a pruned model with weights of other widths."""
        source = ultralytics.YOLO(weights).model if isinstance(weights, (str, Path)) else weights
        source = (source.get("ema") or source["model"]) if isinstance(source, dict) else source
        if entry_of(self) is not None or entry_of(source) is not None:
            require_same_shape(self.model, source)
