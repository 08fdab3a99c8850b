"""Images without labels: a folder, a file, a pattern or a list, as Ultralytics takes a source; of videos the frames."""

from __future__ import annotations

import glob
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yoloprune.backend import compat, console, datasets


@dataclass(frozen=True)
class Stills:
    """Image files.

    Attributes:
        photos (list[str]): Images as they were given.
        frames (list[list[str]]): Of each video its frames, in their order.
    """

    photos: list[str]
    frames: list[list[str]] = field(default_factory=list)

    @property
    def all(self) -> list[str]:
        """All of them."""
        return [*self.photos, *(frame for video in self.frames for frame in video)]


def stills(place: str | Path, folder: Path, *, stride: int = 1, most: int | None = None) -> Stills:
    """Find images, and write frames of videos.

    Args:
        place (str | Path): An image, a video, a folder with its folders, a glob pattern, or a text or CSV file that
            lists some.
        folder (Path): Where frames go, as JPEG files; made where there are videos.
        stride (int): Every so many frames one is taken.
        most (int | None): About so many frames of each video are enough, spread over all of it.

    Raises:
        DataError: If nothing is there, or a video cannot be opened.
    """
    photos: list[str] = []
    videos: list[str] = []
    with datasets.one_line(None, place):
        loader = _opened(_listed(str(place)), stride)
        for file, moving in zip(loader.files, loader.video_flag, strict=True):
            (videos if moving else photos).append(file)
        frames = [_frames(video, folder, i, stride, most) for i, video in enumerate(videos)]
    return Stills(photos, frames)


def require(place: str | Path) -> None:
    """Raise DataError unless there are images or videos, before there is any work."""
    with datasets.one_line(None, place):
        _opened(_listed(str(place)), 1)


def _listed(place: str) -> Any:
    """What Ultralytics finds the files by: also those in folders of a folder, and beside a list that names them."""
    if os.path.isdir(place):
        return os.path.join(glob.escape(place), "**", "*.*")
    if place.lower().endswith(".txt") and os.path.isfile(place):
        lines = [line.strip() for line in Path(place).read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        return [line if os.path.exists(line) else str(Path(place).parent / line) for line in lines]
    return place


def _opened(source: Any, stride: int) -> Any:
    """Ultralytics' loader, without the video that it opens at once."""
    loader = compat.LoadImagesAndVideos(source, vid_stride=stride)
    if loader.cap is not None:
        loader.cap.release()
    return loader


def _frames(video: str, folder: Path, number: int, stride: int, most: int | None) -> list[str]:
    """Write the frames of a video."""
    if most is not None:
        stride = max(stride, -(-_opened(video, 1).frames // most))
    loader = compat.LoadImagesAndVideos(video, vid_stride=stride)
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
