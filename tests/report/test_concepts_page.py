"""The concepts' page: what it says is what the tables hold, strangers' words stay text, its cost is bounded."""

import base64
import csv
import dataclasses
import hashlib
import html
import json
import math
import re

import numpy as np
import pyarrow as pa
import pytest

from stillroom.artifacts import StageWriter, open_stage
from stillroom.concepts.config import ConceptsConfig, HeadConfig
from stillroom.concepts.features import fixed_lists
from stillroom.concepts.heads import LinearHead, make_labels
from stillroom.concepts.join import load_pseudo_labels
from stillroom.concepts.labels import load_heads
from stillroom.concepts.pseudo_labels import top_k_labels
from stillroom.concepts.quality import softmax
from stillroom.concepts.run import run as run_concepts
from stillroom.concepts.steps import FEATURES, PARSED
from stillroom.concepts.vocabulary import Concept, format_vocabulary, vocabulary_digest
from stillroom.errors import ArtifactError
from stillroom.report import concept_candidates, concept_pairs, concept_rows, concepts_page, pictures
from stillroom.report.concept_candidates import CANDIDATE, CANDIDATES, first_of_each, shard_candidates
from stillroom.report.concept_pairs import SAMPLES, SHOWN
from stillroom.report.concept_rows import LEAST_HELD_OUT, SORTS, ConceptRow, choose
from stillroom.report.concepts_page import write_concepts_page
from stillroom.report.quality_plots import LEFT, RIGHT, TOP, calibration_plot, pooled_recall, recall_plot
from stillroom.report.samples import DRAWN_SHARDS, FILL_SHARDS
from stillroom.report.template import percent

HOSTILE = "<script>alert(1)</script> & \"q\" 'a' </title></style><!-- \u202e\0"
K = 3
NONE = dict.fromkeys(("recall_at_k", "recall_at_k_mean_of_concepts", "recall_at_k_most_frequent", "calibration"))


def row(key, caption, objects=(), labels=((0, 0.5), (1, 0.3), (2, 0.2)), attributes=()):
    """A pair: the names in its caption, and its object labels."""
    return {"key": key, "caption": caption, "objects": objects, "attributes": attributes, "labels": labels}


def fixed(values, kind):
    return pa.FixedSizeListArray.from_arrays(pa.array(np.asarray(values).ravel(), kind), K)


