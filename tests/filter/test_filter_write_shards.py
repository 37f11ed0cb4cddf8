"""Kept pairs as shards: read by webdataset, open_clip and this package, with equal bytes whatever came in between."""

import hashlib
import io
import json
import os
import shutil
import tarfile

import pyarrow.parquet as pq
import pytest
import webdataset as wds
from PIL import Image

from stillroom.data import open_data
from stillroom.data.config import DataConfig
from stillroom.errors import ArtifactError, ConfigError, DataError
from stillroom.filter import write_shards
from stillroom.filter.config import FilterConfig
from stillroom.filter.run import run
from stillroom.filter.shard_entry import DEEPEST, make_entry, plain
from stillroom.filter.write_shards import write_kept_shards

CONFIG = FilterConfig(preset="off", min_caption_chars=5, workers=1)
COLOURS = ("red", "green", "blue", "black", "navy", "teal", "gold", "pink")


def picture(number, kind):
    image = Image.new("RGB", (20 + number, 10 + number), COLOURS[number])
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


KINDS = ("PNG", "JPEG", "WEBP", "GIF", "PNG", "JPEG", "TIFF", "PNG")
PICTURES = [picture(number, kind) for number, kind in enumerate(KINDS)]
CAPTIONS = [f"a {colour} – flächige – picture" for colour in COLOURS]
METADATA = {
    "url": "http://example.org/0",
    "original_width": 640,
    "original_height": 480,
    "sha256": "ab" * 32,
    "exif": "{}",
    "pwatermark": "0.25",
    "punsafe": float("nan"),
    "NSFW": "UNLIKELY",
    "key": "000000123",
    "tags": ["x", {"deep": 1}],
}


@pytest.fixture
def data(tmp_path, make_tar):
    """Three tars, the pairs numbered through; the short captions and the broken picture are not kept."""
    pairs = [(f"{number:03d}", CAPTIONS[number], PICTURES[number]) for number in range(8)]
    (tmp_path / "data").mkdir()
    make_tar(tmp_path / "data" / "a.tar", [(*pairs[0], METADATA), ("x", "no", PICTURES[0]), *pairs[1:5]])
    make_tar(tmp_path / "data" / "b.tar", [("000", "card", PICTURES[1]), ("001", CAPTIONS[0], b"broken")])
    make_tar(tmp_path / "data" / "c.tar", [("000", "shot", PICTURES[1]), *pairs[5:]])
    run(str(tmp_path / "data"), CONFIG, tmp_path / "out")
    return tmp_path


def write(data, name="kept", *, pairs=3, workers=1):
    return write_kept_shards(open_data(str(data / "data")), data / "out", data / name, pairs=pairs, workers=workers)


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def as_png(number):
    """GIF and TIFF become PNG; the rest is as it was."""
    return KINDS[number] in ("GIF", "TIFF")


