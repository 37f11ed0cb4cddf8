"""From DATA as the user writes it to shards with names of their own."""

import itertools

import fsspec
import pytest

from stillroom.data import DataConfig, open_data
from stillroom.data.source import unique_names
from stillroom.errors import DataError
from stillroom.records import Fault


def names(data, **options):
    return [shard.name for shard in open_data(str(data), DataConfig(**options))]


def captions(data, **options):
    items = [item for shard in open_data(str(data), DataConfig(**options)) for item in shard.samples()]
    assert not [item for item in items if isinstance(item, Fault)]
    return [item.caption for item in items]


def refused(data, *said):
    with pytest.raises(DataError) as caught:
        open_data(str(data))
    assert "\n" not in str(caught.value)
    for text in said:
        assert text in str(caught.value)


@pytest.fixture
def tars(tmp_path, make_tar):
    """Four tars of one pair each, `d/00000.tar` to `d/00003.tar`; the caption is the number."""
    for number in range(4):
        make_tar(tmp_path / "d" / f"{number:05d}.tar", {"k.png": b"picture", "k.txt": str(number).encode()})
    return tmp_path / "d"


@pytest.fixture
def everywhere(tmp_path, shapes, shapes_tar):
    """The shapes as a tar, a table and a folder."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for shape in shapes:
        (folder / f"{shape.key}.png").write_bytes(shape.picture)
        (folder / f"{shape.key}.txt").write_text(shape.caption)
    rows = [f"pictures/{shape.key}.png\t{shape.caption}\n" for shape in shapes]
    (tmp_path / "table.tsv").write_text("filepath\ttitle\n" + "".join(rows))
    return [shapes_tar, tmp_path / "table.tsv", folder]


@pytest.mark.parametrize("block_rows", [3, 100])
def test_no_stage_knows_what_it_got(everywhere, shapes, block_rows):
    for data in everywhere:
        items = [s for shard in open_data(str(data), DataConfig(block_rows=block_rows)) for s in shard.samples()]
        assert [(s.caption, s.image) for s in items] == [(s.caption, s.picture) for s in shapes]
        places = []
        for sample in items:
            with fsspec.open(sample.image_ref.url) as file:
                file.seek(sample.image_ref.offset)
                places.append(file.read(-1 if sample.image_ref.size is None else sample.image_ref.size))
        assert places == [s.picture for s in shapes]


def test_several_parts_joined(everywhere, shapes):
    data = "::".join(map(str, everywhere))
    assert captions(data, block_rows=5) == [shape.caption for shape in shapes] * 3
    assert names(data, block_rows=5) == [
        "shapes-00000",
        *(f"table-{i:05d}" for i in range(3)),
        *(f"pictures-{i:05d}" for i in range(3)),
    ]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("", "0123"),
        ("/00001.tar", "1"),
        ("/*.tar", "0123"),
        ("/0000[13].tar", "13"),
        ("/0000?.tar", "0123"),
        ("/{00000..00002}.tar", "012"),
        ("/{00002..00000}.tar", "210"),
        ("/{00003,00000}.tar", "30"),
        ("/0000{0,[23]}.tar", "023"),
        ("/00003.tar::D/00001.tar", "31"),
    ],
)
def test_patterns_of_tars(tars, pattern, expected):
    data = f"{tars}{pattern.replace('D', str(tars))}"
    assert captions(data) == list(expected)
    assert names(data) == [f"d-0000{number}" for number in expected]


def test_patterns_relative_to_where_one_is(tars, monkeypatch):
    monkeypatch.chdir(tars)
    assert names("*.tar") == names("./*.tar") == [f"0000{number}" for number in range(4)]
    assert names("../d/*.tar") == [f"d-0000{number}" for number in range(4)]


def test_file_names_that_look_like_patterns(tmp_path, make_tar):
    for name in ("{a,b}.tar", "[x].tar", "q?.tar", "a b.tar", "s*r.tar"):
        path = make_tar(tmp_path / "odd" / name, {"k.png": b"", "k.txt": name.encode()})
        assert captions(path) == [name]
    assert len(set(names(tmp_path / "odd"))) == 5


def test_hidden_files_in_a_folder_of_tars_are_left_out(tars):
    (tars / "._00000.tar").write_bytes(b"as macOS leaves them")
    assert len(names(tars)) == 4


def test_among_shards_what_cannot_be_opened_is_a_shard_too(tars):
    (tars / "00004.tar").mkdir()
    (tars / "00005.tar").symlink_to("absent")
    for data in (tars, tars / "*.tar", f"{tars}/{{00003..00005}}.tar"):
        *_, three, four, five = open_data(str(data))
        assert [item.caption for item in three.samples()] == ["3"]
        assert [item.reason for shard in (four, five) for item in shard.samples()] == ["shard_unreadable"] * 2


def test_folders_of_pictures_may_be_named_like_tars(tmp_path, encode):
    (tmp_path / "x.tar").mkdir()
    (tmp_path / "x.tar" / "a.png").write_bytes(encode())
    (tmp_path / "x.tar" / "a.txt").write_text("a red card")
    assert captions(tmp_path) == captions(tmp_path / "x.tar") == ["a red card"]


def test_a_brace_pattern_may_be_longer_than_a_file_name(tars):
    refused(f"{tars}/{{{','.join(['00000'] * 100)}}}.tar", "twice")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("absent", "nothing at 'absent'"),
        ("absent/*.tar", "nothing at 'absent/*.tar'"),
        ("d/{00000..00009}.tar", "nothing at 'd/00004.tar'"),
        ("d/{00000.tar", "unbalanced braces"),
        ("", "empty part"),
        ("d::", "empty part"),
        ("d::::d", "empty part"),
        ("d::absent", "nothing at 'absent'"),
        ("d::d", "twice"),
        ("d/00001.tar::d", "twice"),
        ("d::./d/../d/00002.tar", "twice"),
        ("nothing", "neither .tar shards nor pictures"),
        ("notes.txt", "none of .tar, .csv, .tsv, .parquet or a folder"),
        ("*", "not all tars"),
        ("s3://bucket/{0.tar", "unbalanced braces"),
        ("nosuchprotocol://x.tar", "nosuchprotocol"),
        ("memory://absent.tar", "nothing at"),
        ("memory://absent/*.tar", "nothing at"),
        ("memory://folder/{0..1}.csv", "not a .tar"),
    ],
)
def test_what_cannot_be_opened_is_one_line(tars, monkeypatch, data, said):
    monkeypatch.chdir(tars.parent)
    (tars.parent / "nothing").mkdir()
    (tars.parent / "notes.txt").write_text("notes")
    refused(data, said)


def test_tars_in_memory_behind_fsspec(tars):
    store = fsspec.filesystem("memory")
    for number in range(4):
        store.pipe(f"/test_source/s/{number}.tar", (tars / f"0000{number}.tar").read_bytes())
    try:
        assert captions("memory://test_source/s/{0..2}.tar") == ["0", "1", "2"]
        assert captions("memory://test_source/s/*.tar") == ["0", "1", "2", "3"]
        assert captions(f"memory://test_source/s/3.tar::{tars}/00000.tar") == ["3", "0"]
        assert names("memory://test_source/s/{0..1}.tar") == ["s-0", "s-1"]
        refused("memory://test_source/s/1.tar::memory://test_source/s/{0..1}.tar", "twice")
        ((sample,),) = [list(shard.samples()) for shard in open_data("memory://test_source/s/2.tar")]
        with fsspec.open(sample.image_ref.url) as file:
            file.seek(sample.image_ref.offset)
            assert file.read(sample.image_ref.size) == sample.image == b"picture"
        (shard,) = open_data("memory://test_source/s/{8..8}.tar")
        assert [item.reason for item in shard.samples()] == ["shard_unreadable"]
    finally:
        store.rm("/test_source", recursive=True)


def test_names_tell_shards_apart_and_are_never_paths():
    assert unique_names([]) == []
    assert unique_names(["a/0.tar", "a/1.tar"]) == ["a-0", "a-1"]
    assert unique_names(["x/a/0.tar", "y/a/0.tar"]) == ["x-a-0", "y-a-0"]
    assert unique_names(["s3://b/a/0.tar", "https://h/a/1.tar?k=/v.tar"]) == ["a-0", "a-1"]
    assert unique_names(["../0.tar", "/0.tar"]) == ["0", "0-2"]
    odd = ["a/x y.tar", "a/x_y.tar", "a/x?y.tar", "a/...tar", "a/-.tar", "/é/\udcff.tar", "a/../b.tar"]
    found = unique_names(odd)
    assert len(set(found)) == len(odd)
    for name in found:
        assert name
        assert not set("/\\\0") & set(name)
        assert not name.startswith((".", "-"))
        name.encode()


def test_tables_and_folders_of_one_name_can_be_joined(tmp_path, everywhere):
    for part in "ab":
        (tmp_path / part / "pictures").mkdir(parents=True)
        (tmp_path / part / "pictures" / "x.png").write_bytes(b"")
        (tmp_path / part / "pictures" / "x.txt").write_text(f"folder {part}")
        (tmp_path / part / "t.csv").write_text(f"filepath,title\npictures/x.png,table {part}\n")
    parts = [tmp_path / part / name for name, part in itertools.product(["pictures", "t.csv"], "ab")]
    data = "::".join(map(str, parts))
    assert captions(data) == ["folder a", "folder b", "table a", "table b"]
    assert names(data) == ["a-pictures-00000", "b-pictures-00000", "a-t-00000", "b-t-00000"]


def test_a_trial_run_reads_the_front_of_each_shard(everywhere, shapes):
    for data in everywhere:
        assert names(data, max_per_shard=2) == names(data)
        assert captions(data, max_per_shard=2) == [shape.caption for shape in shapes[:2]]


@pytest.mark.parametrize("options", [{"block_rows": 0}, {"separator": ",,"}, {"max_per_shard": 0}])
def test_options_are_checked(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        DataConfig(**options)
