"""The page: what a stranger wrote stays text, numbers are those of the stages, pictures are made anew."""

import base64
import io
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from stillroom.data import DataConfig, open_data
from stillroom.data.images import ImageError
from stillroom.filter.config import FilterConfig
from stillroom.filter.run import run as run_filter
from stillroom.report.charts import score_bars, svg
from stillroom.report.filtering import funnel_rows
from stillroom.report.histogram import histogram
from stillroom.report.labels import frequent, labelled, vocabulary_names
from stillroom.report.page import render
from stillroom.report.pictures import THUMBNAIL, data_uri, thumbnails
from stillroom.report.samples import KEPT, PER_REASON, examples
from stillroom.report.search import ranked

HOSTILE = '<script>alert("x")</script><img src=x onerror=alert(1)> & "quoted" \'single\''


def png(color="red", size=(300, 200)):
    stream = io.BytesIO()
    Image.new("RGB", size, color).save(stream, "PNG")
    return stream.getvalue()


def opened(uri):
    head, _, body = uri.partition(",")
    assert head == "data:image/webp;base64"
    return Image.open(io.BytesIO(base64.b64decode(body)))


@pytest.fixture
def folder(tmp_path):
    data = tmp_path / "pairs"
    data.mkdir()
    captions = [HOSTILE, "", "a", *(f"number {index} of a row" for index in range(20)), *(["the same"] * 5)]
    for index, caption in enumerate(captions):
        (data / f"{index:03d}.png").write_bytes(png())
        (data / f"{index:03d}.txt").write_text(caption)
    return data


@pytest.fixture
def filtered(folder, tmp_path):
    from stillroom.artifacts import open_stage

    config = FilterConfig(preset="off", min_caption_chars=3, max_identical_captions=2, workers=1)
    summary = run_filter(str(folder), config, tmp_path / "filter")
    return summary, open_stage(tmp_path / "filter", "filter")


def test_thumbnails_are_small_and_made_anew():
    picture = opened(data_uri(png()))
    assert max(picture.size) == THUMBNAIL
    assert opened(data_uri(png(size=(10, 6)))).size == (10, 6)
    with pytest.raises(ImageError):
        data_uri(b"<svg onload=alert(1)>")


def test_thumbnails_are_found_by_shard_and_key(folder):
    shards = open_data(str(folder))
    name = shards[0].name
    found = thumbnails(shards, [(name, "003.png"), (name, "no such key"), ("no such shard", "003.png")])
    assert list(found) == [(name, "003.png")]


def test_the_funnel_tells_what_each_rule_left(filtered):
    rows = funnel_rows(filtered[0])
    assert rows[0]["left"] == 28
    assert rows[-1]["left"] == filtered[0]["kept"] == 23
    assert sum(row["dropped"] for row in rows) == 28 - 23
    assert rows[-1]["width"] == pytest.approx(100 * 23 / 28)
    assert any("min caption chars 3" in row["name"] for row in rows)


def test_every_reason_has_examples_and_kept_come_first(filtered):
    cards = examples(filtered[1], seed=0)
    tags = [card.tag for card in cards]
    assert tags[0] == KEPT
    assert tags.count(KEPT) == PER_REASON
    assert tags.count("caption_frequency") == 3
    assert tags.count("caption_length") == 1
    assert cards == examples(filtered[1], seed=0)
    assert cards != examples(filtered[1], seed=1)


def test_examples_are_drawn_evenly(filtered):
    counts = np.zeros(28)
    for seed in range(300):
        for card in examples(filtered[1], seed=seed):
            if card.tag == KEPT:
                counts[int(card.key.removesuffix(".png"))] += 1
    drawn = counts[counts > 0] / 300
    assert len(drawn) == 23
    assert drawn.min() > 0.5 * PER_REASON / 23
    assert drawn.max() < 1.5 * PER_REASON / 23


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


