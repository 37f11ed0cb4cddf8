"""Parse and features of an earlier output, used again where this run would make the same."""

import dataclasses
import logging
import os
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stillroom import cli
from stillroom.artifacts import StageWriter, open_stage
from stillroom.concepts import reuse, steps
from stillroom.concepts.config import ConceptsConfig, HeadConfig
from stillroom.concepts.run import run
from stillroom.concepts.steps import FEATURES, PARSED, Work
from stillroom.errors import ArtifactError

TINY = ConceptsConfig(
    teacher="timm:test_vit.r160_in1k",
    teacher_pretrained=False,
    image_size=32,
    min_count=3,
    top_k=3,
    heads=HeadConfig(epochs=2, held_out=0.2),
    precision="fp32",
    device="cpu",
    workers=1,
)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory, make_tar, shapes):
    folder = tmp_path_factory.mktemp("pairs")
    for number in range(2):
        members = []
        for shape in shapes:
            members.append((f"{shape.key}.png", shape.picture))
            members.append((f"{shape.key}.txt", shape.caption.encode()))
        make_tar(folder / f"{number:05d}.tar", members)
    return str(folder)


@pytest.fixture(scope="module")
def earlier(pairs, tmp_path_factory):
    out = tmp_path_factory.mktemp("earlier") / "C"
    run(pairs, TINY, out)
    return out


@pytest.fixture
def said(caplog):
    """A function that returns what was said of parts since the last call."""

    def lines():
        found = [record.getMessage() for record in caplog.records if "--reuse" in record.getMessage()]
        caplog.clear()
        return found

    caplog.set_level(logging.INFO, logger="stillroom")
    return lines


