"""The hashes that freeze things: canonical JSON, files, decoded pixels, targets."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import rfc8785
from PIL import Image

_PIECE = 2**16  # bytes


def canonical_json(value: Any) -> bytes:
    """`value` as RFC 8785 canonical JSON: sorted keys, no blanks, shortest numbers, UTF-8.

    Raises:
        ValueError: `value` holds NaN, an infinity, an integer beyond 2**53 or something that is not JSON.

    >>> canonical_json({"b": 1.0, "a": [True, None]})
    b'{"a":[true,null],"b":1}'
    """
    return rfc8785.dumps(value)


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON of `value`, 64 hex digits."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def file_hash(path: Path, algorithm: str = "sha256") -> str:
    """The hash of a file's bytes as hex digits; memory stays flat however long the file is."""
    found = hashlib.new(algorithm)
    # Unbuffered, and in pieces that need no fresh pages: `hashlib.file_digest` takes twice as long for a small file.
    with path.open("rb", buffering=0) as file:
        while piece := file.read(_PIECE):
            found.update(piece)
    return found.hexdigest()


def pixel_hash(image: Image.Image) -> str:
    """The first 128 bits of SHA-256 over mode, size, palette where there is one, and decoded pixels, 32 hex digits.

    Two files with equal pixels get equal hashes, whatever their compression or metadata.

    >>> pixel_hash(Image.new("L", (2, 2))) == pixel_hash(Image.new("L", (4, 1)))
    False
    """
    header = f"{image.mode} {image.width} {image.height}\n".encode()
    # Without it two images of the same indices would be one.
    palette = bytes(image.getpalette() or ())
    return hashlib.sha256(header + palette + image.tobytes()).hexdigest()[:32]


def target_digest(salt: str, target: str) -> str:
    """The first 64 bits of SHA-256 over salt and target, 16 hex digits.

    The digest proves that two parties mean the same target. It does not hide a target that has few
    possible values: whoever knows the classes can try them all.
    """
    return hashlib.sha256(canonical_json([salt, target])).hexdigest()[:16]
