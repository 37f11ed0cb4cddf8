"""Stage outputs: whole or absent, resumable, owned by one run, equal for equal runs."""

import hashlib
import json
import os
import subprocess
import sys
import textwrap
import time

import pyarrow as pa
import pytest

from stillroom import artifacts
from stillroom.artifacts import StageWriter, open_stage, read_json, write_bytes, write_json, write_table
from stillroom.errors import ArtifactError, WriteError

ROWS = pa.table({"key": ["a", "b"], "kept": [True, False], "score": [0.5, None]})
ODD_NAMES = ["a/b", "../up", "..", ".", "/etc/passwd", "ünï ☃", "a%2Fb", "-", "x" * 300, "雪" * 100, "\udcff"]


def writer(out, **changes):
    described = {"stage": "filter", "config": {"a": 1, "b": {"c": [1, 2]}}, "inputs": {"data": "d"}, "seed": 0}
    return StageWriter(out, **(described | changes))


def finished(out, names=("s0", "s1")):
    stage = writer(out)
    for name in names:
        stage.write_shard(name, ROWS)
    stage.finish({"kept": 1}, shards=list(names), timings={"seconds": time.monotonic()})
    return stage


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(*said):
    return pytest.raises(ArtifactError, match=".*".join(said))


def test_written_and_read_again(tmp_path):
    assert not writer(tmp_path / "deep" / "out").complete
    assert finished(tmp_path / "deep" / "out").complete
    stage = open_stage(tmp_path / "deep" / "out", "filter")
    assert stage.shards == ("s0", "s1")
    assert stage.summary == {"kept": 1}
    assert stage.run["config"] == {"a": 1, "b": {"c": [1, 2]}}
    assert [(name, table.equals(ROWS)) for name, table in stage.tables()] == [("s0", True), ("s1", True)]
    assert stage.shard("s0", ["score"]).column_names == ["score"]


def test_equal_runs_give_equal_bytes_but_for_the_environment(tmp_path):
    finished(tmp_path / "one")
    finished(tmp_path / "two")
    one, two = files(tmp_path / "one"), files(tmp_path / "two")
    assert one.keys() == two.keys()
    assert {name for name in one if one[name] != two[name]} == {"environment.json"}
    manifest = json.loads(one["manifest.json"])
    for name, listed in manifest["shards"].items():
        assert listed == {"rows": 2, "sha256": hashlib.sha256(one[f"shards/{name}.parquet"]).hexdigest()}
    assert set(json.loads(one["environment.json"])["versions"]) >= {"python", "pyarrow", "numpy"}


