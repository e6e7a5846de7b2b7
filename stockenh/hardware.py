"""What a device computes natively."""

from __future__ import annotations

import torch


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 itself; others emulate it, slowly."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