def write_output(
    out, tables, names=("dog", "cat", "tree"), *, quality=None, data="nowhere/{0..1}.tar", calibration=None
):
    """Write a concepts output by hand: shard -> rows. There are no attributes but "red"."""
    vocabularies = {
        "objects": [
            Concept(name=name, count=max(90 - i, 1), examples=(f"a {name}", f"{name} 1", f"{name} 2"))
            for i, name in enumerate(names)
        ],
        "attributes": [Concept(name="red", count=7, examples=(HOSTILE,))],
    }
    parsed = StageWriter(out / "parsed", stage=PARSED, config={}, inputs={}, seed=0)
    writer = StageWriter(
        out, stage="concepts", config={"data": {}, "top_k": K}, inputs={"data": data}, seed=0, parts=("parsed",)
    )
    strings = pa.list_(pa.string())
    modifiers = pa.list_(pa.struct([("name", pa.string()), ("object", pa.string()), ("place", pa.int64())]))
    for shard, rows in tables.items():
        columns = {name: [r[name] for r in rows] for name in ("key", "caption", "objects", "attributes")}
        table = {name: pa.array(columns[name], pa.string()) for name in ("key", "caption")}
        table |= {name: pa.array(map(list, columns[name]), strings) for name in ("objects", "attributes")}
        table["modifiers"] = pa.array([[] for _ in rows], modifiers)
        parsed.write_shard(shard, pa.table(table))
        padded = [[*r["labels"], *[(0, 0.0)] * (K - len(r["labels"]))] for r in rows]
        ids, probs = ([[label[k] for label in labels] for labels in padded] for k in (0, 1))
        labels = {"key": pa.array(columns["key"], pa.string())}
        labels |= {"object_ids": fixed(ids, pa.uint32()), "object_probs": fixed(np.float16(probs), pa.float16())}
        only = [[1.0, 0, 0]] * len(rows)
        labels["attribute_ids"] = fixed(np.zeros((len(rows), K), np.uint32), pa.uint32())
        labels["attribute_probs"] = fixed(np.float16(only), pa.float16())
        writer.write_shard(shard, pa.table(labels))
    parsed.finish({"pairs": 0}, shards=list(tables), timings={})
    for kind, vocabulary in vocabularies.items():
        (out / f"{kind}.csv").write_bytes(format_vocabulary(vocabulary))
    for kind, lines in (quality or {}).items():
        with (out / f"{kind}_quality.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("name", "training", "held_out", "recall"), *lines])
    report = {"held_out_pictures": 9, "recall_at_k": 0.5, "recall_at_k_mean_of_concepts": 0.25, **(calibration or {})}
    report["recall_at_k_most_frequent"] = 0.125
    vocabulary = {kind: {"digest": vocabulary_digest(found)} for kind, found in vocabularies.items()}
    summary = {
        "pairs": sum(map(len, tables.values())),
        "teacher": {"name": f"hf:{HOSTILE}", "feature_dim": 64},
        "top_k": K,
        "vocabulary": vocabulary,
        "heads": {"objects": report, "attributes": {**report, "held_out_pictures": 0, **NONE}},
        "faults": {},
    }
    writer.finish(summary, shards=list(tables), timings={})
    return out


CALIBRATION = {
    "ece": 0.125,
    "bins": [
        {"from": 0.0, "to": 0.001, "pairs": 900, "probability": 0.0001, "target": 0.001, "named": 0.001},
        {"from": 0.063, "to": 0.1, "pairs": 10, "probability": 0.1, "target": 0.0, "named": 0.0},
        {"from": 0.631, "to": 1.0, "pairs": 100, "probability": 1.0, "target": 1.0, "named": 1.0},
    ],
}
QUALITY = {
    "objects": [("dog", 80, 8, "0.7500"), ("cat", 70, 6, "0.5000"), ("tree", 3, 0, "")],
    "attributes": [("red", 4, 1, "1.0000")],
}


@pytest.fixture
def pictured(tmp_path, make_tar, encode):
    """A tar of four pictures and a concepts output of it; the caption of one is hostile."""
    keys = ["sure", "lost", "news", "odd"]
    members = {}
    for key in keys:
        members[f"{key}.png"], members[f"{key}.txt"] = encode(), b"x"
    make_tar(tmp_path / "data" / "00000.tar", members)
    rows = [
        row("sure", "a dog", ["dog"], [(0, 0.9), (1, 0.1)]),
        row("lost", "my dog", ["dog"], [(1, 0.8), (2, 0.2)]),
        row("news", "a cat", ["cat"], [(0, 0.7), (1, 0.3)], ["red"]),
        row("odd", HOSTILE, ["tree"], [(2, 1.0)]),
    ]
    out = tmp_path / "out"
    made = {"data-00000": rows}
    return write_output(
        out, made, quality=QUALITY, data=str(tmp_path / "data"), calibration={"calibration": CALIBRATION}
    )


def page_of(out):
    return write_concepts_page(out).read_text(encoding="utf-8")


def text_of(fragment):
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", fragment)).split())


def cards_of(page):
    """Return concept -> strip -> [(caption, what stands below)]."""
    found = {}
    for card in re.findall(r'<div class="card" data-reasons.*?</details>', page, re.DOTALL):
        name = text_of(re.search(r'<span class="concept[^>]*>(.*?)</span>', card)[1])
        strips = re.findall(
            r'<div class="strip">.*?</div></div>', re.sub(r'<div class="none".*?</div>', "", card), re.DOTALL
        )
        found[name] = {
            text_of(re.search(r'<div class="soft"[^>]*>(.*?)</div>', strip)[1]): [
                (html.unescape(caption), text_of(below))
                for caption, below in re.findall(
                    r'<figure title="([^"]*)">.*?<figcaption[^>]*>(.*?)</figcaption>', strip, re.DOTALL
                )
            ]
            for strip in strips
        }
    return found


def test_strips_show_the_surest_the_hardest_and_the_news(pictured):
    cards = cards_of(page_of(pictured))
    assert set(cards) == {"dog", "cat", "tree", "red"}
    assert cards["dog"] == {
        "Surest": [("a dog", "90%")],
        "Hardest": [("my dog", "no label"), ("a dog", "90%")],
        "Seen, not named": [("a cat", "70%")],
    }
    assert cards["cat"]["Surest"] == cards["cat"]["Hardest"] == [("a cat", "30%")]
    assert [caption for caption, _ in cards["cat"]["Seen, not named"]] == ["my dog", "a dog"]


def test_figures_are_the_tables(pictured):
    page = page_of(pictured)
    text = text_of(page)
    for shown in (
        "4 pairs labelled",
        "3 + 1 objects + attributes",
        "3 + 3 labels for each picture",
        "that 9 held-out captions name, 50.0% are among their picture’s 3 labels (25.0% as the mean over concepts)",
        "Giving every picture the 3 most frequent objects would find 12.5%",
        "recall 75% of 8",
        "no held-out caption names it",
        "expected calibration error 0.125",
    ):
        assert shown in text
    rows = re.findall(r"<tr><td><b dir=\"auto\">(.*?)</tr>", page, re.DOTALL)
    assert [text_of(found) for found in rows[:3]] == [
        "dog a dog · dog 1 · dog 2 90 80 8 75%",
        "cat a cat · cat 1 · cat 2 89 70 6 50%",
        "tree a tree · tree 1 · tree 2 88 3 0",
    ]
    # Named and not named: 0.9 of dog, 0 of lost, 0.3 of cat, 1 of tree.
    assert "55% of the labels’ probability lies on objects that it names" in text
    assert "and 100% of the labels’ probability lies on attributes that it names." in text


def test_samples_show_the_caption_beside_the_labels(pictured):
    page = page_of(pictured)
    section = page[page.index('<div class="labelled">') :]
    card = next(part for part in section.split('<div class="card">') if ">my dog<" in part)
    assert re.findall(r'<span dir="auto"( class="missed")?[^>]*>(\w+)</span>', card)[0] == (' class="missed"', "dog")
    assert [text_of(bar) for bar in re.findall(r'<div class="bar">(.*?)</div>', card)] == [
        "cat 80%",
        "tree 20%",
        "red 100%",
    ]
    card = next(part for part in section.split('<div class="card">') if ">a dog<" in part)
    assert [text_of(bar) for bar in re.findall(r'<div class="bar named">(.*?)</div>', card)] == ["dog 90%"]
    assert "names no attributes of the vocabulary" in text_of(card)


def test_what_strangers_wrote_stays_text(pictured):
    page = page_of(pictured)
    assert page.count("<script") == page.count("</script") == 1
    assert page.count("<!--") == 0
    assert HOSTILE[:30] not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1])
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_every_field_is_escaped(tmp_path):
    name = " ".join(HOSTILE.lower().split())
    quality = {"objects": [(name, 80, 8, "0.75")], "attributes": QUALITY["attributes"]}
    rows = [row(f"{HOSTILE}k", f"{HOSTILE}c", [], [(0, 1.0)])]
    out = write_output(tmp_path / "out", {HOSTILE[:9]: rows}, [name], data=HOSTILE, quality=quality)
    page = page_of(out)
    assert page.count("<script") == 1
    assert page.count("&lt;script&gt;alert(1)") >= 7  # data, teacher, table, plot, samples' key, caption and labels


