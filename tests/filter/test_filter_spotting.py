import io

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from stillroom.filter.reader import Region, decode_ctc, text_reader
from stillroom.filter.spotting import Spotter, Spotting


def region(left, top, width, height):
    corners = [[left, top], [left + width, top], [left + width, top + height], [left, top + height]]
    return Region(corners=np.array(corners, np.float32), score=0.9)


class FakeReader:
    """Finds what it is told, at the first look and at later ones, and counts what it is asked."""

    def __init__(self, *looks):
        self.looks = [
            [(region(0, 20 * i, width, 10), text, confidence) for i, (text, confidence, width) in enumerate(pieces)]
            for pieces in looks
        ]
        self.sides, self.reads = [], []

    def detect(self, picture, side):
        self.sides.append(side)
        return [found for found, _, _ in self.looks[len(self.sides) - 1]]

    def read(self, picture, wanted):
        text, confidence = next((t, c) for look in self.looks for found, t, c in look if found is wanted)
        self.reads.append(text)
        return text, confidence


PICTURE = Image.new("RGB", (160, 100), "white")
FIRST, SECOND = 320, 1178  # longer sides of the two looks at PICTURE: 2 times 160, and 160 * 736 / 100


def test_the_longest_piece_is_read_first_and_a_match_ends_it():
    reader = FakeReader([("cat", 0.99, 30), ("summer sale", 0.95, 110), ("50%", 0.9, 25)])
    spotting = Spotter(reader=reader).spot(PICTURE, "Poster of a SUMMER SALE")
    assert reader.reads == ["summer sale"]
    assert reader.sides == [FIRST]
    assert (spotting.texts, spotting.confidences) == (("summer sale",), (0.95,))
    assert (spotting.overlap, spotting.exact, spotting.skipped) == (10, False, None)
    # The piece spans x 0 to 110 of 160 and y 20 to 30 of 100.
    assert spotting.boxes == (pytest.approx((0, 0.2, 0.6875, 0.2, 0.6875, 0.3, 0, 0.3)),)


def test_boxes_stay_within_the_picture():
    reader = FakeReader([("hat", 0.9, 400)])
    reader.looks[0] = [(region(-16, -10, 400, 30), "hat", 0.9)]
    (box,) = Spotter(reader=reader).spot(PICTURE, "summer").boxes
    assert box == pytest.approx((0, 0, 1, 0, 1, 0.2, 0, 0.2))
    assert all(type(share) is float for share in box)


def test_exhaustive_reads_everything_of_both_looks_and_is_exact():
    pieces = [("cat", 0.99, 30), ("summer sale", 0.95, 110), ("summer sale poster", 0.95, 100)]
    reader = FakeReader(pieces, [("a summer sale", 0.9, 100), ("?", 0.3, 10)])
    spotting = Spotter(reader=reader, exhaustive=True).spot(PICTURE, "summer sale poster")
    assert spotting.texts == ("summer sale", "summer sale poster", "cat", "a summer sale")
    assert spotting.confidences == (0.95, 0.95, 0.99, 0.9)
    assert (len(spotting.boxes), spotting.overlap, spotting.exact) == (4, 16, True)


def test_nothing_near_the_caption_is_looked_at_once_and_exact():
    reader = FakeReader([("sale", 0.99, 50), ("mer", 0.3, 40), ("su", 0.99, 20)])
    spotting = Spotter(reader=reader).spot(PICTURE, "su me xx")
    assert reader.sides == [FIRST]
    assert (spotting.overlap, spotting.exact, spotting.texts) == (2, True, ("sale", "su"))


@pytest.mark.parametrize("confidence", [0.99, 0.1])
def test_something_near_the_caption_is_looked_at_again_larger(confidence):
    reader = FakeReader([("sum nner", confidence, 60)], [("x", 0.9, 30), ("summer", 0.9, 60)])
    spotting = Spotter(reader=reader).spot(PICTURE, "summer day")
    assert reader.sides == [FIRST, SECOND]
    assert reader.reads == ["sum nner", "summer"]
    assert (spotting.overlap, spotting.exact) == (6, False)
    assert spotting.texts == (("sum nner", "summer") if confidence > 0.8 else ("summer",))


