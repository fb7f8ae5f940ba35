"""Pictures with structure at every scale, as radiographs have, made from a seed."""

import numpy as np
from PIL import Image


def cloud(seed: int, side: int, detail: int = 0) -> Image.Image:
    """Noise whose amplitude falls with frequency, side x side, mode L; `detail` redraws the high frequencies only."""
    spectrum = np.random.default_rng(seed).normal(size=(side, side, 2)) @ [1, 1j]
    frequency = np.hypot(np.fft.fftfreq(side)[:, None] * side, np.fft.fftfreq(side)[None] * side)
    if detail:
        other = np.random.default_rng(seed + detail).normal(size=(side, side, 2)) @ [1, 1j]
        spectrum = np.where(frequency > 8, other, spectrum)
    values = np.fft.ifft2(spectrum / (1 + frequency) ** 1.3).real
    low, high = np.percentile(values, [1, 99])
    return Image.fromarray((np.clip((values - low) / (high - low), 0, 1) * 255).round().astype(np.uint8))