def test_the_page_asks_nobody_for_anything(pictured):
    page = page_of(pictured)
    assert page.count("<img") > 8
    for attribute in re.findall(r'(?:src|href|action|data|poster|srcset)="([^"]*)"', page):
        assert attribute.startswith(("data:image/webp;base64,", "#"))
    assert not re.search(r'url\((?!"#)|@import|https?://|fetch\(|XMLHttp', page)


def test_without_data_there_are_no_pictures_and_a_word_why(pictured, tmp_path):
    (tmp_path / "data" / "00000.tar").unlink()
    page = page_of(pictured)
    assert "<img" not in page
    assert "DATA cannot be opened again" in text_of(page)
    assert cards_of(page)["dog"]["Surest"] == [("a dog", "90%")]


def test_an_output_of_an_earlier_version_has_a_page(tmp_path):
    out = write_output(tmp_path / "out", {"s": [row("k", "a dog", ["dog"])]})
    for path in (out / "parsed" / "shards").iterdir():
        table = pa.parquet.read_table(path).drop_columns("modifiers")
        pa.parquet.write_table(table, path)
    page = page_of(out)
    assert "made by an earlier version" in text_of(page)
    assert "recall" not in text_of(re.search("<thead>.*?</thead>", page)[0])
    assert "<svg" not in page
    assert cards_of(page)["dog"]["Surest"] == [("a dog", "50%")]


