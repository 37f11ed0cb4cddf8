"""The filter's page: what it says is what the tables hold, strangers' words stay text, its cost is bounded."""

import base64
import hashlib
import html
import io
import json
import re
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from stillroom.artifacts import StageWriter, open_stage
from stillroom.data.reasons import ADVICE
from stillroom.errors import ArtifactError
from stillroom.filter.config import FilterConfig
from stillroom.filter.rules import RULES
from stillroom.filter.run import run as run_filter
from stillroom.report import pictures, samples
from stillroom.report.example import LONGEST_TEXT, make_example
from stillroom.report.filter_page import PER_REASON, write_filter_page
from stillroom.report.filtering import MEANING, funnel_rows
from stillroom.report.histogram import Threshold, compact, histogram
from stillroom.report.pictures import LARGEST_BYTES, data_uri
from stillroom.report.samples import (
    DRAWN_SHARDS,
    FILL_SHARDS,
    draw,
    examples,
    opened_shards,
    read_examples,
    row_hashes,
    rows_by_reason,
)

HOSTILE = "<script>alert(1)</script> & \"q\" 'a' </title></style><!-- \u202e\0"
PLAIN = {
    "caption": "a dog",
    "complexity": 1,
    "actions": ["run"],
    "graph": "dog",
    "spotted_text": None,
    "text_overlap": None,
    "text_overlap_exact": None,
    "text_skipped": None,
    "pwatermark": None,
    "punsafe": None,
    "identical_before": None,
    "kept": True,
    "reasons": [],
    "detail": None,
}
# Columns that tables of earlier versions lack.
NEW = {
    "width": 640,
    "height": 480,
    "language": "en",
    "nsfw": "UNLIKELY",
    "similarity": 0.25,
    "model_similarity": 0.31,
    "picture_hash": 7,
    "near_duplicate_of": None,
    "spotted_confidence": None,
    "spotted_boxes": None,
    "image_decoded": True,
}


def pair(key, *reasons, **values):
    return {"key": key, **PLAIN, "kept": not reasons, "reasons": list(reasons), **values}


def summary_of(tables, **changes):
    rows = [row for table in tables.values() for row in table if row["key"]]
    rules = ("complexity", "text", "near_duplicate")
    first = Counter("unusable" if r["reasons"][0] in ADVICE else r["reasons"][0] for r in rows if r["reasons"])
    funnel, left = [], len(rows)
    for rule in ("unusable", *rules):
        left -= first[rule]
        funnel.append({"rule": rule, "dropped": first[rule], "left": left})
    return {
        "preset": "diht",
        "thresholds": {
            "complexity": {"min_complexity": 1},
            "text": {"text_overlap": 5},
            "near_duplicate": {"near_duplicate_distance": 4},
        },
        "pairs": len(rows),
        "kept": sum(row["kept"] for row in rows),
        "funnel": funnel,
        "alone": None,
        "histograms": {"complexity": [{"value": 1, "pairs": 3}], "actions": [], "text_overlap": []},
        "text": {"lower_bounds": 0, "skipped": {}},
        "faults": {"counts": dict(Counter(f for r in rows for f in r["reasons"] if f in ADVICE)), "listed": []},
        **changes,
    }


def write_output(out, tables, *, data="nowhere/{0..1}.tar", **changes):
    """Write a filter output by hand: shard -> rows."""
    writer = StageWriter(out, stage="filter", config={"data": {}}, inputs={"data": data}, seed=None)
    for shard, rows in tables.items():
        writer.write_shard(shard, pa.Table.from_pylist(rows, schema=schema_of(rows)))
    writer.finish(summary_of(tables, **changes), shards=list(tables), timings={})
    return out


