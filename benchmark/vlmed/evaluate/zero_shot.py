"""Zero-shot classification: the classes' prompts are the classifier."""

from __future__ import annotations

from functools import reduce

import numpy as np
from numpy.typing import NDArray

from vlmed.models.protocols import DualEncoder


def zero_shot(
    encoder: DualEncoder, features: NDArray[np.float32], texts: NDArray[np.float32], classes: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Class probabilities from the similarity of images and prompts.

    A class is the mean of its normalised prompt embeddings, normalised again (Radford et al. 2021, section 3.1.4);
    logits are similarities times the model's own scale.

    Args:
        features: (N, K * D) image features, K vectors each, not normalised.
        texts: (C * T, D) features of the classes' prompts, not normalised: the T of the first class come first.
        classes: C.

    Returns:
        Probabilities of the ensemble (N, C) and of each single template (N, T, C), rows sum to 1.
    """
    by_prompt = normalised(texts.astype(np.float64)).reshape(classes, -1, texts.shape[1])
    templates = by_prompt.shape[1]
    images = normalised(image_vectors(encoder, features).astype(np.float64))
    ensemble = similarities(images, normalised(by_prompt.mean(axis=1)))
    single = similarities(images, np.concatenate(by_prompt.swapaxes(0, 1)))
    scale = encoder.logit_scale
    return softmax(scale * ensemble), softmax(scale * single.reshape(-1, templates, classes))


def image_vectors(encoder: DualEncoder, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Image features (N, K * D) -> the K vectors of each (N, K, D); K is 1 for all but BLIP-2."""
    # Not by `isinstance`, which would ask the encoder for its network.
    vectors: int = getattr(encoder, "n_vectors", 1)
    return features.reshape(len(features), vectors, -1)


def similarities(images: NDArray[np.float64], texts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of images (N, K, D) and texts (M, D), all of length 1: the largest of an image's K cosines with a text (N, M)."""
    return reduce(np.maximum, (images[:, vector] @ texts.T for vector in range(images.shape[1])))


def normalised(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Vectors of length 1 along the last axis; a zero vector stays zero."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(lengths == 0, 1, lengths)


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities along the last axis, float64, also for large logits."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))
