"""Full size: Kronos-small and its tokenizer with random weights in the published layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from kronos_checkpoints import BASE_TOKENIZER, SMALL_DECODER, decoder_layout, tokenizer_layout, write_random

from stockenh.embedding.kronos import KronosEmbedding

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    write_random(folder / "model", SMALL_DECODER, decoder_layout(SMALL_DECODER))
    write_random(folder / "tokenizer", BASE_TOKENIZER, tokenizer_layout(BASE_TOKENIZER))
    return folder


def test_it_has_24_7_million_parameters() -> None:
    sizes = {name: int(np.prod(shape)) for name, shape in decoder_layout(SMALL_DECODER).items()}
    assert sum(size for name, size in sizes.items() if "inv_freq" not in name) == 24_741_376


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_loads_runs_and_sees_no_later_bar(folder: Path, precision: str) -> None:
    embed = KronosEmbedding(checkpoint=str(folder), precision=precision).load(CPU)
    rng = np.random.default_rng(0)
    close = 50 * np.exp(rng.normal(0, 0.02, (1, 160)).cumsum(1))[..., None]
    bars = np.concatenate([close, close * 1.01, close * 0.99, close, rng.uniform(1e5, 1e6, close.shape)], -1)
    stamps = torch.ones(2, 120, 5, dtype=torch.int64)
    windows = np.concatenate([bars[:, :120], bars[:, 40:]])
    found = embed(torch.from_numpy(windows), stamps)
    assert found.shape == (2, 512)
    assert found.dtype == torch.float32
    assert torch.isfinite(found).all()
    windows[1] *= 1.5  # the other window's bars, among them all that come after the first one's
    windows[1, 80:] += rng.normal(0, 1, (40, 5))
    again = embed(torch.from_numpy(windows), stamps)
    assert torch.equal(found[0], again[0])
    assert not torch.equal(found[1], again[1])
