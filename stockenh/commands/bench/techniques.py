"""What each speed technique is worth alone: the plain recipe with this one thing changed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from torch import Tensor, nn

from stockenh.commands.bench.clock import WARM, Clock, Figure, median, skipped
from stockenh.commands.bench.plain import PlainRecipe, loaded, torch_layers
from stockenh.commands.bench.setup import Bed
from stockenh.commands.bench.training import PLAIN_WINDOWS, plain_step
from stockenh.models.cpu.memory import hand_back_freed_memory, keep_freed_memory
from stockenh.storage.machine import has_bf16, lacks_compiler

PART = "techniques"
ACCUMULATE = 4
NO_CARD = "no CUDA device"

Step = Callable[[], None]


def techniques(name: str, bed: Bed, clock: Clock) -> list[Figure]:
    """Times as fast as the plain recipe, each technique alone."""
    bed = bed.with_train(accumulate=1, precision="fp32")
    taken = replace(clock, warm=WARM).in_turn(_calls(bed))
    accumulated = f"gradient accumulation of {ACCUMULATE}"
    taken[accumulated] = taken[accumulated] / ACCUMULATE
    plain = taken.pop("plain")
    found = [median(PART, f"{name}: {of}", "times", plain / seconds) for of, seconds in taken.items()]
    if not has_bf16(bed.device) and bed.device.type == "cpu":
        found.append(skipped(PART, f"{name}: bf16", "this processor does not multiply bf16"))
    return found


def compiling(name: str, bed: Bed, clock: Clock, wanted: bool) -> list[Figure]:
    """What torch.compile and CUDA graphs are worth alone; what is not to be had is said."""
    bed = bed.with_train(accumulate=1, precision="fp32")
    modes = {"torch.compile": "default", "CUDA graphs (torch.compile)": "reduce-overhead"}
    found = []
    for of, mode in modes.items():
        if (why := _not_to_be_had(bed, mode, wanted)) is not None:
            found.append(skipped(PART, f"{name}: {of}", why))
            continue
        step, took = _compiled(bed, mode)
        taken = clock.in_turn({"plain": plain_step(bed, torch_layers(bed.net())), of: step})
        note = f"after {took:.0f} s of compiling"
        found.append(median(PART, f"{name}: {of}", "times", taken["plain"] / taken[of], note=note))
    return found


def _not_to_be_had(bed: Bed, mode: str, wanted: bool) -> str | None:
    if mode == "reduce-overhead" and bed.device.type != "cuda":
        return NO_CARD
    if not wanted:
        return "bench.compile=false"
    return lacks_compiler(bed.device)


def _calls(bed: Bed) -> dict[str, Step]:
    """The plain recipe, and with each technique that every device has."""
    low = "bf16" if has_bf16(bed.device) else "fp16" if bed.device.type == "cuda" else None
    calls: dict[str, Step] = {
        "plain": plain_step(bed, torch_layers(bed.net())),
        "fused optimizer": _step(bed, fused=True),
        "data on the device": _step(bed, batches=_resident(bed)),
        f"gradient accumulation of {ACCUMULATE}": _step(bed, accumulate=ACCUMULATE),
        "own attention, dropout, convolution": plain_step(bed, bed.net()),
        "memory kept between steps": _step(bed, policy=keep_freed_memory),
    }
    if low is not None:
        calls[f"{low} with torch's layers"] = _step(bed, precision=low)
        calls[f"{low} with own layers"] = _step(bed, bed.net(), precision=low)
    return calls


def _step(
    bed: Bed,
    net: nn.Module | None = None,
    *,
    batches: Iterator[Sequence[Tensor]] | None = None,
    policy: Callable[[], bool] = hand_back_freed_memory,
    fused: bool | None = None,
    precision: str = "fp32",
    accumulate: int = 1,
) -> Step:
    size = bed.config.train.batch_size
    recipe = PlainRecipe(
        torch_layers(bed.net()) if net is None else net,
        loaded(bed.tensors(max(PLAIN_WINDOWS, size)), size) if batches is None else batches,
        bed.device,
        fused=fused,
        precision=precision,
        accumulate=accumulate,
    )

    def call() -> None:
        policy()
        recipe()

    return call


def _resident(bed: Bed) -> Iterator[Sequence[Tensor]]:
    """Batches gathered where the bars already are."""
    batches, done = bed.batches(), 0
    while True:
        for micro in batches.group(*divmod(done, batches.steps)).micros:
            yield (*micro.inputs, micro.y_ret, micro.y_up)
        done += 1


def _compiled(bed: Bed, mode: str) -> tuple[Step, float]:
    """The plain recipe around a compiled network, and the seconds until it runs at its speed."""
    net = torch_layers(bed.net())
    net.compile(mode=mode)
    step = _step(bed, net)
    began = time.perf_counter()
    for _ in range(3):
        step()
    return step, time.perf_counter() - began
