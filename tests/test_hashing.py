from __future__ import annotations

import io

import pytest
from PIL import Image

from vlmed.hashing import canonical_json, digest, pixel_hash, target_digest


def test_canonical_json_is_that_of_rfc_8785() -> None:
    # The example of section 3.2.3 of the RFC, shortened.
    assert canonical_json({"numbers": [333333333.33333329, 1e30, 4.5, 2e-3], "literals": [None, True]}) == (
        b'{"literals":[null,true],"numbers":[333333333.3333333,1e+30,4.5,0.002]}'
    )
    assert digest({"a": 1, "b": 2}) == digest({"b": 2.0, "a": 1})


def test_nan_has_no_canonical_form() -> None:
    with pytest.raises(ValueError, match="nan"):
        canonical_json(float("nan"))


def test_pixels_decide_not_the_file() -> None:
    image = Image.effect_noise((20, 10), 50)
    other = io.BytesIO()
    image.save(other, "PNG", compress_level=0)
    assert pixel_hash(Image.open(other)) == pixel_hash(image)
    assert pixel_hash(image.convert("RGB")) != pixel_hash(image)
    assert pixel_hash(image.resize((10, 20))) != pixel_hash(image)


def test_targets_differ_by_salt() -> None:
    assert target_digest("a", "yes") != target_digest("b", "yes")
    assert len(target_digest("a", "yes")) == 16
