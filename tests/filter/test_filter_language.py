import tomllib
from pathlib import Path

import pytest

from stillroom.errors import MissingDependencyError
from stillroom.filter import language
from stillroom.filter.language import LANGUAGES, LONGEST, caption_language, require_language_detector

CAPTIONS = tomllib.loads(Path(__file__).with_name("captions_by_language.toml").read_text(encoding="utf-8"))


def foreign(table):
    return [(code, caption) for code, captions in CAPTIONS[table].items() if code != "en" for caption in captions]


@pytest.mark.parametrize("table", ["chosen_on", "held_out"])
def test_most_captions_of_three_words_are_found(table):
    found = [(code, caption_language(caption)) for code, caption in foreign(table)]
    assert len(found) >= 80
    assert sum(guess not in ("en", None) for _, guess in found) >= 0.95 * len(found)
    assert sum(guess == code for code, guess in found) >= 0.93 * len(found)
    assert not any(guess == "en" for _, guess in found)


def test_hardly_any_english_caption_is_called_another():
    # Names, brands, file names, dishes and loan words: the hard ones.
    chosen, held_out = (CAPTIONS[table]["en"] for table in ("chosen_on", "held_out"))
    lost = {caption for caption in [*chosen, *held_out] if caption_language(caption) not in ("en", None)}
    assert lost == {"Spaghetti carbonara recipe", "Rio de Janeiro skyline at night", "Café au lait in a cup"}


@pytest.mark.parametrize(
    "caption",
    [
        "",
        " ",
        "2024",
        "50% off",
        "<b></b>",
        "IMG_2041.JPG",
        "!?…",
        "🎉🎉",
        "ok",
        "A4",
        "Lumaca",
        "Tom Hanks",
        "é",
        "\0",
    ],
)
def test_unsure(caption):
    assert caption_language(caption) is None


@pytest.mark.parametrize(
    ("caption", "code"),
    [
        ("A dog runs along the beach", "en"),
        ("THE SUN SETS BEHIND THE MOUNTAINS", "en"),
        ("DIE SONNE GEHT HINTER DEN BERGEN UNTER", "de"),
        ("犬", "ja"),
        ("собака", "ru"),
        ("Sushi restaurant in the old part of Tokyo 東京", "en"),
        ("東京の古い寿司屋 sushi", "ja"),
        ("Ein Hund läuft am Strand \ud800", "de"),
    ],
)
def test_scripts_cases_and_broken_characters(caption, code):
    assert caption_language(caption) in (code, None)
    if len(caption) > 10:
        assert caption_language(caption) == code


def test_only_the_beginning_of_a_huge_caption_is_read():
    german = "Ein Hund läuft am Strand. "
    begins_german = (german * 100)[:LONGEST]
    assert caption_language(begins_german + "The sun sets behind the mountains. " * 30_000) == "de"


def test_languages_are_codes_of_two_letters_that_the_model_knows():
    assert len(set(LANGUAGES)) == len(LANGUAGES)
    assert all(len(code) == 2 for code in LANGUAGES)
    assert set(language._identifier().labels) == {*LANGUAGES, language.NO_LANGUAGE}


def test_names_what_to_install(monkeypatch):
    require_language_detector()
    monkeypatch.setattr(language, "find_spec", lambda name: None)
    language._identifier.cache_clear()
    for ask in (require_language_detector, lambda: caption_language("A dog runs along the beach")):
        with pytest.raises(MissingDependencyError, match=r"stillroom\[language\]"):
            ask()
