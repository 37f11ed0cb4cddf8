"""First senses from a WordNet of a few words, in the files that Princeton defined for it."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from stillroom.concepts.config import ConceptsConfig, HeadConfig
from stillroom.concepts.run import run
from stillroom.concepts.wordnet import load_first_senses, wordnet_digest
from stillroom.errors import ArtifactError, ConfigError, MissingDependencyError

nltk_data = pytest.importorskip("nltk.data")

HEADER = "  1 This software and database is being provided to you. WordNet 3.0 Copyright 2006\n"
# Synsets: type and words. A word's senses are ordered as in SENSES, by place in this list.
NOUNS = [
    ("n", "car auto automobile"),
    ("n", "machine"),
    ("n", "machine car"),  # its second meaning for both
    ("n", "China Red_China"),
    ("n", "china chinaware"),
    ("n", "sports_car sport_car"),
]
ADJECTIVES = [("a", "small little"), ("s", "bantam tiny"), ("s", "little"), ("s", "red(a) crimson"), ("a", "tiny")]
SENSES = {
    "n": {"car": [0, 2], "machine": [1, 2], "china": [3, 4]},
    "a": {"little": [0, 2], "tiny": [1, 4]},
}


def write_wordnet(folder, nouns=NOUNS, adjectives=ADJECTIVES):
    """Write data.* and index.* with true byte offsets; the other files are empty or all but empty."""
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, synsets in (("noun", nouns), ("adj", adjectives), ("verb", []), ("adv", [])):
        data, offsets, index = HEADER, [], {}
        for place, (kind, words) in enumerate(synsets):
            offsets.append(len(data))
            spelt = " ".join(f"{word} 0" for word in words.split())
            similar = f"001 & {offsets[0]:08d} a 0000" if kind == "s" else "000"  # a satellite has a head
            data += f"{offsets[-1]:08d} 03 {kind} {len(words.split()):02x} {spelt} {similar} | a gloss  \n"
            for word in words.split():
                index.setdefault(word.partition("(")[0].lower(), []).append(place)
        lines = HEADER
        for word, found in sorted(index.items()):
            order = [f"{offsets[place]:08d}" for place in SENSES.get(suffix[0], {}).get(word, found)]
            lines += f"{word} {suffix[0]} {len(order)} 0 {len(order)} 0 {' '.join(order)}  \n"
        (folder / f"data.{suffix}").write_text(data)
        (folder / f"index.{suffix}").write_text(lines)
        (folder / f"{suffix}.exc").write_text("")
    (folder / "index.sense").write_text("")
    (folder / "lexnames").write_text("".join(f"{i:02d}\tnoun.Tops\t1\n" for i in range(4)))


@pytest.fixture
def wordnet(tmp_path, monkeypatch):
    monkeypatch.setattr(nltk_data, "path", [str(tmp_path)])
    write_wordnet(tmp_path / "corpora" / "wordnet")
    return tmp_path / "corpora" / "wordnet"


def test_first_senses(wordnet):
    senses = load_first_senses()
    noun, adjective = senses["objects"], senses["attributes"]
    assert noun("car") == noun("automobile") == noun("auto") == "car.n.01"
    assert noun("machine") == "machine.n.01"  # also a car, but not first of all
    assert noun("sports car") == noun("sport car") == "sports_car.n.01"
    assert noun("china") == noun("chinaware") == "china.n.02"  # the country is written otherwise
    assert [noun(name) for name in ("cars", "red china", "race car", "small", "a b")] == [None] * 5
    assert adjective("little") == adjective("small") == "small.a.01"
    assert adjective("tiny") == "bantam.s.01"  # satellites stand in one order with the others
    assert adjective("red") == adjective("crimson") == "red.s.01"
    assert adjective("car") is None


def test_another_edition_has_another_digest(wordnet):
    before = wordnet_digest()
    assert wordnet_digest() == before
    write_wordnet(wordnet, nouns=NOUNS[::-1])
    assert wordnet_digest() != before


def test_what_is_missing_is_said_before_any_work(wordnet, tmp_path, monkeypatch, make_tar):
    data = str(make_tar(tmp_path / "data" / "0.tar", {"a.png": b"", "a.txt": b"a cat"}))

    def refused(error, match):
        with pytest.raises(error, match=match) as caught:
            run(data, ConceptsConfig(fold_synonyms=True, parser="nowhere"), tmp_path / "out")
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out").exists()

    (wordnet / "index.adj").unlink()
    refused(ConfigError, "WordNet at .* cannot be read .*; run 'python -m nltk.downloader wordnet' anew")
    monkeypatch.setattr(nltk_data, "path", [str(tmp_path / "none")])
    refused(ConfigError, "NLTK finds none: run 'python -m nltk.downloader wordnet' once")
    monkeypatch.setitem(sys.modules, "nltk", None)
    monkeypatch.delitem(sys.modules, "nltk.data")
    refused(MissingDependencyError, r"fold_synonyms needs the package 'nltk': pip install 'stillroom\[wordnet\]'")


def test_damaged_files_are_one_line(wordnet):
    def refused():
        with pytest.raises(ConfigError, match="WordNet at .* cannot be read") as caught:
            load_first_senses()["objects"]("car")
        assert "\n" not in str(caught.value)

    index, data = wordnet / "index.noun", wordnet / "data.noun"
    data.write_text(data.read_text().replace(" n 03 car ", " n zz car "))
    refused()
    index.write_text("car n none\n")
    refused()


def test_a_run_folds_and_its_table_folds_again(wordnet, tmp_path, make_tar, shapes):
    write_wordnet(wordnet, nouns=[("n", "circle square"), ("n", "line")])
    members = [
        (f"{s.key}.{end}", what) for s in shapes for end, what in (("png", s.picture), ("txt", s.caption.encode()))
    ]
    data = str(make_tar(tmp_path / "data" / "0.tar", members))
    plain = {"teacher": "timm:test_vit.r160_in1k", "teacher_pretrained": False, "image_size": 32, "min_count": 2}
    config = ConceptsConfig(**plain, fold_synonyms=True, precision="fp32", workers=1, heads=HeadConfig(epochs=1))
    run(data, config, tmp_path / "out")
    table = (tmp_path / "out" / "objects.csv").read_text().splitlines()
    assert [line.split(",")[:2] for line in table[1:]] == [["circle", "8"], ["line", "4"]]
    assert table[1].endswith(",square")
    again = replace(config, fold_synonyms=False, vocabulary=str(tmp_path / "out"))
    run(data, again, tmp_path / "again")
    name = "heads.safetensors"
    assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    write_wordnet(wordnet, nouns=[("n", "circle"), ("n", "square")])
    with pytest.raises(ArtifactError, match="inputs.wordnet"):
        run(data, config, tmp_path / "out")
