"""Images for scores and repairs where there are none at hand: drawn ones, and crops of Ultralytics' own photographs.

What a network does with photographs it does, by and large, with any picture that has edges and textures of all sizes:
shapes with radii of every order that hide one another (the dead leaves model, Lee et al. 2001, International Journal of
Computer Vision 41) under noise whose amplitude falls with the frequency (Field 1987, JOSA A 4.12). Baradad et al. 2021
(arXiv 2106.05963) learn features from such images.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from yoloprune.backend import compat

MOST, FEWEST = 64, 16
"""So many images are made, fewer of large ones."""

PIXELS = MOST * 320**2
"""Pixels of all images, as far as `FEWEST` allows: what bounds the time of a cut without data."""

LEAVES = 250
"""Shapes in an image, of which later ones hide earlier ones."""

RADII = (0.015, 0.5)
"""Smallest and largest radius of a shape, as shares of the side; twice as large are a quarter as many."""

BATCH = 16


def batches(imgsz: int, channels: int, device: torch.device | str = "cpu", seed: int = 0) -> list[Tensor]:
    """Make images, every second one a crop of a photograph if they have three channels.

    Args:
        imgsz (int): Side of the square images in pixels.
        channels (int): Number of channels.
        device (torch.device | str): Where the batches go.
        seed (int): Of the drawing. Image i depends on it and on i alone.

    Returns:
        (list[Tensor]): Batches of shape (B, channels, imgsz, imgsz), float32 in 0..1.
    """
    count = min(MOST, max(FEWEST, PIXELS // imgsz**2))
    photographs = _photographs() if channels == 3 else []
    made = []
    for i in range(count):
        rng = np.random.default_rng([seed, i])
        crops = photographs and i % 2
        made.append(
            _crop(rng, photographs[i // 2 % len(photographs)], imgsz) if crops else _drawn(rng, imgsz, channels)
        )
    images = torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2).float().contiguous()
    return [part.to(device) for part in images.split(BATCH)]


def _photographs() -> list[np.ndarray]:
    """Those that Ultralytics brings, RGB in 0..1; none where they have been left out of an installation."""
    read = (cv2.imread(str(file)) for file in sorted(Path(compat.ASSETS).glob("*.jpg")))
    return [image[..., ::-1] / np.float32(255) for image in read if image is not None]


def _crop(rng: np.random.Generator, photograph: np.ndarray, side: int) -> np.ndarray:
    """A square part of a photograph, shape (side, side, 3), in 0..1: perhaps mirrored, or with red and blue exchanged,
    lighter or darker.
    """
    height, width = photograph.shape[:2]
    taken = int(min(height, width) * rng.uniform(0.3, 1))
    y, x = rng.integers(height - taken + 1), rng.integers(width - taken + 1)
    part = photograph[y : y + taken, x : x + taken, :: rng.choice([1, -1])][:, :: rng.choice([1, -1])]
    resized = cv2.resize(np.ascontiguousarray(part), (side, side), interpolation=cv2.INTER_AREA)
    lit: np.ndarray = resized * rng.uniform(0.6, 1.3) + rng.uniform(-0.08, 0.08)
    return lit.clip(0, 1)


def _drawn(rng: np.random.Generator, side: int, channels: int) -> np.ndarray:
    """A drawing, shape (side, side, channels), in 0..1."""
    colours = rng.uniform(0, 1, (LEAVES + 1, 1)) + rng.normal(0, 0.14, (LEAVES + 1, channels))
    colours[0] = rng.uniform(0, 1, channels)
    image = colours.clip(0, 1)[_leaves(rng, side)] + rng.uniform(0.02, 0.1) * _clouds(rng, side, channels)
    blurred = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.2)).reshape(image.shape)  # OpenCV drops a channel of 1
    grainy: np.ndarray = blurred + rng.normal(0, rng.uniform(0.004, 0.024), image.shape)
    return grainy.clip(0, 1)


def _leaves(rng: np.random.Generator, side: int) -> np.ndarray:
    """Which shape each pixel shows, 0 for none, shape (side, side)."""
    shown = np.zeros((side, side), np.int32)
    small, large = RADII
    for shape in range(1, LEAVES + 1):
        corners = rng.choice([3, 4, 5, 24])
        angles = np.arange(24) / 24 * 2 * np.pi if corners == 24 else np.sort(rng.uniform(0, 2 * np.pi, corners))
        flat = np.stack([np.cos(angles), rng.uniform(0.3, 1) * np.sin(angles)])
        cosine, sine = np.cos(turn := rng.uniform(0, np.pi)), np.sin(turn)
        radius = side * (small**-2 - rng.uniform() * (small**-2 - large**-2)) ** -0.5  # density as radius^-3
        outline = radius * np.array([[cosine, -sine], [sine, cosine]]) @ flat + rng.uniform(0, side, (2, 1))
        cv2.fillPoly(shown, [outline.T.astype(np.int32)], shape)
    return shown


def _clouds(rng: np.random.Generator, side: int, count: int) -> np.ndarray:
    """Noise whose amplitude falls as the frequency grows, of variance 1, shape (side, side, count)."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    frequency[0, 0] = np.inf  # no mean
    waves = rng.normal(size=(2, count, *frequency.shape)) / frequency
    noise: np.ndarray = np.fft.irfft2(waves[0] + 1j * waves[1], s=(side, side))
    return np.moveaxis(noise / noise.std((1, 2), keepdims=True), 0, 2)
