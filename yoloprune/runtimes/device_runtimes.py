"""Files of networks opened on the runtime of a device.

Part of the script that measures on other machines, see `device_folder`: standard library only, and Python 3.8.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yoloprune.runtimes.device_commands import DeviceError, command, engine, trtexec


@dataclass(frozen=True)
class Way:
    """How networks are run.

    Attributes:
        form (str): A key of `MODULES`, or any word where a command runs them.
        batch (int): Images at once.
        channels (int): Of an image.
        threads (int | None): Of the runtime, None for its own choice.
        device (str | None): Where the runtime has several: an execution provider, CPU or GPU, vulkan.
        half (bool): Whether TensorRT may compute at half precision.
        command (str | None): Runs a network in place of a package; `{model}` stands for its file.
        pattern (str | None): Finds milliseconds in what the command prints.
    """

    form: str
    batch: int = 1
    channels: int = 3
    threads: int | None = None
    device: str | None = None
    half: bool = False
    command: str | None = None
    pattern: str | None = None


MODULES = {
    "onnx": ("onnxruntime",),
    "openvino": ("openvino",),
    "ncnn": ("ncnn",),
    "litert": ("ai_edge_litert", "tflite_runtime"),
    "tflite": ("tflite_runtime", "ai_edge_litert"),
    "rknn": ("rknnlite",),
    "engine": (),
}
"""By format the modules that run it, of which one is enough."""

NO_IDLE_SPINNING = ("session.force_spinning_stop", "1")
"""Of ONNX Runtime: threads of a session stop waiting busily once its image is done. Each session has threads of its
own, so that those of one network would take the cores of the next, which made the times of turns up to three times
those of a network alone (yolov8n at 320 pixels, two threads).
"""

PACKAGES = {"ai_edge_litert": "ai-edge-litert", "tflite_runtime": "tflite-runtime", "rknnlite": "rknn-toolkit-lite2"}
"""What pip calls a module, where that is another name."""


def require(form: str) -> str:
    """What runs a format here, with its version.

    Raises:
        DeviceError: If nothing does; the message says what to install.
    """
    if form == "engine":
        return f"trtexec, {trtexec()}"
    name = _installed(form)
    for needed in (name, "numpy"):
        _module(needed, form)
    try:
        return f"{name} {importlib.metadata.version(PACKAGES.get(name, name))}"
    except importlib.metadata.PackageNotFoundError:
        return name


def opened(file: Path, side: int, way: Way) -> Callable[[], float | None]:
    """What runs a batch of images through a network; returns milliseconds where something else took the time.

    Args:
        file (Path): A network.
        side (int): Of its images.
        way (Way): How it runs.

    Raises:
        DeviceError: If it does not run here.
    """
    if way.command is not None:
        return command(way.command.replace("{model}", str(file)), way.pattern)
    if way.form == "engine":
        return engine(file, way.half)
    shape = (way.batch, way.channels, side, side)
    image = _module("numpy", way.form).random.RandomState(0).rand(*shape).astype("float32")
    runtime = _module(_installed(way.form), way.form)
    try:
        return _OPENED[way.form](runtime, file, image, way)
    except Exception as e:  # foreign code, and each runtime has its own kinds of errors
        raise DeviceError(f"{file}: does not run in {way.form} here: {' '.join(str(e).split())}") from e


def _installed(form: str) -> str:
    found = [name for name in MODULES[form] if importlib.util.find_spec(name) is not None]
    return found[0] if found else MODULES[form][0]


def _module(name: str, form: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        wanted = " ".join(sorted({PACKAGES.get(n, n) for n in (MODULES[form][0], "numpy")}))
        missing = PACKAGES.get(name, name)
        raise DeviceError(f"{form} needs the package {missing}, which is not installed: pip install {wanted}") from None


# Runtimes, each as Ultralytics' own backend runs it -------------------------------------------------------------------
def _onnx(runtime: Any, file: Path, image: Any, way: Way) -> Callable[[], None]:
    options = runtime.SessionOptions()
    if way.threads is not None:
        options.intra_op_num_threads = way.threads
    options.add_session_config_entry(*NO_IDLE_SPINNING)
    session = runtime.InferenceSession(str(file), options, providers=[way.device or "CPUExecutionProvider"])
    first = session.get_inputs()[0]
    feed = {first.name: image.astype("float16") if "float16" in first.type else image}

    def run() -> None:
        session.run(None, feed)

    return run


def _openvino(runtime: Any, file: Path, image: Any, way: Way) -> Callable[[], None]:
    core, config = runtime.Core(), {"PERFORMANCE_HINT": "LATENCY"}
    if way.threads is not None:
        core.set_property("CPU", {"INFERENCE_NUM_THREADS": way.threads})
    compiled = core.compile_model(core.read_model(str(_inside(file, "*.xml"))), way.device or "CPU", config)

    def run() -> None:
        compiled(image)

    return run


def _ncnn(runtime: Any, file: Path, image: Any, way: Way) -> Callable[[], None]:
    net, param = runtime.Net(), _inside(file, "*.param")
    net.opt.use_vulkan_compute = way.device == "vulkan"
    if way.threads is not None:
        net.opt.num_threads = way.threads
    if net.load_param(str(param)) or net.load_model(str(param.with_suffix(".bin"))):
        raise ValueError("it cannot be read")
    name, outputs = net.input_names()[0], sorted(net.output_names())

    def run() -> None:
        for one in image:
            with net.create_extractor() as extractor:
                extractor.input(name, runtime.Mat(one))
                for output in outputs:
                    extractor.extract(output)

    return run


def _litert(runtime: Any, file: Path, image: Any, way: Way) -> Callable[[], None]:
    interpreter = importlib.import_module(f"{runtime.__name__}.interpreter").Interpreter(
        str(_inside(file, "*.tflite")), num_threads=way.threads
    )
    interpreter.allocate_tensors()
    told = interpreter.get_input_details()[0]
    fed = image if tuple(told["shape"]) == image.shape else image.transpose(0, 2, 3, 1)  # older ones have channels last
    fed = fed.astype(told["dtype"])

    def run() -> None:
        interpreter.set_tensor(told["index"], fed)
        interpreter.invoke()

    return run


def _rknn(runtime: Any, file: Path, image: Any, way: Way) -> Callable[[], None]:
    network = importlib.import_module(f"{runtime.__name__}.api").RKNNLite()
    if network.load_rknn(str(_inside(file, "*.rknn"))) or network.init_runtime():
        raise ValueError("it cannot be read, or the NPU is not there")
    fed = (255 * image.transpose(0, 2, 3, 1)).astype("uint8")

    def run() -> None:
        network.inference(inputs=[fed])

    return run


_OPENED: dict[str, Callable[[Any, Path, Any, Way], Callable[[], None]]] = {
    "onnx": _onnx,
    "openvino": _openvino,
    "ncnn": _ncnn,
    "litert": _litert,
    "tflite": _litert,
    "rknn": _rknn,
}


def _inside(file: Path, pattern: str) -> Path:
    """The file itself, or the one in a folder that an export is."""
    return next(iter(sorted(file.glob(pattern))), file) if file.is_dir() else file
