"""What tags prove: whatever a parser makes of a caption that is ruled out, it has no action."""

import random
from pathlib import Path

import pytest
import spacy
from spacy.tokens import Doc

from stillroom.data.source import open_data
from stillroom.filter import caption_actions
from stillroom.filter.evidence import verb_evidence
from stillroom.filter.parser import load_parser, parse_captions
from stillroom.filter.words import word_set
from stillroom.records import Sample

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
WORDS = sorted(
    word_set(
        "dog cats zebra grazing running building spring can is has been there it that by with on in of a the red "
        "car # to not who gon na let all ai 's stop shopping cart made taken and , . 2 left"
    )
)
LIKELY = ["nsubj", "dobj", "aux", "prep", "pobj", "compound", "conj", "det", "agent", "expl", "auxpass", "nsubjpass"]


@pytest.fixture(scope="module")
def nlp():
    return load_parser()


@pytest.fixture(scope="module")
def evidence(nlp):
    return verb_evidence(nlp)


def finished(nlp, doc):
    """Parts of speech and lemmas, as the pipeline's rules give them."""
    return nlp.get_pipe("lemmatizer")(nlp.get_pipe("attribute_ruler")(doc))


def test_verb_tags_and_words_are_read_off_the_pipeline(evidence):
    assert evidence.tags == {"VB", "VBD", "VBG", "VBN", "VBP", "VBZ", "BES", "HVS"}
    assert {"have", "has", "is", "were", "do"} <= evidence.words
    assert not evidence.words & {"dog", "can", "on"}


def test_captions_ruled_out_by_random_tags_have_no_action_in_any_parse(nlp, evidence):
    rng = random.Random(4)
    tags, deps = nlp.get_pipe("tagger").labels, nlp.get_pipe("parser").labels
    calm = [tag for tag in tags if not tag.startswith("VB")]
    ruled_out = acting = 0
    for k in range(4000):
        n = rng.randint(1, 7)
        words, root = rng.choices(WORDS, k=n), rng.randrange(n)
        chosen = rng.choices(tags if k % 4 == 0 else ["NN", "NNS", "MD", "JJ", "IN"] if k % 4 == 1 else calm, k=n)
        heads, done = [root] * n, [root]
        for i in rng.sample([i for i in range(n) if i != root], n - 1):
            heads[i] = rng.choice(done)
            done.append(i)
        labels = ["ROOT" if i == root else rng.choice(rng.choice([deps, LIKELY])) for i in range(n)]
        doc = Doc(nlp.vocab, words=words, tags=chosen, heads=heads, deps=labels)
        out = evidence.lacks_verbs(doc)
        actions = caption_actions(finished(nlp, doc))
        assert not (out and actions), [(t.text, t.tag_, t.pos_, t.dep_, t.head.i) for t in doc]
        ruled_out += out
        acting += bool(actions)
    assert ruled_out > 2000
    assert acting > 5


@pytest.mark.parametrize(
    ("words", "tags", "out"),
    [
        ("run", "VB", True),
        ("red car", "JJ NN", True),
        ("dog runs", "NN VBZ", False),
        ("a zebra grazing on grass", "DT NN NN IN NN", False),
        ("the can running on grass", "DT MD NN IN NN", False),
        ("a zebra building on grass", "DT NN NN IN NN", True),
        ("red grazing zebra", "JJ NN NN", True),
        ("zebra grazing", "NN NN", True),
        ("they have", "PRP NN", False),
        ("they can", "PRP MD", True),
    ],
)
def test_evidence_of_single_captions(nlp, evidence, words, tags, out):
    assert evidence.lacks_verbs(Doc(nlp.vocab, words=words.split(), tags=tags.split())) is out


@pytest.mark.parametrize(("second", "tag"), [("zebra", "NN"), ("zebras", "NNS"), ("can", "MD")])
def test_what_is_let_through_may_act(nlp, evidence, second, tag):
    """The rule of -ing words from the other side: with these tags there is a parse in which it makes a verb."""
    words, tags = ["a", second, "grazing", "on", "grass"], ["DT", tag, "NN", "IN", "NN"]
    deps = ["det", "compound", "ROOT", "prep", "pobj"]
    doc = Doc(nlp.vocab, words=words, tags=tags, heads=[2, 2, 2, 2, 3], deps=deps)
    assert not evidence.lacks_verbs(doc)
    assert caption_actions(finished(nlp, doc)) == ["graze"]


def test_bundled_captions_that_are_ruled_out_have_no_action(nlp, evidence):
    shards = [*open_data(str(EXAMPLES / "openclipart" / "heldout")), *open_data(str(EXAMPLES / "icons" / "train"))[:1]]
    captions = {s.caption for shard in shards for s in shard.samples(images=False) if isinstance(s, Sample)}
    few = random.Random(0).sample(sorted(captions), 1500)
    out = {True: 0, False: 0}
    for doc in parse_captions(nlp, few):
        lacks = evidence.lacks_verbs(doc)
        out[lacks] += 1
        assert not (lacks and caption_actions(doc)), doc.text
    assert min(out.values()) > 150


def with_rule(attrs, pattern, index=0):
    nlp = load_parser()
    nlp.get_pipe("attribute_ruler").add([pattern], attrs, index)
    return nlp


def test_rules_of_the_pipeline_are_taken_into_account():
    found = verb_evidence(with_rule({"POS": "VERB"}, [{"TAG": "UH", "DEP": "ROOT"}]))
    assert "UH" in found.tags
    found = verb_evidence(with_rule({"POS": "VERB"}, [{"DEP": "det"}, {"LOWER": {"IN": ["zap", "zip"]}}], 1))
    assert {"zap", "zip"} <= found.words


@pytest.mark.parametrize(
    ("attrs", "pattern"),
    [
        ({"POS": "VERB"}, [{"DEP": "ROOT"}]),
        ({"POS": "VERB"}, [{"LOWER": {"REGEX": "zap.*"}}]),
        ({"POS": "VERB"}, [{"TAG": {"NOT_IN": ["NN"]}}]),
        ({"POS": "VERB"}, [{"LOWER": "zap", "OP": "*"}]),
        ({"TAG": "VB"}, [{"LOWER": "zap"}]),
    ],
)
def test_pipelines_whose_rules_prove_nothing_are_not_trusted(attrs, pattern):
    assert verb_evidence(with_rule(attrs, pattern)) is None


def test_pipelines_of_other_components_or_languages_are_not_trusted():
    nlp = load_parser()
    nlp.add_pipe("morphologizer")
    assert verb_evidence(nlp) is None
    late = load_parser()
    late.remove_pipe("tagger")
    late.add_pipe("tagger", last=True)
    assert verb_evidence(late) is None
    french = spacy.blank("fr")
    french.add_pipe("tagger")
    french.add_pipe("parser")
    assert verb_evidence(french) is None
