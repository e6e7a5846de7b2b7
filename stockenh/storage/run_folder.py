"""A run folder: its files, how they are written, and how an untrusted folder is read safely."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired, Required, TypeVar

import yaml
from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from stockenh.errors import ConfigError, RunFolderError, TrainingError
from stockenh.storage.files import (
    LOCK,
    append_line,
    is_locked,
    json_text,
    lock_folder,
    remove_parts,
    write_atomic,
    write_json,
)
from stockenh.storage.untrusted import (
    is_file,
    parse_json,
    parse_tensors,
    read_bytes,
    read_json,
    read_lines,
    read_yaml,
    require_plain_folder,
    typed,
)

if TYPE_CHECKING:
    from torch import Tensor  # only weights need torch; listing runs must not wait for its import

T = TypeVar("T")


# Of a dictionary's type: other keys stay, and numbers are not made of texts.
AS_WRITTEN = ConfigDict(extra="allow", strict=True)

Horizon = Annotated[str, Field(pattern=r"^h[1-9]\d{0,5}$")]


class Scores(TypedDict):
    """The scores of one part and horizon that every table shows; others stand beside them."""

    __pydantic_config__ = AS_WRITTEN  # type: ignore[misc]

    n: int
    tie_share: float | None
    up_share: NotRequired[float | None]
    accuracy: float | None
    accuracy_low: float | None
    accuracy_high: float | None
    majority: float | None
    log_loss: float | None
    brier: float | None
    auc: float | None
    mae: float | None
    rank_ic: NotRequired[float | None]  # of panels
    rank_ic_low: NotRequired[float | None]
    rank_ic_high: NotRequired[float | None]


class BestEpoch(TypedDict):
    """The best validation of one set of weights."""

    epoch: int
    val_loss: float | None


class Summary(TypedDict, total=False):
    """What other code reads of summary.json; the rest of it is for people."""

    __pydantic_config__ = AS_WRITTEN  # type: ignore[misc]
    parts: Required[dict[str, dict[Horizon, Scores]]]
    symbols: list[str]  # of the train part
    target: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w-]{0,100}$")]  # a name of `Target`
    weights: Required[str]
    epochs: Required[Annotated[int, Field(ge=1)]]
    best_epoch: Required[int]
    val_loss: Required[float | None]
    by_weights: Required[dict[str, BestEpoch]]
    stopped_early: Required[bool]
    pruned: bool
    members: list[dict[str, Any]]  # of an ensemble
    skipped_steps: Required[int]
    seconds: Required[float]
    windows_per_second: Required[float]
    device: Required[str]
    precision: Required[str]


class Validation(TypedDict):
    """What validation found of one set of weights: beside the loss, the scores of every horizon."""

    __pydantic_config__ = AS_WRITTEN  # type: ignore[misc]

    loss: float | None  # of calibrated probabilities where there is the other one
    loss_uncalibrated: NotRequired[float | None]


class EpochLine(TypedDict, total=False):
    """What other code reads of a line of metrics.jsonl."""

    __pydantic_config__ = AS_WRITTEN  # type: ignore[misc]
    epoch: Required[Annotated[int, Field(ge=0)]]
    train_loss: Required[float | None]
    val_loss: Required[float | None]
    lr: float
    windows_per_second: Required[float]
    weights: Required[str]
    by_weights: Required[dict[str, Validation]]


class Origin(TypedDict):
    """Another run that this one depends on, in manifest.json."""

    run: str
    weights: Literal["raw", "ema", "swa", "ensemble"]
    sha256: str
    shifts_probabilities: NotRequired[bool]  # of a teacher: see `Loss`


# `from` is no name of a field
EmbeddingOrigin = TypedDict("EmbeddingOrigin", {"from": str, "revision": str | None, "sha256": str})


class PluginOrigin(TypedDict):
    """A plugin that settings of a run come from, in manifest.json."""

    __pydantic_config__ = AS_WRITTEN  # type: ignore[misc]
    name: str
    sha256: str | None
    version: NotRequired[str | None]


class Daily(TypedDict):
    """daily.json: returns of a trial's forecasts by day; see `rank_weighted_returns`."""

    __pydantic_config__ = AS_WRITTEN  # type: ignore[misc]
    horizon: int
    days: list[int]  # seconds since 1970
    returns: list[Annotated[float, Field(ge=-1e6, le=1e6)]]


