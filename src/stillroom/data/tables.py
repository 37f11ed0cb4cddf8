"""CSV, TSV and Parquet tables, cut into fixed blocks of rows that play the shards."""

from __future__ import annotations

import codecs
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stillroom.data import reasons
from stillroom.data.config import DataConfig
from stillroom.data.folders import attach_picture
from stillroom.data.tars import utf8_text
from stillroom.data.text_rows import TextRows, block_bounds, first_line, sniff_separator
from stillroom.errors import DataError
from stillroom.records import Fault, Sample

TEXT_TABLES = (".csv", ".tsv")
TABLE_EXTENSIONS = (*TEXT_TABLES, ".parquet")


@dataclass(frozen=True, kw_only=True)
class TableShard:
    """Rows `first_row` and on of a table: bytes `start` to `stop` of a text table, or `rows` rows of a Parquet file."""

    name: str
    path: str
    columns: tuple[str, ...]
    config: DataConfig
    separator: str
    first_row: int
    rows: int
    start: int
    stop: int

    def samples(self, *, images: bool = True) -> Iterator[Sample | Fault]:
        """Yield the pairs in row order."""
        seen: set[str] = set()
        try:
            for number, row in enumerate(self._rows(), self.first_row):
                if isinstance(row, str):
                    yield self._fault(str(number), reasons.ROW_MALFORMED, f"row {number + 1}: {row}")
                    continue
                key = str(number) if self.config.key_column is None else _key(row[self.config.key_column])
                if not key:
                    yield self._fault(str(number), reasons.ROW_MALFORMED, f"row {number + 1}: the key is empty")
                    continue
                if key in seen:
                    detail = f"row {number + 1}: the key stands twice; the first one is used"
                    yield self._fault(key, reasons.DUPLICATE_KEY, detail)
                    continue
                seen.add(key)
                yield self._sample(key, row, images=images)
        except OSError as error:
            yield self._fault("", reasons.SHARD_UNREADABLE, f"{self.path}: {error}")

    def _sample(self, key: str, row: Mapping[str, Any], *, images: bool) -> Sample | Fault:
        try:
            caption, picture = _text(row[self.config.caption_column]), _text(row[self.config.image_column])
        except UnicodeDecodeError as error:
            return self._fault(key, reasons.CAPTION_NOT_UTF8, str(error)[:200])
        if not isinstance(caption, str):
            return self._fault(key, reasons.CAPTION_MISSING, f"it is {caption!r:.80}")
        if not isinstance(picture, str) or not picture:
            return self._fault(key, reasons.IMAGE_MISSING, f"the path is {picture!r:.80}")
        path = Path(picture) if Path(picture).is_absolute() else Path(self.path).parent / picture
        used = (self.config.caption_column, self.config.image_column)
        rest = {name: value for name, value in row.items() if name not in used}
        return attach_picture(self.name, key, caption, path, rest, images=images)

    def _fault(self, key: str, reason: str, detail: str) -> Fault:
        return Fault(shard=self.name, key=key, reason=reason, detail=utf8_text(detail))

    def _rows(self) -> Iterator[dict[str, Any] | str]:
        return self._text_rows() if Path(self.path).suffix.lower() in TEXT_TABLES else self._parquet_rows()

    def _text_rows(self) -> Iterator[dict[str, Any] | str]:
        with open(self.path, "rb") as file:
            rows = TextRows(file, self.start, self.separator)
            while rows.end < self.stop and (fields := rows.next_row()) is not None:
                wrong = rows.wrong(fields, len(self.columns))
                yield wrong or dict(zip(self.columns, fields, strict=True))

    def _parquet_rows(self) -> Iterator[dict[str, Any]]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        begin = 0
        try:
            with pq.ParquetFile(self.path) as file:
                for index in range(file.num_row_groups):
                    end = begin + file.metadata.row_group(index).num_rows
                    if end > self.first_row and begin < self.first_row + self.rows:
                        low, high = max(self.first_row - begin, 0), min(self.first_row + self.rows, end) - begin
                        yield from _records(file.read_row_group(index).slice(low, high - low))
                    begin = end
        except pa.ArrowException as error:
            raise OSError(" ".join(str(error).split())[:200]) from None


