"""A run's folder that gets another name: what is said of it, and what it holds of itself, is written anew."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from yoloprune import files
from yoloprune.backend import compat

TEXTS = frozenset({".yaml", ".json", ".html"})
"""Of the files in a run's folder those that name it."""


@dataclass(frozen=True)
class Renaming:
    """What a folder is called while a run goes on, and what it will be called.

    Attributes:
        folder (Path): Where the run is. Its name is one that nothing else has.
        final (Path): Where it will be, beside that.
    """

    folder: Path
    final: Path

    def told(self, text: str) -> str:
        """A text with the final name in the place of the other."""
        return text.replace(self.folder.name, self.final.name)

    def settle(self) -> None:
        """Make everything in the folder that names it name the folder that it is renamed to."""
        for file in self.folder.rglob("*"):
            if file.suffix in TEXTS and file.is_file():
                text = file.read_text(encoding="utf-8")
                if (told := self.told(text)) != text:
                    files.write_at_once(file, partial(_write, told))
        for file in sorted((self.folder / "weights").glob("*.pt")):
            content: dict[str, Any] = compat.torch_safe_load(str(file))[0]
            if self._settled(content):
                files.write_at_once(file, partial(torch.save, content))

    def _settled(self, content: dict[str, Any]) -> bool:
        """Rename in all that a checkpoint says of its run, and whether there was something to rename."""
        holders = [content, *(vars(m) for m in (content.get("model"), content.get("ema")) if m is not None)]
        changed = False
        for holder in holders:
            for key in ("train_args", "args", "yaml"):
                if key in holder and (renamed := self._plain(holder[key])) != holder[key]:
                    holder[key], changed = renamed, True
        return changed

    def _plain(self, value: Any) -> Any:
        """Plain data with the final name; anything else as it is."""
        if isinstance(value, dict):
            return {k: self._plain(v) for k, v in value.items()}
        if isinstance(value, list):
            return [self._plain(v) for v in value]
        return self.told(value) if isinstance(value, str) else value


def _write(text: str, file: Any) -> None:
    file.write(text.encode())