def schema_of(rows):
    types = {
        "actions": pa.list_(pa.string()),
        "reasons": pa.list_(pa.string()),
        "spotted_text": pa.list_(pa.string()),
        "spotted_confidence": pa.list_(pa.float32()),
        "spotted_boxes": pa.list_(pa.list_(pa.float32())),
        **dict.fromkeys(("pwatermark", "punsafe", "similarity", "model_similarity"), pa.float64()),
        **dict.fromkeys(("kept", "image_decoded", "text_overlap_exact"), pa.bool_()),
        **dict.fromkeys(("complexity", "text_overlap", "identical_before", "width", "height"), pa.int32()),
        "picture_hash": pa.uint64(),
    }
    return pa.schema([(name, types.get(name, pa.string())) for name in rows[0]])


@pytest.fixture
def pictured(tmp_path, make_tar, encode):
    """A tar with pictures of 300 x 200, and a filter output of it with one pair of every kind."""
    keys = ["good", "twin", "text", "plain", "torn", "odd"]
    members = {}
    for key in keys:
        members[f"{key}.png"] = encode(Image.new("RGB", (300, 200), "red"))
        members[f"{key}.txt"] = b"x"
    make_tar(tmp_path / "data" / "00000.tar", members)
    rows = [
        pair("good", caption="a dog runs", **NEW),
        pair("twin", "near_duplicate", **{**NEW, "near_duplicate_of": "data-00000/good"}),
        pair(
            "text",
            "text",
            caption="cheap flights",
            text_overlap=7,
            text_overlap_exact=False,
            **{
                **NEW,
                "spotted_text": ["flights", "now"],
                "spotted_confidence": [0.97, 0.81],
                "spotted_boxes": [[0.1, 0.2, 0.5, 0.2, 0.5, 0.4, 0.1, 0.4], [0, 0, 2.0, 0, float("nan"), 1, 0, 1]],
            },
        ),
        pair("plain", "complexity", complexity=0, actions=[], **NEW),
        pair("torn", "image_truncated", detail="12 of 90 bytes", **NEW),
        pair("odd", caption=HOSTILE, graph=HOSTILE, **{**NEW, "spotted_text": [HOSTILE], "language": HOSTILE}),
        pair("", "shard_truncated", caption=None, detail=f"{HOSTILE}: the tar ends early", **NEW),
    ]
    return write_output(tmp_path / "out", {"data-00000": rows}, data=str(tmp_path / "data"))


def page_of(out):
    return write_filter_page(out).read_text(encoding="utf-8")


def cards_of(page):
    """Return key -> HTML of its card; the rest of a shard has the key ""."""
    found = {}
    for card in re.findall(r'<div class="card".*?(?=<div class="card"|</section>)', page, re.DOTALL):
        place = re.search(r'<div class="place find"><bdi>.*?</bdi> / (?:<bdi>(.*?)</bdi>)?', card, re.DOTALL)
        found[html.unescape(place[1] or "")] = card
    return found


def text_of(fragment):
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", fragment)).split())


def test_cards_show_what_was_measured(pictured):
    cards = cards_of(page_of(pictured))
    assert set(cards) == {"good", "twin", "text", "plain", "torn", "odd", ""}
    text = text_of(cards["text"])
    for shown in ("cheap flights", "flights now", "overlap ≥ 7", "complexity 1", "actions 1 (run)", "size 640 × 480"):
        assert shown in text
    for shown in ("similarity 0.25", "model similarity 0.31", "language en", "nsfw UNLIKELY"):
        assert shown in text
    assert "repeats data-00000/good" in text_of(cards["twin"])
    assert "12 of 90 bytes" in text_of(cards["torn"])
    assert "the rest of the shard" in text_of(cards[""])


def test_pictures_stand_by_pairs_and_not_by_faults(pictured):
    cards = cards_of(page_of(pictured))
    counts = {key: card.count("<img") for key, card in cards.items()}
    assert counts == {"good": 1, "twin": 2, "text": 1, "plain": 1, "odd": 1, "torn": 0, "": 0}
    uri = re.search(r'src="(data:image/webp;base64,[^"]+)"', cards["good"])[1]
    assert Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).size == (200, 133)


