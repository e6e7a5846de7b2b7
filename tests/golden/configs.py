"""The runs whose results must keep their bits on the CPU: a name, and the commands that make its folders.

The commands of a name run one after the other in a folder of their own; `../inputs` holds what they read (see
`record.write_inputs`). A command that begins with `torchrun` runs in two processes. What a default leaves to
the machine (device, threads, precision) is written out.
"""

from __future__ import annotations

_HERE = "device=cpu threads=1"
_PARTS = "split.val=0.25 split.test=0.25"
_TINY = "model.layers=1 model.d_model=16 model.heads=2 model.ffn=16"
_STEPS = "train.batch_size=32 train.precision=fp32"
_BARS = "data=files data.path=../inputs/bars data.lookback=20"

_FILES = f"{_HERE} {_BARS} embedding.width=32"
_BASE = f"{_FILES} {_PARTS} {_STEPS}"  # a run of either the default model or another
_SMALL = f"{_BASE} {_TINY}"
_ONE = f"train {_SMALL} train.epochs=1 hydra.run.dir=run"
_TWO = f"train {_SMALL} train.epochs=2 hydra.run.dir=run"

_TFT = "model=tft_xl model.d_model=16 model.heads=2 model.lstm_layers=2 model.fusion_layers=2"
_STUDENT = "model=student model.d_model=16 model.heads=2 model.layers=1 model.ffn=16 model.patch=10"
_XL = "model=timeformer_xl model.d_model=32 model.heads=4 model.layers=2 model.ffn=32 model.head_hidden=16"
# what phase 2 adds to the plain recipe, but for a precision that does not depend on the machine
_ALL = (
    "loss=focal_smoothed averaging=ema_swa augment=noise optimizer.lr=auto train.accumulate=2 finder.steps=12"
)
# unequal shares: an epoch ends with one row for one process and none for the other
_PAIR = "train.batch_size=17 train.accumulate=7 averaging=ema"

