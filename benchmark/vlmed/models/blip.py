"""BLIP and BLIP-2 for image-text retrieval: transformers' classes with the two methods that dual encoders have.

Both also hold a matching head that reads image and text together. It gives no embeddings and is not used.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import nn

# Parameters that lie beside the layers and belong to the image side.
IMAGE_PARAMETERS = ("query_tokens",)


class _Contrastive:
    """The published checkpoints hold no temperature: their scores are the cosine similarities themselves."""

    @property
    def logit_scale(self) -> torch.Tensor:
        """Logarithm of the scale, as other models hold it."""
        return torch.zeros(())


class BlipForImageTextRetrieval(_Contrastive, transformers.BlipForImageTextRetrieval):  # type: ignore[misc]
    """`Salesforce/blip-itm-base-coco` and its kin: first tokens of ViT and BERT, projected (Li et al. 2022)."""

    def get_image_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Pixels (B, 3, H, W) -> (B, D)."""
        hidden = self.vision_model(pixel_values=pixel_values).last_hidden_state
        features: torch.Tensor = self.vision_proj(hidden[:, 0])
        return features

    def get_text_features(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Token ids (N, T) -> (N, D)."""
        hidden = self.text_encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        features: torch.Tensor = self.text_proj(hidden[:, 0])
        return features

    @property
    def text_tower(self) -> nn.Module:
        """What gives the text's hidden states."""
        tower: nn.Module = self.text_encoder
        return tower


class Blip2ForImageTextRetrieval(_Contrastive, transformers.Blip2ForImageTextRetrieval):  # type: ignore[misc]
    """`Salesforce/blip2-itm-vit-g` and its kin (Li et al. 2023, section 3.1).

    The Q-Former reads an image into K = `n_vectors` query vectors and a text into one. Their similarity is the largest
    of the K cosines, so an image's embedding is its K projected vectors side by side. Self-attention is shared, so
    training the image side changes the text side too.
    """

    @property
    def n_vectors(self) -> int:
        """K, the number of vectors for an image."""
        return int(self.config.num_query_tokens)

    def get_image_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Pixels (B, 3, H, W) -> (B, K * D), K vectors side by side."""
        hidden = self.vision_model(pixel_values=pixel_values).last_hidden_state
        queries = self.query_tokens.expand(len(hidden), -1, -1)
        read = self.qformer(query_embeds=queries, encoder_hidden_states=hidden).last_hidden_state
        features: torch.Tensor = self.vision_projection(read).flatten(1)
        return features

    def get_text_features(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Token ids (N, T) -> (N, D)."""
        features: torch.Tensor = self.text_projection(
            self.text_tower(input_ids, attention_mask).last_hidden_state[:, 0]
        )
        return features

    def text_tower(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        """What gives the text's hidden states: the Q-Former without queries."""
        embedded = self.embeddings(input_ids=input_ids)
        return self.qformer(query_embeds=embedded, query_length=0, attention_mask=attention_mask)


RETRIEVERS = {kind.__name__: kind for kind in (BlipForImageTextRetrieval, Blip2ForImageTextRetrieval)}
