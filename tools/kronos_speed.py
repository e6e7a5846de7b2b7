"""Times `embedding=kronos` at the size of Kronos-small against calls window by window: docs/measurements.md.

    python tools/kronos_speed.py [ROUNDS]

Random weights, the sample's bars, one thread, processor time, taken in turn; medians.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from stockenh.data.cache import DiskCache
from stockenh.data.sources.files import SampleData
from stockenh.data.windows import BarWindows
from stockenh.embedding.kronos import KronosEmbedding, normalise, time_stamps
from stockenh.embedding.kronos_net import Decoder, DecoderShape, Tokenizer, TokenizerShape

CPU = torch.device("cpu")
WINDOWS = 16
DECODER = DecoderShape(s1_bits=10, s2_bits=10, n_layers=8, d_model=512, n_heads=8, ff_dim=1024)
TOKENIZER = TokenizerShape(
    d_in=6, d_model=256, n_heads=4, ff_dim=512, n_enc_layers=4, n_dec_layers=4, s1_bits=10, s2_bits=10,
    group_size=4,
)  # fmt: skip


def write(folder: Path, net: nn.Module, shape: DecoderShape | TokenizerShape) -> None:
    folder.mkdir()
    save_file(net.state_dict(), str(folder / "model.safetensors"))
    (folder / "config.json").write_text(json.dumps(asdict(shape)))


def one_by_one(
    windows: BarWindows, decoder: Decoder, tokenizer: Tokenizer, whole: bool
) -> Callable[[], list[Tensor]]:
    """Window by window. whole: the published forward passes of both networks, else only what is needed."""
    ohlcv = torch.from_numpy(windows.bars.ohlcv)
    stamps = torch.from_numpy(time_stamps(windows.bars.time)).long()

    def embed(row: int) -> Tensor:
        bars = slice(int(windows.end[row]) - windows.lookback + 1, int(windows.end[row]) + 1)
        s1, s2 = tokenizer.encode(normalise(ohlcv[None, bars]))
        states: Tensor = decoder(s1, s2, stamps[None, bars])
        if whole:
            decode(tokenizer, len(stamps[bars]))  # from s1 alone, which costs the same
            decode(tokenizer, len(stamps[bars]))
            torch.multinomial(decoder.head.proj_s1(states)[0].softmax(-1), 1)
            mixed = states + decoder.dep_layer.cross_attn(states, states.shape[1])
            decoder.head.proj_s2(decoder.dep_layer.norm(mixed))
        return states[:, -1]

    return lambda: [embed(row) for row in range(WINDOWS)]


def decode(tokenizer: Tokenizer, bars: int) -> Tensor:
    """The pass from tokens back to bars, which an embedding does without."""
    x = tokenizer.post_quant_embed(torch.ones(1, bars, tokenizer.post_quant_embed.in_features))
    for block in tokenizer.decoder:
        x = block(x)
    restored: Tensor = tokenizer.head(x)
    return restored


def in_batches(windows: BarWindows, settings: KronosEmbedding) -> Callable[[], list[Tensor]]:
    rows, size = settings.rows(windows, CPU), settings.batch(CPU)
    return lambda: [rows(part) for part in torch.arange(WINDOWS).split(size)]


@torch.no_grad()
def main(rounds: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    windows = SampleData().load(DiskCache(None)).windows
    assert isinstance(windows, BarWindows)
    decoder, tokenizer = Decoder(DECODER).eval(), Tokenizer(TOKENIZER).eval()
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "model", decoder, DECODER)
        write(Path(folder) / "tokenizer", tokenizer, TOKENIZER)
        methods = {
            "window by window, both networks whole": one_by_one(windows, decoder, tokenizer, whole=True),
            "window by window, what is needed": one_by_one(windows, decoder, tokenizer, whole=False),
            "embedding.precision=fp32": in_batches(windows, KronosEmbedding(folder, precision="fp32")),
            "embedding.precision=bf16": in_batches(windows, KronosEmbedding(folder, precision="bf16")),
        }
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for turn in range(rounds + 1):
        for name, method in methods.items():
            start = time.process_time()
            method()
            if turn:  # the first warms up
                seconds[name].append((time.process_time() - start) / WINDOWS)
    whole, needed = list(seconds.values())[:2]
    for name, took in seconds.items():
        ratios = (
            statistics.median(a / b for a, b in zip(base, took, strict=True)) for base in (whole, needed)
        )
        print(f"{name:40} {1e3 * statistics.median(took):6.1f} ms a window", *(f"{r:6.2f}" for r in ratios))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
