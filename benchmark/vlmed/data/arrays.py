"""Arrays in npz files, and the image files made from them."""

from __future__ import annotations

import io
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from vlmed.data.tables import missing_file
from vlmed.errors import InputError

# What a damaged zip or array raises, from its directory down to its last byte.
DAMAGE = (OSError, EOFError, ValueError, KeyError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error)


def npz_array(path: Path, name: str, hint: str = "") -> npt.NDArray[Any]:
    """One array of an npz file; the others stay unread, and nothing is unpickled.

    Raises:
        MissingError: The file is not there.
        InputError: The file is damaged, lacks the array, or holds objects in it.
    """
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise InputError("the file is no npz archive", file=path, hint=hint)
        with archive:
            if name not in archive.files:
                got = ", ".join(map(repr, archive.files))
                raise InputError(f"array {name!r} is missing", file=path, expected=repr(name), got=got, hint=hint)
            return np.asarray(archive[name])
    except FileNotFoundError:
        raise missing_file(path, "the npz file", hint) from None
    except DAMAGE as error:
        raise InputError(f"array {name!r} can't be read", file=path, got=str(error), hint=hint) from error


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """A lossless PNG of uint8 pixels, (H, W) for grey or (H, W, 3) for RGB."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG")
    return buffer.getvalue()


def grey_png(values: npt.NDArray[Any], path: Path, hint: str = "") -> bytes:
    """A PNG of numbers in grey levels, (H, W): clipped to 0 to 255, then cut to integers.

    Raises:
        InputError: `values` is not two-dimensional, empty, not numeric, or holds NaN or infinities.
    """
    if values.ndim != 2 or not values.size or values.dtype.kind not in "uif":
        got = f"shape {values.shape}, {values.dtype}"
        raise InputError(
            "the array is no grey image", file=path, expected="numbers of shape (H, W)", got=got, hint=hint
        )
    if not np.isfinite(values).all():
        raise InputError("the array holds values that are no numbers", file=path, got="NaN or infinity", hint=hint)
    return png(np.clip(values, 0, 255).astype(np.uint8))
