"""Write yoloprune/api.pyi, the signatures that editors and type checkers read, from the table of options.

python scripts/signatures.py           # write it
python scripts/signatures.py --check   # tell whether it is what would be written
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from yoloprune.settings.signatures import declaration

STUB = Path(__file__).resolve().parents[1] / "yoloprune" / "api.pyi"
ROWS = "list[dict[str, Any]]"
COMMANDS = {
    "slim": "StockYOLO",
    "train-sparse": "StockYOLO",
    "prune": "StockYOLO",
    "sweep": ROWS,
    "sensitivity": ROWS,
    "mask": "StockYOLO",
    "finetune": "StockYOLO",
    "val": ROWS,
    "info": ROWS,
    "plot": "Path",
    "latency": "Path",
    "compare": ROWS,
}
HEAD = """# Written by scripts/signatures.py from settings/commands.py.
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from ultralytics.models.yolo.model import YOLO as StockYOLO

from yoloprune.planning.channel_graph import ChannelGraph

__all__ = [
{names}
]

ModelSource: TypeAlias = str | Path | StockYOLO
"""
TAIL = """\
def trace(model: ModelSource, *, imgsz: int | None = None, keep: str | Sequence[str] = ()) -> ChannelGraph: ...
"""


def stub() -> str:
    """The whole file."""
    names = sorted([*(name.replace("-", "_") for name in COMMANDS), "trace"])
    head = HEAD.format(names="\n".join(f'    "{name}",' for name in names))
    return "\n".join([head, *(declaration(name, returned) for name, returned in COMMANDS.items()), TAIL])


def main() -> int:
    """Write the file, or compare it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where the file is another")
    if parser.parse_args().check:
        return int(STUB.read_text(encoding="utf-8") != stub())
    STUB.write_text(stub(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
