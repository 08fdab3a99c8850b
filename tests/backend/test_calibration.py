"""Calibration images: letterboxed or cropped, in equal batches, the same ones for a seed; missing ones are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from yoloprune.backend import console
from yoloprune.backend.calibration_images import batches
from yoloprune.errors import DataError


def load(*where: Any, **how: Any) -> list[torch.Tensor]:
    """Whole images alone."""
    return batches(*where, **how)[0]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Five images twice as wide as high, red channel 10 · i, green 100, blue 200; one file that is no image."""
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(5):
        pixels = np.full((20, 40, 3), (10 * i, 100, 200), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    (folder / "broken.png").write_text("not an image")
    path = tmp_path / "data.yaml"
    path.write_text(yaml.safe_dump({"path": str(tmp_path), "train": "images", "val": "images", "names": ["a"]}))
    return path


def test_images_are_letterboxed_rgb_in_equal_batches_and_nothing_is_written(data: Path):
    before = sorted(data.parent.rglob("*"))
    got = load(data, 32, n=9, batch=4)
    assert [tuple(b.shape) for b in got] == [(3, 3, 32, 32), (2, 3, 32, 32)]  # five can be read; not 4 and 1
    images = torch.cat(got)
    assert images.dtype == torch.float32
    assert sorted((images[:, 0, 16, 16] * 25.5).round().tolist()) == [0, 1, 2, 3, 4]
    torch.testing.assert_close(images[:, 1:, 16, 16], torch.tensor([100.0, 200.0]).div(255).expand(5, 2))
    assert (images[:, :, :8] == 114 / 255).all() and (images[:, :, -8:] == 114 / 255).all()  # 32x16 in the middle
    assert sorted(data.parent.rglob("*")) == before


@pytest.mark.parametrize("given", ["data", "images"])
def test_what_cannot_be_read_is_told_once(
    given: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(console, "warn", told.append)
    folder = data.parent / "images"
    called = f"data={data}" if given == "data" else f"images={folder}"

    def loaded(n: int) -> int:
        told.clear()
        return sum(map(len, load(data, 32, n=n) if given == "data" else load(None, 32, folder=folder, n=n)))

    assert loaded(9) == 5
    assert told == [f"{called}: 1 of 6 images cannot be read: {folder / 'broken.png'}"]
    (folder / "dead.png").symlink_to(tmp_path / "gone.png")
    (folder / "empty.jpg").touch()
    assert loaded(9) == 5
    (line,) = told
    assert line.startswith(f"{called}: 3 of 8 images cannot be read, the first is {folder}/")
    assert Path(line.rpartition(" ")[2]).stem in {"broken", "dead", "empty"}
    for file in ("broken.png", "dead.png", "empty.jpg"):
        (folder / file).unlink()
    assert loaded(9) == 5 and not told


def test_choice_depends_on_the_seed_alone(data: Path):
    first, again, other = (load(data, 32, n=3, seed=s)[0] for s in (1, 1, 2))
    assert torch.equal(first, again) and len(first) == 3
    assert not torch.equal(first, other)


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    """Five images of which no two places are alike."""
    (tmp_path / "noise").mkdir()
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)):
        Image.fromarray(pixels).save(tmp_path / "noise" / f"{i}.png")
    path = tmp_path / "noise.yaml"
    path.write_text(yaml.safe_dump({"path": str(tmp_path), "train": "noise", "val": "noise", "names": ["a"]}))
    return path


def test_windows_lie_in_more_images_than_are_seen_whole(noise: Path) -> None:
    counted: list[int] = []
    told: dict[str, Any] = {"side": lambda count: counted.append(count) or 32, "n": 2, "most": 4, "seed": 3}
    whole, windows = batches(noise, 64, **told)
    assert counted == [4]
    (four,) = load(noise, 64, n=4, seed=3)
    assert torch.equal(whole[0], four[:2]) and windows[0].shape == (4, 3, 32, 32)
    for window, image in zip(windows[0], four, strict=True):
        places = image.unfold(1, 32, 1).unfold(2, 32, 1)  # shape (3, 33, 33, 32, 32)
        assert (places == window[:, None, None]).all((0, 3, 4)).sum() == 1
    again, other = (batches(noise, 64, **{**told, "seed": s})[1][0] for s in (3, 4))
    assert torch.equal(again, windows[0]) and not torch.equal(other, windows[0])


def test_windows_as_large_as_images_are_the_images(noise: Path) -> None:
    whole, windows = batches(noise, 64, n=2, side=lambda _: 64)
    assert windows is whole and torch.equal(whole[0], load(noise, 64, n=2)[0])


def test_a_folder_has_as_many_images_as_it_has(noise: Path) -> None:
    counted: list[int] = []
    batches(None, 64, folder=noise.parent / "noise", side=lambda count: counted.append(count) or 32)
    assert counted == [5]


def test_grey_images(data: Path):
    (images,) = load(data, 32, channels=1)
    assert images.shape == (5, 1, 32, 32)


def test_classification_images_are_cropped_not_letterboxed(data: Path):
    (data.parent / "train").mkdir()
    (data.parent / "images").rename(data.parent / "train" / "a")
    (images,) = load(data.parent, 16, task="classify")
    assert images.shape == (5, 3, 16, 16)
    torch.testing.assert_close(images[:, 1], torch.full((5, 16, 16), 100 / 255))


def test_missing_or_empty_data_is_an_error_of_one_line(data: Path, tmp_path: Path):
    for name in ("nowhere.yaml", "no/folder.yaml"):
        with pytest.raises(DataError, match="does not exist") as e:
            load(tmp_path / name, 32)
        assert "\n" not in str(e.value)
    (tmp_path / "gone.yaml").write_text(f"path: {tmp_path}\ntrain: gone\nval: gone\nnames: [a]\n")
    with pytest.raises(DataError, match="images not found, missing path") as e:
        load(tmp_path / "gone.yaml", 32)
    assert str(e.value).endswith("gone'")  # and nothing of where Ultralytics would download it to
    with pytest.raises(DataError, match="train/<class>/"):
        load(tmp_path, 32, task="classify")
    for image in (data.parent / "images").glob("?.png"):
        image.unlink()
    with pytest.raises(DataError, match=r"none of its 1 images can be read, the first is .*broken\.png"):
        load(data, 32)
    (data.parent / "images" / "broken.png").unlink()
    with pytest.raises(DataError, match="No images found"):
        load(data, 32)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("path: .\ntrain: images\nval: images\n", "key missing .*names.* are required"),
        ("train: [images,\nval: }\n", "while parsing a flow node .* line 2"),
    ],
)
def test_all_of_what_ultralytics_says_in_one_line(text: str, why: str, data: Path) -> None:
    data.write_text(text)
    with pytest.raises(DataError, match=why) as e:
        load(data, 32)
    assert "\n" not in str(e.value)