def test_webdataset_reads_the_kept_pairs_in_order(data):
    found = write(data)
    assert found["shards"] == 3
    assert found["pairs"] == 8
    assert found["bytes"] == sum((data / "kept" / f"0000{i}.tar").stat().st_size for i in range(3))
    url = str(data / "kept" / "{00000..00002}.tar")
    samples = list(wds.WebDataset(url, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [f"{i // 3:05d}{i % 3:04d}" for i in range(8)]
    assert [sample["txt"].decode() for sample in samples] == CAPTIONS
    for number, sample in enumerate(samples):
        extension = {"JPEG": "jpg", "WEBP": "webp"}.get(KINDS[number], "png")
        assert as_png(number) or sample[extension] == PICTURES[number]
        decoded = Image.open(io.BytesIO(sample[extension]))
        assert decoded.format == {"jpg": "JPEG", "webp": "WEBP", "png": "PNG"}[extension]
        original = Image.open(io.BytesIO(PICTURES[number])).convert("RGB")
        assert decoded.convert("RGB").tobytes() == original.tobytes()


def test_open_clips_pipeline_reads_every_pair(data):
    write(data)
    from open_clip_train.data import filter_no_caption_or_no_image, get_dataset_size

    url = str(data / "kept" / "{00000..00002}.tar")
    steps = (
        wds.SimpleShardList(url),
        wds.tarfile_to_samples(),
        wds.select(filter_no_caption_or_no_image),
        wds.decode("pilrgb"),
        wds.rename(image="jpg;png;jpeg;webp", text="txt"),
        wds.to_tuple("image", "text"),
    )
    found = list(wds.DataPipeline(*steps))
    assert [text for _, text in found] == CAPTIONS
    assert [image.size for image, _ in found] == [(20 + number, 10 + number) for number in range(8)]
    assert get_dataset_size(url) == (8, 3)


def test_stillroom_reads_them_as_data(data):
    write(data)
    shards = open_data(str(data / "kept"))
    assert [shard.name for shard in shards] == ["kept-00000", "kept-00001", "kept-00002"]
    samples = [sample for shard in shards for sample in shard.samples()]
    assert [sample.caption for sample in samples] == CAPTIONS
    origins = [(sample.metadata["original_shard"], sample.metadata["original_key"]) for sample in samples]
    kept = pq.read_table(data / "out" / "kept.parquet").to_pylist()
    assert origins == [(row["shard"], row["key"]) for row in kept]


def test_json_table_and_stats_are_as_img2dataset_writes_them(data):
    write(data)
    first = next(iter(wds.WebDataset(str(data / "kept" / "00000.tar"), shardshuffle=False)))
    assert json.loads(first["json"]) == {
        **METADATA,
        "punsafe": None,
        "caption": CAPTIONS[0],
        "key": "000000000",
        "status": "success",
        "error_message": None,
        "width": 20,
        "height": 10,
        "original_shard": "data-a",
        "original_key": "000",
    }
    rows = pq.read_table(data / "kept" / "00000.parquet").to_pylist()
    assert rows[0] == {
        "caption": CAPTIONS[0],
        "url": "http://example.org/0",
        "key": "000000000",
        "status": "success",
        "error_message": None,
        "width": 20,
        "height": 10,
        "original_width": 640,
        "original_height": 480,
        "exif": "{}",
        "sha256": "ab" * 32,
        "pwatermark": 0.25,
        "punsafe": None,
        "similarity": None,
        "NSFW": "UNLIKELY",
        "original_shard": "data-a",
        "original_key": "000",
    }
    assert (rows[1]["width"], rows[1]["original_width"], rows[1]["url"]) == (21, 21, None)
    assert rows[1]["sha256"] == hashlib.sha256(PICTURES[1]).hexdigest()
    assert json.loads((data / "kept" / "00002_stats.json").read_text()) == {
        "count": 2,
        "successes": 2,
        "failed_to_download": 0,
        "failed_to_resize": 0,
        "duration": 0,
        "start_time": 0,
        "end_time": 0,
        "status_dict": {"success": 2},
    }
    assert json.loads((data / "kept" / "sizes.json").read_text()) == {"00000.tar": 3, "00001.tar": 3, "00002.tar": 2}
    with tarfile.open(data / "kept" / "00000.tar") as tar:
        assert {(m.mode, m.mtime, m.uid, m.gid, m.uname, m.gname) for m in tar} == {(0o644, 0, 0, 0, "", "")}


def test_two_processes_write_what_one_writes(data):
    write(data, "one")
    write(data, "two", workers=2)
    assert files(data / "one") == files(data / "two")
    assert len(files(data / "one")) == 10


def test_keys_have_room_for_more_than_10000_pairs(data):
    assert write(data, pairs=10_001) == {"shards": 1, "pairs": 8, "bytes": (data / "kept/00000.tar").stat().st_size}
    assert [row["key"] for row in pq.read_table(data / "kept" / "00000.parquet").to_pylist()][-1] == "0000000007"


@pytest.mark.parametrize("stop", range(10))
def test_killed_between_files_it_goes_on_with_the_same_bytes(data, monkeypatch, stop):
    """Three files to each of three shards, and the sizes: each appears when it is renamed."""
    write(data, "whole")
    renamed, real = [], os.replace

    def dies(source, target):
        if len(renamed) == stop:
            raise KeyboardInterrupt
        renamed.append(target)
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dies)
        with pytest.raises(KeyboardInterrupt):
            write(data)
    assert len(list((data / "kept").glob("*_stats.json"))) == stop // 3
    (data / "kept" / ".half.part").write_bytes(b"left by SIGKILL")
    write(data)
    assert files(data / "kept") == files(data / "whole")


def test_finished_shards_are_left_alone(data, monkeypatch):
    found = write(data)
    (data / "kept" / "00001_stats.json").unlink()
    made = []
    monkeypatch.setattr(write_shards, "make_entry", lambda sample, key: made.append(key) or make_entry(sample, key))
    assert write(data) == found
    assert made == ["000010000", "000010001", "000010002"]


def test_shards_of_another_run_are_refused(data):
    write(data)
    with pytest.raises(ArtifactError, match=r"kept holds 00002.tar, which is none of the 2 shards"):
        write(data, pairs=4)
    with pytest.raises(ArtifactError, match=r"kept holds a shard 00000 of another run, or a damaged one"):
        write(data, pairs=2)
    table = (data / "kept" / "00001.parquet").rename(data / "kept" / "of 00001")
    shutil.copy(data / "kept" / "00000.parquet", table.with_name("00001.parquet"))
    with pytest.raises(ArtifactError, match=r"kept holds a shard 00001 of another run, or a damaged one"):
        write(data)
    (data / "kept" / "00000.tar").unlink()
    with pytest.raises(ArtifactError, match=r"kept holds a shard 00000 of another run, or a damaged one"):
        write(data)
    (data / "file").touch()
    with pytest.raises(ArtifactError, match=r"file is a file"):
        write(data, "file")
    with pytest.raises(ConfigError, match="0 pairs to a shard"):
        write(data, pairs=0)


def test_a_pair_that_is_gone_is_said_in_one_line(data, make_tar):
    shards = open_data(str(data / "data"))
    path = data / "data" / "c.tar"
    pairs = [(f"{number:03d}", CAPTIONS[number], PICTURES[number]) for number in (5, 7)]
    make_tar(path, pairs)
    with pytest.raises(
        DataError, match=r"^shard 'data-c' has lost the pair '006', which .*out keeps \(it is not there\)"
    ):
        write(data)
    assert {name[:5] for name in files(data / "kept")} == {"00000", "00001"}
    make_tar(path, [pairs[0], ("006", CAPTIONS[6], None), pairs[1]])
    with pytest.raises(DataError, match=r"the pair '006', .* \(image_missing: only .txt\)"):
        write(data)
    path.write_bytes(path.read_bytes()[:1600])
    with pytest.raises(DataError, match=r"the pair '005', .* \(shard_truncated: .*c.tar"):
        write(data, "again")
    path.unlink()
    with pytest.raises(DataError, match=r"the pair '005', .* \(shard_unreadable: .*c.tar"):
        write_kept_shards(shards, data / "out", data / "again", pairs=3, workers=1)


def test_tables_and_folders_too(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.{KINDS[number].lower()}").write_bytes(PICTURES[number])
        (folder / f"{number}.txt").write_text(CAPTIONS[number])
    rows = [f"{number}.{KINDS[number].lower()}\t{CAPTIONS[number]}\t{number / 4}" for number in range(4)]
    (folder / "table.tsv").write_text("\n".join(["filepath\ttitle\tsimilarity", *rows]))
    for name, place, keys in (
        ("table", folder / "table.tsv", ["0", "1", "2", "3"]),
        ("folder", folder, ["0.png", "1.jpeg", "2.webp", "3.gif"]),
    ):
        config = DataConfig(block_rows=3)
        run(str(place), FilterConfig(preset="off", workers=1, data=config), tmp_path / name)
        shards = open_data(str(place), config)
        kept = tmp_path / name / "kept"
        write_kept_shards(shards, tmp_path / name, kept, pairs=2, workers=1)
        written = [row for path in sorted(kept.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
        assert [(row["original_key"], row["caption"]) for row in written] == list(zip(keys, CAPTIONS, strict=False))
        assert [row["similarity"] for row in written] == ([0.0, 0.25, 0.5, 0.75] if name == "table" else [None] * 4)
        assert not list(tmp_path.glob("**/.*"))


def test_nothing_kept_is_an_empty_folder(tmp_path, make_tar):
    make_tar(tmp_path / "a.tar", [("0", "no", PICTURES[0])])
    run(str(tmp_path / "a.tar"), CONFIG, tmp_path / "out")
    shards = open_data(str(tmp_path / "a.tar"))
    found = write_kept_shards(shards, tmp_path / "out", tmp_path / "kept", workers=2)
    assert found == {"shards": 0, "pairs": 0, "bytes": 0}
    assert list(files(tmp_path / "kept")) == ["sizes.json"]


def test_a_picture_kept_undecoded_stays_what_it_is(tmp_path, make_tar):
    make_tar(tmp_path / "a.tar", [("0", CAPTIONS[0], b"not a picture"), ("1", "caption \0 \u202e", PICTURES[1])])
    run(str(tmp_path / "a.tar"), FilterConfig(preset="off", decode_images=False, workers=1), tmp_path / "out")
    write_kept_shards(open_data(str(tmp_path / "a.tar")), tmp_path / "out", tmp_path / "kept", workers=1)
    first, second = wds.WebDataset(str(tmp_path / "kept" / "00000.tar"), shardshuffle=False)
    assert first["jpg"] == b"not a picture"
    assert (json.loads(first["json"])["width"], second["txt"]) == (None, "caption \0 \u202e".encode())


def test_metadata_become_strict_json():
    deep = deepest = []
    for _ in range(DEEPEST + 5):
        deepest.append([])
        deepest = deepest[0]
    assert plain({"a": float("inf"), 1: (True, b"\xff", 2**80)}) == {"a": None, "1": [True, "\\xff", 2**80]}
    assert str(plain(deep)).count("[") == DEEPEST
