"""A data configuration with what can be found out about its files filled in."""

import dataclasses
from contextlib import suppress
from pathlib import Path

from harness.data.files import RowError
from harness.data.format import recognized
from harness.data.rows import read
from harness.records.settings import DataSpec, RowsSpec


def with_test_file(spec: DataSpec) -> DataSpec:
    """Return the same data with `test_file` among its test rows, formatted as the training rows of a file are.

    Raises:
        ValueError: there is a test file, and no training rows from a file to take the templates from.
    """
    if spec.test_file is None or any(rows.file == spec.test_file for rows in spec.test):
        return spec
    formats = [rows for rows in spec.train if rows.file is not None]
    if not formats:
        raise ValueError(
            f"data.test_file={spec.test_file}: data={spec.name} trains on no file whose format it could share; "
            "use data=file, or leave data.test_file=null"
        )
    split = None if Path(spec.test_file).is_dir() else formats[0].split  # the training rows' split is not the test's
    return dataclasses.replace(
        spec, test=(*spec.test, dataclasses.replace(formats[0], file=spec.test_file, split=split))
    )


def recognize(spec: DataSpec) -> DataSpec:
    """Return the same data with the formats of its local files named, as far as their first row shows them."""

    def named(rows: RowsSpec) -> RowsSpec:
        if rows.file is None or not Path(rows.file).exists():
            return rows
        with suppress(ValueError):  # errors of a file are reported when all of it is read
            columns = read(rows, spec.source, spec.path)
            first = next((row for _, row in columns if not isinstance(row, RowError)), None)
            return rows if first is None else recognized(rows, first)
        return rows

    train, test, mix = (tuple(map(named, part)) for part in (spec.train, spec.test, spec.mix))
    return dataclasses.replace(spec, train=train, test=test, mix=mix)
