"""Recall on planted copies and the pairs found in real data, for every radius and threshold in question.

    python tests/bench/near_accuracy.py [shared/data] [images per set]

Planted: each change of `tests/leakage/planted.py` on images of SLAKE, VQA-RAD and BreastMNIST. Real: all pairs of one
data set. `-28` is a data set brought to 28 x 28 pixels, as in MedMNIST.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "leakage"))
from planted import CHANGES

from vlmed.leakage import confirm, near, perceptual

RADII = (6, 8, 10, 12, 14)
THRESHOLDS = (0.85, 0.9, 0.92, 0.93, 0.94, 0.95, 0.96, 0.97)
Images = dict[str, Image.Image]


def load(root: Path) -> dict[str, Images]:
    """Image name -> image in grey, for each data set."""
    slake = {path.parent.name: path for path in root.glob("slake/imgs/*/source.jpg")}
    vqa_rad = {path.name: path for path in root.glob("vqa_rad/**/*.jpg")}
    sets = {
        name: {key: Image.open(paths[key]).convert("L") for key in sorted(paths)}
        for name, paths in (("slake", slake), ("vqa_rad", vqa_rad))
    }
    arrays = np.load(root / "breastmnist" / "breastmnist.npz")
    sets["breastmnist"] = {
        f"{split}:{n}": Image.fromarray(pixels)
        for split in ("train", "val", "test")
        for n, pixels in enumerate(arrays[f"{split}_images"])
    }
    for name in ("slake", "vqa_rad"):
        sets[f"{name}-28"] = {
            key: image.resize((28, 28), Image.Resampling.BICUBIC) for key, image in sets[name].items()
        }
    return sets


def planted(images: Images, count: int) -> dict[str, list[tuple[int, float]]]:
    """For each change, the Hamming distance and the similarity of each copy to its original."""
    rng = np.random.default_rng(0)
    chosen = rng.permutation(sorted(images))[:count]
    found: dict[str, list[tuple[int, float]]] = {name: [] for name in CHANGES}
    for key in chosen:
        original = images[key]
        own, pyramid = perceptual.perceptual_hash(original), confirm.pyramid(original)
        for name, change in CHANGES.items():
            copy = change(original, rng)
            distance = int(np.bitwise_count(own ^ perceptual.perceptual_hash(copy)))
            found[name].append((distance, confirm.similarity(pyramid, confirm.pyramid(copy))))
    return found


def real(images: Images, radius: int) -> list[tuple[str, str, int, float]]:
    """The candidate pairs of one data set with their distance and similarity, most similar first."""
    names = list(images)
    i, j, distance = near.pairs_within(perceptual.perceptual_hashes(images.values()), radius=radius)
    pyramids = [confirm.pyramid(image) for image in images.values()]
    start = time.process_time()
    scores = [confirm.similarity(pyramids[p], pyramids[q]) for p, q in zip(i, j, strict=True)]
    print(f"  {1e3 * (time.process_time() - start) / max(len(i), 1):.1f} ms of CPU per pair confirmed")
    rows = zip(i, j, distance, scores, strict=True)
    return sorted(((names[p], names[q], int(d), s) for p, q, d, s in rows), key=lambda row: -row[3])


def least_deviation(images: Images) -> float:
    """Of the grey levels of a thumbnail; `perceptual.FLAT_DEVIATION` has to stay far below."""
    thumbnails = (image.resize((32, 32), Image.Resampling.LANCZOS, reducing_gap=2.0) for image in images.values())
    return float(min(np.asarray(thumbnail).std() for thumbnail in thumbnails))


def main() -> None:
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[2].parent / "shared" / "data"
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 100
    for name, images in load(root).items():
        copies, pairs = planted(images, count), real(images, max(RADII))
        least = min(
            np.asarray(image.resize((32, 32), Image.Resampling.LANCZOS, reducing_gap=2.0)).std()
            for image in images.values()
        )
        print(f"{name}: {len(images)} images, {count} of them copied; least deviation of a thumbnail {least:.1f}")
        print("  radius      " + "".join(f"{radius:>9}" for radius in RADII))
        print("  candidates  " + "".join(f"{sum(p[2] <= radius for p in pairs):>9}" for radius in RADII))
        for change, rows in copies.items():
            shares = [np.mean([distance <= radius for distance, _ in rows]) for radius in RADII]
            print(f"    {change:<18}" + "".join(f"{share:9.2f}" for share in shares))
        print("  threshold           " + "".join(f"{threshold:8.2f}" for threshold in THRESHOLDS))
        for radius in (10, 12):
            near_pairs = [pair for pair in pairs if pair[2] <= radius]
            print(
                f"  real, radius {radius:<7}" + "".join(f"{sum(p[3] >= t for p in near_pairs):8}" for t in THRESHOLDS)
            )
        confirmed = [pair for pair in pairs if pair[2] <= perceptual.RADIUS and pair[3] >= confirm.THRESHOLD]
        print("  found: " + "; ".join(f"{a} {b} {score:.3f}" for a, b, _, score in confirmed))
        for change, rows in copies.items():
            shares = [np.mean([score >= threshold for _, score in rows]) for threshold in THRESHOLDS]
            print(f"    {change:<18}" + "".join(f"{share:8.2f}" for share in shares))


if __name__ == "__main__":
    main()
