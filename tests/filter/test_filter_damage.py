"""All the damage of scraped data, through the filter: counted by reason, named by shard and key, the rest unharmed."""

import json
import os
import struct
import subprocess
import sys
import tarfile
import zlib
from io import BytesIO

import pytest
from filter_runs import (
    DOG,
    FISH,
    complaints,
    environment,
    filter_in_a_process,
    pair,
    rows,
    write_members,
)
from PIL import Image, ImageDraw, ImageFont

from stillroom.data.reasons import ADVICE
from stillroom.filter.config import FilterConfig
from stillroom.filter.run import run

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
SIZE = (14, 12)  # too small to hold lettering, so that only the picture of LETTERED is searched for it
MEGABYTE = 2**20
SCRIPT = "<script>alert('x')</script><img src=x onerror=alert(1)>"


def encode(image="navy", kind="PNG", **options):
    image = Image.new("RGB", SIZE, image) if isinstance(image, str) else image
    sink = BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, pixels, *chunks):
    """A black and white PNG with these compressed pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def zeros(size):
    packer = zlib.compressobj(1)
    whole, rest = divmod(size, MEGABYTE)
    return b"".join(
        [*(packer.compress(bytes(MEGABYTE)) for _ in range(whole)), packer.compress(bytes(rest)), packer.flush()]
    )


def huge_jpeg():
    """A JPEG whose header says 30,000 x 20,000."""
    data = bytearray(encode(kind="JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", 20_000, 30_000)
    return bytes(data)


def animation(kind):
    return encode(kind=kind, save_all=True, append_images=[Image.new("RGB", SIZE, c) for c in ("red", "lime")])


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(kind="JPEG", exif=exif)


def lettering(text):
    image = Image.new("RGB", (320, 120), "white")
    ImageDraw.Draw(image).text((12, 44), text, fill="navy", font=ImageFont.load_default(size=32))
    return encode(image)


def palette():
    image = Image.new("P", SIZE, 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    return encode(image, transparency=1)


def bombs():
    """Pictures of 600 megapixels that unpack to 0.6 GB and more, and one with 400 MB of text in its header."""
    width, height = 30_000, 20_000
    return {
        "bomb": png(width, height, zeros((width // 8 + 1) * height)),
        "empty_bomb": png(width, height, zlib.compress(b"")),
        "jpeg_bomb": huge_jpeg(),
        "text_bomb": png(8, 1, zlib.compress(b"\0\0"), chunk(b"zTXt", b"t\0\0" + zeros(400 * MEGABYTE))),
    }


def member(key, kind, target=""):
    """A picture that is a link, a folder or a device, and its caption."""
    info = tarfile.TarInfo(f"{key}.png")
    info.type, info.linkname = kind, target
    return [(info, b""), (f"{key}.txt", DOG.encode())]


def with_json(key, data, caption=DOG.encode()):
    extra = [] if caption is None else [(f"{key}.txt", caption)]
    return [(f"{key}.png", encode()), *extra, (f"{key}.json", data)]


def odd_metadata():
    odd = {
        "width": 10**30,
        "height": -1,
        "pwatermark": float("nan"),
        "punsafe": [0.9],
        "NSFW": {"a": 1},
        "similarity": "x",
    }
    return json.dumps({**odd, "original_width": float("inf"), "AESTHETIC_SCORE": True, "\x1b[31m": None}).encode()


BROKEN_PICTURES = {
    "zero_bytes": (b"", "image_empty"),
    "cut": (encode(Image.effect_noise((64, 64), 90))[:900], "image_truncated"),
    "html": (b"<html>404</html>", "image_unreadable"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", "image_unreadable"),
}
WHOLE_PICTURES = {
    "gif": animation("GIF"),
    "webp": animation("WEBP"),
    "apng": animation("PNG"),
    "cmyk": encode(Image.new("CMYK", SIZE, (0, 255, 255, 0)), "JPEG"),
    "palette": palette(),
    "turned": turned(),
    "deep": encode(Image.new("I;16", SIZE, 40_000)),
    "one_bit": encode(Image.new("1", SIZE, 1)),
    "large_profile": encode(kind="JPEG", icc_profile=os.urandom(3 * MEGABYTE)),
}
BROKEN_CAPTIONS = {
    "no_text": (b"", "caption_empty"),
    "blank": (b" \t\r\n\xe3\x80\x80\xc2\xa0", "caption_empty"),
    "latin1": ("Ein Hund jagt den grünen Ball".encode("latin-1"), "caption_not_utf8"),
}
WHOLE_CAPTIONS = {
    "megabyte": DOG + " and so on" * (MEGABYTE // 10),
    "one_word": "x" * MEGABYTE,
    "nul": f"\0{DOG}\0",
    "right_to_left": "\u202eكلب بني يطارد كرة حمراء",
    "markup": f"{SCRIPT} {DOG} {SCRIPT}",
    "emoji": "\U0001f415\u200d\U0001f9ba\U0001f3fd" * 9,
    "marks": f"{DOG} a" + "\u0301" * 100_000,
    "lines": f"{DOG}\r\n\u2028\x1b[31m\x07",
}


def damaged_members(elsewhere):
    """One shard with a healthy pair before each damaged one; its members, and the reason or nothing of each key."""
    groups, expected = [], []

    def add(key, members, *reasons):
        number = f"ok{len(groups):03d}"
        groups.append([*pair(number, FISH, encode()), *members])
        expected.extend([(number, ""), *((key, reason) for reason in reasons)])

    for key, (data, reason) in BROKEN_PICTURES.items():
        add(key, pair(key, DOG, data), reason)
    for key, data in bombs().items():
        add(key, pair(key, DOG, data), "image_truncated" if key == "text_bomb" else "image_too_large")
    for key, data in WHOLE_PICTURES.items():
        add(key, pair(key, DOG, data), "")
    for key, (data, reason) in BROKEN_CAPTIONS.items():
        add(key, [(f"{key}.png", encode()), (f"{key}.txt", data)], reason)
    for key, caption in WHOLE_CAPTIONS.items():
        add(key, pair(key, caption, encode()), "")
    add("lettered", pair("lettered", WHOLE_CAPTIONS["megabyte"], lettering("dog chases")), "")
    add("no_caption", [("no_caption.png", encode())], "caption_missing")
    add("no_picture", [("no_picture.txt", b"text")], "image_missing")
    add("half_a_pair", with_json("half_a_pair", b'{"caption": "a dog \\ud83d runs"}', None), "caption_not_utf8")
    add("broken_json", with_json("broken_json", b'{"caption": '), "metadata_unreadable")
    add("nested_json", with_json("nested_json", b'{"a":' * 200_000), "metadata_unreadable")
    add("digits", with_json("digits", b'{"punsafe": ' + b"9" * 5_000 + b"}"), "metadata_unreadable")
    add("huge_number", with_json("huge_number", b'{"punsafe": 1e999, "width": 1e400}'), "")
    add("odd_json", with_json("odd_json", odd_metadata()), "")
    for key in ("../x", f"{elsewhere}/x", "<b>key</b>", "n" * 300):
        add(key, pair(key, DOG, encode()), "")
    add("link", member("link", tarfile.SYMTYPE, f"{elsewhere}/secret.png"), "image_missing")
    add("hard_link", member("hard_link", tarfile.LNKTYPE, "ok000.png"), "image_missing")
    add("folder", member("folder", tarfile.DIRTYPE), "image_missing")
    add("device", member("device", tarfile.CHRTYPE), "image_missing")
    add("html", pair("html", DOG, encode()), "duplicate_key")
    members = [(name, data) for group in groups for name, data in group]
    healthy = [(name, data) for group in groups for name, data in group[:2]]
    return members, healthy, expected


@pytest.fixture(scope="module")
def damage(tmp_path_factory):
    """Two data sets, one damaged, one with its healthy pairs only, and what is expected of the damaged one."""
    root = tmp_path_factory.mktemp("damage")
    elsewhere = root / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "secret.png").write_bytes(encode())
    members, healthy, expected = damaged_members(elsewhere)
    bad, good = root / "bad" / "data", root / "good" / "data"
    write_members(bad / "00000.tar", members)
    write_members(good / "00000.tar", healthy)
    plain = [one for n in range(9) for one in pair(f"{n}", DOG, encode())]
    for number in (1, 9):
        write_members(bad / f"{number:05d}.tar", plain)
        write_members(good / f"{number:05d}.tar", plain)
    write_members(bad / "00002.tar", pair("long" * 50, DOG, encode()) + plain, tar_format=tarfile.GNU_FORMAT)
    (bad / "00003.tar").write_bytes((bad / "00001.tar").read_bytes()[:7_000])
    (bad / "00004.tar").write_bytes(b"")
    (bad / "00005.tar").write_bytes(b"\x1f\x8b no gzip")
    (bad / "00006.tar").mkdir()
    (bad / "00007.tar").symlink_to("absent.tar")
    write_members(bad / "00008.tar", [])
    shards = [("data-00003", "3", "shard_truncated")]
    shards += [(f"data-{number:05d}", "", "shard_unreadable") for number in (4, 5, 6, 7)]
    listed = [("data-00000", key, reason) for key, reason in expected if reason] + shards
    return root, expected, listed


def snapshot(root, *without):
    return {
        path: path.stat().st_mtime_ns if path.is_file() else None
        for path in root.rglob("*")
        if not any(path.is_relative_to(out) for out in without)
    }


def check(root, out, expected, listed, *, thresholds):
    """Hold verdicts and summary against what was put in."""
    found = [(row["key"], [why for why in row["reasons"] if why in ADVICE]) for row in rows(out, "data-00000")]
    assert found == [(key, [reason] if reason else []) for key, reason in expected]
    summary = json.loads((out / "summary.json").read_text())
    assert [(fault["shard"], fault["key"], fault["reason"]) for fault in summary["faults"]["listed"]] == listed
    reasons = [reason for _, _, reason in listed]
    assert summary["faults"]["counts"] == {reason: reasons.count(reason) for reason in sorted(set(reasons))}
    assert [row["key"] for row in rows(out, "data-00003")] == ["0", "1", "2", "3"]
    assert rows(out, "data-00008") == []
    # The healthy pairs, alone.
    run(str(root / "good" / "data"), FilterConfig(workers=1, **thresholds), root / "good" / out.name)
    for shard in ("data-00001", "data-00009"):
        names = [f"{place}/{out.name}/shards/{shard}.parquet" for place in ("bad", "good")]
        assert (root / names[0]).read_bytes() == (root / names[1]).read_bytes()
    alone = rows(root / "good" / out.name, "data-00000")
    assert [row for row in rows(out, "data-00000") if row["key"].startswith("ok")] == alone
    return summary


def test_every_damage_is_counted_and_named_and_harms_no_other_pair(damage):
    root, expected, listed = damage
    out = root / "bad" / "off"
    before = snapshot(root, out)
    run(str(root / "bad" / "data"), FilterConfig(preset="off", workers=1), out)
    assert snapshot(root, out) == before
    summary = check(root, out, expected, listed, thresholds={"preset": "off"})
    whole = {row["key"]: row for row in rows(out, "data-00000") if not row["reasons"]}
    assert set(whole) == {key for key, reason in expected if not reason}
    for key, caption in WHOLE_CAPTIONS.items():
        assert whole[key]["caption"] == caption
    assert all(row["punsafe"] is row["pwatermark"] is None for row in whole.values())
    assert all(row["image_decoded"] for row in whole.values())
    assert summary["kept"] == len(whole) + 3 * 9 + 1 + 3


def test_nothing_stops_all_rules_on_the_command_line(damage):
    root, expected, listed = damage
    out = root / "bad" / "diht"
    before = snapshot(root, out)
    done = filter_in_a_process(root / "bad" / "data", out, workers=1)
    assert (done.returncode, complaints(done)) == (0, [])
    assert snapshot(root, out) == before
    check(root, out, expected, listed, thresholds={})
    for reason in {reason for _, _, reason in listed}:
        assert f" {reason}: {ADVICE[reason]}" in done.stdout
    assert done.stdout.isprintable() or "\x1b" not in done.stdout
    reasons = {row["key"]: row["reasons"] for row in rows(out, "data-00000")}
    assert reasons["lettered"] == ["text"]
    for key in ("megabyte", "nul", "markup", "marks", "lines", "turned", "../x"):
        assert reasons[key] == [], key


PEAK = """
import sys
from pathlib import Path
from stillroom.filter.config import FilterConfig
from stillroom.filter.run import run

print(run(sys.argv[1], FilterConfig(preset="off", workers=1), Path(sys.argv[2]))["kept"])
print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
"""


@needs_linux
def test_a_bomb_is_told_by_its_header_and_not_unpacked(tmp_path):
    write_members(tmp_path / "x.tar", [one for key, data in bombs().items() for one in pair(key, DOG, data)])
    arguments = [sys.executable, "-c", PEAK, tmp_path / "x.tar", tmp_path / "out"]
    kept, kilobytes = subprocess.check_output(arguments, env=environment(), text=True).split()
    assert kept == "0"
    # A process that reads small pictures takes a quarter of it; the smallest bomb unpacks to 400 MB.
    assert int(kilobytes) < 400_000