def test_lettering_is_outlined_where_it_was_found(pictured):
    card = cards_of(page_of(pictured))["text"]
    (polygon,) = re.findall(r"<polygon[^>]*>", card)  # the second box holds a value that is no number
    assert polygon == '<polygon points="10.0,20.0 50.0,20.0 50.0,40.0 10.0,40.0" class="matches">'
    assert re.findall(r"<mark([^>]*)>", card) == [
        ' class="matches" title="confidence 0.97"',
        ' title="confidence 0.81"',
    ]


def test_what_strangers_wrote_stays_text(pictured):
    page = page_of(pictured)
    assert page.count("<script") == page.count("</script") == 1
    assert page.count("<!--") == 0
    assert HOSTILE[:30] not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in html.unescape(policy)
    assert "default-src 'none'" in html.unescape(policy)


@pytest.mark.parametrize("field", ["caption", "graph", "key", "detail", "near_duplicate_of", "nsfw", "text_skipped"])
def test_every_field_is_escaped(tmp_path, field):
    rows = [pair("k", "text", **NEW), pair("l", "caption_empty", **NEW)]
    rows = [{**row, field: f"{HOSTILE}{row['key']}"} for row in rows]
    page = page_of(write_output(tmp_path / "out", {f"s{HOSTILE[:9]}": rows}, data=HOSTILE))
    assert page.count("<script") == 1
    assert "&lt;script&gt;alert(1)" in page


def test_the_page_asks_nobody_for_anything(pictured):
    page = page_of(pictured)
    for attribute in re.findall(r'(?:src|href|action|data|poster|srcset)="([^"]*)"', page):
        assert attribute.startswith(("data:image/webp;base64,", "#"))
    assert not re.search(r'url\((?!"#)|@import|https?://|fetch\(|XMLHttp', page)


def test_chips_count_pairs_and_samples(tmp_path):
    rows = [pair(str(k), "complexity", **NEW) for k in range(100)]
    rows += [pair(f"b{k}", "complexity", "text", **NEW) for k in range(3)]
    rows += [pair(f"k{k}", **NEW) for k in range(5)]
    page = page_of(write_output(tmp_path / "out", {"s": rows}))
    chips = re.findall(r'<button[^>]*data-tag="(\w*)"[^>]*>(.*?)</button>', page, re.DOTALL)
    found = {tag: [int(n) for n in re.findall(r"\d+", text_of(told).replace(",", ""))] for tag, told in chips}
    cards = cards_of(page)
    carried = Counter(
        reason for card in cards.values() for reason in re.search('data-reasons="(.*?)"', card)[1].split()
    )
    assert found[""] == [108, len(cards)]
    assert found["complexity"] == [103, carried["complexity"]]
    # No pair fails the text rule first; those that fail it at all stand for it.
    assert found["text"] == [3, 3]
    assert found["kept"] == [5, 5]
    assert list(found) == ["", "kept", "complexity", "text"]
    assert 5 + PER_REASON <= len(cards) <= 5 + PER_REASON + 3  # those drawn for both stand there once


def test_an_older_table_will_do(tmp_path):
    row = pair("old", "text", text_overlap=6, text_overlap_exact=True, spotted_text=["a dog"])
    page = page_of(write_output(tmp_path / "out", {"s": [row]}))
    assert "overlap 6" in text_of(cards_of(page)["old"])


def test_without_data_there_are_no_pictures_and_a_word_why(pictured, tmp_path):
    (tmp_path / "data" / "00000.tar").unlink()
    page = page_of(pictured)
    assert "<img" not in page
    assert "DATA cannot be opened again" in text_of(page)
    assert set(cards_of(page)) == {"good", "twin", "text", "plain", "torn", "odd", ""}


