"""Parts of an earlier output used again: its parse and its features, where this run would make the same."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

from stillroom.artifacts import StageWriter, difference, open_stage, read_json, whole_file
from stillroom.concepts.captions import modifier_type
from stillroom.concepts.steps import FEATURES, PARSED, Work
from stillroom.errors import ArtifactError

log = logging.getLogger("stillroom")
PARTS = {"parsed": PARSED, "features": FEATURES}
COLUMNS = ["key", "caption", "objects", "attributes", "modifiers"]


def reuse_parts(earlier: Path, work: Work, out: Path) -> None:
    """Take over what can be used of an earlier output; say what is, what is not, and why not.

    Files are hard links where the file system has them, else copies. Nothing in `earlier` is changed: no file of an
    output is ever written in place.

    Args:
        earlier: output folder of `stillroom concepts`; it may be unfinished, a part that is used must be finished.
        work: of this run; a part is used if it was made from the same data by the same options as far as they matter.
        out: output folder of this run; what it has finished itself is left as it is.

    Raises:
        ArtifactError: `earlier` holds neither part.
    """
    if not any((earlier / part / "run.json").exists() for part in PARTS):
        raise ArtifactError(
            f"--reuse {earlier} is not an output of 'stillroom concepts': it has no parsed/ or features/"
        )
    said = []
    for part, stage in PARTS.items():
        if (out / part / "manifest.json").exists():
            continue
        why = why_not(earlier / part, work, stage)
        if why is None:
            _take(earlier / part, work.writer(out / part, stage))
        said.append(f"{part}/ is used again" if why is None else f"{part}/ is made anew ({why})")
    if said:
        log.info("--reuse %s: %s", earlier, "; ".join(said))


def why_not(part: Path, work: Work, stage: str) -> str | None:
    """Return why a run cannot use an earlier run's part; None if it can."""
    for name, why in (("run.json", "it is not there"), ("manifest.json", "it is unfinished")):
        if not (part / name).exists():
            return why
    run, wanted = read_json(part / "run.json"), work.identity(stage)
    if not isinstance(run, dict) or run.get("stage") != stage:
        return f"it is no output of {stage}"
    found = {name: run.get(name) for name in wanted}
    if found != wanted:
        return difference(found, wanted)
    return "another version of stillroom parsed it" if stage == PARSED and not _is_current(part) else None


def _is_current(parsed: Path) -> bool:
    """Whether parsed captions are stored in the form that this version reads."""
    output = open_stage(parsed, PARSED)
    table = output.shard(output.shards[0])
    return table.schema.names == COLUMNS and table.schema.field("modifiers").type.value_type == modifier_type()


def _take(part: Path, writer: StageWriter) -> None:
    """Link a finished part into a new folder, the manifest last as always."""
    for name in open_stage(part, writer.run["stage"]).shards:
        _link(part / "shards" / writer.shard_path(name).name, writer.shard_path(name))
    for name in ("summary.json", "environment.json", "manifest.json"):
        _link(part / name, writer.out / name)


def _link(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it where that is impossible (another disk, a file system without links)."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".{target.name}.part"
    temporary.unlink(missing_ok=True)
    try:
        os.link(source.resolve(), temporary)
        os.replace(temporary, target)
    except FileNotFoundError:
        raise ArtifactError(f"{source} is missing; delete {source.parent} or leave --reuse out") from None
    except OSError:
        with source.open("rb") as old, whole_file(target) as new:
            shutil.copyfileobj(old, new)
    finally:
        temporary.unlink(missing_ok=True)