def state(folder):
    """Return what a folder holds, by path: bytes, inode and time of change."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {
        path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_ino, path.stat().st_mtime_ns)
        for path in paths
    }


def contents(folder):
    return {name: found[0] for name, found in state(folder).items() if not name.endswith("environment.json")}


def refuse(name):
    def called(*arguments, **options):
        raise AssertionError(f"{name} was called")

    return called


def forbid(monkeypatch, *names):
    for name in names:
        monkeypatch.setattr(steps, name, refuse(name))


@pytest.mark.parametrize("change", [{"top_k": 2}, {"min_count": 4}, {"heads": HeadConfig(epochs=1)}])
def test_both_parts_serve_a_run_that_differs_after_them(pairs, earlier, tmp_path, monkeypatch, said, change):
    config = dataclasses.replace(TINY, **change)
    run(pairs, config, tmp_path / "without")
    before = state(earlier)
    forbid(monkeypatch, "parse_shard", "load_teacher", "compute_features")
    run(pairs, config, tmp_path / "with", reuse=earlier)
    assert said() == [f"--reuse {earlier}: parsed/ is used again; features/ is used again"]
    assert contents(tmp_path / "with") == contents(tmp_path / "without")
    assert state(earlier) == before
    for part in ("parsed", "features"):
        for name, (_, inode, _) in state(tmp_path / "with" / part).items():
            assert name == "run.json" or inode == before[f"{part}/{name}"][1]


def test_another_vocabulary_uses_both_parts(pairs, earlier, tmp_path, monkeypatch):
    edited = tmp_path / "edited"
    edited.mkdir()
    (edited / "objects.csv").write_text("name\ncircle\nsquare\n")
    (edited / "attributes.csv").write_text("name\n")
    forbid(monkeypatch, "parse_shard", "load_teacher", "compute_features")
    run(pairs, dataclasses.replace(TINY, vocabulary=str(edited)), tmp_path / "out", reuse=earlier)
    assert (tmp_path / "out" / "objects.csv").read_text().splitlines()[1].startswith("circle,")


def test_another_teacher_uses_the_parse_alone(pairs, earlier, tmp_path, monkeypatch, said):
    config = dataclasses.replace(TINY, image_size=48)
    run(pairs, config, tmp_path / "without")
    forbid(monkeypatch, "parse_shard")
    run(pairs, config, tmp_path / "with", reuse=earlier)
    why = "config.image_size: 32 there, 48 asked for"
    assert said() == [f"--reuse {earlier}: parsed/ is used again; features/ is made anew ({why})"]
    assert contents(tmp_path / "with") == contents(tmp_path / "without")


def test_other_pairs_use_nothing(pairs, earlier, tmp_path, said):
    keep = tmp_path / "filter"
    writer = StageWriter(keep, stage="filter", config={}, inputs={"data": pairs}, seed=None)
    names = list(open_stage(earlier, "concepts").shards)
    for name in names:
        writer.write_shard(name, pa.table({"key": [f"{place:05d}" for place in range(12)], "kept": [True] * 12}))
    writer.finish({}, shards=names, timings={})
    run(pairs, TINY, tmp_path / "out", keep, reuse=earlier)
    (line,) = said()
    assert line.count("is made anew (inputs.keep: null there, ") == 2


def test_an_unfinished_part_is_not_taken_and_the_other_is(pairs, earlier, tmp_path, monkeypatch, said):
    broken = tmp_path / "broken"
    shutil.copytree(earlier, broken)
    (broken / "features" / "manifest.json").unlink()
    (broken / "run.json").unlink()  # of the whole nothing is asked
    config = dataclasses.replace(TINY, top_k=2)
    with monkeypatch.context() as patch:
        forbid(patch, "parse_shard")
        run(pairs, config, tmp_path / "out", reuse=broken)
    assert said() == [f"--reuse {broken}: parsed/ is used again; features/ is made anew (it is unfinished)"]
    shutil.rmtree(broken / "parsed")
    with monkeypatch.context() as patch:
        patch.setattr(steps, "load_teacher", refuse("load_teacher"))
        with pytest.raises(AssertionError, match="load_teacher was called"):
            run(pairs, config, tmp_path / "other", reuse=broken)
    assert "parsed/ is made anew (it is not there)" in said()[0]


def test_captions_in_an_older_form_are_parsed_again(pairs, earlier, tmp_path, said):
    older = tmp_path / "older"
    shutil.copytree(earlier, older)
    for path in (older / "parsed" / "shards").iterdir():
        table = pq.read_table(path)
        pq.write_table(table.drop_columns("modifiers").append_column("modifiers", table["attributes"]), path)
    run(pairs, dataclasses.replace(TINY, top_k=2), tmp_path / "out", reuse=older)
    why = "another version of stillroom parsed it"
    assert said() == [f"--reuse {older}: parsed/ is made anew ({why}); features/ is used again"]


def test_where_links_are_impossible_files_are_copied(pairs, earlier, tmp_path, monkeypatch):
    def refused(*paths):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    forbid(monkeypatch, "parse_shard", "load_teacher", "compute_features")
    config = dataclasses.replace(TINY, top_k=2)
    run(pairs, config, tmp_path / "out", reuse=earlier)
    (name, *_) = [path.name for path in (earlier / "features" / "shards").iterdir()]
    copy, first = (folder / "features" / "shards" / name for folder in (tmp_path / "out", earlier))
    assert copy.read_bytes() == first.read_bytes()
    assert copy.stat().st_ino != first.stat().st_ino
    assert not list((tmp_path / "out").rglob(".*"))


def test_killed_while_linking_it_goes_on(pairs, earlier, tmp_path, monkeypatch, said):
    config, link, done = dataclasses.replace(TINY, top_k=2), reuse._link, []

    def dying(source, target):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(target)
        link(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(reuse, "_link", dying)
        with pytest.raises(KeyboardInterrupt):
            run(pairs, config, tmp_path / "out", reuse=earlier)
    forbid(monkeypatch, "parse_shard", "load_teacher", "compute_features")
    run(pairs, config, tmp_path / "out", reuse=earlier)
    assert contents(tmp_path / "out" / "features") == contents(earlier / "features")
    said()
    run(pairs, config, tmp_path / "out", reuse=earlier)
    assert said() == []  # it was finished


def test_what_is_no_output_is_refused(pairs, tmp_path):
    with pytest.raises(ArtifactError, match="--reuse .*nothing is not an output of 'stillroom concepts'"):
        run(pairs, TINY, tmp_path / "out", reuse=tmp_path / "nothing")
    assert not (tmp_path / "out").exists()


def test_the_command_line_reuses(pairs, earlier, tmp_path, monkeypatch, capsys):
    forbid(monkeypatch, "parse_shard", "load_teacher", "compute_features")
    options = ["teacher='timm:test_vit.r160_in1k'", "teacher_pretrained=false", "image_size=32", "min_count=3"]
    options += ["top_k=2", "precision=fp32", "device=cpu", "heads.epochs=1", "workers=1"]
    arguments = [part for option in options for part in ("--set", option)]
    with pytest.raises(SystemExit) as ended:
        cli.main(["concepts", pairs, "--out", str(tmp_path / "out"), "--reuse", str(earlier), *arguments])
    assert ended.value.code == 0
    assert "24 pairs labelled" in capsys.readouterr().out


def test_what_the_parts_depend_on():
    def identities(**changes):
        config = dataclasses.replace(ConceptsConfig(), **changes)
        work = Work(shards=[], kept=None, config=config, inputs={})
        return work.identity(PARSED), work.identity(FEATURES)

    parsed, features = identities()
    assert identities(seed=1, top_k=3, workers=2, heads=HeadConfig(lr=1.0), max_objects=9) == (parsed, features)
    for name, value in {"teacher": "timm:x", "image_size": 96, "fit": "pad", "precision": "bf16"}.items():
        assert identities(**{name: value})[0] == parsed
        assert identities(**{name: value})[1] != features
    assert identities(parser="other")[0] != parsed
    assert identities(parser="other")[1] == features
    random = identities(teacher_pretrained=False)
    assert random[1] != identities(teacher_pretrained=False, seed=1)[1]  # the seed makes the weights
    assert random[0] == parsed