def test_a_picture_that_is_gone_is_said_to_be(pictured, tmp_path, make_tar, encode):
    make_tar(tmp_path / "data" / "00000.tar", {"good.png": encode(), "good.txt": b"x"})
    cards = cards_of(page_of(pictured))
    assert "<img" in cards["good"]
    assert "cannot be read" in text_of(cards["plain"])


def test_equal_outputs_give_equal_pages_and_unfinished_ones_none(pictured):
    first = write_filter_page(pictured).read_bytes()
    assert write_filter_page(pictured).read_bytes() == first
    (pictured / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match="unfinished"):
        write_filter_page(pictured)


def test_an_empty_output_has_a_page(tmp_path):
    out = write_output(tmp_path / "out", {"s": [pair("x")]})
    writer_rows = pa.Table.from_pylist([], schema=schema_of([pair("x")]))
    import pyarrow.parquet as pq

    pq.write_table(writer_rows, out / "shards" / "s.parquet")
    (out / "summary.json").write_text(
        json.dumps(summary_of({"s": []}, histograms={"complexity": [], "actions": [], "text_overlap": []}))
    )
    assert "There is no pair to show." in page_of(out)


def test_a_path_that_is_no_utf8_does_not_stop_the_page(tmp_path):
    assert "nowhere\\udc80" in page_of(write_output(tmp_path / "out", {"s": [pair("x")]}, data="nowhere\udc80"))


def test_a_caption_of_a_megabyte_is_cut(tmp_path):
    page = page_of(write_output(tmp_path / "out", {"s": [pair("x", caption="word " * 200_000)]}))
    assert len(page) < 40_000
    assert "1,000,000 characters" in text_of(page)
    card = make_example("kept", "s", pair("x", caption="word " * 200_000))
    assert (len(card.caption), card.caption_chars) == (LONGEST_TEXT, 1_000_000)


def test_the_filters_own_output_makes_a_page(tmp_path, make_tar, encode):
    members = {}
    for index, caption in enumerate(["a red square", "x", "a red square"]):
        members[f"{index}.png"] = encode()
        members[f"{index}.txt"] = caption.encode()
    members["3.png"], members["3.txt"] = b"not a picture", b"broken"
    make_tar(tmp_path / "data" / "00000.tar", members)
    config = FilterConfig(preset="off", min_caption_chars=3, max_identical_captions=1, workers=1)
    summary = run_filter(str(tmp_path / "data"), config, tmp_path / "out")
    cards = cards_of(page_of(tmp_path / "out"))
    assert {key: re.search('data-reasons="(.*?)"', card)[1] for key, card in cards.items()} == {
        "0": "kept",
        "1": "caption_length",
        "2": "caption_frequency",
        "3": "image_unreadable",
    }
    assert summary["kept"] == 1
    assert open_stage(tmp_path / "out", "filter").summary["kept"] == 1  # the page is no part of the output


def test_every_rule_is_put_into_words():
    assert {rule.reason for rule in RULES} <= set(MEANING)


def test_rows_by_reason_on_a_case_done_by_hand():
    column = pa.chunked_array([[["a", "b"], [], ["b"]], [["b", "a"], []]], type=pa.list_(pa.string()))
    found = {reason: (rows.tolist(), first.tolist()) for reason, rows, first in rows_by_reason(column)}
    assert found == {
        "kept": ([1, 4], [True, True]),
        "a": ([0, 3], [True, False]),
        "b": ([0, 2, 3], [False, True, True]),
    }


def test_row_hashes_are_splitmix64_as_published():
    # The first numbers of Vigna's splitmix64.c started at 1234567.
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    rows = np.arange(3)
    original = samples._digest
    try:
        samples._digest = lambda shard, seed: 1234567
        assert row_hashes("any", rows, 0).tolist() == published
    finally:
        samples._digest = original
    assert row_hashes("a", rows, 0).tolist() != row_hashes("b", rows, 0).tolist()
    assert row_hashes("a", rows, 0).tolist() != row_hashes("a", rows, 1).tolist()