def test_no_caption_is_a_sample_twice_and_half_are_held_out(tmp_path):
    captions = [f"dog {number // 2}" for number in range(1200)]
    out = write_output(tmp_path / "out", {"s": [row(f"k{i}", text, ["dog"]) for i, text in enumerate(captions)]})
    page = page_of(out)
    section = page[page.index('<div class="labelled">') :]
    shown = re.findall(r'<div class="caption find" dir="auto">(.*?)</div>', section)
    assert len(set(shown)) == len(shown) == SAMPLES
    assert section.count(", held out</div>") == SAMPLES // 2


def test_nothing_held_out_is_said(pictured):
    path = pictured / "summary.json"
    summary = json.loads(path.read_text())
    summary["heads"] = {"objects": {"held_out_pictures": 0, **NONE}}
    path.write_text(json.dumps(summary))
    text = text_of(page_of(pictured))
    assert "No caption was held out" in text
    assert "earlier version" not in text


def test_equal_outputs_give_equal_pages_and_unfinished_ones_none(pictured):
    first = write_concepts_page(pictured).read_bytes()
    assert write_concepts_page(pictured).read_bytes() == first
    (pictured / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match="unfinished"):
        write_concepts_page(pictured)


def test_tables_that_were_changed_are_refused(pictured):
    quality = pictured / "objects_quality.csv"
    before = quality.read_text()
    quality.write_text(before.replace("cat", "cow"))
    with pytest.raises(ArtifactError, match="does not name the concepts of objects.csv"):
        write_concepts_page(pictured)
    quality.write_text(before.replace("80", "many"))
    with pytest.raises(ArtifactError, match="is not a table that"):
        write_concepts_page(pictured)


def test_long_vocabularies_are_cut_and_the_rest_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(concepts_page, "MOST_ROWS", 2000)
    for module in (concepts_page, concept_rows):
        monkeypatch.setattr(module, "ALL_EXAMPLES", 3)
    names = [f"n{chr(97 + i // 676)}{chr(97 + i // 26 % 26)}{chr(97 + i % 26)}" for i in range(2050)]
    page = page_of(write_output(tmp_path / "out", {"s": [row("k", "x" * 10**6, names[:1])]}, names))
    assert page.count("<tr><td>") == 2000 + 1
    assert [text_of(cell) for cell in re.findall(r"<tr><td>.*?<small.*?</small>", page)[2:4]] == [
        "naac a naac · naac 1 · naac 2",
        "naad a naad",
    ]
    assert "up to three of these (one after the first 3)" in text_of(page)
    assert "Of the 2,050 objects the first 2,000 are here" in text_of(page)
    assert len(page) < 600_000
    assert "1,000,000 characters" in text_of(page)


