"""Code of a network that is of no known package, and what of it a pass did not run."""

from __future__ import annotations

import ast
import dis
import inspect
import sys
import textwrap
from collections.abc import Callable, Collection
from types import CodeType, FrameType
from typing import Any

from torch import nn

from yoloprune.probing.code_names import codes

KNOWN = ("torch", "torchvision", "ultralytics")
"""Packages whose blocks are traced right, which tests hold."""


def is_known(module: nn.Module) -> bool:
    """Whether a module is of a known package, and runs as that has it."""
    return type(module).__module__.partition(".")[0] in KNOWN and "forward" not in vars(module)


def has_own_code(model: nn.Module) -> bool:
    """Whether a network has modules that are of no known package, or whose `forward` was replaced."""
    return not all(map(is_known, model.modules()))


def read_aside(model: nn.Module, keys: Collection[str], passes: Callable[[], object]) -> set[str]:
    """Attributes that code reads which passes ran, in a part that they did not: a loss, another size of the image.

    Functions that did not run at all are not looked at, nor what an `if` that asks the module alone leaves out: of
    several ways in which a block can do the same it has one.

    Args:
        model (nn.Module): The network.
        keys (Collection[str]): Names of the attributes.
        passes (Callable): Runs it.
    """
    own = [module for module in model.modules() if not is_known(module)]
    classes = {c for module in own for c in type(module).__mro__ if c.__module__.partition(".")[0] not in KNOWN}
    functions = [f for module in own for key, f in vars(module).items() if not key.startswith("_")]
    functions += [f for c in classes for f in vars(c).values()]
    sites = {code: found for code in codes(functions) if (found := _reads(code, keys))}
    ran = _instructions_run(sites, passes)
    seen = {code: at | _left_out(code, at) for code, at in ran.items()}
    return {key for code, at in seen.items() for offset, key in sites[code].items() if offset not in at}


def _reads(code: CodeType, keys: Collection[str]) -> dict[int, str]:
    """Where code reads one of some attributes, of whatever object, or has its name as a word for a `getattr`."""
    lines = (i for i in dis.get_instructions(code) if i.opname in ("LOAD_ATTR", "LOAD_METHOD", "LOAD_CONST"))
    return {i.offset: i.argval for i in lines if isinstance(i.argval, str) and i.argval in keys}


def _left_out(code: CodeType, ran: Collection[int]) -> set[int]:
    """Offsets of instructions that do not run in a module as it is built: of parts behind `if self.use_conv:`."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(code)))
    except (OSError, TypeError, SyntaxError):  # a lambda, or code without a file
        return set()
    lines = {offset: line for start, end, line in code.co_lines() if line for offset in range(start, end)}
    alive = {lines.get(offset) for offset in ran}
    left: set[int] = set()
    for node in ast.walk(tree):
        for part in (node.body, node.orelse) if isinstance(node, ast.If) and _asks_the_module(node.test) else ():
            first, last = (part[0].lineno, part[-1].end_lineno or 0) if part else (1, 0)
            within = {code.co_firstlineno - 1 + line for line in range(first, last + 1)}
            if not within & alive:
                left |= {offset for offset, line in lines.items() if line in within}
    return left


def _asks_the_module(test: ast.expr) -> bool:
    """Whether a condition is of attributes of the module and constants, whatever is run; of its mode is another one."""
    inside = [*ast.walk(test)]
    names = {node.id for node in inside if isinstance(node, ast.Name)}
    attributes = {node.attr for node in inside if isinstance(node, ast.Attribute)}
    return names == {"self"} and "training" not in attributes and not any(isinstance(n, ast.Call) for n in inside)


def _instructions_run(sites: Collection[CodeType], passes: Callable[[], object]) -> dict[CodeType, set[int]]:
    """Offsets of the instructions that ran of some code, of what ran at all."""
    ran: dict[CodeType, set[int]] = {}
    if sys.version_info >= (3, 12):
        _monitor(sites, passes, ran)
        return ran

    def enter(frame: FrameType, event: str, arg: Any) -> Any:
        if frame.f_code not in sites:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        ran.setdefault(frame.f_code, set())
        return step

    def step(frame: FrameType, event: str, arg: Any) -> Any:
        if event == "opcode":
            ran[frame.f_code].add(frame.f_lasti)
        return step

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        passes()
    finally:
        sys.settrace(before)
    return ran


def _monitor(sites: Collection[CodeType], passes: Callable[[], object], ran: dict[CodeType, set[int]]) -> None:
    """The same by Python's own means, from 3.12 on, where what is traced is a code's and no longer a frame's."""
    monitoring: Any = vars(sys)["monitoring"]
    tool = next(i for i in range(6) if monitoring.get_tool(i) is None)
    event = monitoring.events.INSTRUCTION
    monitoring.use_tool_id(tool, "yoloprune")
    try:
        monitoring.register_callback(tool, event, lambda code, offset: ran.setdefault(code, set()).add(offset))
        for code in sites:
            monitoring.set_local_events(tool, code, event)
        passes()
    finally:
        for code in sites:
            monitoring.set_local_events(tool, code, 0)
        monitoring.register_callback(tool, event, None)
        monitoring.free_tool_id(tool)
