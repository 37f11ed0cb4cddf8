"""Other thresholds on what an earlier run measured: only what they need beyond that is measured again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from stillroom.artifacts import StageOutput, open_stage
from stillroom.config_io import apply_settings, build, read_toml
from stillroom.data.contents import contents, require_same_contents
from stillroom.data.reasons import ADVICE
from stillroom.data.source import Shard, open_data
from stillroom.errors import ArtifactError, DataError
from stillroom.filter.config import THRESHOLDS, FilterConfig
from stillroom.filter.overlap import text_overlap
from stillroom.filter.rules import Measurements
from stillroom.filter.spotting import Spotting
from stillroom.filter.verdicts import Row


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """A finished filter output whose measurements are used again, and the config that made it."""

    output: StageOutput
    config: FilterConfig

    @property
    def data(self) -> str:
        """The DATA that it filtered."""
        return str(self.output.run["inputs"]["data"])

    @property
    def contents(self) -> dict[str, str]:
        """What DATA's shards held then, see `stillroom.data.contents`."""
        return dict(self.output.run["inputs"].get("contents", {}))

    def for_workers(self) -> Earlier:
        """Return a copy that can give rows, small enough to be sent with every shard."""
        return replace(self, output=self.output.for_workers())

    def rows(self, shard: str, config: FilterConfig) -> list[Row]:
        """Return the shard's rows with all that is still known of them under another config."""
        return [known_row(values, self.config, config) for values in self.output.shard(shard).to_pylist()]

    def shards(self, config: FilterConfig) -> list[Shard]:
        """Open DATA; where it is gone, return shards that say so once a picture is asked of them.

        Raises:
            ArtifactError: DATA has other shards by now, or they hold something else.
        """
        names = list(self.output.run["inputs"]["shards"])
        try:
            found = open_data(self.data, config.data)
        except DataError as error:
            return [_Gone(name=name, why=str(error)) for name in names]
        if [shard.name for shard in found] != names:
            raise ArtifactError(f"{self.data} has other shards than when {self.output.path} was made; filter it anew")
        require_same_contents(self.output, contents(found))
        return found


@dataclass(frozen=True, kw_only=True)
class _Gone:
    """A shard of DATA that can no longer be opened."""

    name: str
    why: str

    def samples(self, *, images: bool = True) -> NoReturn:
        raise DataError(f"the new thresholds need pictures of {self.name} that were not looked at, and {self.why}")


def open_earlier(folder: Path) -> Earlier:
    """Open a finished filter output to be used again.

    Raises:
        ArtifactError: not one, or of a version with other columns.
    """
    output = open_stage(folder, "filter")
    try:
        config = build(FilterConfig, output.run["config"], source=str(folder / "run.json"))
    except ValueError as error:
        raise ArtifactError(f"{folder} is of another version of stillroom ({error}); filter its DATA again") from None
    return Earlier(output=output, config=config)


def changed_config(earlier: Earlier, *, path: Path | None = None, settings: Sequence[str] = ()) -> FilterConfig:
    """Build the config of `earlier` with a TOML file and `--set` options on top.

    A preset among the changes replaces all thresholds that are not named with it.
    """
    changes = apply_settings(read_toml(path) if path is not None else {}, settings)
    base: dict[str, Any] = dict(earlier.config.identity())
    if "preset" in changes:
        base = {name: value for name, value in base.items() if name not in THRESHOLDS}
    source = "--set" if path is None else f"{path} with --set" if settings else str(path)
    return build(FilterConfig, {**base, **changes}, source=source)


def known_row(values: dict[str, Any], before: FilterConfig, now: FilterConfig) -> Row:
    """Return a row of a verdict table as one that is measured under `now`, empty where that takes another measurement.

    Faults stay: a picture once found broken is not asked again.
    """
    caption = values["caption"]
    row = Row(key=values["key"], caption=caption, detail=values["detail"])
    row.measured = Measurements(
        caption_chars=None if caption is None else len(caption.strip()),
        pwatermark=values["pwatermark"],
        punsafe=values["punsafe"],
        nsfw=values["nsfw"],
        similarity=values["similarity"],
        faults=tuple(reason for reason in values["reasons"] if reason in ADVICE),
    )
    if values["width"] is not None:
        row.set_size(values["width"], values["height"])
    row.decoded = bool(values["image_decoded"])
    row.language_asked = values["language"] is not None
    row.measured.language = values["language"] or None
    if now.parser == before.parser and values["actions"] is not None:
        row.measured.complexity, row.actions, row.graph = values["complexity"], values["actions"], values["graph"]
        row.measured.actions = len(row.actions or ())
    # Pictures are decoded no larger than the detector needs them, so its side shows in all that is told by the picture.
    if now.text_side == before.text_side:
        row.picture_hash = values["picture_hash"]
        if now.similarity_model == before.similarity_model:
            row.measured.model_similarity = values["model_similarity"]
        if now.text_min_side == before.text_min_side:
            row.spotting = known_spotting(values, before, now)
            row.measured.text_overlap = row.spotting.overlap
    return row


def known_spotting(values: dict[str, Any], before: FilterConfig, now: FilterConfig) -> Spotting:
    """Return what an earlier search for lettering still tells; empty where it stopped too early for `now`."""
    if values["text_overlap"] is None:
        return Spotting(skipped=values["text_skipped"])
    found = Spotting(
        texts=tuple(values["spotted_text"]),
        confidences=tuple(values["spotted_confidence"]),
        boxes=tuple(map(tuple, values["spotted_boxes"])),
        overlap=values["text_overlap"],
        exact=values["text_overlap_exact"],
    )
    if now.text_confidence > before.text_confidence:
        found = _surer(found, values["caption"], now.text_confidence)
    unread = not found.exact and (now.measure_all or (found.overlap or 0) < (now.text_overlap or 0))
    # Less sure pieces were read and forgotten.
    return Spotting() if unread or now.text_confidence < before.text_confidence else found


def _surer(found: Spotting, caption: str, confidence: float) -> Spotting:
    pieces = zip(found.texts or (), found.confidences or (), found.boxes or (), strict=True)
    left = [piece for piece in pieces if piece[1] >= confidence]
    return replace(
        found,
        texts=tuple(text for text, _, _ in left),
        confidences=tuple(sure for _, sure, _ in left),
        boxes=tuple(box for _, _, box in left),
        overlap=text_overlap(caption, [text for text, _, _ in left]),
    )