def test_few_shards_are_read_and_opened(tmp_path, monkeypatch):
    tables = {f"{i:03d}": [row(f"k{j}", f"dog {i} {j}", ["dog"]) for j in range(4)] for i in range(60)}
    out = write_output(tmp_path / "out", tables)
    asked, read = [], []
    original = concept_pairs.shard_candidates
    monkeypatch.setattr(
        concept_pairs, "shard_candidates", lambda *given, **more: read.append(1) or original(*given, **more)
    )
    monkeypatch.setattr(pictures, "open_data", lambda data, reader: ["the shards"])
    monkeypatch.setattr(pictures, "thumbnails", lambda shards, places, side: asked.extend(places) or {})
    page = page_of(out)
    assert len(read) == 2 * DRAWN_SHARDS  # both kinds
    assert 0 < len({shard for shard, _ in asked}) <= DRAWN_SHARDS + FILL_SHARDS
    assert f"from {DRAWN_SHARDS} of the 60 shards" in text_of(page)
    section = page[page.index('<div class="labelled">') :]
    assert section.count('<div class="card">') == SAMPLES
    assert len(cards_of(page)["dog"]["Surest"]) == SHOWN


def slow_strips(concepts, ids, probs):
    """concept -> strip -> [(share, row)], best first, by plain loops."""
    found = {}
    for number, (own, labels) in enumerate(zip(concepts, zip(ids, probs, strict=True), strict=True)):
        shares = {int(i): float(p) for i, p in zip(*labels, strict=True) if p > 0}
        for concept in own:
            strips = found.setdefault(concept, {"surest": [], "hardest": [], "unnamed": []})
            strips["hardest"].append((shares.get(concept, 0.0), number))
            if concept in shares:
                strips["surest"].append((-shares[concept], number))
        for concept in set(shares) - set(own):
            strips = found.setdefault(concept, {"surest": [], "hardest": [], "unnamed": []})
            strips["unnamed"].append((-shares[concept], number))
    return found


def test_candidates_are_those_of_a_slow_count():
    rng = np.random.default_rng(0)
    classes, pictures_, k = 9, 200, 4
    concepts = [sorted(rng.choice(classes, rng.integers(0, 4), replace=False).tolist()) for _ in range(pictures_)]
    ids = np.stack([rng.choice(classes, k, replace=False) for _ in range(pictures_)])
    probs = -np.sort(-rng.random((pictures_, k)), axis=1)
    probs[::7, -1] = 0  # padding
    hashes = rng.permutation(pictures_).astype(np.uint64)
    strips, mass = shard_candidates(make_labels(concepts, classes), ids, probs, hashes)
    expected = slow_strips(concepts, ids, probs)
    for strip, found in strips.items():
        for concept in range(classes):
            wanted = sorted(expected[concept][strip], key=lambda item: (item[0], hashes[item[1]]))[:CANDIDATES]
            own = found[found["concept"] == concept]
            assert own["row"].tolist() == [number for _, number in wanted]
            np.testing.assert_allclose(own["share"], [abs(share) for share, _ in wanted])
    named = math.fsum(
        p for own, i, q in zip(concepts, ids, probs, strict=True) for c, p in zip(i, q, strict=True) if c in own
    )
    assert mass == pytest.approx(named)
    nothing = shard_candidates(make_labels([[], [1]], 2), np.zeros((2, 1), int), np.zeros((2, 1)), hashes[:2])
    assert [len(nothing[0][strip]) for strip in ("surest", "hardest", "unnamed")] == [0, 0, 0]