def test_a_second_look_without_a_match_is_exact():
    reader = FakeReader([("summ", 0.99, 50), ("mersale", 0.99, 40)], [("ummer", 0.7, 50)])
    spotting = Spotter(reader=reader).spot(PICTURE, "summer day")
    assert (spotting.overlap, spotting.exact, spotting.texts) == (4, True, ("summ", "mersale"))


def test_what_both_looks_read_alike_stands_once_by_the_surer_reading():
    reader = FakeReader([("summ", 0.7, 50), ("day", 0.95, 40)], [("summ", 0.9, 50), ("day", 0.85, 40), ("sum", 0.9, 9)])
    spotting = Spotter(reader=reader).spot(PICTURE, "summer day")
    assert (spotting.texts, spotting.confidences) == (("summ", "day", "sum"), (0.9, 0.95, 0.9))
    assert len(spotting.boxes) == 3


def test_a_match_on_the_last_piece_is_a_lower_bound_if_a_second_look_would_follow():
    assert Spotter(reader=FakeReader([("summer", 0.9, 60)])).spot(PICTURE, "summer").exact is False
    assert Spotter(reader=FakeReader([("su", 0.9, 60)]), threshold=2).spot(PICTURE, "summer").exact is True
    reader = FakeReader([("summ", 0.9, 60)], [("summer", 0.9, 60)])
    assert Spotter(reader=reader).spot(PICTURE, "summer").exact is True


@pytest.mark.parametrize(
    ("size", "sides"), [((1600, 800), [640, 1600]), ((400, 100), [640, 1600]), ((900, 800), [640, 900])]
)
def test_the_second_look_is_as_large_as_rapidocrs_within_bounds(size, sides):
    reader = FakeReader([("summ", 0.9, 60)], [])
    Spotter(reader=reader).spot(Image.new("RGB", size), "summer")
    assert reader.sides == sides


def test_there_is_no_second_look_at_what_was_seen_as_large():
    reader = FakeReader([("summ", 0.9, 60)])
    assert Spotter(reader=reader, side=1000).spot(Image.new("RGB", (800, 736)), "summer").exact is True
    assert reader.sides == [1000]


def test_decisions_do_not_depend_on_exhaustive():
    looks = [("sum", 0.9, 60), ("ale", 0.85, 50)], [("summer", 0.85, 60), ("summer sale", 0.81, 30)]
    for threshold in range(1, 11):
        for confidence in (0.8, 0.83, 0.88, 0.95):
            cut, whole = (
                Spotter(reader=FakeReader(*looks), threshold=threshold, confidence=confidence, exhaustive=exhaustive)
                for exhaustive in (False, True)
            )
            one, other = (spotter.spot(PICTURE, "summer sale") for spotter in (cut, whole))
            assert (one.overlap >= threshold) is (other.overlap >= threshold)
            assert one.overlap == other.overlap if one.exact else one.overlap <= other.overlap


@pytest.mark.parametrize(("confidence", "overlap"), [(0.8, 6), (0.7999, 0)])
def test_unsure_readings_do_not_count(confidence, overlap):
    spotting = Spotter(reader=FakeReader([("summer", confidence, 60)], [])).spot(PICTURE, "summer")
    assert spotting.overlap == overlap
    assert len(spotting.texts) == len(spotting.confidences) == len(spotting.boxes) == (overlap > 0)


