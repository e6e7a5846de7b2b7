"""`stockenh track`: recorded forecasts beside the returns since, and what the run's test part promised."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from stockenh.config import compose
from stockenh.config.schema import group_settings
from stockenh.errors import ConfigError, DataError, RunFolderError
from stockenh.storage.files import expanded
from stockenh.storage.run_folder import RunFolder

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

    from stockenh.data.windows import BarWindows

FEWEST = 10  # returns of a figure by month
ADJUSTED = 0.005  # by which a close differs from the one that the forecast saw


def track(arguments: list[str]) -> None:
    """Scores a ledger; leaves track.json, track.png and report.html in a folder of its own."""
    compose.run("track", _track, arguments)


def _track(raw: dict[str, Any], folder: RunFolder) -> None:
    from stockenh.commands.finished import require_own_folder
    from stockenh.commands.report.pages import leave_page
    from stockenh.commands.track.show import show
    from stockenh.config import build
    from stockenh.data.windows import BarWindows
    from stockenh.report.terminal import console
    from stockenh.storage import ledger
    from stockenh.storage.files import write_json

    require_own_folder(folder, "the track record")
    path = expanded(str(raw["ledger"]))
    rows = ledger.read(path)
    settings = group_settings("data", raw["data"])
    loaded = settings.load(build.disk_cache(raw["cache_dir"]), labels=False)
    if not isinstance(loaded.windows, BarWindows):
        raise ConfigError("track compares with prices: data=windows has none")
    out = console()
    found = record_of(rows, loaded.windows, int(raw["seed"]))
    found |= {"ledger": str(path), "changed": ledger.first_changed(rows)}
    write_json(folder.path / "track.json", found)
    show(found, folder.path, out)
    leave_page(folder.path, out)
    if found["changed"]:
        raise RunFolderError(f"{path}: {found['changed']}; figures of it prove nothing")


def record_of(rows: pl.DataFrame, windows: BarWindows, seed: int) -> dict[str, Any]:
    """The figures of a ledger by run and horizon. Raises DataError where no symbol of it has bars here."""
    import numpy as np
    import polars as pl

    from stockenh.storage import ledger

    returns, then = _returns(rows, windows)
    rows = rows.with_columns(pl.Series("return", returns), pl.Series("then", then))
    if not np.isfinite(then).any():
        raise DataError(
            f"none of the {rows['symbol'].n_unique()} symbols of the ledger has bars on the days of its "
            f"forecasts here: name their bars with data=files data.path=DIR"
        )
    adjusted = rows.filter((pl.col("then") / pl.col("close") - 1).abs() > ADJUSTED)["symbol"].unique().sort()
    runs = [_of_run(of_run, seed) for _, of_run in rows.group_by(["sha256"], maintain_order=True)]
    return {
        "rows": len(rows),
        "pending": int(rows.filter(pl.col("return").is_nan() & pl.col("then").is_not_nan()).height),
        "unmatched": int(rows["then"].is_nan().sum()),
        "late": int((rows["recorded"] - rows["date"] > timedelta(days=ledger.LATE_DAYS)).sum()),
        "adjusted": adjusted.to_list(),
        "runs": runs,
    }


def _of_run(rows: pl.DataFrame, seed: int) -> dict[str, Any]:
    horizons = {
        f"h{horizon}": _of_horizon(rows.filter(horizon=horizon), horizon, seed)
        for horizon in sorted(rows["horizon"].unique().to_list())
    }
    first, last = rows["date"].min(), rows["date"].max()
    return {
        "run": rows["run"][-1], "sha256": rows["sha256"][0], "target": rows["target"][0],
        "from": str(first)[:10], "to": str(last)[:10], "symbols": rows["symbol"].n_unique(),
        "horizons": horizons,
    }  # fmt: skip


def _of_horizon(rows: pl.DataFrame, horizon: int, seed: int) -> dict[str, Any]:
    import polars as pl

    from stockenh.evaluation.record import beyond_chance
    from stockenh.storage import ledger

    known = rows.filter(pl.col("return").is_not_nan())
    promised = {name: rows[f"test_{name}"][-1] for name in ledger.PROMISES}
    found = _realised(known, horizon, seed) if len(known) else None
    months = known.with_columns(pl.col("date").dt.strftime("%Y-%m").alias("month"))
    by_month = {
        str(month): _realised(of_month, horizon, seed)
        for (month,), of_month in months.group_by(["month"], maintain_order=True)
        if len(of_month) >= FEWEST
    }
    differ = beyond_chance(found, promised) if found else []
    return {
        "recorded": len(rows),
        "promised": promised,
        "realised": found,
        "by_month": dict(sorted(by_month.items())),
        "beyond_chance": [list(one) for one in differ],
    }


def _realised(rows: pl.DataFrame, horizon: int, seed: int) -> dict[str, Any]:
    import numpy as np

    from stockenh.evaluation.bootstrap import Resampling
    from stockenh.evaluation.record import realised

    def column(name: str) -> Any:
        return rows[name].cast(float).fill_null(np.nan).to_numpy()

    return realised(
        column("up_prob"), column("score"), column("return"), rows["relative"].to_numpy(),
        rows["date"].to_numpy().astype("datetime64[s]"), np.stack([column("ret_p10"), column("ret_p90")], 1),
        horizon, Resampling(seed=seed),
    )  # fmt: skip


def _returns(rows: pl.DataFrame, windows: BarWindows) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Per forecast the simple return since, and the close of its bar as the bars have it now.

    NaN where the bars don't reach so far, or have no such bar. Both closes are of the same bars, so that an
    adjustment of the whole history in the meantime changes nothing. A return over what looks like a raw split
    is left out.
    """
    import numpy as np

    from stockenh.data.bars import CLOSE
    from stockenh.data.readers.series_rules import SPLIT_MOVE, split_ratio

    bars, names = windows.bars, rows["symbol"].to_numpy()
    dates, horizons = rows["date"].to_numpy().astype("datetime64[s]"), rows["horizon"].to_numpy()
    returns, then = np.full((2, len(rows)), np.nan)
    for number, name in enumerate(bars.symbols):
        stretch = bars.rows(number)
        time, close = bars.time[stretch], bars.ohlcv[stretch, CLOSE]
        mine = np.flatnonzero((names == name) & np.isin(dates, time))
        at = np.searchsorted(time, dates[mine])
        then[mine] = close[at]
        reached = at + horizons[mine] < len(time)
        mine, at = mine[reached], at[reached]
        end, moves = at + horizons[mine], close[1:] / close[:-1]
        splits = np.zeros(len(close), np.int64)
        for move in np.flatnonzero(np.abs(np.log(moves)) > np.log(SPLIT_MOVE)):
            splits[move + 1] = split_ratio(float(moves[move])) is not None
        passed = np.cumsum(splits)
        whole = passed[end] == passed[at]
        returns[mine[whole]] = close[end[whole]] / close[at[whole]] - 1
    return returns, then
