"""One shard of pairs to a table of measurements and verdicts; the same function whatever runs it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING

import pyarrow as pa

from stillroom.data.images import ImageError, decode_image, open_image
from stillroom.data.reasons import ADVICE
from stillroom.data.source import Shard
from stillroom.errors import DataError
from stillroom.filter.config import FilterConfig
from stillroom.filter.explain import graph_text
from stillroom.filter.graph import graph_actions, graph_complexity
from stillroom.filter.language import caption_language, require_language_detector
from stillroom.filter.parser import graphs_that_can_pass, load_parser, require_parser
from stillroom.filter.picture_hash import picture_hash, require_picture_hash
from stillroom.filter.reader import require_reader, text_reader
from stillroom.filter.rules import rules_on
from stillroom.filter.similarity import pair_scorer
from stillroom.filter.spotting import CAPTION_TOO_SHORT, PICTURE_TOO_SMALL, Reader, Spotter, Spotting
from stillroom.filter.verdicts import SCHEMA, Row, read_row, to_table

if TYPE_CHECKING:
    from PIL import Image
    from spacy.language import Language

# Pairs whose encoded pictures, and whose decoded pictures, are in memory at once. Neither shows in the output.
BATCH = 256
DECODED = 32

Graph = tuple[int | None, list[str], str | None]  # complexity, lemmas of the acting verbs, the graph as a line


def filter_shard(
    shard: Shard,
    config: FilterConfig,
    *,
    known: Callable[[], list[Row]] | None = None,
    reader: Reader | None = None,
) -> pa.Table:
    """Measure and judge every pair of a shard by all rules but those that look at the whole set.

    Args:
        shard: where the pairs come from; faults become rows too.
        config: the thresholds.
        known: gives the rows of the very shard as an earlier run measured them; what they know is not measured again,
            and the shard is read only if a picture is needed.
        reader: finds and reads lettering; RapidOCR's models otherwise, loaded if the text rule is on.

    Returns:
        one row a pair or fault, in the order of the shard, with the columns of `SCHEMA`.

    Raises:
        DataError: with `strict`, at the first pair that cannot be used; the shard is not the one that `known` is of.
    """
    measure = Measurer(config, reader)
    batches = measure.fresh(shard) if known is None else measure.again(shard, known())
    tables = [SCHEMA.empty_table()]
    for batch in batches:
        if config.strict:
            refuse_faults(shard.name, batch)
        tables.append(to_table(batch, config))
    return pa.concat_tables(tables).combine_chunks()


def refuse_faults(shard: str, rows: Iterable[Row]) -> None:
    """Raise `DataError` at the first row with a fault."""
    for row in rows:
        if row.measured.faults:
            raise fault_error(shard=shard, key=row.key, reason=row.measured.faults[0], detail=row.detail or "")


def fault_error(*, shard: str, key: str, reason: str, detail: str) -> DataError:
    """Return what `strict` says of a pair, or of a shard (`key` empty), that cannot be used."""
    where = f"{shard}, '{key}'" if key else shard
    said = f" ({detail})" if detail else ""
    return DataError(f"{where}: {reason}{said}; {ADVICE[reason]}. Without --strict it is counted and left out")


class Measurer:
    """Fills in what the rules need to know of rows, in the rules' order, and nothing of a row that failed already."""

    def __init__(self, config: FilterConfig, reader: Reader | None = None) -> None:
        self.config = config
        self.rules = rules_on(config)
        self.parsed: dict[str, Graph] = {}  # of the captions that this shard has seen
        self.spotter: Spotter | None = None
        if config.text_overlap is not None:
            self.spotter = Spotter(
                reader=reader or text_reader(),
                threshold=config.text_overlap,
                confidence=config.text_confidence,
                min_side=config.text_min_side,
                side=config.text_side,
                exhaustive=config.measure_all,
            )

    def fresh(self, shard: Shard) -> Iterator[list[Row]]:
        """Yield the shard's rows, measured, a batch at a time."""
        items = iter(shard.samples(images=reads_pictures(self.config)))
        while batch := [read_row(item) for item in islice(items, BATCH)]:
            self.read_sizes(batch)
            self.read_captions(batch)
            self.look(batch)
            for row in batch:
                row.image = None
            yield batch

    def again(self, shard: Shard, rows: list[Row]) -> Iterator[list[Row]]:
        """Yield rows of an earlier run with what is missing filled in."""
        self.read_captions(rows)
        if not any(self.needs_picture(row) for row in rows):
            yield rows
            return
        samples = iter(shard.samples())
        for start in range(0, len(rows), BATCH):
            batch = rows[start : start + BATCH]
            for row in batch:
                item = next(samples, None)
                if item is None or item.key != row.key or getattr(item, "caption", None) != row.caption:
                    raise DataError(f"{shard.name} is not what it was when it was filtered; filter without --reuse")
                row.image = getattr(item, "image", None)
            self.read_sizes(batch)
            self.look(batch)
            for row in batch:
                row.image = None
            yield batch

    def wanted(self, row: Row) -> bool:
        """Whether measuring goes on: the pair is whole, and has passed so far or everything is to be measured."""
        if row.measured.faults:
            return False
        return self.config.measure_all or not any(rule.fails(row.measured, self.config) for rule in self.rules)

    def needs_picture(self, row: Row) -> bool:
        """Whether a rule that is still to be asked, or `decode_images`, has to see the picture."""
        return self.wanted(row) and (self._needs_size(row) or self._needs_decoding(row))

    def _needs_size(self, row: Row) -> bool:
        asked = self.config.min_picture_side is not None or self.config.max_aspect_ratio is not None
        return asked and row.width is None

    def _needs_decoding(self, row: Row) -> bool:
        return (
            (self.config.decode_images and not row.decoded)
            or self._needs_text(row)
            or self._needs_score(row)
            or self._needs_hash(row)
        )

    def _needs_text(self, row: Row) -> bool:
        if self.spotter is None or row.measured.text_overlap is not None or row.caption is None:
            return False
        return row.spotting.skipped != PICTURE_TOO_SMALL and not self.spotter.skips(row.caption)

    def _needs_score(self, row: Row) -> bool:
        return self.config.min_model_similarity is not None and row.measured.model_similarity is None

    def _needs_hash(self, row: Row) -> bool:
        return self.config.near_duplicate_distance is not None and row.picture_hash is None

    def read_sizes(self, rows: Iterable[Row]) -> None:
        """Read the pictures' sides off their headers."""
        for row in rows:
            if self._needs_size(row) and self.wanted(row):
                _open(row)

    def read_captions(self, rows: Sequence[Row]) -> None:
        """Tell the captions' languages and parse them, each different one once."""
        if self.config.language is not None:
            for row in rows:
                if not row.language_asked and self.wanted(row):
                    row.measured.language = caption_language(row.caption or "")
                    row.language_asked = True
        todo = [row for row in rows if self._needs_graph(row) and self.wanted(row)]
        new = list(dict.fromkeys(row.caption or "" for row in todo if row.caption not in self.parsed))
        if new:
            self.parsed.update(zip(new, self._graphs(new), strict=True))
        for row in todo:
            row.measured.complexity, row.actions, row.graph = self.parsed[row.caption or ""]
            row.measured.actions = len(row.actions)

    def _needs_graph(self, row: Row) -> bool:
        complexity = self.config.min_complexity is not None and row.measured.complexity is None
        return complexity or (self.config.min_actions is not None and row.actions is None)

    def _graphs(self, captions: list[str]) -> Iterator[Graph]:
        # Where no word can act there is no need to parse, unless everything is to be measured.
        least = None if self.config.measure_all else self.config.min_actions
        for graph in graphs_that_can_pass(_parser(self.config.parser), captions, min_actions=least):
            if graph is None:
                yield None, [], None
            else:
                yield graph_complexity(graph), graph_actions(graph), graph_text(graph)

    def look(self, rows: Sequence[Row]) -> None:
        """Decode the pictures that are needed, each once: search them, score them, hash them."""
        for start in range(0, len(rows), DECODED):
            seen = [found for row in rows[start : start + DECODED] if (found := self._search(row)) is not None]
            asked = [(row, image) for row, image in seen if self.wanted(row) and self._needs_score(row)]
            if asked:
                scorer = pair_scorer(self.config.similarity_model)
                scores = scorer.score([image for _, image in asked], [row.caption or "" for row, _ in asked])
                for (row, _), score in zip(asked, scores, strict=True):
                    row.measured.model_similarity = score
            for row, image in seen:
                if self._needs_hash(row) and self.wanted(row):
                    row.picture_hash = picture_hash(image)

    def _search(self, row: Row) -> tuple[Row, Image.Image] | None:
        """Decode one picture and search it for its caption; None if it is not needed or cannot be decoded."""
        if not self.wanted(row):
            return None
        caption = row.caption or ""
        if self.spotter is not None and row.measured.text_overlap is None and self.spotter.skips(caption):
            row.spotting = Spotting(skipped=CAPTION_TOO_SHORT)
        if not self._needs_decoding(row) or not _open(row):
            return None
        try:
            # Twice the detector's side: letters large enough to be found are still read at full sharpness.
            image = decode_image(row.image or b"", reduce_to=2 * self.config.text_side)
        except ImageError as error:
            row.add_fault(error.reason, str(error))
            return None
        row.decoded = True
        if self.spotter is not None and self._needs_text(row):
            row.spotting = self.spotter.spot(image, caption)
            row.measured.text_overlap = row.spotting.overlap
        return row, image


def _open(row: Row) -> bool:
    """Read the picture's header; False, and a fault, if there is none."""
    if row.width is None:
        try:
            row.set_size(*open_image(row.image or b"").size)
        except ImageError as error:
            row.add_fault(error.reason, str(error))
            return False
    return True


@lru_cache(maxsize=1)
def _parser(name: str) -> Language:
    return load_parser(name)


def reads_pictures(config: FilterConfig) -> bool:
    """Whether anything looks at pictures."""
    rules = ("text_overlap", "min_model_similarity", "near_duplicate_distance", "min_picture_side", "max_aspect_ratio")
    return config.decode_images or any(getattr(config, name) is not None for name in rules)


def check_tools(config: FilterConfig) -> None:
    """Find out in the first seconds what is missing for the rules that are on, before any process is spawned.

    Raises:
        MissingDependencyError: a package.
        ConfigError: the spaCy pipeline, or the model for similarity.
    """
    if config.language is not None:
        require_language_detector()
    if config.min_complexity is not None or config.min_actions is not None:
        require_parser(config.parser)
    if config.text_overlap is not None:
        require_reader()
    if config.near_duplicate_distance is not None:
        require_picture_hash()
    if config.min_model_similarity is not None:
        pair_scorer(config.similarity_model)