def test_the_hardest_are_ranked_by_the_heads_probability(monkeypatch):
    monkeypatch.setattr(concept_candidates, "PAIRS_AT_ONCE", 7)
    rng = np.random.default_rng(2)
    classes, pictures_, k = 30, 120, 4
    head = LinearHead(weight=rng.normal(size=(classes, 6)).astype(np.float32), bias=rng.normal(size=classes))
    features = rng.normal(size=(pictures_, 6)).astype(np.float16)
    concepts = [sorted(rng.choice(classes, rng.integers(0, 4), replace=False).tolist()) for _ in range(pictures_)]
    ids, probs = top_k_labels(head.logits(features), k)
    hashes = rng.permutation(pictures_).astype(np.uint64)
    given = (ids.astype(np.int64), probs.astype(np.float64), hashes)
    blind = 5  # pictures at the end that have neither features nor labels
    given = [np.concatenate([part, np.zeros((blind, *part.shape[1:]), part.dtype)]) for part in given]
    named = make_labels([*concepts, *[[1, 2]] * blind], classes)
    strips, _ = shard_candidates(named, *given, head=head, features=features)
    full = softmax(features.astype(np.float64) @ head.weight.T.astype(np.float64) + head.bias)
    full /= np.sort(full, axis=1)[:, -k:].sum(axis=1, keepdims=True)
    for concept in range(classes):
        named = [row for row in range(pictures_) if concept in concepts[row]]
        wanted = sorted(named, key=lambda row: full[row, concept])[:CANDIDATES]
        own = strips["hardest"][strips["hardest"]["concept"] == concept]
        np.testing.assert_allclose(own["share"], full[wanted, concept], rtol=4e-3, atol=1e-7)
        assert set(own["row"].tolist()) == set(wanted)
        assert own["label"].tolist() == [concept in ids[row] for row in own["row"].tolist()]
    assert not strips["hardest"]["label"].all()
    assert strips["surest"]["label"].all()


def test_the_first_of_each_concept_do_not_depend_on_how_the_shards_are_cut():
    rng = np.random.default_rng(1)
    made = np.zeros(300, CANDIDATE)
    made["concept"], made["rank"] = rng.integers(0, 5, 300), rng.integers(0, 4, 300)
    made["tie"] = rng.permutation(300)
    whole = first_of_each(made, 6)
    parts = np.array_split(made, 7)
    assert first_of_each(np.concatenate([first_of_each(part, 6) for part in parts]), 6).tolist() == whole.tolist()
    assert np.bincount(whole["concept"]).tolist() == [6] * 5


def concept(place, training, held_out, recall):
    return ConceptRow(
        kind="objects",
        place=place,
        name=f"c{place}",
        count=training,
        training=training,
        held_out=held_out,
        recall=recall,
        examples=(),
        also=(),
    )


def test_concepts_are_chosen_by_frequency_and_recall():
    rows = [concept(i, 1000 - i, 10, i / 100) for i in range(100)]
    rows[99] = dataclasses.replace(rows[99], held_out=LEAST_HELD_OUT - 1)
    chosen = dict(((row.place), sorts) for row, sorts in choose(rows, set(range(1, 100)), seed=0))
    by_sort = {sort: [place for place, sorts in chosen.items() if sort in sorts] for sort in SORTS["objects"]}
    assert by_sort["frequent"] == list(range(1, 21))  # concept 0 has no picture
    assert sorted(by_sort["rare"]) == list(range(92, 100))
    assert sorted(by_sort["best_recall"]) == list(range(91, 99))
    assert sorted(by_sort["worst_recall"]) == list(range(1, 9))
    assert choose(rows, set(), seed=0) == []


def test_pooled_recall_by_hand():
    rows = [concept(0, 2, 4, 0.5), concept(1, 3, 1, 1.0), concept(2, 8, 2, 0.0), concept(3, 9, 0, None)]
    assert pooled_recall(rows) == [(pytest.approx(math.sqrt(6)), 0.6), (pytest.approx(8), 0.0)]


def test_plots_put_points_where_they_belong():
    plot = calibration_plot(CALIBRATION, "objects")
    dots = re.findall(r'<circle class="(\w+)" cx="([\d.]+)" cy="([\d.]+)"', plot)
    third = (RIGHT - LEFT) / 3
    assert dots[1] == ("solid", f"{RIGHT:.1f}", f"{TOP:.1f}")
    assert dots[0][:2] == ("hollow", f"{LEFT + 2 * third:.1f}")
    assert len(dots) == 2  # the lowest bin is not drawn
    assert recall_plot([concept(0, 5, 0, None)], "objects", 10) is None
    plot = recall_plot([concept(0, 100, 4, 1.0), concept(1, 10, 4, 0.0)], "objects", 10)
    tops = [float(y) for y in re.findall(r'cy="([\d.]+)"', plot)]
    assert tops[0] == TOP
    assert 'aria-label="Recall at 10 of objects by frequency"' in plot


