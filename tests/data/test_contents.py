"""Outputs are told from changed data, shard by shard, before keys are taken for other pairs."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stillroom.cli import main
from stillroom.data import open_data
from stillroom.data.config import DataConfig
from stillroom.data.contents import contents, require_same_contents
from stillroom.errors import ArtifactError
from stillroom.filter.config import FilterConfig
from stillroom.filter.kept import load_kept
from stillroom.filter.run import run

ROWS = [("a.png", "a red ball"), ("b.png", "two cats"), ("c.png", "an old car"), ("d.png", "a green door")]


@pytest.fixture
def folder(tmp_path, encode):
    for name, _ in ROWS:
        (tmp_path / name).write_bytes(encode())
    return tmp_path


def write_table(folder, rows, kind="tsv"):
    path = folder / f"pairs.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table({"filepath": [r[0] for r in rows], "title": [r[1] for r in rows]}), path)
    else:
        path.write_text("filepath\ttitle\n" + "".join(f"{image}\t{caption}\n" for image, caption in rows))
    return path


def described(path, **options):
    return contents(open_data(str(path), DataConfig(block_rows=2, **options)))


@pytest.mark.parametrize("kind", ["tsv", "parquet"])
@pytest.mark.parametrize(
    "changed",
    [
        ROWS[:2] + ROWS[3:],
        ROWS[::-1],
        [*ROWS[:3], ("d.png", "a green doorway")],
        [*ROWS[:3], ("d.png", "a green Door")],
    ],
)
def test_rows_that_are_gone_moved_or_edited_are_seen(folder, kind, changed):
    before = described(write_table(folder, ROWS, kind))
    assert list(before) == ["pairs-00000", "pairs-00001"]
    assert before == described(write_table(folder, ROWS, kind))
    assert before != described(write_table(folder, changed, kind))


def test_a_block_that_is_as_it_was_stays_the_same(folder):
    before = described(write_table(folder, ROWS))
    after = described(write_table(folder, [*ROWS, ("a.png", "a blue ball")]))
    assert [after[name] for name in before] == list(before.values())


def test_the_first_rows_of_a_shard_are_told_by_the_whole_shard(folder):
    path = write_table(folder, ROWS)
    assert described(path, max_per_shard=1) == described(path)


def test_tars_are_told_by_their_size_and_folders_by_names_and_sizes(tmp_path, encode, shapes_tar):
    tar = Path(shapes_tar)
    assert next(iter(described(tar).values())) == f"{tar.stat().st_size:,} bytes"
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "a.png").write_bytes(encode())
    (pictures / "a.txt").write_text("a red ball")
    before = described(pictures)
    (pictures / "a.txt").write_text("a red balloon")
    assert described(pictures) != before
    (pictures / "a.txt").unlink()
    assert described(pictures)["pictures-00000"].startswith("1 pictures, sha256 ")


def test_shards_over_a_network_are_left_out(shapes_tar):
    assert described(f"file://{shapes_tar}") == {}


def test_a_filter_does_not_take_changed_data_for_the_same(folder, capsys):
    table, config = write_table(folder, ROWS), FilterConfig(preset="off", workers=1)
    out = folder / "F"
    run(str(table), config, out)
    output = load_kept(out, ["pairs-00000"]).output
    require_same_contents(output, contents(open_data(str(table))))
    write_table(folder, ROWS[1:])
    with pytest.raises(ArtifactError, match=r"belongs to another run \(inputs.contents.pairs-00000: "):
        run(str(table), config, out)
    with pytest.raises(ArtifactError, match="DATA has changed since .*F was made"):
        require_same_contents(output, contents(open_data(str(table))))
    given = ["--out", str(folder / "G")]
    for arguments in (
        ["filter", "--reuse", str(out)],
        ["concepts", str(table), "--keep", str(out)],
        ["train", "tiny/student_minilm", str(table), "--keep", str(out), "--set", "loss.concept_weight=0"],
    ):
        with pytest.raises(SystemExit) as ended:
            main([*arguments, *given])
        assert ended.value.code == 2
        assert "DATA has changed since" in capsys.readouterr().err
    assert not (folder / "G").exists()
