import re

import pytest

from stillroom.data.reasons import ADVICE
from stillroom.filter.config import FilterConfig
from stillroom.filter.rules import REASONS, RULES, Measurements, decide, rules_on

# threshold, measured quantity, reason, a limit, the last value that passes it and the first that fails
EDGES = [
    ("min_caption_chars", "caption_chars", "caption_length", 5, 5, 4),
    ("max_caption_chars", "caption_chars", "caption_length", 5, 5, 6),
    ("max_pwatermark", "pwatermark", "watermark", 0.5, 0.5, 0.51),
    ("max_punsafe", "punsafe", "unsafe", 0.5, 0.5, 0.51),
    ("max_nsfw", "nsfw", "nsfw", "unsure", "unsure", "nsfw"),
    ("max_nsfw", "nsfw", "nsfw", "unlikely", "unlikely", "unsure"),
    ("min_similarity", "similarity", "similarity", 0.28, 0.28, 0.279),
    ("min_picture_side", "picture_sides", "picture_size", 64, (64, 65), (63, 900)),
    ("max_aspect_ratio", "picture_sides", "aspect_ratio", 2.5, (100, 250), (100, 251)),
    ("language", "language", "language", "en", "en", "de"),
    ("min_complexity", "complexity", "complexity", 1, 1, 0),
    ("min_actions", "actions", "action", 1, 1, 0),
    ("text_overlap", "text_overlap", "text", 5, 4, 5),
    ("min_model_similarity", "model_similarity", "model_similarity", -0.1, -0.1, -0.11),
    ("near_duplicate_distance", "near_duplicate_of", "near_duplicate", 0, None, "00000/000000001"),
    ("max_identical_captions", "identical_before", "caption_frequency", 2, 1, 2),
]


def verdict(measured, **thresholds):
    if "min_model_similarity" in thresholds:
        thresholds["similarity_model"] = "any"
    return decide(Measurements(**measured), FilterConfig(preset="off", **thresholds))


@pytest.mark.parametrize(("threshold", "quantity", "reason", "limit", "passing", "failing"), EDGES)
def test_every_rule_at_its_edge(threshold, quantity, reason, limit, passing, failing):
    kept = verdict({quantity: passing}, **{threshold: limit})
    dropped = verdict({quantity: failing}, **{threshold: limit})
    assert (kept.kept, kept.reasons) == (True, ())
    assert (dropped.kept, dropped.reasons) == (False, (reason,))


@pytest.mark.parametrize(("threshold", "quantity", "reason", "limit", "passing", "failing"), EDGES)
def test_none_is_off_and_unmeasured_never_fails(threshold, quantity, reason, limit, passing, failing):
    assert verdict({quantity: failing}, **{threshold: None}).kept
    assert verdict({quantity: None}, **{threshold: limit}).kept


@pytest.mark.parametrize(
    ("threshold", "quantity", "value", "kept"),
    [
        ("min_caption_chars", "caption_chars", 0, True),
        ("max_caption_chars", "caption_chars", 0, True),
        ("max_caption_chars", "caption_chars", 1, False),
        ("max_pwatermark", "pwatermark", 0.0, True),
        ("max_pwatermark", "pwatermark", 0.001, False),
        ("min_complexity", "complexity", 0, True),
        ("min_actions", "actions", 0, True),
        ("text_overlap", "text_overlap", 0, False),
        ("max_identical_captions", "identical_before", 0, False),
    ],
)
def test_zero_means_zero(threshold, quantity, value, kept):
    assert verdict({quantity: value}, **{threshold: 0}).kept is kept


def test_faults_come_first_then_the_rules_in_order():
    measured = Measurements(actions=0, complexity=0, punsafe=0.9, faults=("image_truncated",))
    assert decide(measured, FilterConfig()).reasons == ("image_truncated", "unsafe", "action", "complexity")


def test_a_fault_drops_a_pair_with_every_rule_off():
    assert decide(Measurements(faults=("caption_empty",)), FilterConfig(preset="off")).reasons == ("caption_empty",)


def test_rules_on_are_those_with_a_threshold():
    assert [rule.reason for rule in rules_on(FilterConfig())] == ["watermark", "unsafe", "action", "complexity", "text"]
    assert rules_on(FilterConfig(preset="off")) == ()
    assert [rule.reason for rule in rules_on(FilterConfig(preset="off", min_complexity=0))] == ["complexity"]


def test_reasons_are_a_closed_vocabulary_of_distinct_names():
    assert len(set(REASONS)) == len(REASONS) == len(RULES) + len(ADVICE)
    assert all(re.fullmatch("[a-z0-9_]+", reason) for reason in REASONS)
