"""What was counted when a run began is what it goes on with: nothing is counted again, and lost data is no end."""

import json

import pytest
from train_miniature import MODEL, config, equal, weights, write_tar

from stillroom.data import open_data
from stillroom.data.config import DataConfig
from stillroom.errors import ArtifactError, ConfigError, DataError
from stillroom.records import Fault
from stillroom.train import assemble, loop
from stillroom.train.faults import FaultList, collect_faults
from stillroom.train.run import run
from stillroom.train.slot_file import CAPTIONS, SlotFile
from stillroom.train.slots import SlotCounts, count_slots

pytestmark = pytest.mark.usefixtures("one_thread")
LOCKED = {"open_clip": MODEL, "lock_text": True}


@pytest.fixture
def data(tmp_path):
    (tmp_path / "tars").mkdir()
    for number in range(3):
        write_tar(tmp_path / "tars" / f"{number}.tar", 16, broken=(5,) if number else ())
    return tmp_path / "tars"


@pytest.fixture
def dying(monkeypatch):
    """A function that runs to step 5, behind the checkpoint of step 4."""
    step = loop.Trainer.step

    def die(self, number, *batch):
        if number == 5:
            raise KeyboardInterrupt
        return step(self, number, *batch)

    def begin(data, recipe, out):
        monkeypatch.setattr(loop.Trainer, "step", die)
        with pytest.raises(KeyboardInterrupt):
            run(str(data), recipe, out)
        monkeypatch.setattr(loop.Trainer, "step", step)

    return begin


def uncounted(monkeypatch):
    monkeypatch.setattr(assemble, "count_slots", None)


@pytest.mark.parametrize("model", [{"open_clip": MODEL}, LOCKED], ids=["trained", "stored text"])
def test_a_resumed_run_counts_nothing_and_ends_as_one_that_was_left_alone(data, tmp_path, dying, monkeypatch, model):
    recipe = config(model=model, workers=1)
    whole = run(str(data), recipe, tmp_path / "whole")
    dying(data, recipe, tmp_path / "out")
    assert (tmp_path / "out" / CAPTIONS).exists() == ("lock_text" in model)
    uncounted(monkeypatch)
    assert run(str(data), recipe, tmp_path / "out", resume=True) == whole
    assert whole["faults"] == {"caption_empty": 3, "image_unreadable": 2}
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "out"))
    for name in ("slots.json", "faults.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    assert not (tmp_path / "out" / CAPTIONS).exists()  # a model's folder is handed on


@pytest.mark.parametrize("memory", [0, 1024])
def test_a_shard_that_has_gone_bad_becomes_faults(data, tmp_path, dying, caplog, memory):
    recipe = config(workers=1, pixel_cache_mb=memory, samples=160)
    dying(data, recipe, tmp_path / "out")
    bad = data / "1.tar"
    bad.write_bytes(b"x" * bad.stat().st_size)
    summary = run(str(data), recipe, tmp_path / "out", resume=True)
    assert (summary["pairs"], summary["steps"]) == (45, 20)
    assert summary["faults"]["shard_unreadable"] == 1
    assert "0 of 15 pairs were found when it was read again, 15 are lost" in caplog.text


def test_shards_in_another_order_are_refused_with_the_first_one_named(data, tmp_path, dying, monkeypatch):
    first, second, third = (f"file://{data}/{number}.tar" for number in range(3))
    recipe = config(workers=1)
    dying("::".join([first, second, third]), recipe, tmp_path / "out")
    described = json.loads((tmp_path / "out" / "run.json").read_text())
    described["inputs"]["data"] = swapped = "::".join([first, third, second])
    (tmp_path / "out" / "run.json").write_text(json.dumps(described))
    with pytest.raises(ArtifactError, match=r"shard 1 was 'tars-1' and is 'tars-2' now .*order of pairs") as caught:
        run(swapped, recipe, tmp_path / "out", resume=True)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "out" / "slots.json").exists()


def described(out, data, **changes):
    return SlotFile(out, open_data(str(data)), described={"contents": {}, "keep": None} | changes, data=DataConfig())


def test_before_a_checkpoint_other_data_is_counted_anew(data, tmp_path):
    slots = count_slots(open_data(str(data)), captions=True)
    file = described(tmp_path, data)
    assert file.read(captions=False) is None
    file.write(SlotCounts(counts=slots.counts, direct=slots.direct))
    assert file.read(captions=False).counts == slots.counts
    assert file.read(captions=True) is None
    file.write(slots)
    found = file.read(captions=True)
    assert (found.counts, found.direct, found.captions) == (slots.counts, slots.direct, slots.captions)
    others = [{"keep": "other"}, {"contents": {"tars-2": "1 bytes"}}]
    assert [described(tmp_path, data, **other).read(captions=False) for other in others] == [None, None]
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step-000000001.pt").touch()
    assert described(tmp_path, data).read(captions=False).counts == slots.counts
    with pytest.raises(ArtifactError, match='keep: null there, "other" asked for'):
        described(tmp_path, data, **others[0]).read(captions=False)
    with pytest.raises(ArtifactError, match=r"shard 2 was 'tars-2' and is 'tars-2' \(1 bytes\) now"):
        described(tmp_path, data, **others[1]).read(captions=False)
    write_tar(data / "3.tar", 16)
    with pytest.raises(ArtifactError, match="shard 3 was none and is 'tars-3' now"):
        described(tmp_path, data).read(captions=False)
    for broken in ("{}", '{"options": {}, "shards": [1], "damaged": []}', "["):
        (tmp_path / "slots.json").write_text(broken)
        with pytest.raises(ArtifactError, match="slots.json"):
            described(tmp_path, data).read(captions=False)


def test_a_shard_that_could_not_be_read_is_told_and_counted_anew_until_there_is_a_checkpoint(data, tmp_path, caplog):
    whole = (data / "1.tar").read_bytes()
    (data / "1.tar").write_bytes(b"x" * len(whole))
    slots = count_slots(open_data(str(data)))
    assert slots.counts == (15, 0, 15)
    assert "1 of 3 shards cannot be read to their end; what is missing is left out of the whole run" in caplog.text
    described(tmp_path, data).write(slots)
    assert described(tmp_path, data).read(captions=False) is None
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step-000000001.pt").touch()
    assert described(tmp_path, data).read(captions=False).counts == (15, 0, 15)


def test_an_error_of_the_users_after_counting_leaves_nothing_behind(data, tmp_path):
    for number in range(3):
        write_tar(data / f"{number}.tar", 16, broken=range(16))
    with pytest.raises(DataError, match="only 0 pairs are left"):
        run(str(data), config(workers=1), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises((ConfigError, DataError)):
        run(str(data), config(workers=1, batch_size=90), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_line_of_a_killed_process_spoils_no_other(tmp_path):
    path = tmp_path / "faults-rank0.jsonl"
    path.write_text('{"shard": "a", "key": "1", "rea')
    FaultList(tmp_path, 0).add([Fault(shard="a", key="2", reason="image_empty")])
    assert collect_faults(tmp_path)["faults"] == {"image_empty": 1}


def test_started_by_srun_alone_it_says_so(data, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    run(str(data), config(workers=1, samples=8), tmp_path / "out")
    assert "srun has started 4 processes, but this one trains alone" in caplog.text