def many_shards(count, rare):
    """Shards of ten kept pairs and three faults; pairs that fail the text rule in the shards of `rare` only."""
    return {
        f"{index:03d}": [
            *(pair(f"k{row}") for row in range(10)),
            *(pair(f"f{row}", "image_empty") for row in range(3)),
            *([pair("t", "text")] if index in rare else []),
        ]
        for index in range(count)
    }


def test_few_shards_are_opened_for_pictures(tmp_path):
    output = open_stage(write_output(tmp_path / "out", many_shards(60, rare=range(0, 60, 2))), "filter")
    drawn = draw(output, seed=0, per_reason=24)
    found = read_examples(output, drawn)
    opened = opened_shards(found, drawn.shards)
    assert len(drawn.shards) == DRAWN_SHARDS
    assert set(drawn.shards) <= opened
    assert len(opened) <= DRAWN_SHARDS + FILL_SHARDS
    by_tag = Counter(card.tag for card in found)
    assert by_tag == {"kept": 24, "text": 24, "image_empty": 24}
    assert {card.shard for card in found if card.tag == "kept"} <= opened
    # Those there are in the preferred shards come first, the rest from all.
    there = sum(int(shard) % 2 == 0 for shard in drawn.shards)
    assert sum(card.shard in drawn.shards for card in found if card.tag == "text") == there
    # Faults have no picture, so they come from everywhere.
    assert not {card.shard for card in found if card.tag == "image_empty"} <= opened


def test_pictures_are_asked_of_the_opened_shards_only(tmp_path, monkeypatch):
    out = write_output(tmp_path / "out", many_shards(60, rare=range(0, 60, 2)))
    asked = []
    monkeypatch.setattr(pictures, "open_data", lambda data, reader: ["the shards"])
    monkeypatch.setattr(pictures, "thumbnails", lambda shards, places, side: asked.extend(places) or {})
    page = page_of(out)
    assert 0 < len({shard for shard, _ in asked}) <= DRAWN_SHARDS + FILL_SHARDS
    assert not any(key.startswith("f") for _, key in asked)
    assert "of the 60 shards" in text_of(page)
    assert "its shard was not opened" in text_of(page)


def test_what_a_rule_drops_itself_comes_before_what_others_dropped(tmp_path):
    rows = [pair(f"a{k}", "complexity", "text") for k in range(50)] + [pair(f"t{k}", "text") for k in range(3)]
    output = open_stage(write_output(tmp_path / "out", {"s": rows}), "filter")
    for seed in range(5):
        places = draw(output, seed=seed, per_reason=3).places["text"]
        assert sorted(places) == [("s", 50), ("s", 51), ("s", 52)]


def test_a_repeated_key_does_not_borrow_the_picture_of_the_first(pictured, tmp_path):
    rows = [pair("good", **NEW), pair("good", "duplicate_key", **NEW)]
    out = write_output(tmp_path / "twice", {"data-00000": rows}, data=str(tmp_path / "data"))
    assert page_of(out).count("<img") == 1


def test_the_draw_does_not_depend_on_the_order_of_the_shards(tmp_path):
    tables = many_shards(10, rare=range(10))
    output = open_stage(write_output(tmp_path / "out", tables), "filter")

    def chosen(names):
        turned = type(output)(path=output.path, run=output.run, summary=output.summary, shards=tuple(names))
        return draw(turned, seed=3, per_reason=5)

    assert chosen(output.shards) == chosen(reversed(output.shards))
    assert chosen(output.shards).counts == {"kept": 100, "image_empty": 30, "text": 10}


def test_every_pair_has_the_same_chance(tmp_path):
    rows = [pair(str(k)) for k in range(12)]
    output = open_stage(write_output(tmp_path / "out", {"a": rows[:4], "b": rows[4:]}), "filter")
    times = Counter(
        place for seed in range(400) for place in draw(output, seed=seed, per_reason=3).places[samples.KEPT]
    )
    # 400 draws of 3 of 12: 100 each, standard deviation 8.7
    assert len(times) == 12
    assert max(abs(count - 100) for count in times.values()) < 40