def test_percentages():
    assert [percent(value) for value in (100, 12.4, 3.26, 0.1, 0.01)] == ["100%", "12%", "3.3%", "0.1%", "<0.1%"]


def test_the_stages_own_output_makes_a_page(tmp_path, shapes_tar):
    config = ConceptsConfig(
        teacher="timm:test_vit.r160_in1k",
        teacher_pretrained=False,
        image_size=32,
        min_count=2,
        top_k=2,
        heads=HeadConfig(epochs=1, batch_size=8, held_out=0.4),
        precision="fp32",
        workers=1,
    )
    out = tmp_path / "out"
    summary = run_concepts(str(shapes_tar.parent), config, out)
    page = page_of(out)
    assert {"circle", "square", "line", "red", "blue"} <= set(cards_of(page))
    assert page.count("<svg") == 4
    assert "earlier version" not in page
    assert f"{summary['pairs']} pairs labelled" in text_of(page)
    assert page.count('class="held"') > 0
    assert "classifier for" not in text_of(page)
    assert open_stage(out, "concepts").summary == summary  # the page is no part of the output
    assert run_concepts(str(shapes_tar.parent), config, out) == summary


def test_the_hardest_pictures_of_the_stages_own_output(tmp_path, shapes_tar):
    """Ranked and shown by the full softmax of what is stored, also where the concept is no label."""
    config = ConceptsConfig(
        teacher="timm:test_vit.r160_in1k",
        teacher_pretrained=False,
        image_size=32,
        min_count=2,
        top_k=1,
        heads=HeadConfig(epochs=1, batch_size=8),
        precision="fp32",
        workers=1,
    )
    out = tmp_path / "out"
    run_concepts(str(shapes_tar.parent), config, out)
    heads, stage = load_heads(out / "heads.safetensors"), open_stage(out / "features", FEATURES)
    features = fixed_lists(stage.shard(stage.shards[0]), "features").astype(np.float64)
    captions = open_stage(out / "parsed", PARSED).shard(stage.shards[0])["caption"].to_pylist()
    cards = cards_of(page_of(out))
    for kind in ("objects", "attributes"):
        head = heads[kind]
        full = softmax(features @ head.weight.T.astype(np.float64) + head.bias)
        shares = 100 * full / full.max(axis=1, keepdims=True)
        for place, concept in enumerate(load_pseudo_labels(out).names[kind]):
            named = [i for i in range(12) if concept in captions[i].split()]
            wanted = sorted((shares[i, place], captions[i]) for i in named)[:SHOWN]
            told = [(text, percent(share) if share > 99.999 else f"({percent(share)})") for share, text in wanted]
            shown = cards[concept]["Hardest"]
            assert [below for _, below in shown] == [below for _, below in told]
            assert sorted(shown) == sorted(told)  # of several labels with 100% chance decides
    (out / "features").rename(tmp_path / "elsewhere")
    page = page_of(out)
    assert "The stored features were deleted" in text_of(page)
    assert "no label" in {below for strips in cards_of(page).values() for _, below in strips.get("Hardest", ())}


def test_a_kind_without_a_head_and_recalls_that_say_nothing_are_said(pictured):
    path = pictured / "summary.json"
    summary = json.loads(path.read_text())
    summary["heads"]["objects"] |= NONE
    del summary["heads"]["attributes"]
    path.write_text(json.dumps(summary))
    page = page_of(pictured)
    assert "There is no classifier for the 1 attributes" in text_of(page)
    assert "There are 3 objects and a picture has 3 labels" in text_of(page)
    assert "No caption was held out" not in text_of(page)
    assert "earlier version" not in text_of(page)
    assert '<div class="vocabulary" data-kind="attributes"' in page
    assert set(cards_of(page)) == {"dog", "cat", "tree"}
