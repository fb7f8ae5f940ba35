"""How exactly an encoder computes: in float32 unless the user asks for speed, which results then say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from vlmed.errors import UsageError

if TYPE_CHECKING:
    import torch
    from torch import nn

Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class Numerics:
    """What may make an encoder faster and its features differ in the last digits. Training is always in float32.

    Attributes:
        precision: Of matrix products and convolutions where nothing is trained; sums and norms stay in float32.
        channels_last: Convolutions read images channel by channel within each pixel.
        compiled: The image tower is compiled by torch.
    """

    precision: Precision = "fp32"
    channels_last: bool = False
    compiled: bool = False

    def to_text(self) -> dict[str, str]:
        """What a result says about it."""
        more = {"memory_format": "channels_last"} if self.channels_last else {}
        return {"precision": self.precision, **more, **({"compiled": "torch.compile"} if self.compiled else {})}

    def check(self, device: str) -> None:
        """See that a device can do it.

        Raises:
            UsageError: It can't, or there is no such precision.
        """
        import torch

        if self.precision not in get_args(Precision):
            raise UsageError("no such precision", expected=", ".join(get_args(Precision)), got=str(self.precision))
        on_gpu = device.startswith("cuda")
        if self.precision == "fp16" and device == "cpu":
            raise UsageError("a CPU computes nothing in fp16", expected="fp32 or bf16", got="fp16 on cpu")
        if self.precision == "bf16" and on_gpu and not torch.cuda.is_bf16_supported(including_emulation=False):
            raise UsageError("this GPU has no bf16", expected="fp16 or fp32", got=f"bf16 on {device}")

    def prepare(self, tower: nn.Module) -> None:
        """Lay out, and compile where asked for, an image tower; its layers keep their names."""
        import torch

        if self.channels_last:
            tower.to(memory_format=torch.channels_last)
        if self.compiled:
            tower.compile()

    def laid_out(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels (B, 3, H, W) in the layout that the tower reads fastest."""
        import torch

        return pixels.contiguous(memory_format=torch.channels_last) if self.channels_last else pixels

    @contextmanager
    def inferring(self, device: str) -> Iterator[None]:
        """Compute in the chosen precision, but where gradients may be needed."""
        import torch

        if self.precision == "fp32" or not torch.is_inference_mode_enabled():
            yield
            return
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float16
        with torch.autocast(device.partition(":")[0], dtype):
            yield


EXACT = Numerics()