def _records(table: Any) -> Iterator[dict[str, Any]]:
    """Yield the rows of an Arrow table; a value Python cannot hold is None, text that is not UTF-8 its bytes."""
    columns = [_values(column) for column in table.columns]
    for values in zip(*columns, strict=True):
        yield dict(zip(table.column_names, values, strict=True))


def _values(column: Any) -> list[Any]:
    try:
        return list(column.to_pylist())
    except (ValueError, OverflowError):  # UnicodeDecodeError among them: Parquet's text is not checked on reading
        return [_value(scalar) for scalar in column]


def _value(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return scalar.as_buffer().to_pybytes() if hasattr(scalar, "as_buffer") else None
    except (ValueError, OverflowError):
        return None


def _key(value: Any) -> str:
    return "" if value is None else utf8_text(str(value))


def _text(value: Any) -> Any:
    """Decode bytes, which some writers of Parquet store text as; leave anything else as it is."""
    return value.decode("utf-8") if isinstance(value, bytes) else value


def table_shards(path: Path, name: str, config: DataConfig) -> list[TableShard]:
    """Cut a table into shards of `config.block_rows` rows; `name` is the stem of their names.

    Raises:
        DataError: unreadable file, no header, a needed column missing, no rows.
    """
    if path.suffix.lower() == ".parquet":
        return _parquet_shards(path, name, config)
    with open(path, "rb") as file:
        mark = file.read(len(codecs.BOM_UTF8))
        if mark.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise DataError(f"{path} is UTF-16; save it as UTF-8")
        start = len(mark) if mark == codecs.BOM_UTF8 else 0
        separator = config.separator or sniff_separator(
            first_line(file, start), (config.image_column, config.caption_column)
        )
        rows = TextRows(file, start, separator)
        columns = rows.next_row()
        if columns is None:
            raise DataError(f"{path} is empty; its first line must name the columns")
        _require_columns(path, columns, config)
        bounds = block_bounds(rows, config.block_rows)
    if len(bounds) == 1:
        raise DataError(f"{path} has a header but no rows")
    return [
        TableShard(
            name=f"{name}-{index:05d}",
            path=str(path),
            columns=tuple(columns),
            config=config,
            separator=separator,
            first_row=index * config.block_rows,
            rows=config.block_rows,
            start=start,
            stop=stop,
        )
        for index, (start, stop) in enumerate(itertools.pairwise(bounds))
    ]


def _parquet_shards(path: Path, name: str, config: DataConfig) -> list[TableShard]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {' '.join(str(error).split())[:160]}") from None
    columns = file.schema_arrow.names
    _require_columns(path, columns, config)
    total = file.metadata.num_rows
    if not total:
        raise DataError(f"{path} has no rows")
    return [
        TableShard(
            name=f"{name}-{index:05d}",
            path=str(path),
            columns=tuple(columns),
            config=config,
            separator="",
            first_row=first,
            rows=min(config.block_rows, total - first),
            start=0,
            stop=0,
        )
        for index, first in enumerate(range(0, total, config.block_rows))
    ]


def _require_columns(path: Path, columns: Sequence[str], config: DataConfig) -> None:
    named = {"image_column": config.image_column, "caption_column": config.caption_column}
    if config.key_column is not None:
        named["key_column"] = config.key_column
    for option, column in named.items():
        if column not in columns:
            there = ", ".join(map(repr, columns[:20]))
            raise DataError(f"{path} has no column {column!r}; it has {there}: use --set data.{option}=NAME")
    if len(set(columns)) != len(columns):
        twice = sorted({column for column in columns if columns.count(column) > 1})
        raise DataError(f"{path} has a column name twice: {', '.join(map(repr, twice))}; rename one")