class Manifest(TypedDict, total=False):
    """What other code reads of manifest.json."""

    __pydantic_config__ = AS_WRITTEN  # type: ignore[misc]
    data: Required[str]
    init_from: Origin | None
    teacher: Origin | None
    embedding: dict[str, EmbeddingOrigin] | None
    plugins: list[PluginOrigin]


class RunFolder:
    """The files of one run, read on demand."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.log = path / "run.log"
        self.metrics = path / "metrics.jsonl"
        self.summary = path / "summary.json"
        self.fitted = path / "fitted.json"
        self.calibration = path / "calibration.json"
        self.confidence = path / "confidence.json"
        self.conformal = path / "conformal.json"  # of a model with quantiles
        self.daily = path / "daily.json"  # of a trial of a search
        self.manifest = path / "manifest.json"
        self.tracker = path / "tracker.json"  # its id at trackers
        self.lr_finder = path / "lr_finder.json"
        self.lr_picture = path / "lr_finder.png"
        self.teacher_output = path / "teacher.safetensors"
        self.last = path / "checkpoints" / "last.pt"
        self.best = path / "checkpoints" / "best.pt"
        self.report = path / "report"
        self.exported = path / "export"
        self.explained = path / "explain"

    def __str__(self) -> str:
        return str(self.path)

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run's folder. Raises RunFolderError with what is missing."""
        folder = cls(path)
        if not path.is_dir():
            raise RunFolderError(
                f"{path}: no such folder; a run folder is what `stockenh train` left in outputs/"
            )
        require_plain_folder(path)
        if not is_file(folder.config):
            raise RunFolderError(f"{path} has no config.yaml: it is no run folder, or its run never started")
        return folder

    def require_there(self) -> None:
        """Raises TrainingError where the folder of a running training was deleted: it is not made again."""
        if not self.config.is_file():
            raise TrainingError(
                f"{self.path} was deleted or moved during the training: nothing more is written"
            )

    def refuse_if_run(self) -> None:
        """Raises ConfigError where the folder holds a run that has trained or is about to."""
        if self.last.exists() or self.metrics.exists() or is_locked(self.path / LOCK):
            again = shlex.quote(str(self.path))
            raise ConfigError(
                f"{self.path} already holds a run: continue it with resume={again}, or name another folder"
            )

    def begin(self, config: dict[str, Any]) -> None:
        """Starts a new run here, and removes the files of one that never trained."""
        for leftover in (self.manifest, self.fitted, self.teacher_output, self.lr_finder, self.lr_picture):
            leftover.unlink(missing_ok=True)
        self.reopen()
        self.write_config(config)

    def reopen(self) -> None:
        """Marks the run as unfinished: removes what was derived from its final weights."""
        for derived in (self.summary, self.calibration, self.confidence, self.conformal, self.daily):
            derived.unlink(missing_ok=True)

    def chosen_weights(self, name: str | None) -> str:
        """`name`, or the weights that validation chose. Raises RunFolderError where there are none such."""
        chosen = name or self.read_summary()["weights"]
        self._require_weights(chosen)
        return chosen

    def require_finished(self) -> None:
        """Raises RunFolderError where the run has no result yet."""
        if not is_file(self.summary):
            again = shlex.quote(str(self.path))
            raise RunFolderError(
                f"{self.path} is not finished: continue it with stockenh train resume={again}"
            )

    def write_config(self, config: dict[str, Any]) -> None:
        text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
        write_atomic(self.config, text.encode())

    def read_config(self) -> dict[str, Any]:
        """The resolved config as plain containers; nothing in it is executed or interpolated."""
        config = self._present(read_yaml, self.config)
        if not isinstance(config, dict):
            raise RunFolderError(f"{self.config} does not hold a config")
        return config

    def read_summary(self) -> Summary:
        """summary.json of a finished run. Raises RunFolderError."""
        return self.read_json(self.summary, Summary)

    def read_manifest(self) -> Manifest:
        """manifest.json: what the run was made of. Raises RunFolderError."""
        return self.read_json(self.manifest, Manifest)

    def read_json(self, path: Path, kind: type[T] = object) -> T:  # type: ignore[assignment]
        """One of the folder's JSON files, its types checked. Raises RunFolderError."""
        found: T = self._present(lambda file: read_json(file, kind), path)
        return found

    def _present(self, read: Callable[[Path], Any], path: Path) -> Any:
        try:
            return read(path)
        except FileNotFoundError:
            raise RunFolderError(f"{self.path} lacks {path.name}: the run is incomplete") from None

    def write_json(self, path: Path, value: Any) -> None:
        write_json(path, value)

    def append_metrics(self, line: dict[str, Any]) -> None:
        append_line(self.metrics, json_text(line))

    def read_metrics(self, up_to_epoch: int | None = None) -> list[EpochLine]:
        """The lines of metrics.jsonl; a line cut short by a kill is left out.

        Raises RunFolderError where a whole line is not what a run writes.
        """
        lines = [typed(EpochLine, line, str(self.metrics)) for line in self.metric_lines()]
        return [line for line in lines if up_to_epoch is None or line["epoch"] <= up_to_epoch]

    def metric_lines(self) -> list[dict[str, Any]]:
        """The same as plain containers of any content, for a listing."""
        lines: list[Any] = []
        for text in read_lines(self.metrics):
            with suppress(ValueError, RecursionError):
                lines.append(parse_json(text))
        return [line for line in lines if isinstance(line, dict)]

    def rewind_metrics(self, epoch: int) -> None:
        """Removes the lines after `epoch`, which will be written again."""
        kept = self.read_metrics(epoch)
        if is_file(self.metrics):
            write_atomic(self.metrics, "".join(json_text(dict(line)) + "\n" for line in kept).encode())

    def weights(self, name: str) -> Path:
        """The file of the weights called `name` (raw, ema, swa)."""
        return self.path / "weights" / f"{name}.safetensors"

    def weight_names(self) -> list[str]:
        """The names of the weights in the folder."""
        return sorted(p.stem for p in (self.path / "weights").glob("*.safetensors"))

    def write_weights(self, name: str, state: dict[str, Tensor]) -> None:
        self.write_tensors(self.weights(name), state)

    def write_tensors(self, path: Path, tensors: dict[str, Tensor]) -> None:
        from safetensors.torch import save

        write_atomic(path, save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}))

    def read_weights(self, name: str) -> dict[str, Tensor]:
        """Raises RunFolderError where they are missing, damaged or not finite."""
        self._require_weights(name)
        tensors = self.read_tensors(self.weights(name))
        if bad := [key for key, tensor in tensors.items() if not tensor.isfinite().all()]:
            others = ", ".join(f"weights={other}" for other in self.weight_names() if other != name)
            raise RunFolderError(
                f"{self.weights(name)}: the {name} weights are not finite ({bad[0]} has NaN or infinite "
                f"numbers); {f'try {others}, or ' if others else ''}train again with a lower optimizer.lr"
            )
        return tensors

    def _require_weights(self, name: str) -> None:
        if name not in (names := self.weight_names()):
            others = f"it has {', '.join(names)}" if names else "the run is not finished"
            raise RunFolderError(f"{self.path} has no {name} weights; {others}")

    def read_tensors(self, path: Path) -> dict[str, Tensor]:
        """The tensors of a safetensors file. Raises RunFolderError where it is damaged."""
        try:
            return parse_tensors(self._present(read_bytes, path))
        except (OSError, ValueError) as error:
            raise RunFolderError(f"{path} is cut short or damaged: {error}") from None

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps a second process out. Raises RunFolderError where one is training here."""
        with lock_folder(self.path, "is training in this folder"):
            self.remove_parts()
            yield

    def remove_parts(self) -> None:
        """Removes the temporary files of killed processes."""
        for folder in (self.path, self.last.parent, self.path / "weights", self.report):
            remove_parts(folder)
