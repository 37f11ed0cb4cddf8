"""Downloads against a server of our own that cuts, lies, forgets and denies."""

import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
from model_server import BODY, SHA256

from stillroom.errors import ArtifactError, ConfigError
from stillroom.model import download
from stillroom.model.download import RemoteFile, fetch, model_folder


def remote(server, **changes):
    about = {"name": "toy", "url": server.url, "sha256": SHA256, "max_bytes": 2 * len(BODY), "notice": "toy: CC0"}
    return RemoteFile(**{**about, **changes})


def test_a_file_is_fetched_once_with_its_notice(server, tmp_path, caplog):
    path = fetch(remote(server), tmp_path / "new" / "models")
    assert path == tmp_path / "new" / "models" / f"toy_{SHA256}.ckpt"
    assert path.read_bytes() == BODY
    assert fetch(remote(server), path.parent) == path
    assert server.asked == [None]
    assert [r.message for r in caplog.records].count("toy: CC0") == 1
    assert not path.with_name(path.name + ".part").exists()


def test_a_cut_connection_is_resumed(server, tmp_path, caplog):
    server.cuts = [1_000_000, 500_000]
    assert fetch(remote(server), tmp_path).read_bytes() == BODY
    assert server.asked == [None, "bytes=1000000-", "bytes=1500000-"]
    assert [r.message for r in caplog.records].count("toy: CC0") == 1


def test_a_killed_download_goes_on_where_it_stopped(server, tmp_path, caplog):
    (tmp_path / f"toy_{SHA256}.ckpt.part").write_bytes(BODY[:2_000_000])
    assert fetch(remote(server), tmp_path).read_bytes() == BODY
    assert server.asked == ["bytes=2000000-"]
    assert "toy: CC0" not in caplog.text


def test_a_server_that_ignores_ranges(server, tmp_path):
    server.ranges, server.cuts = False, [1_000_000]
    assert fetch(remote(server), tmp_path).read_bytes() == BODY
    assert server.asked == [None, "bytes=1000000-"]


def test_a_server_that_always_cuts_at_one_place_is_given_up(server, tmp_path):
    server.ranges, server.cuts = False, [1_000_000] * 50
    with pytest.raises(ConfigError, match=r"the connection was cut\); 1,000,000 bytes are kept"):
        fetch(remote(server), tmp_path)
    assert len(server.asked) == 1 + download.FRUITLESS_ATTEMPTS


@pytest.mark.parametrize("left", [b"x" * 1_000_000, BODY[:-1] + b"x", b"y" * (len(BODY) + 5)])
def test_a_damaged_partial_file_costs_one_more_try(server, tmp_path, left):
    (tmp_path / f"toy_{SHA256}.ckpt.part").write_bytes(left)
    assert fetch(remote(server), tmp_path).read_bytes() == BODY


def test_a_partial_file_that_is_whole_is_taken(server, tmp_path):
    (tmp_path / f"toy_{SHA256}.ckpt.part").write_bytes(BODY)
    assert fetch(remote(server), tmp_path).read_bytes() == BODY
    assert server.asked == [f"bytes={len(BODY)}-"]


def test_no_content_length(server, tmp_path):
    server.length = False
    assert fetch(remote(server), tmp_path).read_bytes() == BODY


def test_a_wrong_hash_is_one_line_and_keeps_nothing(server, tmp_path):
    server.body = BODY[:-1] + b"x"
    with pytest.raises(
        ArtifactError, match=rf"is not toy: its SHA-256 is .*, not {SHA256}; nothing was kept"
    ) as caught:
        fetch(remote(server), tmp_path)
    assert "\n" not in str(caught.value)
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".lock"]


@pytest.mark.parametrize("length", [True, False])
def test_a_file_that_is_too_large_is_not_stored(server, tmp_path, length):
    server.length = length
    with pytest.raises(ConfigError, match=r"the server (offers 3,072,000 bytes|sends more)"):
        fetch(remote(server, max_bytes=1_500_000), tmp_path)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 1_500_000
    assert len(server.asked) == 1


def test_busy_is_tried_again_and_denied_is_not(server, tmp_path):
    server.status = [503, 429]
    assert fetch(remote(server), tmp_path / "a").read_bytes() == BODY
    server.status, server.asked = [403, 403], []
    with pytest.raises(ConfigError, match="HTTP 403"):
        fetch(remote(server), tmp_path / "b")
    assert len(server.asked) == 1


def test_without_a_network_the_line_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    wanted = RemoteFile(name="toy", url=f"http://127.0.0.1:{port}/toy.ckpt", sha256=SHA256, max_bytes=9, notice="CC0")
    target = tmp_path / "toy.ckpt"
    with pytest.raises(ConfigError, match=rf"fetch {wanted.url} yourself and put it at {target}") as caught:
        fetch(wanted, tmp_path)
    assert "\n" not in str(caught.value)
    target.write_bytes(BODY)
    assert fetch(wanted, tmp_path) == target
    target.write_bytes(BODY[1:])
    with pytest.raises(ArtifactError, match=f"{target} is not toy: .* delete it and fetch {wanted.url}"):
        fetch(wanted, tmp_path)


def test_who_comes_second_waits_and_downloads_nothing(server, tmp_path, caplog):
    server.cuts = [1_000_000]
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: fetch(remote(server), tmp_path), range(4)))
    assert len(set(paths)) == 1
    assert paths[0].read_bytes() == BODY
    assert server.asked == [None, "bytes=1000000-"]
    assert [r.message for r in caplog.records].count("toy: CC0") == 1


def test_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("STILLROOM_CACHE", str(tmp_path))
    assert model_folder() == tmp_path / "models"
    monkeypatch.delenv("STILLROOM_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert model_folder() == tmp_path / ".cache" / "stillroom" / "models"
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(ConfigError, match="set STILLROOM_CACHE"):
        fetch(RemoteFile(name="toy", url="http://127.0.0.1:9/x", sha256=SHA256, max_bytes=9), file / "models")
