"""The table of a study as a Parquet file."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from kronq import limits
from kronq.errors import FormatError
from kronq.io.files import write_file
from kronq.io.input_path import find_input
from kronq.io.refused_field import first_refused
from kronq.study.row import Row

if TYPE_CHECKING:
    import pyarrow as pa

_TYPES = {
    "rank": "int64",
    "seed": "int64",
    "bits": "float64",
    "bytes": "int64",
    "shared_bytes": "int64",
    "parameters": "int64",
    "questions": "int64",
    "text_tokens": "int64",
    "question_nll": "list<float64>",
    "question_tokens": "list<int32>",
    "question_right": "list<bool>",
    **dict.fromkeys(
        (
            *(
                "weight_error",
                "nll",
                "kl_base",
                "kl_trained",
                "accuracy",
                "accuracy_normalized",
                "recall",
            ),
            *("train_seconds", "make_seconds", "score_seconds"),
        ),
        "float64",
    ),
}
"""Column → its type in Parquet; text for all others."""

_ROW = TypeAdapter(Row)


def write_table(rows: Sequence[Row], path: Path) -> None:
    """Writes a table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pylist([asdict(row) for row in rows], schema=_schema())
    data = io.BytesIO()
    pq.write_table(table, data, compression="zstd")
    write_file(path, data.getvalue(), force=True)


def read_table(path: Path) -> list[Row]:
    """Reads a table. Columns that earlier versions did not have get their defaults.

    Raises:
        NotFoundError: There is no such file.
        FormatError: It is damaged, or no table of a study.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    expected = _schema()
    found = find_input(path)
    try:
        told = pq.read_metadata(found)
        parts = range(told.num_row_groups)
        limits.TABLE.check(sum(told.row_group(i).total_byte_size for i in parts), path)
        table = pq.read_table(found)
    except (pa.ArrowException, OSError) as error:
        raise FormatError(f"no Parquet file: {error}", path=path) from None
    for column in table.schema:
        index = expected.get_field_index(column.name)
        if index < 0 or expected.field(index).type != column.type:
            raise FormatError(
                f"no table of a study: column {column.name!r}", path=path, found=str(column.type)
            )
    return [_row(told, path) for told in table.to_pylist()]


def _schema() -> pa.Schema:
    import pyarrow as pa

    kinds = {"list<float64>": pa.list_(pa.float64()), "list<int32>": pa.list_(pa.int32())}
    kinds |= {"list<bool>": pa.list_(pa.bool_())}
    types = {name: _TYPES.get(name, "string") for name in Row.__dataclass_fields__}
    return pa.schema([(n, kinds.get(t) or pa.type_for_alias(t)) for n, t in types.items()])


def _row(told: dict[str, Any], path: Path) -> Row:
    """Returns a row, whose figures fit those of its questions."""
    try:
        row = _ROW.validate_python(told)
    except ValidationError as error:
        place, wrong = first_refused(error)
        raise FormatError(f"no table of a study: {place}: {wrong}", path=path) from None
    if not row.key:
        raise FormatError("no table of a study: a row without a key", path=path)
    if not (row.left_out or _fits(row)):
        raise FormatError(
            "a row's figures are not those of its questions", path=path, found=repr(row.key)
        )
    return row


def _fits(row: Row) -> bool:
    if row.nll is None or not math.isfinite(row.nll):
        return False
    if row.text_tokens is not None:
        return row.text_tokens > 0
    counts = {len(row.question_nll), len(row.question_tokens), row.questions}
    counts |= {len(row.question_nll if row.question_right is None else row.question_right)}
    if len(counts) > 1 or not row.question_tokens or min(row.question_tokens) < 1:
        return False
    return math.isclose(sum(row.question_nll) / sum(row.question_tokens), row.nll, rel_tol=1e-9)
