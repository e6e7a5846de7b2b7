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
_BASE16, _SMALL16 = (base.replace("precision=fp32", "precision=bf16") for base in (_BASE, _SMALL))
_OTHER = f"{_HERE} {_STEPS} {_TINY}"  # a run on other data or with another embedding
_UNEMBEDDED = f"{_OTHER} {_BARS} {_PARTS}"

_TFT = "model=tft_xl model.d_model=16 model.heads=2 model.lstm_layers=2 model.fusion_layers=2"
_STUDENT = "model=student model.d_model=16 model.heads=2 model.layers=1 model.ffn=16 model.patch=10"
_XL = "model=timeformer_xl model.d_model=32 model.heads=4 model.layers=2 model.ffn=32 model.head_hidden=16"
# what phase 2 adds to the plain recipe, but for a precision that does not depend on the machine
_TECHNIQUES = "loss=focal_smoothed averaging=ema_swa augment=noise optimizer.lr=auto"
_ALL = f"{_TECHNIQUES} train.accumulate=2 finder.steps=12 averaging.swa_start=0.5"
_SWA = "averaging=swa averaging.swa_start=0.5"
# unequal shares: an epoch ends with one row for one process and none for the other
_PAIR = "train.batch_size=17 train.accumulate=7 averaging=ema"

_LATE = "tta-predict run=run device=cpu tta.from=2020-06-22"
_FORECAST = f"{_LATE} tta.to=2020-08-06 tta.views=4 hydra.run.dir=forecast"


def _train(settings: str = "", epochs: int = 1, base: str = _SMALL, folder: str = "run") -> str:
    return f"train {base} {settings} train.epochs={epochs} hydra.run.dir={folder}"


CONFIGS: dict[str, list[str]] = {
    # models
    "plain": [_train(f"experiment=plain {_XL} train.batch_size=64", 3, _FILES + f" {_PARTS}")],
    "timeformer": [_train(base=_BASE)],
    "timeformer_small": [_train("", 2), _FORECAST, f"{_LATE} tta.views=0 hydra.run.dir=plain_forecast"],
    "timeformer_xl": [_train(_XL, 2, _BASE)],
    "tft_xl": [_train(_TFT, 2, _BASE), _FORECAST],
    "tft_xl_huber": [_train(f"{_TFT} loss.returns=huber", 1, _BASE16)],
    "tft_xl_all_techniques": [_train(f"{_TFT} {_ALL}", 3, _BASE16)],
    "student": [_train(_STUDENT, 2, _BASE)],
    "learned_task_weights": [_train("model.learned_task_weights=true", 2)],
    # techniques
    "bf16": [_train(base=_SMALL16)],
    "fp16": [_train(base=_SMALL.replace("precision=fp32", "precision=fp16"))],
    "accumulation": [_train("train.accumulate=3")],
    "swa": [_train(_SWA, 3)],
    "swa_constant": [_train(f"{_SWA} averaging.swa_anneal=constant schedule=constant", 3)],
    "ema": [_train("averaging=ema", 2)],
    "label_smoothing": [_train("loss=label_smoothing")],
    "focal": [_train("loss=focal")],
    "focal_alpha": [_train("loss=focal_smoothed loss.alpha=auto")],
    "auto_lr": [_train("optimizer.lr=auto finder.steps=12")],
    "noise": [_train("augment=noise", 2)],
    "all_techniques": [_train(_ALL, 3, _SMALL16), _FORECAST],
    "phase2": [_train(f"experiment=phase2 {_XL} finder.steps=12", 2, _BASE16)],  # the recipe by its name
    "distillation": [  # with the same student trained alone
        _train("averaging=ema", 2, folder="teacher"),
        f"distill teacher=teacher {_HERE} {_STUDENT} train.epochs=2 hydra.run.dir=student",
    ],
    "sweep": [
        f"sweep {_SMALL} model.dropout=interval(0.1,0.3) optimizer.lr=tag(log,interval(1e-4,1e-2))"
        " train.epochs=2 sweep.n_trials=2 hydra.sweep.dir=sweep",
        "train run_config=sweep/best.yaml hydra.run.dir=best",
    ],
    # schedule and the loop
    "constant_rate": [_train("schedule=constant")],
    "streamed": [_train("train.resident=false")],
    "resume": [_train("averaging=ema"), "train resume=run train.epochs=2"],
    "init_from": [_train(folder="first"), _train("seed=7 init_from=first")],
    "two_processes": ["torchrun " + _train("", 2, _SMALL.replace("train.batch_size=32", _PAIR))],
    # embeddings
    "no_embedding": [_train("embedding=none", base=_UNEMBEDDED)],
    "kernel_shuffled": [_train("embedding.shuffle=true embedding.seed=3")],
    "kronos": [
        _train(
            "embedding=kronos embedding.checkpoint=../inputs/kronos embedding.precision=fp32", 1, _UNEMBEDDED
        )
    ],
    # data and splits
    "sample": [
        _train("data=sample data.horizons=[5] embedding.width=32 split.val=0.02 split.test=0.93", 1, _OTHER)
    ],
    "synthetic_small": [
        _train(
            "data=synthetic_small data.symbols=2 data.bars=300 data.lookback=40 embedding.width=32", 1, _OTHER
        )
    ],
    "windows": [_train(f"data=windows data.path=../inputs/windows.parquet {_PARTS}", 1, _OTHER)],
    "walk_forward": [
        f"train {_FILES} split=walk_forward split.folds=2 split.fold=0,1 split.val=0.35 split.embargo=1"
        f" {_STEPS} {_TINY} train.epochs=1 --multirun hydra.sweep.dir=folds"
    ],
    "refit_on_all": [_train(f"{_FILES} split=all {_STEPS} {_TINY}", base="")],
}
