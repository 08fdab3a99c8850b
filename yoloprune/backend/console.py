"""Messages in the way of Ultralytics; called through the module, so that tests can replace them."""

from __future__ import annotations

from yoloprune.backend import compat


def is_main_process() -> bool:
    """Whether this process logs and saves."""
    return compat.RANK in {-1, 0}


def log(prefix: str, message: str) -> None:
    """Log as Ultralytics does, with a coloured prefix."""
    compat.LOGGER.info(f"{compat.colorstr(prefix)}{message}")


def warn(message: str) -> None:
    """Warn as Ultralytics does."""
    compat.LOGGER.warning(message)
