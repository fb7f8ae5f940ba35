"""Zero-shot classification: the classes' prompts are the classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce

import numpy as np
import torch
from numpy.typing import NDArray

from vlmed.evaluate.stages import stage
from vlmed.models.protocols import DualEncoder, ManyVectorEncoder


def zero_shot(
    encoder: DualEncoder, features: NDArray[np.float32], prompts: Mapping[str, Sequence[str]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Class probabilities from the similarity of images and prompts.

    A class is the mean of its normalised prompt embeddings, normalised again (Radford et al. 2021, section 3.1.4);
    logits are similarities times the model's own scale.

    Args:
        features: (N, K * D) image features, K vectors each, not normalised.
        prompts: Class name -> its T prompts, in class order; every class has the same T.

    Returns:
        Probabilities of the ensemble (N, C) and of each single template (N, T, C), rows sum to 1.
    """
    with stage("text features"), torch.inference_mode():
        texts = [text for class_prompts in prompts.values() for text in class_prompts]
        embedded = encoder.encode_texts(texts).float().cpu().numpy().astype(np.float64)
    by_prompt = normalised(embedded).reshape(len(prompts), -1, embedded.shape[1])
    classes, templates, _ = by_prompt.shape
    images = normalised(image_vectors(encoder, features).astype(np.float64))
    ensemble = similarities(images, normalised(by_prompt.mean(axis=1)))
    single = similarities(images, np.concatenate(by_prompt.swapaxes(0, 1)))
    scale = encoder.logit_scale
    return softmax(scale * ensemble), softmax(scale * single.reshape(-1, templates, classes))


def image_vectors(encoder: DualEncoder, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Image features (N, K * D) -> the K vectors of each (N, K, D); K is 1 for all but BLIP-2."""
    vectors = encoder.n_vectors if isinstance(encoder, ManyVectorEncoder) else 1
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