CONFIGS: dict[str, list[str]] = {
    # models
    "timeformer": [
        f"train {_BASE} train.epochs=1 hydra.run.dir=run",
    ],
    "timeformer_small": [
        _TWO,
        "tta-predict run=run device=cpu tta.from=2020-06-22 tta.to=2020-08-06 hydra.run.dir=forecast",
        "tta-predict run=run device=cpu tta.from=2020-06-22 tta.views=0 hydra.run.dir=plain_forecast",
    ],
    "timeformer_xl": [
        f"train {_BASE} {_XL} train.epochs=2 hydra.run.dir=run",
    ],
    "tft_xl": [
        f"train {_BASE} {_TFT} train.epochs=2 hydra.run.dir=run",
        "tta-predict run=run device=cpu tta.from=2020-06-22 tta.to=2020-08-06 hydra.run.dir=forecast",
    ],
    "tft_xl_huber": [
        f"train {_BASE} {_TFT} loss.returns=huber train.precision=bf16 train.epochs=1 hydra.run.dir=run",
    ],
    "tft_xl_all_techniques": [
        f"train {_BASE.replace('precision=fp32', 'precision=bf16')} {_TFT} {_ALL} train.epochs=3"
        " averaging.swa_start=0.5 hydra.run.dir=run",
    ],
    "student": [
        f"train {_BASE} {_STUDENT} train.epochs=2 hydra.run.dir=run",
    ],
    "learned_task_weights": [
        f"{_TWO} model.learned_task_weights=true",
    ],
    # techniques
    "bf16": [
        _ONE.replace("precision=fp32", "precision=bf16"),
    ],
    "fp16": [
        _ONE.replace("precision=fp32", "precision=fp16"),
    ],
    "accumulation": [
        f"{_ONE} train.accumulate=3",
    ],
    "swa": [
        f"train {_SMALL} averaging=swa averaging.swa_start=0.5 train.epochs=3 hydra.run.dir=run",
    ],
    "swa_constant": [
        f"train {_SMALL} averaging=swa averaging.swa_start=0.5 averaging.swa_anneal=constant"
        " schedule=constant train.epochs=3 hydra.run.dir=run",
    ],
    "ema": [
        f"{_TWO} averaging=ema",
    ],
    "label_smoothing": [
        f"{_ONE} loss=label_smoothing",
    ],
    "focal": [
        f"{_ONE} loss=focal",
    ],
    "focal_alpha": [
        f"{_ONE} loss=focal_smoothed loss.alpha=auto",
    ],
    "auto_lr": [
        f"{_ONE} optimizer.lr=auto finder.steps=12",
    ],
    "noise": [
        f"{_TWO} augment=noise",
    ],
    "all_techniques": [
        f"train {_SMALL.replace('precision=fp32', 'precision=bf16')} {_ALL} train.epochs=3"
        " averaging.swa_start=0.5 hydra.run.dir=run",
        "tta-predict run=run device=cpu tta.from=2020-06-22 tta.to=2020-08-06 hydra.run.dir=forecast",
    ],
    "phase2": [  # the recipe by its name
        f"train experiment=phase2 {_BASE.replace('precision=fp32', 'precision=bf16')} {_XL} train.epochs=2"
        " finder.steps=12 hydra.run.dir=run",
    ],
    "distillation": [  # with the same student trained alone
        f"train {_SMALL} averaging=ema train.epochs=2 hydra.run.dir=teacher",
        f"distill teacher=teacher {_HERE} {_STUDENT} train.epochs=2 hydra.run.dir=student",
    ],
    "sweep": [
        f"sweep {_SMALL} model.dropout=interval(0.1,0.3) optimizer.lr=tag(log,interval(1e-4,1e-2))"
        " train.epochs=2 sweep.n_trials=2 hydra.sweep.dir=sweep",
        "train --config-dir sweep +experiment=best hydra.run.dir=best",
    ],
    # schedule and the loop
    "constant_rate": [
        f"{_ONE} schedule=constant",
    ],
    "streamed": [
        f"{_ONE} train.resident=false",
    ],
    "resume": [
        f"train {_SMALL} averaging=ema train.epochs=1 hydra.run.dir=run",
        "train resume=run train.epochs=2",
    ],
    "init_from": [
        f"train {_SMALL} train.epochs=1 hydra.run.dir=first",
        f"train {_SMALL} seed=7 train.epochs=1 init_from=first hydra.run.dir=run",
    ],
    "two_processes": [
        f"torchrun train {_SMALL.replace('train.batch_size=32', _PAIR)} train.epochs=2 hydra.run.dir=run",
    ],
    # embeddings
    "no_embedding": [
        f"train {_HERE} {_BARS} {_PARTS} {_STEPS} {_TINY} embedding=none train.epochs=1 hydra.run.dir=run",
    ],
    "kernel_shuffled": [
        f"{_ONE} embedding.shuffle=true embedding.seed=3",
    ],
    "kronos": [
        f"train {_HERE} {_BARS} {_PARTS} {_STEPS} {_TINY} embedding=kronos"
        " embedding.checkpoint=../inputs/kronos embedding.precision=fp32 train.epochs=1 hydra.run.dir=run",
    ],
    # data and splits
    "sample": [
        f"train {_HERE} data=sample data.horizons=[5] embedding.width=32 split.val=0.02 split.test=0.93"
        f" {_STEPS} {_TINY} train.epochs=1 hydra.run.dir=run",
    ],
    "synthetic_small": [
        f"train {_HERE} data=synthetic_small data.symbols=2 data.bars=300 data.lookback=40 embedding.width=32"
        f" {_STEPS} {_TINY} train.epochs=1 hydra.run.dir=run",
    ],
    "windows": [
        f"train {_HERE} data=windows data.path=../inputs/windows.parquet {_PARTS} {_STEPS} {_TINY}"
        " train.epochs=1 hydra.run.dir=run",
    ],
    "walk_forward": [
        f"train {_FILES} split=walk_forward split.folds=2 split.fold=0,1 split.val=0.35 split.embargo=1"
        f" {_STEPS} {_TINY} train.epochs=1 --multirun hydra.sweep.dir=folds",
    ],
    "refit_on_all": [
        f"train {_FILES} split=all {_STEPS} {_TINY} train.epochs=1 hydra.run.dir=run",
    ],
}
