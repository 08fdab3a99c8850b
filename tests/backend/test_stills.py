"""Images without labels: folders, lists and videos, and which frames are taken."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from yoloprune.backend import calibration_images, stills
from yoloprune.errors import DataError


def image(file: Path, level: int = 0) -> str:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((32, 32, 3), level, np.uint8)).save(file)
    return str(file)


def video(file: Path, levels: list[int]) -> str:
    """A video whose frames are flat, each of one level."""
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"MJPG"), 10, (32, 32))
    for level in levels:
        writer.write(np.full((32, 32, 3), level, np.uint8))
    writer.release()
    return str(file)


def levels(frames: list[str]) -> list[int]:
    return [round(float(np.asarray(Image.open(f)).mean()) / 10) * 10 for f in frames]


def test_a_folder_is_searched_with_its_folders(tmp_path: Path) -> None:
    root = tmp_path / "photos [1]"  # brackets are no pattern here
    expected = [image(root / "a.jpg"), image(root / "deep" / "er" / "b.png")]
    (root / "notes.txt").write_text("no image")
    found = stills.stills(root, tmp_path / "frames")
    assert sorted(found.all) == expected
    assert found.frames == []
    assert not (tmp_path / "frames").exists()


def test_a_list_names_files_from_here_or_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    image(tmp_path / "here.jpg")
    beside = image(tmp_path / "lists" / "sub" / "beside.jpg")
    (tmp_path / "lists" / "list.txt").write_text("here.jpg\n\n./sub/beside.jpg\n")
    found = stills.stills("lists/list.txt", tmp_path / "frames").all
    assert sorted(Path(f).resolve() for f in found) == sorted([tmp_path / "here.jpg", Path(beside)])


def test_frames_of_a_video_are_written_in_their_order(tmp_path: Path) -> None:
    file = video(tmp_path / "clip.avi", [0, 40, 80, 120, 160, 200])
    found = stills.stills(file, tmp_path / "frames")
    assert found.photos == []
    assert [levels(f) for f in found.frames] == [[0, 40, 80, 120, 160, 200]]
    every_second = stills.stills(file, tmp_path / "second", stride=2)
    assert levels(every_second.all) == [40, 120, 200]  # Ultralytics takes the last one of each two


def test_of_a_long_video_some_frames_are_enough(tmp_path: Path) -> None:
    image(tmp_path / "both" / "a.jpg")
    video(tmp_path / "both" / "clip.avi", [10 * i for i in range(12)])
    found = stills.stills(tmp_path / "both", tmp_path / "frames", most=4)
    assert len(found.photos) == 1
    assert levels(found.frames[0]) == [20, 50, 80, 110]  # over all of it
    batches, _ = calibration_images.batches(None, 32, folder=tmp_path / "both", n=4, batch=8)
    assert [len(b) for b in batches] == [4]


def test_what_is_nowhere_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^images=.*nowhere.*does not exist"):
        stills.stills(tmp_path / "nowhere", tmp_path / "frames")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"^images=.*No images or videos found"):
        stills.stills(tmp_path / "empty", tmp_path / "frames")
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(DataError, match=r"^images=.*broken.mp4"):
        stills.stills(tmp_path / "broken.mp4", tmp_path / "frames")