@pytest.mark.parametrize(("caption", "searched"), [("c a t s", False), ("c a t s !", True), ("ＣＡＴＳ", False)])
def test_a_caption_too_short_to_match_is_not_searched_for(caption, searched):
    reader = FakeReader([], [])
    spotter = Spotter(reader=reader)
    spotting = spotter.spot(PICTURE, caption)
    assert (len(reader.sides) == 1, spotter.skips(caption)) == (searched, not searched)
    assert spotting == (
        Spotting(texts=(), confidences=(), boxes=(), overlap=0, exact=True)
        if searched
        else Spotting(skipped="caption_too_short")
    )
    assert Spotter(reader=reader, exhaustive=True).spot(PICTURE, caption).overlap == 0


def test_a_small_picture_is_not_searched():
    assert Spotter(reader=FakeReader([]), min_side=101).spot(PICTURE, "summer") == Spotting(skipped="picture_too_small")
    assert Spotter(reader=FakeReader([]), min_side=100).spot(PICTURE, "summer").overlap == 0


@pytest.mark.parametrize(("size", "side"), [((160, 100), 320), ((64, 48), 128), ((1024, 500), 640), ((100, 600), 640)])
def test_the_detector_sees_small_pictures_enlarged_and_large_ones_reduced(size, side):
    reader = FakeReader([])
    Spotter(reader=reader).spot(Image.new("RGB", size), "summer")
    assert reader.sides == [side]


def test_ctc_merges_repeats_and_leaves_blanks_out():
    characters = ["", "a", "b"]
    path = [(1, 0.9), (1, 0.6), (0, 0.8), (1, 0.7), (2, 0.5), (0, 0.9)]
    probabilities = np.zeros((len(path), 3))
    for step, (character, probability) in enumerate(path):
        probabilities[step] = (1 - probability) / 2
        probabilities[step, character] = probability
    text, confidence = decode_ctc(probabilities, characters)
    assert text == "aab"
    assert confidence == pytest.approx((0.9 + 0.7 + 0.5) / 3)
    assert decode_ctc(np.array([[0.9, 0.1, 0.0]]), characters) == ("", 0.0)


@pytest.mark.parametrize(
    ("text", "options", "caption", "dropped"),
    [
        ("Summer Sale", {}, "a summer sale poster", True),
        ("GARDEN", {"colour": "white", "paper": "darkgreen", "size": (640, 480), "letters": 60}, "My garden", True),
        ("Bicycle", {"size": (160, 160), "letters": 18}, "red bicycle", True),
        ("Mountain", {}, "a summer sale poster", False),
        ("", {}, "a summer sale poster", False),
    ],
)
def test_real_models_on_drawn_lettering(draw, text, options, caption, dropped):
    image = Image.open(io.BytesIO(draw(text, **options)))
    spotting = Spotter(reader=text_reader()).spot(image, caption)
    assert (spotting.overlap >= 5) is dropped, spotting


@pytest.mark.parametrize("turn", [90, 270])
def test_real_models_read_lines_that_run_up_and_down(draw, turn):
    image = Image.open(io.BytesIO(draw("Mountain"))).rotate(turn, expand=True)
    assert Spotter(reader=text_reader()).spot(image, "mountain").overlap == 8


def test_real_models_tell_where_the_lettering_is():
    picture = Image.new("RGB", (700, 500), "white")
    ImageDraw.Draw(picture).text(
        (350, 375), "Mountain", fill="black", font=ImageFont.load_default(size=60), anchor="mm"
    )
    (box,) = Spotter(reader=text_reader(), exhaustive=True).spot(picture, "lake").boxes
    xs, ys = box[::2], box[1::2]
    assert (xs[0], xs[1], ys[0], ys[2]) == pytest.approx((xs[3], xs[2], ys[1], ys[3]), abs=0.02)
    assert xs[0] < 0.5 < xs[1]
    assert ys[0] < 0.75 < ys[2]
    width = ImageFont.load_default(size=60).getlength("Mountain") / 700
    assert xs[1] - xs[0] == pytest.approx(width, abs=0.08)
    assert 60 / 500 * 0.6 < ys[2] - ys[1] < 60 / 500 * 1.6
