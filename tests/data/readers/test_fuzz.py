"""Damaged files give bars or findings, whatever was damaged, and nothing else."""

import gzip
import io
import random

import numpy as np
import polars as pl
import pytest
from bar_files import HEADER, dates, numbers, rows

from stockenh.data.readers import ReadSettings, read_bars

TODAY = np.datetime64("2026-06-01")
SETTINGS = (
    ReadSettings(min_bars=5),
    ReadSettings(min_bars=5, dayfirst=True, adjust=False),
    ReadSettings({"close": "Close", "date": "Date"}, min_bars=5),
)
TOKENS = [
    b",", b";", b"\t", b"\n", b"\r", b'"', b"'", b"\0", b"\xff", b"\xef\xbb\xbf", b"-", b".", b"/", b"1e999",
    b"nan", b"sep=;\n", b"#", b"0", b"9" * 40, b"13/13/2020", b"01/02/03", b"Date", b"('Close', 'A')", b"USD",
    b"Z", b"+05:30", b"=", b"(", b"[", b"<", b"{", b"\x1b[2J", b"1,234", b"1.234,5", b"1704153600000", b"EQ",
    b"20240102-14:30:00",
]  # fmt: skip


def csv_seeds():
    cells = rows(12)
    day = [row[0].split("-") for row in cells]
    slashes = [[f"{d}/{m}/{y}", *row[1:]] for (y, m, d), row in zip(day, cells, strict=True)]
    tables = [
        (HEADER, cells),
        (f"Symbol,SERIES,{HEADER},Adj Close", [["A", "EQ", *row, row[4]] for row in cells]),
        (HEADER, slashes),
        ("Title\n\n" + HEADER, [[f"{row[0]} 09:30:00-05:00", *row[1:]] for row in cells]),
        ("Price,Open,High,Low,Close,Volume\nTicker" + ",AA" * 5 + "\nDate,,,,,", cells),
        ("Date," + ",".join(f"{field}_{t}" for t in "AB" for field in HEADER.split(",")[1:]),
         [[*row, *row[1:]] for row in cells]),
    ]  # fmt: skip
    texts = ["\n".join([header, *map(",".join, body)]).encode() for header, body in tables]
    return [*texts, texts[0].decode().encode("utf-16"), texts[2].replace(b",", b";"), gzip.compress(texts[0])]


def parquet_seeds():
    frame = pl.DataFrame(numbers(12), schema=["open", "high", "low", "close", "volume"])
    day = pl.Series("date", dates(12)).str.to_datetime()
    kinds = [
        frame.with_columns(day),
        frame.with_columns(day.dt.replace_time_zone("America/New_York"), pl.lit("A").alias("symbol")),
        frame.with_columns(day.dt.date(), pl.lit("A").cast(pl.Categorical).alias("symbol")),
        frame.cast(pl.String).with_columns(pl.Series("date", dates(12))),
    ]
    seeds = []
    for kind in kinds:
        for compression in ("zstd", "snappy", "uncompressed"):
            out = io.BytesIO()
            kind.write_parquet(out, compression=compression)
            seeds.append(out.getvalue())
    return seeds


def mutated(content, rng):
    """The content with one to four places changed, cut out, repeated or filled in; often in its footer."""
    data = bytearray(content)
    footer = int.from_bytes(data[-8:-4], "little") + 8 if content[:4] == b"PAR1" else 0
    for _ in range(rng.randint(1, 4)):
        begin = max(0, len(data) - footer) if footer and rng.random() < 0.7 else 0
        at = rng.randrange(begin, len(data)) if begin < len(data) else 0
        end = at + rng.randint(1, 12)
        match rng.randrange(6):
            case 0:
                data[at : at + 1] = bytes([rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))])
            case 1:
                del data[at:end]
            case 2:
                data[at:at] = rng.choice(TOKENS)
            case 3:
                data[at:end] = rng.choice(TOKENS)
            case 4:
                data[at:at] = data[rng.randrange(len(data) + 1) :][: rng.randint(1, 80)]
            case _:
                data[at : at + 8] = rng.randbytes(8)
    return bytes(data)


def check(path, settings):
    result = read_bars(path, settings, TODAY)
    bars = result.bars.ohlcv
    assert np.isfinite(bars).all() and (bars[:, :4] > 0).all() and (bars[:, 4] >= 0).all()
    assert len(bars) or any(found.level == "error" for found in result.findings)
    for found in result.findings:
        assert f"{found.file}{found.symbol}{found.message}{found.fix}".isprintable()


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("kind", "count"), [("csv", 250), ("parquet", 250)])
def test_damaged_files_give_bars_or_findings(tmp_path, capfd, kind, count, seed):
    rng = random.Random(seed)
    seeds = csv_seeds() if kind == "csv" else parquet_seeds()
    path = tmp_path / f"X.{kind}"
    for _ in range(count):
        path.write_bytes(mutated(rng.choice(seeds), rng))
        check(path, rng.choice(SETTINGS))
    assert capfd.readouterr() == ("", "")
