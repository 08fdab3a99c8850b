"""Images without labels: folders, lists and videos, and which frames are taken."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from yoloprune.backend import calibration_images, console, stills
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


def test_what_is_no_image_is_told_in_words(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "list.txt").write_text("# nothing yet\n\n")
    (tmp_path / "model.pt").write_bytes(b"weights")
    (tmp_path / "a.yaml").write_text("names: [a]")
    (tmp_path / "latin.txt").write_bytes("Füße.jpg".encode("latin-1"))
    for name, said in {
        "nowhere": "there is no such file or folder.",
        "empty": "no images or videos are in this folder or in those inside it.",
        "list.txt": "this list names no image and no video.",
        "latin.txt": "this list must be text in UTF-8.",
        "*.jpg": "no image and no video matches this pattern.",
        "model.pt": "must be an image, a video, a folder or a pattern of such, or a text file that lists them.",
        "a.yaml": "must be an image, a video, a folder or a pattern of such, or a text file that lists them. "
        "A data set goes to data=.",
    }.items():
        for look in (stills.require, lambda place: stills.stills(place, tmp_path / "frames")):
            with pytest.raises(DataError) as e:
                look(str(tmp_path / name))
            assert str(e.value) == f"images={tmp_path / name}: {said}"


@pytest.mark.parametrize(
    ("name", "text", "listed"),
    [
        ("list.txt", "# my photos\na.jpg\n\n   # and\nb.jpg\n", "a.jpg\n#x\nc.jpg"),
        ("list.csv", "source\na.jpg,b.jpg\n", "a.jpg\n\nc.jpg"),
    ],
)
def test_of_a_list_comments_are_passed_over_and_missing_files_told(
    name: str, text: str, listed: str, tmp_path: Path
) -> None:
    expected = [image(tmp_path / "a.jpg"), image(tmp_path / "b.jpg")]
    file = tmp_path / name
    file.write_text(text)
    assert stills.stills(file, tmp_path / "frames").all == expected
    file.write_text(listed)
    with pytest.raises(DataError) as e:
        stills.require(file)
    assert str(e.value) == f"images={file}: line 3 names c.jpg, and there is no such file."


def test_videos_that_cannot_be_read_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(console, "warn", told.append)
    root = tmp_path / "mine"
    photo = image(root / "a.jpg")
    (root / "unfinished.mp4").write_bytes(b"no video")
    video(root / "whole.avi", [40, 80])
    found = stills.stills(root, tmp_path / "frames")
    assert found.photos == [photo]
    assert [levels(f) for f in found.frames] == [[40, 80]]
    assert told == [f"images={root}: 1 of 2 videos cannot be read: {root / 'unfinished.mp4'}"]
    stills.require(root)


def test_where_nothing_can_be_read_that_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.avi").write_bytes(b"no video")
    (tmp_path / "b.mp4").write_bytes(b"")
    for look in (stills.require, lambda place: stills.stills(place, tmp_path / "frames")):
        with pytest.raises(DataError) as e:
            look(tmp_path)
        assert str(e.value) == (
            f"images={tmp_path}: none of its 2 files can be read, the first is {tmp_path / 'a.avi'}."
        )


def test_links_to_nothing_are_no_error_beside_images(tmp_path: Path) -> None:
    root = tmp_path / "mine"
    (root / "dead").mkdir(parents=True)
    (root / "dead" / "dead.jpg").symlink_to(tmp_path / "gone.jpg")
    with pytest.raises(DataError, match=r"none of its 1 files can be read, the first is .*dead\.jpg"):
        stills.require(root)
    image(root / "a.jpg")
    stills.require(root)
    assert stills.stills(root, tmp_path / "frames").photos == [str(root / "a.jpg"), str(root / "dead" / "dead.jpg")]


def test_each_file_is_taken_once(tmp_path: Path) -> None:
    root = tmp_path / "mine"
    expected = [image(root / "loop" / "a.jpg"), image(root / "loop" / "b.jpg")]
    (root / "loop" / "self").symlink_to(root / "loop")
    (root / "z.jpg").symlink_to(root / "loop" / "a.jpg")
    assert stills.stills(root, tmp_path / "frames").all == expected
    (tmp_path / "list.txt").write_text("mine/loop\nmine/loop/*.jpg\nmine/z.jpg\n")
    assert stills.stills(tmp_path / "list.txt", tmp_path / "frames").all == expected
