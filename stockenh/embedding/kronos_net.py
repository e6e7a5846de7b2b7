"""The Kronos tokenizer and decoder, with the parameter names of the published checkpoints.

Shi et al., "Kronos: A Foundation Model for the Language of Financial Markets", AAAI 2026. A bar becomes a
coarse and a fine token (s1, s2) by binary spherical quantization (Zhao et al. 2024); a causal decoder reads
the tokens. Blocks are pre-norm with RMSNorm, rotary positions and a SwiGLU feed-forward.

Legend: B windows, T bars, C = 6 columns, D model width, H heads, d = D / H, K = s1_bits + s2_bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import reduce
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

COLUMNS = 6  # open, high, low, close, volume, amount
STAMPS = {"minute": 60, "hour": 24, "weekday": 7, "day": 32, "month": 13}
_EPS = 1e-5
_ROTARY_BASE = 10_000.0
DEPENDENCY_HEADS = 4  # of the layer that conditions s2 on s1, whatever the decoder's own number is


# Limits for an untrusted config.json, well above all published models.
Width = Annotated[int, Field(ge=1, le=16384)]
Inner = Annotated[int, Field(ge=1, le=65536)]
Few = Annotated[int, Field(ge=1, le=256)]  # heads, layers
Bits = Annotated[int, Field(ge=1, le=16)]


@dataclass(frozen=True)
class TokenizerShape:
    """The numbers in a tokenizer's config.json; a stack of n layers has n - 1 blocks."""

    d_in: Annotated[int, Field(ge=COLUMNS, le=COLUMNS)]
    d_model: Width
    n_heads: Few
    ff_dim: Inner
    n_enc_layers: Few
    n_dec_layers: Few
    s1_bits: Bits
    s2_bits: Bits
    group_size: Annotated[int, Field(ge=1, le=32)]


@dataclass(frozen=True)
class DecoderShape:
    """The numbers in a decoder's config.json."""

    s1_bits: Bits
    s2_bits: Bits
    n_layers: Few
    d_model: Width
    n_heads: Few
    ff_dim: Inner


