"""CSV, TSV and Parquet tables: quoting, encodings, columns, and blocks that agree with the whole."""

import csv
import io
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stillroom.data.config import DataConfig
from stillroom.data.tables import table_shards
from stillroom.data.text_rows import sniff_separator
from stillroom.errors import DataError
from stillroom.records import Fault, Sample


def read(path, **options):
    """Return the table's items over all its blocks."""
    return [item for shard in table_shards(path, "t", DataConfig(**options)) for item in shard.samples()]


def seen(items):
    return [(i.key, i.reason if isinstance(i, Fault) else i.caption) for i in items]


@pytest.fixture
def table(tmp_path, encode):
    """A function that writes a table beside three pictures and returns its path."""
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(encode("red") + name.encode())

    def write(text, name="pairs.csv"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_rows_with_their_pictures_and_other_columns(table):
    path = table("filepath,title,width\na.png,a cat,7\n" + f'{table("").parent}/b.png,"a dog, black",\n')
    first, second = read(path)
    assert (first.shard, first.key, first.caption, dict(first.metadata)) == ("t-00000", "0", "a cat", {"width": "7"})
    assert first.image == (path.parent / "a.png").read_bytes()
    assert first.image_ref.url == str(path.parent / "a.png")
    assert (second.key, second.caption, dict(second.metadata)) == ("1", "a dog, black", {"width": ""})
    (without,) = table_shards(path, "t", DataConfig())
    assert [s.image for s in without.samples(images=False)] == [None, None]


@pytest.mark.parametrize("separator", [",", "\t", ";", "|"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_separators_line_ends_and_byte_order_mark(table, separator, line_end, mark):
    captions = ["plain", f'with {separator} and "quotes"', "over\nlines", "ünï", " ", "last"]
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter=separator, lineterminator=line_end)
    writer.writerows([["filepath", "title"], *(["a.png", caption] for caption in captions)])
    path = table(mark + buffer.getvalue(), "x.tsv" if separator == "\t" else "x.csv")
    assert [s.caption for s in read(path)] == captions
    assert table_shards(path, "t", DataConfig())[0].separator == separator


@pytest.mark.parametrize(
    ("header", "separator"),
    [
        ("filepath,title", ","),
        ("filepath\ttitle", "\t"),
        ("filepath\ttitle, or caption", "\t"),
        ("filepath;title;a,b,c,d", ";"),
        ("picture|text", "|"),
        ('"file,path";"title"', ";"),
        ("filepath", "\t"),
    ],
)
def test_sniff_separator(header, separator):
    assert sniff_separator(header, ("filepath", "title")) == separator


def test_a_separator_that_was_given_is_used(table):
    path = table("filepath#title\na.png#a, b\n")
    assert [s.caption for s in read(path, separator="#")] == ["a, b"]


def test_rows_without_a_last_line_end_and_blank_lines(table):
    assert seen(read(table("\r\n\nfilepath,title\n\na.png,one\n\r\n\nb.png,two"))) == [("0", "one"), ("1", "two")]


def test_malformed_rows_are_faults_and_count_as_rows(table):
    rows = [b"a.png,fine", b"a.png", b"a.png,two,three", b"a.png,\xff\xfe", b"a.png,nul\0", b'b.png,"fine', b'too"']
    items = read(table(b"filepath,title\n" + b"\n".join(rows) + b"\n"))
    assert seen(items) == [
        ("0", "fine"),
        ("1", "row_malformed"),
        ("2", "row_malformed"),
        ("3", "row_malformed"),
        ("4", "nul\0"),
        ("5", "fine\ntoo"),
    ]
    assert [i.detail for i in items if isinstance(i, Fault)] == [
        "row 2: 1 fields where the header has 2",
        "row 3: 3 fields where the header has 2",
        "row 4: not UTF-8",
    ]


def test_a_quote_left_open_is_said(table):
    (first, fault) = read(table('filepath,title\na.png,fine\nb.png,"open\nc.png,lost\n'))
    assert first.caption == "fine"
    assert (fault.key, fault.reason) == ("1", "row_malformed")
    assert "quote is left open to the end of the file, over 2 lines" in fault.detail
    (fault,) = read(table('filepath,title\n"b.png,one\nc.png,two\n'))
    assert "over 2 lines (a quote left open?)" in fault.detail


def test_a_quote_within_a_field_is_a_letter(table):
    assert [s.caption for s in read(table('filepath,title\na.png,a 5" pipe\nb.png,next\n'), block_rows=1)] == [
        'a 5" pipe',
        "next",
    ]


def test_a_lone_carriage_return_ends_a_row(table):
    path = table("filepath,title\ra.png,one\rb.png,two\nc.png,three\r")
    assert seen(read(path)) == seen(read(path, block_rows=1)) == [("0", "one"), ("1", "two"), ("2", "three")]


def test_blocks_give_the_same_pairs_as_the_whole(table):
    rng = random.Random(0)
    letters = ["a", '"', '""', "\n", "\r", "\r\n", ",", " ", "\0", "é", "x,y", '"q"', '"q\nr"', "b.png,fine\n"]
    for _ in range(150):
        text = "filepath,title\n" + "".join(rng.choice(letters) for _ in range(rng.randrange(60)))
        path = table(text)
        if not text.partition("\n")[2].strip("\r\n"):
            with pytest.raises(DataError, match="no rows"):
                read(path)
            continue
        whole = read(path)
        for block_rows in (1, 3):
            shards = table_shards(path, "t", DataConfig(block_rows=block_rows))
            assert [shard.name for shard in shards] == [f"t-{i:05d}" for i in range(len(shards))]
            blocks = [list(shard.samples()) for shard in shards]
            assert seen(sum(blocks, [])) == seen(whole), text
            assert [len(block) for block in blocks[:-1]] == [block_rows] * (len(blocks) - 1)
            assert 1 <= len(blocks[-1]) <= block_rows


def test_python_reads_the_same_rows(table):
    rng = random.Random(1)
    captions = ["".join(rng.choice('ab ,;"\n\r\t') for _ in range(rng.randrange(12))) for _ in range(200)]
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerows([["filepath", "title"], *(["a.png", caption] for caption in captions)])
    path = table(buffer.getvalue().encode())
    with path.open(newline="") as file:
        theirs = [row["title"] for row in csv.DictReader(file)]
    assert [s.caption for s in read(path, block_rows=7)] == theirs == captions


def test_keys(table):
    path = table("id,filepath,title\nx,a.png,one\ny,b.png,two\nx,c.png,three\n,c.png,four\n")
    items = read(path, key_column="id")
    assert seen(items) == [("x", "one"), ("y", "two"), ("x", "duplicate_key"), ("3", "row_malformed")]
    assert "row 3" in items[2].detail
    assert "row 4: the key is empty" in items[3].detail


def test_pictures_that_are_not_there(table):
    rows = ["", "absent.png", "/absent/x.png", ".", "nul\0.png", "x" * 5000 + ".png", "a.png"]
    path = table("filepath,title\n" + "".join(f"{row},text\n" for row in rows))
    assert [caption for _, caption in seen(read(path))] == ["image_missing"] * 6 + ["text"]


@pytest.mark.parametrize("name", ["x.csv", "x.parquet"])
@pytest.mark.parametrize(
    ("columns", "options", "said"),
    [
        (["url", "caption"], {}, "no column 'filepath'; it has 'url', 'caption': use --set data.image_column=NAME"),
        (
            ["filepath", "Title"],
            {},
            "no column 'title'; it has 'filepath', 'Title': use --set data.caption_column=NAME",
        ),
        (["filepath", "title"], {"key_column": "id"}, "no column 'id'.*--set data.key_column=NAME"),
        (["a", "title"], {"image_column": "b"}, "no column 'b'"),
    ],
)
def test_wrong_columns_are_named_with_what_to_set(tmp_path, name, columns, options, said):
    path = tmp_path / name
    if name.endswith("csv"):
        path.write_text(",".join(columns) + "\n1,2\n")
    else:
        pq.write_table(pa.table({column: ["1"] for column in columns}), path)
    with pytest.raises(DataError, match=said) as caught:
        read(path, **options)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"\n\r\n", "empty"),
        (b"\xef\xbb\xbf", "empty"),
        (b"filepath,title\n\n", "no rows"),
        (b"filepath,title", "no rows"),
        (b"title,filepath,title\n1,2,3\n", "'title'"),
        ("filepath,title\na.png,x\n".encode("utf-16"), "UTF-16"),
        (b"\x00\xff" * 1000, "no column"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path, content, said):
    (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        read(tmp_path / "x.csv")
    assert "\n" not in str(caught.value)


def test_a_table_that_goes_away_is_a_fault(table):
    path = table("filepath,title\na.png,one\n")
    (shard,) = table_shards(path, "t", DataConfig())
    path.unlink()
    ((item,),) = [list(shard.samples())]
    assert (item.key, item.reason) == ("", "shard_unreadable")


@pytest.mark.parametrize("group_rows", [1, 2, 5, 100])
def test_parquet_blocks_cross_row_groups(table, tmp_path, group_rows):
    table("")
    captions = [f"caption {i}" for i in range(11)]
    rows = {"filepath": ["a.png"] * 11, "title": captions, "n": list(range(11)), "deep.er": [{"a": [1]}] * 11}
    pq.write_table(pa.table(rows), tmp_path / "x.parquet", row_group_size=group_rows)
    for block_rows in (1, 3, 100):
        items = read(tmp_path / "x.parquet", block_rows=block_rows)
        assert seen(items) == [(str(i), caption) for i, caption in enumerate(captions)]
        assert dict(items[4].metadata) == {"n": 4, "deep.er": {"a": [1]}}


def test_parquet_values_of_other_kinds(table, tmp_path):
    table("")
    binary = pa.array([b"bytes", b"\xff", None, b"fine"], pa.binary())
    broken = pa.Array.from_buffers(pa.string(), 4, binary.buffers(), null_count=1)
    times = pa.array([1, 2, 3, 4], pa.timestamp("ns"))
    numbers = pa.array([1.5, 2, 3, 4])
    for captions in (binary, broken, binary.cast(pa.large_binary())):
        pq.write_table(pa.table({"filepath": ["a.png"] * 4, "title": captions, "at": times}), tmp_path / "x.parquet")
        expected = [("0", "bytes"), ("1", "caption_not_utf8"), ("2", "caption_missing"), ("3", "fine")]
        assert seen(read(tmp_path / "x.parquet")) == expected
    pq.write_table(pa.table({"filepath": [None, "a.png"] * 2, "title": numbers}), tmp_path / "x.parquet")
    assert {reason for _, reason in seen(read(tmp_path / "x.parquet"))} == {"caption_missing"}
    pq.write_table(pa.table({"filepath": [None, "a.png"], "title": ["x", "y"]}), tmp_path / "x.parquet")
    assert seen(read(tmp_path / "x.parquet")) == [("0", "image_missing"), ("1", "y")]
    words = pa.array(["one", "two", "one"]).dictionary_encode()
    pq.write_table(pa.table({"filepath": ["a.png"] * 3, "title": words}), tmp_path / "x.parquet")
    assert [s.caption for s in read(tmp_path / "x.parquet")] == ["one", "two", "one"]


def test_parquet_that_is_none_is_empty_or_is_damaged(table, tmp_path):
    path = table(b"PAR1 no", "x.parquet")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read(path)
    pq.write_table(pa.table({"filepath": pa.array([], pa.string()), "title": pa.array([], pa.string())}), path)
    with pytest.raises(DataError, match="no rows"):
        read(path)
    rng = random.Random(0)
    pq.write_table(pa.table({"filepath": ["a.png"] * 500, "title": [rng.randbytes(9).hex() for _ in range(500)]}), path)
    raw = path.read_bytes()
    for place in rng.sample(range(4, len(raw) // 2), 30):
        path.write_bytes(raw[:place] + rng.randbytes(40) + raw[place + 40 :])
        items = read(path)
        assert all(isinstance(item, (Sample, Fault)) for item in items)
    path.write_bytes(raw[:4] + bytes(200) + raw[204:])
    assert seen(read(path)) == [("", "shard_unreadable")]
