"""Images for scores and repairs where there are none at hand: shapes that hide one another, under noise as of clouds.

What a network does with photographs it does, by and large, with any picture that has edges and textures of all sizes,
as photographs have: occluding shapes with radii of every order (the dead leaves model, Lee et al. 2001, International
Journal of Computer Vision 41) and noise whose amplitude falls with frequency (Field 1987, JOSA A 4.12). Baradad et al.
2021 (arXiv 2106.05963) learn features from such images.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

MOST, FEWEST = 64, 16
"""So many images are drawn, fewer of large ones."""

PIXELS = MOST * 320**2
"""Pixels of all images, as far as `FEWEST` allows: what bounds the time of a cut without data."""

LEAVES = 300
"""Shapes in an image, of which later ones hide earlier ones."""

RADII = (0.02, 0.5)
"""Smallest and largest radius of a shape, as shares of the side."""

BATCH = 16


def batches(imgsz: int, channels: int, device: torch.device | str = "cpu", seed: int = 0) -> list[Tensor]:
    """Draw images.

    Args:
        imgsz (int): Side of the square images in pixels.
        channels (int): Number of channels; they go together as the colours of photographs do.
        device (torch.device | str): Where the batches go.
        seed (int): Of the drawing. Image i depends on it and on i alone.

    Returns:
        (list[Tensor]): Batches of shape (B, channels, imgsz, imgsz), float32 in 0..1.
    """
    count = min(MOST, max(FEWEST, PIXELS // imgsz**2))
    images = (_image(np.random.default_rng([seed, i]), imgsz, channels) for i in range(count))
    drawn = torch.from_numpy(np.stack(list(images))).permute(0, 3, 1, 2).float().contiguous()
    return [part.to(device) for part in drawn.split(BATCH)]


def _image(rng: np.random.Generator, side: int, channels: int) -> np.ndarray:
    """One image, shape (side, side, channels), in 0..1."""
    shown = _leaves(rng, side)
    colours = rng.uniform(0, 1, (LEAVES + 1, 1)) + rng.normal(0, 0.14, (LEAVES + 1, channels))
    roughness = rng.uniform(0.01, 0.1, (LEAVES + 1, 1))
    texture = _clouds(rng, side, 1, fall=1) + 0.3 * _clouds(rng, side, channels, fall=1)
    image = colours[shown] + roughness[shown] * texture + 0.16 * _clouds(rng, side, 1, fall=2)
    blurred = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.0)).reshape(image.shape)  # OpenCV drops a channel of 1
    grainy: np.ndarray = blurred + rng.normal(0, rng.uniform(0, 0.016), image.shape)
    return grainy.clip(0, 1)


def _leaves(rng: np.random.Generator, side: int) -> np.ndarray:
    """Which shape each pixel shows, 0 for none, shape (side, side)."""
    shown = np.zeros((side, side), np.int32)
    for shape in range(1, LEAVES + 1):
        corners = rng.choice([3, 4, 5, 24])
        angles = np.arange(24) / 24 * 2 * np.pi if corners == 24 else np.sort(rng.uniform(0, 2 * np.pi, corners))
        flat = np.stack([np.cos(angles), rng.uniform(0.3, 1) * np.sin(angles)])
        cosine, sine = np.cos(turn := rng.uniform(0, np.pi)), np.sin(turn)
        radius = side * np.exp(rng.uniform(*np.log(RADII)))
        outline = radius * np.array([[cosine, -sine], [sine, cosine]]) @ flat + rng.uniform(0, side, (2, 1))
        cv2.fillPoly(shown, [outline.T.astype(np.int32)], shape)
    return shown


def _clouds(rng: np.random.Generator, side: int, count: int, *, fall: float) -> np.ndarray:
    """Noise whose amplitude falls with the frequency to a power, of variance 1, shape (side, side, count)."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    frequency[0, 0] = np.inf  # no mean
    waves = rng.normal(size=(2, count, *frequency.shape)) / frequency**fall
    noise: np.ndarray = np.fft.irfft2(waves[0] + 1j * waves[1], s=(side, side))
    noise /= noise.std((1, 2), keepdims=True)
    return noise.transpose(1, 2, 0)
