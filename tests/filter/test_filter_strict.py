"""`--strict`: the first pair or shard that cannot be used ends the run with one line that names it."""

from dataclasses import replace
from io import BytesIO

import pytest
from filter_runs import DOG, contents, filter_in_a_process, pair, refusal, write_members
from PIL import Image

from stillroom.data.reasons import ADVICE
from stillroom.errors import DataError
from stillroom.filter.config import FilterConfig
from stillroom.filter.run import run

CONFIG = FilterConfig(preset="off", workers=1)


@pytest.fixture(scope="module")
def picture():
    sink = BytesIO()
    Image.new("RGB", (14, 12), "navy").save(sink, "PNG")
    return sink.getvalue()


@pytest.fixture
def make_data(tmp_path, picture):
    """Two shards: a whole one, and one with what is given between whole pairs."""

    def make(members):
        write_members(tmp_path / "data" / "0.tar", pair("first", DOG, picture))
        write_members(tmp_path / "data" / "1.tar", [*pair("a", DOG, picture), *members, *pair("z", DOG, picture)])
        return tmp_path / "data"

    return make


@pytest.mark.parametrize(
    ("members", "key", "reason"),
    [
        ([("b.png", b""), ("b.txt", b"a dog")], "b", "image_empty"),
        ([("b.png", b"no picture"), ("b.txt", b"a dog")], "b", "image_unreadable"),
        ([("b.png", b"not looked at")], "b", "caption_missing"),
        ([("a.png", b""), ("a.txt", b"again")], "a", "duplicate_key"),
        ([("b\x1b[31m\n.png", b""), ("b\x1b[31m\n.txt", b"a dog")], "b\\x1b[31m", "image_empty"),
    ],
)
def test_a_pair_that_cannot_be_used_is_named_and_ends_the_run(make_data, tmp_path, members, key, reason):
    data = make_data(members)
    line = refusal(filter_in_a_process(data, tmp_path / "out", "--strict", preset="off", workers=1))
    for said in ("data-1", key, reason, ADVICE[reason], "strict"):
        assert said in line
    assert line.isprintable()
    # The same command without --strict goes on from there, and counts it.
    summary = run(str(data), CONFIG, tmp_path / "out")
    assert (summary["faults"]["counts"], summary["kept"]) == ({reason: 1}, 3)


def test_a_shard_that_cannot_be_opened_is_named(make_data, tmp_path):
    data = make_data([])
    (data / "1.tar").write_bytes(b"")
    line = refusal(filter_in_a_process(data, tmp_path / "out", "--strict", preset="off", workers=2))
    for said in ("data-1", "shard_unreadable", ADVICE["shard_unreadable"]):
        assert said in line


def test_a_refused_run_that_wrote_nothing_leaves_no_folder(make_data, tmp_path):
    data = make_data([])
    (data / "0.tar").write_bytes(b"")
    with pytest.raises(DataError, match="data-0.*shard_unreadable"):
        run(str(data), replace(CONFIG, strict=True), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_whole_data_give_the_same_bytes(make_data, tmp_path):
    data = str(make_data([]))
    run(data, CONFIG, tmp_path / "lenient")
    run(data, replace(CONFIG, strict=True), tmp_path / "strict")
    assert contents(tmp_path / "strict") == contents(tmp_path / "lenient")


@pytest.mark.parametrize("finished", [True, False])
def test_faults_that_an_earlier_lenient_run_counted_are_refused_too(make_data, tmp_path, finished):
    data, out = str(make_data([("b.txt", b"no picture")])), tmp_path / "out"
    run(data, CONFIG, out)
    if not finished:
        (out / "manifest.json").unlink()
    with pytest.raises(DataError, match="data-1.*'b'.*image_missing"):
        run(data, replace(CONFIG, strict=True), out)