class Tokenizer(nn.Module):
    """Normalised bars (B, T, C) to the tokens s1 and s2.

    `decoder`, `post_quant_embed` and `head` turn tokens back into bars; they make a strict load possible.
    """

    def __init__(self, shape: TokenizerShape) -> None:
        super().__init__()
        self.s1_bits = shape.s1_bits
        bits, width = shape.s1_bits + shape.s2_bits, shape.d_model
        self.embed = nn.Linear(shape.d_in, width)
        self.head = nn.Linear(width, shape.d_in)
        self.encoder = _blocks(shape.n_enc_layers - 1, width, shape.n_heads, shape.ff_dim)
        self.decoder = _blocks(shape.n_dec_layers - 1, width, shape.n_heads, shape.ff_dim)
        self.quant_embed = nn.Linear(width, bits)
        self.post_quant_embed_pre = nn.Linear(shape.s1_bits, width)  # of a decoding from s1 alone
        self.post_quant_embed = nn.Linear(bits, width)
        self.tokenizer = _Quantizer(bits, shape.group_size)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, C) -> s1 (B, T) in [0, 2^s1_bits), s2 (B, T) in [0, 2^s2_bits); the first bit counts 1.

        On the unit sphere the nearest corner of the cube is given by the signs, so no scaling is needed.
        """
        x = self.embed(x)
        for block in self.encoder:
            x = block(x)
        bits = self.quant_embed(x) > 0
        return _number(bits[..., : self.s1_bits]), _number(bits[..., self.s1_bits :])


class Decoder(nn.Module):
    """Tokens and times of a window to the decoder's normed states.

    `dep_layer` and `head` forecast the next token and are unused; they make a strict load possible.
    """

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        width = shape.d_model
        self.embedding = _TokenEmbedding(shape.s1_bits, shape.s2_bits, width)
        self.time_emb = _TimeEmbedding(width)
        self.transformer = _blocks(shape.n_layers, width, shape.n_heads, shape.ff_dim)
        self.norm = RMSNorm(width)
        self.dep_layer = _Dependency(width)
        self.head = _Heads(shape.s1_bits, shape.s2_bits, width)

    def forward(self, s1: Tensor, s2: Tensor, stamp: Tensor) -> Tensor:
        """s1, s2 (B, T); stamp (B, T, 5) minute, hour, weekday, day, month -> (B, T, D)."""
        x = self.embedding(s1, s2) + self.time_emb(stamp)
        for block in self.transformer:
            x = block(x)
        normed: Tensor = self.norm(x)
        return normed

    def last(self, s1: Tensor, s2: Tensor, stamp: Tensor) -> Tensor:
        """The last position of `forward`, (B, D); the last block skips all other positions."""
        x = self.embedding(s1, s2) + self.time_emb(stamp)
        for block in self.transformer[:-1]:
            x = block(x)
        normed: Tensor = self.norm(self.transformer[-1](x, queries=1))
        return normed[:, -1]


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + 1e-5) times a weight (Zhang and Sennrich 2019), in float32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = F.rms_norm(x.float(), self.weight.shape, self.weight, _EPS)
        return normed


class Block(nn.Module):
    """A pre-norm block; (B, T, D) to (B, T, D). The sum along the blocks stays in float32."""

    def __init__(self, width: int, heads: int, ff_dim: int) -> None:
        super().__init__()
        self.norm1 = RMSNorm(width)
        self.self_attn = CausalAttention(width, heads)
        self.norm2 = RMSNorm(width)
        self.ffn = FeedForward(width, ff_dim)

    def forward(self, x: Tensor, queries: int | None = None) -> Tensor:
        """queries: compute only this many last positions, (B, queries, D)."""
        count = queries or x.shape[1]
        x = x[:, -count:] + self.self_attn(self.norm1(x), count)
        mixed: Tensor = x + self.ffn(self.norm2(x))
        return mixed


class CausalAttention(nn.Module):
    """Causal multi-head self-attention with rotary positions."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)
        self.rotary = Rotary(width // heads)

    def forward(self, x: Tensor, queries: int) -> Tensor:
        """(B, T, D) -> (B, queries, D) of the last positions; queries: all of them or 1."""
        x = x.to(self.q_proj.weight.dtype)
        cos, sin = self.rotary(x.shape[1], x.dtype)
        q = _rotate(self._split(self.q_proj(x[:, -queries:])), cos[-queries:], sin[-queries:])
        k = _rotate(self._split(self.k_proj(x)), cos, sin)
        v = self._split(self.v_proj(x))
        y = _attend(q, k, v, causal=queries > 1)
        mixed: Tensor = self.out_proj(y.transpose(1, 2).flatten(2))
        return mixed

    def _split(self, x: Tensor) -> Tensor:
        heads: Tensor = x.unflatten(-1, (self.heads, -1))
        return heads.transpose(1, 2)


class Rotary(nn.Module):
    """Cosines and sines of the positions' angles (Su et al. 2021), from the checkpoint's frequencies."""

    inv_freq: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("inv_freq", _ROTARY_BASE ** (-torch.arange(0, width, 2) / width))

    def forward(self, positions: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """(positions, d) each: [cos, cos] and [-sin, sin], the factors of a rotation of (left, right)."""
        angle = torch.outer(torch.arange(positions, device=self.inv_freq.device), self.inv_freq)
        cos, sin = angle.cos().to(dtype), angle.sin().to(dtype)
        return torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)


class FeedForward(nn.Module):
    """SwiGLU (Shazeer 2020): w2(silu(w1 x) * w3 x)."""

    def __init__(self, width: int, ff_dim: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(width, ff_dim, bias=False)
        self.w3 = nn.Linear(width, ff_dim, bias=False)
        self.w2 = nn.Linear(ff_dim, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.w1.weight.dtype)
        mixed: Tensor = self.w2(F.silu(self.w1(x)) * self.w3(x))
        return mixed


class _TokenEmbedding(nn.Module):
    """Both tokens' vectors, times sqrt(D), concatenated and projected."""

    def __init__(self, s1_bits: int, s2_bits: int, width: int) -> None:
        super().__init__()
        self.emb_s1 = nn.Embedding(2**s1_bits, width)
        self.emb_s2 = nn.Embedding(2**s2_bits, width)
        self.fusion_proj = nn.Linear(2 * width, width)
        self.projected: tuple[Tensor, Tensor] | None = None

    def project(self) -> None:
        """Projects both vocabularies once; weights and device must not change afterwards."""
        width = self.emb_s1.embedding_dim
        weight_s1, weight_s2 = (self.fusion_proj.weight * math.sqrt(width)).split(width, dim=1)
        self.projected = (
            F.linear(self.emb_s1.weight, weight_s1, self.fusion_proj.bias),
            F.linear(self.emb_s2.weight, weight_s2),
        )

    def forward(self, s1: Tensor, s2: Tensor) -> Tensor:
        if self.projected is not None:
            return F.embedding(s1, self.projected[0]) + F.embedding(s2, self.projected[1])
        vectors = torch.cat([self.emb_s1(s1), self.emb_s2(s2)], -1) * math.sqrt(self.emb_s1.embedding_dim)
        fused: Tensor = self.fusion_proj(vectors)
        return fused


class _TimeEmbedding(nn.Module):
    """The sum of a vector for each part of a bar's time."""

    def __init__(self, width: int) -> None:
        super().__init__()
        for name, size in STAMPS.items():
            self.add_module(f"{name}_embed", nn.Embedding(size, width))

    def forward(self, stamp: Tensor) -> Tensor:
        parts = (self.get_submodule(f"{name}_embed")(stamp[..., i]) for i, name in enumerate(STAMPS))
        total: Tensor = reduce(torch.add, parts)
        return total


class _Quantizer(nn.Module):
    """The quantizer has no parameters; its buffers are place values used in training only."""

    def __init__(self, bits: int, group_size: int) -> None:
        super().__init__()
        self.bsq = nn.Module()
        for name, size in (("basis", bits), ("group_basis", group_size)):
            self.bsq.register_buffer(name, 2 ** torch.arange(size - 1, -1, -1))


class _Dependency(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.cross_attn = CausalAttention(width, DEPENDENCY_HEADS)
        self.norm = RMSNorm(width)


class _Heads(nn.Module):
    def __init__(self, s1_bits: int, s2_bits: int, width: int) -> None:
        super().__init__()
        self.proj_s1 = nn.Linear(width, 2**s1_bits)
        self.proj_s2 = nn.Linear(width, 2**s2_bits)


def _blocks(count: int, width: int, heads: int, ff_dim: int) -> nn.ModuleList:
    return nn.ModuleList(Block(width, heads, ff_dim) for _ in range(count))


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates coordinates i and i + d/2 of (B, H, L, d) by the angles of their positions."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


def _attend(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """softmax(q k^T / sqrt(d)) v; each position attends to itself and earlier ones."""
    if q.device.type != "cpu" or q.dtype != torch.bfloat16:
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    # At 120 positions two plain products take 0.7 of the time of the CPU's fused kernel in bf16.
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if causal:
        scores = scores + scores.new_full(scores.shape[-2:], -math.inf).triu(1)
    return torch.softmax(scores, -1) @ v


def _number(bits: Tensor) -> Tensor:
    return (bits << torch.arange(bits.shape[-1], device=bits.device)).sum(-1)
