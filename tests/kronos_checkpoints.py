"""Kronos checkpoints: the tiny one with known answers, and random ones in the published layout."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

TINY = Path(__file__).parent / "kronos_tiny"

SMALL_DECODER = {
    "s1_bits": 10, "s2_bits": 10, "n_layers": 8, "d_model": 512, "n_heads": 8, "ff_dim": 1024,
    "ffn_dropout_p": 0.25, "attn_dropout_p": 0.1, "resid_dropout_p": 0.25, "token_dropout_p": 0.1,
    "learn_te": True,
}  # fmt: skip
BASE_TOKENIZER = {
    "d_in": 6, "d_model": 256, "n_heads": 4, "ff_dim": 512, "n_enc_layers": 4, "n_dec_layers": 4,
    "ffn_dropout_p": 0.0, "attn_dropout_p": 0.0, "resid_dropout_p": 0.0, "s1_bits": 10, "s2_bits": 10,
    "beta": 0.05, "gamma0": 1.0, "gamma": 1.1, "zeta": 0.05, "group_size": 4,
}  # fmt: skip


def copy_tiny(folder: Path) -> Path:
    """A copy to spoil or to move: folder/model and folder/tokenizer."""
    for part in ("model", "tokenizer"):
        shutil.copytree(TINY / part, folder / part)
    return folder


def write_random(folder: Path, config: dict, shapes: dict[str, tuple[int, ...]], seed: int = 0) -> None:
    """Random weights of some spread under the given names."""
    torch.manual_seed(seed)
    folder.mkdir(parents=True)
    tensors = {name: _random(name, shape) for name, shape in shapes.items()}
    save_file(tensors, str(folder / "model.safetensors"))
    (folder / "config.json").write_text(json.dumps(config))


def decoder_layout(config: dict) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a published decoder."""
    d, s1, s2 = config["d_model"], 2 ** config["s1_bits"], 2 ** config["s2_bits"]
    layout = {
        "embedding.emb_s1.weight": (s1, d), "embedding.emb_s2.weight": (s2, d), "norm.weight": (d,),
        **_linear("embedding.fusion_proj", d, 2 * d),
        **_attention("dep_layer.cross_attn", d, 4), "dep_layer.norm.weight": (d,),
        **_linear("head.proj_s1", s1, d), **_linear("head.proj_s2", s2, d),
    }  # fmt: skip
    for name, size in (("minute", 60), ("hour", 24), ("weekday", 7), ("day", 32), ("month", 13)):
        layout[f"time_emb.{name}_embed.weight"] = (size, d)
    for layer in range(config["n_layers"]):
        layout |= _block(f"transformer.{layer}", config)
    return layout


def tokenizer_layout(config: dict) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a published tokenizer."""
    d, bits = config["d_model"], config["s1_bits"] + config["s2_bits"]
    layout = {
        **_linear("embed", d, config["d_in"]), **_linear("head", config["d_in"], d),
        **_linear("quant_embed", bits, d), **_linear("post_quant_embed", d, bits),
        **_linear("post_quant_embed_pre", d, config["s1_bits"]),
        "tokenizer.bsq.basis": (bits,), "tokenizer.bsq.group_basis": (config["group_size"],),
    }  # fmt: skip
    for stack, key in (("encoder", "n_enc_layers"), ("decoder", "n_dec_layers")):
        for layer in range(config[key] - 1):
            layout |= _block(f"{stack}.{layer}", config)
    return layout


def _linear(name: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def _attention(name: str, d: int, heads: int) -> dict[str, tuple[int, ...]]:
    layout: dict[str, tuple[int, ...]] = {f"{name}.rotary.inv_freq": (d // heads // 2,)}
    for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
        layout |= _linear(f"{name}.{part}", d, d)
    return layout


def _block(name: str, config: dict) -> dict[str, tuple[int, ...]]:
    d, ff = config["d_model"], config["ff_dim"]
    return {
        f"{name}.norm1.weight": (d,), f"{name}.norm2.weight": (d,),
        **_attention(f"{name}.self_attn", d, config["n_heads"]),
        f"{name}.ffn.w1.weight": (ff, d), f"{name}.ffn.w2.weight": (d, ff), f"{name}.ffn.w3.weight": (ff, d),
    }  # fmt: skip


def _random(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    if name.endswith("basis"):
        return 2 ** torch.arange(shape[0] - 1, -1, -1)
    if name.endswith("inv_freq"):
        return 10_000.0 ** (-torch.arange(shape[0]) / shape[0])
    if "norm" in name:
        return 1 + 0.1 * torch.randn(shape)
    if len(shape) == 1:
        return 0.1 * torch.randn(shape)
    return torch.randn(shape) * (1.5 / shape[1] ** 0.5)
