import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def real_images(shared_data):
    """Forty images of each data set at hand, by name, in grey."""
    paths = [*sorted(shared_data.glob("slake/imgs/*/source.jpg"))[::16], *sorted(shared_data.rglob("synpic*.jpg"))[::8]]
    images = {str(path.relative_to(shared_data)): Image.open(path).convert("L") for path in paths}
    with np.load(shared_data / "breastmnist" / "breastmnist.npz") as arrays:
        images |= {f"breastmnist/{n}": Image.fromarray(pixels) for n, pixels in enumerate(arrays["test_images"][:40])}
    return images