def test_a_pair_stands_for_one_reason_only(tmp_path):
    rows = [pair("a", "complexity", "text"), pair("b", "text"), pair("c", "caption_empty", "complexity")]
    output = open_stage(write_output(tmp_path / "out", {"s": rows}), "filter")
    drawn = draw(output, seed=0, per_reason=5)
    assert drawn.places == {"complexity": [("s", 0)], "text": [("s", 1)], "caption_empty": [("s", 2)]}
    assert [card.key for card in examples(output, 0)] == ["a", "b", "c"]


def test_the_funnel_tells_what_fails_alone():
    summary = summary_of({"s": [pair("a", "complexity"), pair("b")]}, alone={"complexity": 1, "text": 2})
    rows = {row["rule"]: row for row in funnel_rows(summary)}
    assert (rows["complexity"]["dropped"], rows["complexity"]["left"], rows["complexity"]["alone"]) == (1, 1, 1)
    assert (rows["complexity"]["width"], rows["complexity"]["lost"]) == (50, 50)
    assert rows["text"]["alone"] == 2
    assert rows["near_duplicate"]["alone"] is None


def bars_of(svg):
    found = re.findall(r'<rect class="([\w ]+)" x="([\d.]+)"[^>]*height="([\d.]+)"><title>(.*?)</title>', svg)
    return [(look, float(x), float(height), told) for look, x, height, told in found]


def test_a_histogram_draws_the_threshold_between_passing_and_failing():
    counts = [{"value": 0, "pairs": 100}, {"value": 1, "pairs": 10}, {"value": 3, "pairs": 1}]
    svg = histogram(counts, "complexity", Threshold(name="min_complexity", value=1, drops="below"))
    looks = [(look, told) for look, _, _, told in bars_of(svg)]
    assert looks == [
        ("drop", "complexity 0: 100 pairs"),
        ("keep", "complexity 1: 10 pairs"),
        ("keep", "complexity 3: 1 pairs"),
    ]
    heights = [height for _, _, height, _ in bars_of(svg)]
    assert heights == pytest.approx([128, 128 * 2 / 3, 128 / 3], abs=0.1)  # log10 of 100, 10, 1 above one decade
    line = float(re.search(r'class="limit" d="M([\d.]+)', svg)[1])
    first, second = bars_of(svg)[0][1], bars_of(svg)[1][1]
    assert first < line < second
    assert "min_complexity 1: &lt; 1 dropped" in svg


def test_a_histogram_cuts_its_tail_and_marks_lower_bounds():
    counts = [{"value": value, "pairs": 1} for value in (2, 5, 20, 21, 4000)]
    svg = histogram(counts, "shared", Threshold(name="text_overlap", value=5, drops="from"), lower_bounds=2)
    assert [(look, told) for look, *_, told in bars_of(svg)] == [
        ("keep", "shared 2: 1 pairs"),
        ("drop hatched", "shared 5: 1 pairs"),
        ("drop hatched", "shared 20+: 3 pairs"),
    ]
    assert 'id="hatch"' in svg
    assert 'id="hatch"' not in histogram(counts, "shared", None)
    assert ">20+</text>" in svg
    assert "<b>" not in histogram(counts, "<b>", None)


@pytest.mark.parametrize(
    ("number", "shown"),
    [(0, "0"), (999, "999"), (1000, "1k"), (1234, "1.2k"), (9960, "9k"), (45678, "45k"), (3_400_000, "3.4M")],
)
def test_counts_are_written_short(number, shown):
    assert compact(number) == shown


def test_a_picture_that_compresses_badly_is_still_small():
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, "PNG")
    assert len(data_uri(stream.getvalue(), 200)) < 1.34 * LARGEST_BYTES + 100
