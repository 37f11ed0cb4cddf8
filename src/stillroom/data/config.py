"""How a data set is read."""

from __future__ import annotations

from dataclasses import dataclass, field

from stillroom.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Options of the reader; the column names matter for tables only.

    Attributes:
        image_column: column with the picture's path, relative to the table's folder or absolute.
        caption_column: column with the caption.
        key_column: column with a unique key; without it, the row number is the key.
        separator: of a CSV/TSV file; without it, it is found out from the header.
        block_rows: how many rows of a table, or files of a folder, make one shard, the unit of work (our choice).
        max_per_shard: read only so many pairs from the front of each shard, for a trial run; without it, all.
    """

    image_column: str = "filepath"
    caption_column: str = "title"
    key_column: str | None = None
    separator: str | None = None
    block_rows: int = 10_000
    max_per_shard: int | None = None

    def __post_init__(self) -> None:
        if self.block_rows < 1:
            raise ConfigError(f"block_rows is {self.block_rows}; it must be at least 1")
        if self.max_per_shard is not None and self.max_per_shard < 1:
            raise ConfigError(f"max_per_shard is {self.max_per_shard}; it must be at least 1")
        if self.separator is not None and len(self.separator) != 1:
            raise ConfigError(f'separator is {self.separator!r}; it must be one character, e.g. "\\t"')


@dataclass(frozen=True, kw_only=True)
class CheckConfig:
    """Options of `stillroom check`: those of the reader, under the name they have in every stage's config.

    Attributes:
        data: how DATA is read.
    """

    data: DataConfig = field(default_factory=DataConfig)
