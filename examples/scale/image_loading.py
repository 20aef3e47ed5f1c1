"""Measure the CPU time that a worker needs to make a training image from a JPEG file.

A generated image of 500×375 pixels and about 110 kB, as ImageNet has on average, is decoded, cropped at
random, resized to 224×224 and normalised by ``ImageFolder`` with ``TrainingCrop``, or centrally for
evaluation. The result is the median over rounds of 50 images on one core.

    python examples/scale/image_loading.py    # ten seconds

It writes image_loading.json beside this file.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import PIL
import torch
from _image_folder import CentralCrop, ImageFolder, TrainingCrop
from PIL import Image

sys.path.extend(str(Path(__file__).resolve().parents[1] / part) for part in ("", "benchmarks"))
from _measure import environment
from _provenance import provenance

ROUNDS, IMAGES, WIDTH, HEIGHT, QUALITY = 7, 50, 500, 375, 88


def picture(rng: np.random.Generator) -> Image.Image:
    """Return noise with the spectrum of photographs, which falls with the inverse of the frequency."""
    fy, fx = np.fft.fftfreq(HEIGHT)[:, None], np.fft.fftfreq(WIDTH)
    amplitude = 1 / np.maximum(np.hypot(fx, fy), 1 / WIDTH)
    waves = rng.normal(size=(3, HEIGHT, WIDTH)) + 1j * rng.normal(size=(3, HEIGHT, WIDTH))
    pixels = np.fft.ifft2(amplitude * waves).real
    pixels = 127 + 50 * pixels / pixels.std()
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8).transpose(1, 2, 0))


def seconds(images: ImageFolder) -> float:
    """Return the median CPU seconds for an image."""
    found = []
    for _ in range(ROUNDS):
        began = time.process_time()
        for row in range(len(images)):
            images[row]
        found.append((time.process_time() - began) / len(images))
    return float(np.median(found[1:]))


def main() -> None:
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{i}.JPEG" for i in range(IMAGES)]
        for file in files:
            picture(rng).save(file, quality=QUALITY)
        size = np.mean([file.stat().st_size for file in files])
        images = ImageFolder(files, [0] * IMAGES, TrainingCrop(224))
        record = provenance(__file__, PIL) | {
            "environment": {"processor": environment("cpu")["processor"], "clock": "CPU time", "threads": 1},
            "bytes of a file": round(float(size)),
            "seconds per image": round(seconds(images), 6),
            "seconds per image, evaluation": round(
                seconds(images.rows(np.arange(IMAGES), CentralCrop(224))), 6
            ),
        }
    Path(__file__).with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
