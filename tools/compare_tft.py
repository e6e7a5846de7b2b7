"""Training windows per second of tft_xl beside pytorch-forecasting's TemporalFusionTransformer, in turn.

Both at hidden size 128, lookback 120, batch 64, two LSTM layers, eight heads, dropout 0.1, AdamW, on one
thread. The peer needs an environment of its own, for it brings pandas and Lightning:

    python -m venv PEER && PEER/bin/pip install pytorch-forecasting 'torch>=2.9,<2.14'
    python tools/compare_tft.py PEER/bin/python

Its data set holds features that change from window to window only as series, so the 29 features are series
there, beside the five prices; `static` feeds it constants instead. `hidden_continuous_size`, the width of a
variable's own network, is 128 (as in the paper and in tft_xl) or the peer's default of 8.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HIDDEN, LOOKBACK, BATCH, FEATURES = 128, 120, 64, 29
ROUNDS, STEPS = 5, 2
OURS = ("ours fp32", "ours bf16")
PEERS = (
    "series 128 fp32",
    "series 128 bf16",
    "series 8 fp32",
    "series 8 bf16",
    "static 128 fp32",
    "static 8 fp32",
)

Step = Callable[[], None]


def main(peer_python: str) -> None:
    """Takes turns until every contender had its rounds; prints medians and the ratios of processor time."""
    workers = {name: _start(sys.executable, name) for name in OURS}
    workers |= {name: _start(peer_python, name) for name in PEERS}
    for worker in workers.values():
        _ask(worker)  # the first steps set the buffers up
    seconds: dict[str, list[float]] = {name: [] for name in workers}
    for _ in range(ROUNDS):
        for name, worker in workers.items():
            seconds[name].append(_ask(worker))
    for worker in workers.values():
        worker.communicate()
    for name, taken in seconds.items():
        ratios = "  ".join(
            f"{ours} {statistics.median(t / o for t, o in zip(taken, seconds[ours], strict=True)):.2f}x"
            for ours in OURS
        )
        print(f"{name:<16} {STEPS * BATCH / statistics.median(taken):6.1f} windows/s   {ratios}")


def work(name: str) -> None:
    """Runs steps whenever a line comes in, and answers with the processor seconds that they took."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    *kind, precision = name.split()
    step = our_step(precision) if kind == ["ours"] else peer_step(kind[0], int(kind[1]), precision)
    for _ in sys.stdin:
        began = time.process_time()
        for _ in range(STEPS):
            step()
        print(json.dumps(time.process_time() - began), flush=True)


def our_step(precision: str) -> Step:
    """The training step of `train`, on random windows that are already on the device."""
    import torch

    from stockenh.data.batches import Counts, Group, Micro
    from stockenh.models import InputSpec
    from stockenh.models.cpu.memory import keep_freed_memory
    from stockenh.models.tft import TftSettings
    from stockenh.training.averaging import Averages
    from stockenh.training.losses.huber_bce import HuberBCE
    from stockenh.training.optimizers import Constant, Schedule
    from stockenh.training.precision import Precision
    from stockenh.training.step import Learner, Objective

    keep_freed_memory()
    spec = InputSpec(lookback=LOOKBACK, price=5, embedding=512, context=FEATURES, horizons=3)
    model = TftSettings(d_model=HIDDEN, dropout=0.1).build(spec).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    learner = Learner(
        model,
        Objective(HuberBCE()),
        optimizer,
        Schedule(optimizer, Constant().plan(1e-3, 10_000)),
        Precision(precision, torch.device("cpu")),
        Averages(),
        1.0,
    )
    y = torch.randn(BATCH, 3)
    prices = torch.rand(BATCH, LOOKBACK, 5) * 2 - 1
    inputs = (prices, torch.randn(BATCH, 512), torch.randn(BATCH, FEATURES))
    micros = (Micro(*inputs, y, (y > 0).float(), torch.ones_like(y)),)
    group = Group(micros, Counts.of(micros), BATCH)
    return lambda: learner.step(group)


def peer_step(features: str, width: int, precision: str) -> Step:
    """The peer's network and loss in a plain step, its batch made beforehand."""
    import warnings

    warnings.filterwarnings("ignore")
    import torch
    from pytorch_forecasting import TemporalFusionTransformer
    from pytorch_forecasting.metrics import QuantileLoss

    data = peer_data(features)
    model = TemporalFusionTransformer.from_dataset(
        data,
        hidden_size=HIDDEN,
        hidden_continuous_size=width,
        lstm_layers=2,
        attention_head_size=8,
        dropout=0.1,
        loss=QuantileLoss([0.1, 0.5, 0.9]),
        output_size=3,
    ).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    x, y = next(iter(data.to_dataloader(train=True, batch_size=BATCH)))

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            prediction = model(x)["prediction"]
        model.loss(prediction.float(), y).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def peer_data(features: str) -> Any:
    """Three symbols of random bars; the peer forecasts three steps, as tft_xl has three horizons."""
    import numpy as np
    import pandas as pd
    from pytorch_forecasting import TimeSeriesDataSet

    rng = np.random.default_rng(0)
    bars = 400
    prices = ["open", "high", "low", "close", "volume"]
    names = [f"feature_{number}" for number in range(FEATURES)]
    frames = []
    for symbol in "ABC":
        frame = pd.DataFrame(rng.uniform(-1, 1, (bars, 5)).astype(np.float32), columns=prices)
        values = rng.normal(size=(1 if features == "static" else bars, FEATURES)).astype(np.float32)
        frame[names] = np.broadcast_to(values, (bars, FEATURES))
        frame["target"] = rng.normal(size=bars).astype(np.float32)
        frame["bar"], frame["symbol"] = np.arange(bars), symbol
        frames.append(frame)
    return TimeSeriesDataSet(
        pd.concat(frames, ignore_index=True),
        time_idx="bar",
        target="target",
        group_ids=["symbol"],
        min_encoder_length=LOOKBACK,
        max_encoder_length=LOOKBACK,
        min_prediction_length=3,
        max_prediction_length=3,
        static_reals=names if features == "static" else [],
        time_varying_unknown_reals=prices if features == "static" else prices + names,
        target_normalizer=None,
    )


def _start(python: str, name: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [python, __file__, "--work", name],
        cwd=Path(__file__).parents[1],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _ask(worker: subprocess.Popen[str]) -> float:
    assert worker.stdin is not None and worker.stdout is not None
    worker.stdin.write("\n")
    worker.stdin.flush()
    for line in worker.stdout:
        if line[:1].isdigit():
            return float(line)
    raise SystemExit("a contender ended; its message is above")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(sys.argv[2])
    elif len(sys.argv) == 2:
        main(sys.argv[1])
    else:
        raise SystemExit(__doc__)