def page_of(folder, filtered, **changes):
    summary, output = filtered
    context = {
        "version": "0",
        "check": {"samples": 28},
        "filter": summary,
        "funnel": funnel_rows(summary),
        "cards": [card for card in examples(output, seed=0) if card.caption == HOSTILE] or examples(output, seed=0),
        "histograms": [],
        "concepts": {
            "vocabulary": {"objects": {"size": 1}, "attributes": {"size": 1}},
            "teacher": {"name": HOSTILE},
        },
        "frequent": {"objects": [{"name": HOSTILE, "count": 3, "width": 100.0}]},
        "labelled": [{"place": ("s", "k"), "caption": HOSTILE, "object": [], "attribute": []}],
        "models": ["a", "b"],
        "runs": {"a": {"samples": 1}, "b": {"samples": 1, "learning_parameters": 1}},
        "curves": "<svg></svg>",
        "bars": "<svg></svg>",
        "scores": [],
        "mean": None,
        "search_task": "t",
        "queries": [
            {"query": HOSTILE, "models": {name: [{"uri": data_uri(png()), "caption": HOSTILE}] for name in "ab"}}
        ],
        "probe": {"task": "t", "classes": 2, "model": "b", "draws": 5},
        "few_shot": "<svg></svg>",
    }
    return render({**context, **changes}, data=str(folder), reader=DataConfig())


def test_what_strangers_wrote_stays_text(folder, filtered):
    html = page_of(folder, filtered)
    page = Page()
    page.feed(html)
    scripts = [attributes for tag, attributes in page.tags if tag == "script"]
    assert scripts == [{}]
    assert not any("onerror" in attributes for _, attributes in page.tags)
    assert "&lt;script&gt;alert(" in html


def test_the_page_links_to_nothing_outside(folder, filtered):
    html = page_of(folder, filtered)
    page = Page()
    page.feed(html)
    for tag, attributes in page.tags:
        for name in ("src", "href"):
            if name in attributes:
                inside = ("data:image/webp;base64,", "#", "filter/report.html", "concepts/report.html")
                assert attributes[name].startswith(inside), (tag, attributes[name][:60])
    assert "default-src 'none'" in html
    assert not re.search(r'url\((?!"#)|@import', html)


def test_vocabulary_tables_keep_the_order_of_ids(tmp_path):
    path = tmp_path / "objects.csv"
    path.write_text("name,count,examples\ncat,2,x\ndog,5,y\napple,5,z\n")
    assert vocabulary_names(path) == ["cat", "dog", "apple"]
    assert [row["name"] for row in frequent(path)] == ["apple", "dog", "cat"]
    assert [row["width"] for row in frequent(path)] == [100, 100, 40]


def test_labels_are_named_and_padding_is_left_out(tmp_path):
    import pyarrow as pa

    (tmp_path / "objects.csv").write_text("name,count,examples\ncat,2,x\ndog,5,y\n")
    (tmp_path / "attributes.csv").write_text("name,count,examples\nred,2,x\n")
    rows = pa.table(
        {
            "key": ["k"],
            "object_ids": [[1, 0]],
            "object_probs": [[0.75, 0.25]],
            "attribute_ids": [[0, 0]],
            "attribute_probs": [[1.0, 0.0]],
        }
    )
    output = SimpleNamespace(path=tmp_path, shards=("s",), shard=lambda name: rows)
    (card,) = labelled(output, {("s", "k"): "a dog"}, seed=0)
    assert card["caption"] == "a dog"
    assert card["object"] == [{"name": "dog", "share": 75.0}, {"name": "cat", "share": 25.0}]
    assert card["attribute"] == [{"name": "red", "share": 100.0}]


def test_best_first_and_ties_by_row():
    assert ranked(np.array([0.1, 0.9, 0.5, 0.9]), 3).tolist() == [1, 3, 2]


def test_plots_are_inline_svg_and_repeat():
    bars = [{"value": 0, "pairs": 10}, {"value": 3, "pairs": 1}]
    first = histogram(bars, "t", None)
    assert first.startswith("<svg")
    assert first == histogram(bars, "t", None)
    row = SimpleNamespace(task="a_b", metric="acc1", scores=(0.5, None), chance=0.1)
    assert "a b, accuracy" in score_bars([row], ["x", "y"], {"acc1": "accuracy"})
    from matplotlib.figure import Figure

    assert "http://" not in re.sub(r'xmlns(:\w+)?="[^"]+"', "", svg(Figure())).replace("http://www.w3.org", "")
