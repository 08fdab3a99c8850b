"""Runtimes by the words of `yolo export format=`: what each needs, and what runs it."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from yoloprune.backend import compat
from yoloprune.errors import ArgumentError

TORCH = "torch"
"""The runtime that is always there; Ultralytics has no word for it, because nothing is exported."""


@dataclass(frozen=True)
class Runtime:
    """What is known of a format beyond what Ultralytics' exporter says.

    Attributes:
        packages (tuple[str, ...]): What it needs, the one that runs it first; an extra of yoloprune brings them.
        calibrated (bool): Whether it knows int8 only, so that its export looks at images.
    """

    packages: tuple[str, ...] = ()
    calibrated: bool = False

    @property
    def engine(self) -> str | None:
        """What runs it, with its version; None where that is not known."""
        try:
            return f"{self.packages[0]} {version(self.packages[0])}"
        except (IndexError, PackageNotFoundError):
            return None


RUNTIMES: dict[str, Runtime] = {
    TORCH: Runtime(("torch",)),
    "torchscript": Runtime(("torch",)),
    "onnx": Runtime(("onnxruntime", "onnx", "onnxslim")),
    "openvino": Runtime(("openvino",)),
    "ncnn": Runtime(("ncnn", "pnnx")),
    "mnn": Runtime(("MNN",)),
    "coreml": Runtime(("coremltools",)),
    "engine": Runtime(("tensorrt", "onnx")),
    **dict.fromkeys(("deepx", "axelera", "imx", "edgetpu", "qnn", "hailo", "xilinx"), Runtime(calibrated=True)),
}
"""Further formats of Ultralytics are taken as well: its exporter says what they need."""


def require(form: str) -> Runtime:
    """The runtime of a format.

    Raises:
        ArgumentError: If there is no such format, or what it needs is not installed.
    """
    known = (TORCH, *(word for word in compat.export_formats()["Argument"] if word != "-"))
    if form not in known:
        near = get_close_matches(form, known, n=1)
        hint = f" (nearest: {near[0]})" if near else ""
        raise ArgumentError(f"format={form}: must be one of {', '.join(known)}{hint}. Received: {form}")
    runtime = RUNTIMES.get(form, Runtime())
    for package in runtime.packages:
        if find_spec(package) is None:
            raise missing(form, package)
    return runtime


def format_of(path: str) -> str:
    """The word for what a file or folder was exported to, by how its name ends; its suffix where that is none."""
    name = path.rstrip("/")
    known = compat.export_formats()
    ends = {end.rstrip("/"): word for word, end in zip(known["Argument"], known["Suffix"], strict=True) if word != "-"}
    found = max((end for end in ends if name.endswith(end)), key=len, default="")
    return str(ends.get(found, name.rpartition(".")[2]))


def missing(form: str, package: str) -> ArgumentError:
    """The error for a package that a format needs and that is not there."""
    remedy = f"see https://docs.ultralytics.com/integrations/{form}"
    if form in RUNTIMES and not RUNTIMES[form].calibrated:
        ours = package in RUNTIMES[form].packages
        remedy = f'pip install "yoloprune[{form}]"' if ours else f"pip install {package}"
    return ArgumentError(f"format={form}: needs the package {package}, which is not installed: {remedy}")
