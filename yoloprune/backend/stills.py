"""Images without labels: a folder, a file, a pattern or a list of them, each file once; of videos the frames."""

from __future__ import annotations

import csv
import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yoloprune.backend import compat, console
from yoloprune.errors import DataError

LISTS = (".txt", ".csv")
"""Ends of names of files that list images."""


@dataclass(frozen=True)
class Stills:
    """Image files.

    Attributes:
        photos (list[str]): Images as they were given, also those that cannot be read.
        frames (list[list[str]]): Of each video its frames, in their order.
    """

    photos: list[str]
    frames: list[list[str]] = field(default_factory=list)

    @property
    def all(self) -> list[str]:
        """All of them."""
        return [*self.photos, *(frame for video in self.frames for frame in video)]


def stills(place: str | Path, folder: Path, *, stride: int = 1, most: int | None = None) -> Stills:
    """Find images, and write frames of videos; those that cannot be read are passed over with a warning.

    Args:
        place (str | Path): An image, a video, a folder with its folders, a glob pattern, or a text or CSV file that
            lists some.
        folder (Path): Where frames go, as JPEG files; made where there are videos.
        stride (int): Every so many frames one is taken.
        most (int | None): About so many frames of each video are enough, spread over all of it.

    Raises:
        DataError: If nothing is there, or there are only videos that cannot be read.
    """
    photos, videos = _found(str(place))
    frames = {video: _frames(video, folder, i, stride, most) for i, video in enumerate(videos)}
    unread = [video for video in videos if not frames[video]]
    if not photos and len(unread) == len(videos):
        raise _unread(place, unread)
    warn_of_unread(f"images={place}", "videos", unread, len(videos))
    return Stills(photos, [written for written in frames.values() if written])


def require(place: str | Path) -> None:
    """Raise DataError unless there are images or videos, before there is any work."""
    photos, videos = _found(str(place))
    if not any(map(os.path.isfile, photos)) and not any(map(_opens, videos)):
        raise _unread(place, [*photos, *videos])


def warn_of_unread(told: str, what: str, unread: Sequence[str], count: int) -> None:
    """Warn once of files that cannot be read.

    Args:
        told (str): How they were given.
        what (str): What they are.
        unread (Sequence[str]): Those that cannot be read.
        count (int): How many were looked at.
    """
    if unread:
        first = f": {unread[0]}" if len(unread) == 1 else f", the first is {unread[0]}"
        console.warn(f"{told}: {len(unread)} of {count} {what} cannot be read{first}")


def _unread(place: str | Path, files: Sequence[str]) -> DataError:
    return DataError(f"images={place}: none of its {len(files)} files can be read, the first is {files[0]}.")


def _found(place: str) -> tuple[list[str], list[str]]:
    """Images and videos, each file once, by whatever links lead to it; links to nothing among them."""
    seen = set[str]()
    photos: list[str] = []
    videos: list[str] = []
    for file in _files(place):
        kind = os.path.splitext(file)[1][1:].lower()
        kept = photos if kind in compat.IMG_FORMATS else videos if kind in compat.VID_FORMATS else None
        if kept is not None and (real := os.path.realpath(file)) not in seen:
            seen.add(real)
            kept.append(file)
    if photos or videos:
        return photos, videos
    if os.path.isdir(place):
        said = "no images or videos are in this folder or in those inside it."
    elif place.lower().endswith(LISTS):
        said = "this list names no image and no video."
    elif os.path.exists(place):
        data = " A data set goes to data=." if place.lower().endswith((".yaml", ".yml")) else ""
        said = f"must be an image, a video, a folder or a pattern of such, or a text file that lists them.{data}"
    else:
        said = "no image and no video matches this pattern."
    raise DataError(f"images={place}: {said}")


def _files(place: str) -> Iterator[str]:
    """Files of a place, absolute, in the order of their names."""
    if place.lower().endswith(LISTS) and os.path.isfile(place):
        for entry in sorted(_listed(Path(place))):
            yield from _of_entry(entry)
        return
    if not os.path.lexists(place) and "*" not in place:
        raise DataError(f"images={place}: there is no such file or folder.")
    yield from _of_entry(place)


def _of_entry(entry: str) -> list[str]:
    entry = os.path.abspath(entry)
    if os.path.isdir(entry):
        return sorted(_in_folder(entry))
    return [entry] if os.path.lexists(entry) else sorted(glob.glob(entry, recursive=True))


def _in_folder(folder: str) -> Iterator[str]:
    """Files in a folder and its folders, none of them twice, as where a link leads back to where it is."""
    seen = set[str]()
    for here, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(here)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (os.path.join(here, name) for name in names if not name.startswith("."))


def _listed(file: Path) -> Iterator[str]:
    """What a list names: files, folders and patterns from here, else beside the list; comments are passed over.

    Raises:
        DataError: If one of them is nowhere, or the list is no text.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise DataError(f"images={file}: this list must be text in UTF-8.") from None
    for i, line in enumerate(lines):
        cells = next(csv.reader([line]), []) if file.suffix.lower() == ".csv" else [line]
        for entry in filter(None, map(str.strip, cells)):
            beside = str(file.parent / entry)
            at = next((e for e in (entry, beside) if os.path.lexists(e) or ("*" in e and glob.glob(e))), None)
            if at is not None:
                yield at
            elif not entry.startswith("#") and (i, entry) != (0, "source"):  # the head of a column
                raise DataError(f"images={file}: line {i + 1} names {entry}, and there is no such file.")


def _opened(video: str, stride: int) -> Any:
    """Ultralytics' reader of a video, None where it cannot be opened, e.g. of a recording that was never finished."""
    try:
        return compat.LoadImagesAndVideos(video, vid_stride=stride)
    except FileNotFoundError:
        return None


def _opens(video: str) -> bool:
    if (loader := _opened(video, 1)) is not None:
        loader.cap.release()
    return loader is not None


def _frames(video: str, folder: Path, number: int, stride: int, most: int | None) -> list[str]:
    """Write the frames of a video."""
    if most is not None and (whole := _opened(video, 1)) is not None:
        whole.cap.release()
        stride = max(stride, -(-whole.frames // most))
    loader = _opened(video, stride)
    if loader is None:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    bar = compat.TQDM(
        total=loader.frames,
        desc=console.title("images: ") + f"frames of {Path(video).name}",
        disable=not console.is_main_process(),
    )
    found: list[str] = []
    for _, images, *_ in loader:
        for image in images:
            found.append(str(folder / f"{number}-{Path(video).stem}-{len(found):06d}.jpg"))
            compat.imwrite(found[-1], image)
            bar.update(1)
    bar.close()
    return found
