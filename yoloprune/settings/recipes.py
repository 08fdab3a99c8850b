"""Recipe files: a YAML mapping of keys, with optional mappings under the names of commands."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from yoloprune.errors import ArgumentError
from yoloprune.settings import keys
from yoloprune.settings.commands import COMMANDS


def load_recipe(path: str | Path, command: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a recipe: a YAML mapping of keys, with optional mappings under the names of commands.

    Args:
        path (str | Path): The file; a plain Ultralytics configuration is a recipe as well.
        command (str): Name of the command that will use it.

    Returns:
        general (dict[str, Any]): Checked top-level values that this command takes; others are left out.
        section (dict[str, Any]): Checked values from the command's own mapping, which override the general ones.

    Raises:
        ArgumentError: If the file cannot be read, or a key or value in it is wrong.
    """
    path = Path(path)
    if not path.is_file():
        siblings = [p.name for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        near = get_close_matches(path.name, siblings, n=1)
        raise ArgumentError(
            f"cfg={path}: no such file." + (f" Did you mean '{path.with_name(near[0])}'?" if near else "")
        )
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _OnceLoader) or {}  # a safe loader
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ArgumentError(f"cfg={path}: not a readable YAML file: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ArgumentError(f"cfg={path}: must hold key: value pairs. Received: {type(content).__name__}")

    if {"mode", "save_dir"} <= set(content):
        content = _without_its_run(content)
    # `val` is a command and an Ultralytics switch, `latency` a command and a budget: a mapping is the section
    own = {o.name for c in COMMANDS.values() for o in c.options} - set(COMMANDS)
    inner = {k for k, v in content.items() if isinstance(v, dict) and k not in own}
    sections = {str(k).replace("_", "-"): v for k, v in content.items() if k in inner}
    general = {str(k): v for k, v in content.items() if k not in inner}
    try:
        if len(sections) + len(general) < len(content):
            raise ArgumentError("a command is given twice, once with '-' and once with '_'")
        for name in sections:
            if name not in COMMANDS:
                raise ArgumentError(keys.unknown_command(name).replace("a command", "a command or argument"))
        for key in general:
            if not any(keys.knows(c, key) for c in COMMANDS.values()):
                raise keys.unknown_key(key, list(COMMANDS.values()))
        for name, section in sections.items():
            for key in section:
                if not keys.knows(COMMANDS[name], str(key)):
                    raise keys.unknown_key(str(key), [COMMANDS[name]])
        known = {k: v for k, v in general.items() if keys.knows(COMMANDS[command], k)}
        layers = [_given(known), _given(sections.get(command, {}))]
        if any("cfg" in layer for layer in layers):
            raise ArgumentError("a recipe cannot name another recipe by 'cfg'")
        return keys.check_keys(layers[0], COMMANDS[command]), keys.check_keys(layers[1], COMMANDS[command])
    except ArgumentError as error:
        raise ArgumentError(f"{path}: {error}") from None


class _OnceLoader(yaml.SafeLoader):
    """YAML's safe loader, for which a key that is given twice is an error and not the last one's."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Check the keys as they are written, before anchors are merged in."""
        names = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise yaml.constructor.ConstructorError(None, None, f"'{twice}' is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _without_its_run(content: Mapping[str, Any]) -> dict[str, Any]:
    """The args.yaml of a run without what ties it to that run's folder: done again, it gets a folder of its own.

    A resumed run names its own last.pt as the model; what it began with has to be given.
    """
    tied = {"mode", "save_dir", "exist_ok", "resume", *(["model"] if content.get("resume") else [])}
    return {k: v for k, v in content.items() if k not in tied}


def _given(layer: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a recipe that say something: an empty one keeps its default where that is 'not set'."""
    own = {o.name for c in COMMANDS.values() for o in c.options}
    defaults = keys.host_defaults()
    silent = {k for k in layer if k in own or defaults.get(k) is None}
    return {str(k): v for k, v in layer.items() if v is not None or k not in silent}