def test_the_manifest_is_written_last(tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr(os, "replace", lambda source, target: order.append(target.name) or os.rename(source, target))
    finished(tmp_path / "out")
    assert order == ["run.json", "s0.parquet", "s1.parquet", "summary.json", "environment.json", "manifest.json"]


def test_killed_between_any_two_files_it_goes_on_to_the_same_bytes(tmp_path, monkeypatch):
    finished(tmp_path / "whole")
    whole = files(tmp_path / "whole")
    rename = os.rename
    for steps in range(6):
        left = [steps]

        def killed(source, target, left=left):
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            rename(source, target)

        out = tmp_path / f"killed{steps}"
        monkeypatch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            finished(out)
        with refused("no run.json|is unfinished"):
            open_stage(out, "filter")
        monkeypatch.setattr(os, "replace", rename)
        for folder in [out, out / "shards"][: steps + 1]:
            folder.mkdir(exist_ok=True)
            (folder / ".left.part").write_bytes(b"half")
        again = writer(out)
        written = [name for name in ("s0", "s1") if again.has_shard(name)]
        assert len(written) == max(0, min(steps - 1, 2))
        finished(out)
        assert {n: b for n, b in files(out).items() if n != "environment.json"} == {
            n: b for n, b in whole.items() if n != "environment.json"
        }


def test_a_process_killed_while_it_writes_leaves_whole_files_only(tmp_path):
    script = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from stillroom.artifacts import write_bytes
        print("ready", flush=True)
        for n in range(10**9):
            write_bytes(Path(sys.argv[1]) / f"{n % 3}", bytes([n % 256]) * 3_000_000)
        """
    )
    with subprocess.Popen([sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        deadline = time.monotonic() + 10
        while not list(tmp_path.glob("[0-9]")) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
    found = list(tmp_path.glob("[0-9]"))
    assert found
    for path in found:
        data = path.read_bytes()
        assert len(data) == 3_000_000
        assert len(set(data[::100_000])) == 1


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    write_json(tmp_path / "x.json", {"old": 1})
    for broken in ({"nan": float("nan")}, {"set": {1}}):
        with pytest.raises((ValueError, TypeError)):
            write_json(tmp_path / "x.json", broken)
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(WriteError, match=r"cannot write .*x\.json: disk full; make room there and run the same"):
        write_bytes(tmp_path / "x.json", b"new")
    with pytest.raises(WriteError, match=r"x\.json/y: .+; make the folder writable, or take another"):
        write_bytes(tmp_path / "x.json" / "y", b"new")
    assert files(tmp_path) == {"x.json": b'{\n  "old": 1\n}\n'}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 1}, r"seed: 0 there, 1 asked for"),
        ({"stage": "concepts"}, r"stage: \"filter\" there, \"concepts\" asked for"),
        ({"inputs": {"data": "other"}}, r"inputs.data: \"d\" there, \"other\" asked for"),
        ({"config": {"a": 1, "b": {"c": [1, 3]}}}, r"config.b.c: \[1, 2\] there, \[1, 3\] asked for"),
        ({"config": {"a": 1, "b": {"c": [1, 2], "d": None}}}, r"config.b.d: nothing there, null asked for"),
        ({"config": {"b": {"c": [1, 2]}}}, r"config.a: 1 there, nothing asked for"),
        ({"config": {"a": "x" * 500, "b": {}}}, r"config.a: 1 there, \"x{70,80}\.\.\. asked for"),
    ],
)
def test_a_folder_of_another_run_is_refused_and_left_alone(tmp_path, changes, said):
    finished(tmp_path / "out")
    before = files(tmp_path / "out")
    with refused("belongs to another run", said, "choose another folder"):
        writer(tmp_path / "out", **changes)
    assert files(tmp_path / "out") == before


def test_configs_are_compared_as_json(tmp_path):
    writer(tmp_path, config={"t": (1, 2), "n": None, 1: "x"})
    writer(tmp_path, config={"t": [1, 2], "n": None, "1": "x"})


def test_foreign_folders_and_files_are_refused(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with refused("holds files that are not a stillroom output", "choose an empty folder"):
        writer(tmp_path / "mine")
    with refused("thesis.tex is a file; give a folder"):
        writer(tmp_path / "mine" / "thesis.tex")
    assert files(tmp_path / "mine") == {"thesis.tex": b"years of work"}
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / ".DS_Store").write_bytes(b"")
    writer(tmp_path / "hidden")


@pytest.mark.parametrize("content", ["", "{", "[1]", "null", "\ufeff{}", "[" * 100_000])
def test_broken_files_are_one_line(tmp_path, content):
    for name in ("run.json", "manifest.json", "summary.json"):
        out = tmp_path / name
        finished(out)
        (out / name).write_text(content)
        with refused(name) as caught:
            open_stage(out, "filter")
        assert "\n" not in str(caught.value)
    with refused("run.json"):
        writer(tmp_path / "run.json")


def test_what_is_not_a_finished_output_of_the_stage(tmp_path):
    for path in (tmp_path / "absent", tmp_path):
        with refused("is not the output of 'stillroom filter': it has no run.json"):
            open_stage(path, "filter")
    stage = writer(tmp_path / "out")
    with refused("is unfinished: run 'stillroom filter' again"):
        open_stage(tmp_path / "out", "filter")
    stage.finish({}, shards=[], timings={})
    with refused("is the output of 'stillroom filter', not of 'stillroom concepts'"):
        open_stage(tmp_path / "out", "concepts")
    write_json(tmp_path / "out" / "manifest.json", {"shards": ["a"]})
    with refused("manifest.json lists no shards"):
        open_stage(tmp_path / "out", "filter")
    with refused("absent.json does not exist"):
        read_json(tmp_path / "absent.json")


def test_damaged_and_missing_shards(tmp_path):
    finished(tmp_path)
    stage = open_stage(tmp_path, "filter")
    (tmp_path / "shards" / "s0.parquet").write_bytes(b"PAR1")
    (tmp_path / "shards" / "s1.parquet").unlink()
    for name in ("s0", "s1"):
        with refused(f"{name}.parquet cannot be read", "run 'stillroom filter' again"):
            stage.shard(name)


def test_no_shard_name_is_a_path_outside_or_too_long(tmp_path):
    out = tmp_path / "out"
    stage = writer(out)
    for number, name in enumerate(ODD_NAMES):
        assert stage.shard_path(name).parent == out / "shards"
        assert len(stage.shard_path(name).name.encode()) <= 220
        stage.write_shard(name, pa.table({"n": [number]}))
        assert stage.has_shard(name)
    stage.finish({}, shards=ODD_NAMES, timings={})
    assert {path.parent for path in tmp_path.rglob("*.parquet")} == {out / "shards"}
    assert len(list(tmp_path.rglob("*.parquet"))) == len(ODD_NAMES)
    again = open_stage(out, "filter")
    assert set(again.shards) == set(ODD_NAMES)
    assert {name: table["n"].to_pylist() for name, table in again.tables()} == {n: [i] for i, n in enumerate(ODD_NAMES)}


def test_long_names_that_begin_alike_stay_apart(tmp_path):
    paths = {artifacts._shard_path(tmp_path, "x" * 400 + end) for end in "abc"}
    assert len(paths) == 3


def test_json_is_sorted_readable_and_holds_any_name(tmp_path):
    write_json(tmp_path / "x.json", {"b": "ü", "a": os.fsdecode(b"\xff")})
    assert (tmp_path / "x.json").read_bytes() == '{\n  "a": "\\udcff",\n  "b": "ü"\n}\n'.encode()
    assert read_json(tmp_path / "x.json") == {"b": "ü", "a": "\udcff"}


def test_tables_give_equal_bytes_however_they_were_put_together(tmp_path):
    write_table(tmp_path / "one", ROWS)
    doubled = pa.concat_tables([ROWS, ROWS])
    others = [
        pa.Table.from_pylist(ROWS.to_pylist(), schema=ROWS.schema),
        pa.concat_tables([ROWS[:1], ROWS[1:]]),
        doubled[2:],
        doubled[1:][1:].combine_chunks(),
    ]
    for other in others:
        write_table(tmp_path / "two", other)
        assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert (tmp_path / "one").stat().st_mode & 0o777 == 0o644


def test_an_error_of_the_users_leaves_nothing_behind(tmp_path):
    from stillroom.errors import ConfigError

    def begin(config, **options):
        return StageWriter(tmp_path / "out", stage="s", config=config, inputs={}, seed=0, parts=("part",), **options)

    writer = begin({"a": 1})
    with pytest.raises(ConfigError), writer.released_on_error():
        raise ConfigError("no")
    assert not (tmp_path / "out").exists()
    writer = begin({"a": 2})
    (tmp_path / "out" / "part").mkdir()
    with pytest.raises(ConfigError), writer.released_on_error():
        raise ConfigError("no")
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["part"]
    writer = begin({"a": 3})
    writer.write_shard("x", pa.table({"key": ["k"]}))
    with pytest.raises(ConfigError), writer.released_on_error():
        raise ConfigError("no")
    assert (tmp_path / "out" / "run.json").exists()
    with pytest.raises(ArtifactError, match="belongs to another run"):
        begin({"a": 4})
