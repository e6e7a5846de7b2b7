"""`stockenh data check`."""

from __future__ import annotations

from pathlib import Path

from stockenh.config.compose import compose
from stockenh.config.schema import group_settings, plain
from stockenh.errors import ConfigError


def data_check(path: Path, overrides: list[str]) -> None:
    """Prints every finding on a user's bars. Raises SystemExit(2) where nothing of them is usable."""
    from stockenh.data.sources.base import FilesData
    from stockenh.data.sources.enough import too_few_for
    from stockenh.report.table import findings_table
    from stockenh.report.terminal import console

    groups = plain(compose([f"data.path={path}", *overrides], "data_check"))
    settings, split = (group_settings(group, groups[group]) for group in ("data", "split"))
    if not isinstance(settings, FilesData):
        raise ConfigError("data check looks at bars: data=files")
    result = settings.read()
    findings = list(result.findings)
    if len(result.bars):
        findings += too_few_for(split, result.bars, settings.lookback, settings.horizons)
    out = console()
    if findings:
        out.print(findings_table(findings))
    symbols = len(set(result.bars.symbols))
    out.print(
        f"{path}: {result.files_used} of {result.files} file{'s' * (result.files != 1)} usable, {symbols} "
        f"symbol{'s' * (symbols != 1)}, {len(result.bars):,} bars",
        markup=False, soft_wrap=True,
    )  # fmt: skip
    if not len(result.bars):
        raise SystemExit(2)
