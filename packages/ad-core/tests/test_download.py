"""Downloads from a server on this machine that breaks off, forgets or lies as it is told."""

import hashlib
import io
import re
import sys
import tarfile
import threading
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

from ad.core.data import download as module
from ad.core.data.dagm import DATASET as DAGM
from ad.core.data.download import check, download, fetch, unpack
from ad.core.data.finding import collect
from ad.core.data.mpdd import DATASET as MPDD
from ad.core.data.samples import Archive
from ad.core.errors import DataError, DownloadError, OutputError
from ad.core.testing.pictures import put_pictures

CONTENT = bytes(range(256)) * 5000


class Server(ThreadingHTTPServer):
    """Serves one file."""

    def __init__(self):
        self.content = CONTENT
        self.break_off = []  # after how many bytes, one for each request; None for not at all
        self.status = None  # in place of the file
        self.ranges = True  # whether a part of the file can be asked for
        self.shift = 0  # how far from what was asked for a part lies
        self.asked = []  # the ranges that were asked for
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server, asked = self.server, self.headers.get("Range")
        server.asked.append(asked)
        total = len(server.content)
        if server.status is not None:
            self.send_response(server.status)
            self.end_headers()
            return
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and server.ranges else 0
        if start >= total:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{total}")
            self.end_headers()
            return
        body = server.content[start:]
        self.send_response(206 if start else 200)
        if start:
            first = start + server.shift
            self.send_header("Content-Range", f"bytes {first}-{total - 1}/{total}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        stop = server.break_off.pop(0) if server.break_off else None
        self.wfile.write(body[:stop])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(module, "_PAUSE", 0)
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def url(server, name="data.zip"):
    return f"http://127.0.0.1:{server.server_port}/{name}"


def test_a_file_is_fetched_whole(server, tmp_path):
    fetch(url(server), tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == CONTENT
    assert server.asked == [None]


def test_a_download_that_breaks_off_is_gone_on_with(server, tmp_path):
    server.break_off = [1000, 500_000]
    fetch(url(server), tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1000-", "bytes=501000-"]


def test_a_server_that_never_gets_further_is_given_up_and_what_is_there_is_kept(server, tmp_path):
    server.break_off = [1000, 0, 0, 0, None]
    words = "connection broke off.*; 1,000 bytes are there. The same command goes on from where"
    with pytest.raises(DownloadError, match=words):
        fetch(url(server), tmp_path / "part")
    fetch(url(server), tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == CONTENT
    assert server.asked[-1] == "bytes=1000-"


def test_a_server_without_ranges_starts_anew(server, tmp_path):
    server.ranges, server.break_off = False, [1000]
    fetch(url(server), tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == CONTENT


def test_a_part_that_was_not_asked_for_is_not_put_together(server, tmp_path):
    server.break_off, server.shift = [1000], 7
    fetch(url(server), tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1000-", None]


def test_a_file_that_is_there_is_not_fetched_again(server, tmp_path):
    (tmp_path / "part").write_bytes(CONTENT)
    fetch(url(server), tmp_path / "part")
    assert server.asked == [f"bytes={len(CONTENT)}-"]


def test_more_than_there_is_cannot_be_its_beginning(server, tmp_path):
    (tmp_path / "part").write_bytes(CONTENT + b"x")
    fetch(url(server), tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == CONTENT


def test_a_file_that_is_gone_is_said_at_once(server, tmp_path):
    server.status = 404
    with pytest.raises(DownloadError, match=r"the server answers 404 .* may have moved: see"):
        fetch(url(server), tmp_path / "part")
    assert len(server.asked) == 1


def test_a_server_in_trouble_is_asked_again(server, tmp_path):
    server.status = 503
    with pytest.raises(DownloadError, match="cannot be fetched .*503"):
        fetch(url(server), tmp_path / "part")
    assert len(server.asked) == 3


def test_nobody_listens(server, tmp_path):
    address = url(server)
    server.server_close()
    with pytest.raises(DownloadError, match="cannot be fetched .*; 0 bytes are there"):
        fetch(address, tmp_path / "part")


@pytest.mark.parametrize("kind", ["sha256", "md5"])
def test_the_checksum_decides_and_a_wrong_file_is_removed(tmp_path, kind):
    part = tmp_path / "part"
    part.write_bytes(CONTENT)
    digest = hashlib.new(kind, CONTENT).hexdigest()
    check(Archive(url="http://x/y", checksum=f"{kind}:{digest}"), part)
    part.write_bytes(CONTENT[:-1] + b"x")
    words = f"`http://x/y` is not the file that was published: its {kind} is .*, and {digest} was"
    with pytest.raises(DownloadError, match=words):
        check(Archive(url="http://x/y", checksum=f"{kind}:{digest}"), part)
    assert not part.exists()


def zipped(path, *members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def tarred(path, *members, mode="w:xz"):
    with tarfile.open(path, mode) as archive:
        for member, content in members:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


PACKED = (("c/train/good/0.png", b"zero" * 100), ("c/readme.txt", b"one" * 100))


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"])
def test_each_kind_of_archive_is_unpacked(tmp_path, kind):
    path = tmp_path / "packed"
    if kind == "zip":
        zipped(path, ("c/", ""), *PACKED)
    else:
        tarred(path, *PACKED, mode="w:" + kind.removeprefix("tar").removeprefix("."))
    unpack(path, tmp_path / "out")
    files = [p for p in (tmp_path / "out").rglob("*") if p.is_file()]
    assert {p.relative_to(tmp_path / "out").as_posix(): p.read_bytes() for p in files} == dict(
        PACKED
    )


def link(name, target, kind):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def device(name):
    info = tarfile.TarInfo(name)
    info.type = tarfile.CHRTYPE
    return info


def zip_link(name):
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, 0o120777 << 16
    return info


@pytest.mark.parametrize(
    ("pack", "members", "words"),
    [
        (zipped, [("../out.txt", "x")], r"`\.\./out\.txt` in it leads out of the folder"),
        (zipped, [("a/../../out.txt", "x")], "leads out of the folder"),
        (zipped, [("/out.txt", "x")], "leads out of the folder"),
        (zipped, [("C:/out.txt", "x")], "leads out of the folder"),
        (zipped, [("a\\..\\..\\out.txt", "x")], "leads out of the folder"),
        (zipped, [(zip_link("a"), "/etc/passwd")], "`a` in it is no plain file"),
        (tarred, [("../out.txt", b"x")], "leads out of the folder"),
        (tarred, [("/out.txt", b"x")], "leads out of the folder"),
        (tarred, [(link("a", "/etc", tarfile.SYMTYPE), b"")], "is no plain file"),
        (tarred, [(link("a", "../out.txt", tarfile.LNKTYPE), b"")], "is no plain file"),
        (tarred, [(device("a"), b"")], "is no plain file"),
        (tarred, [("a", b"x"), ("a", b"y")], "`a` in it is there twice"),
        (tarred, [("a", bytes(10**6))], "would unpack to more than 30 times the archive's size"),
        (zipped, [("a", bytes(10**6))], "would unpack to more than 30 times the archive's size"),
    ],
)
def test_a_hostile_archive_is_not_unpacked(tmp_path, pack, members, words):
    home = tmp_path / "home"
    home.mkdir()
    path = pack(tmp_path / "packed", ("fine.txt", b"x"), *members)
    with pytest.raises(DownloadError, match=f"is not unpacked: .*{words}"):
        unpack(path, home / "out")
    assert not list(home.iterdir())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["home", "packed"]


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_a_damaged_archive_is_said_to_be_damaged(tmp_path, pack):
    noise = hashlib.shake_128(b"x").digest(3000)  # so that it is not packed to nothing
    whole = pack(tmp_path / "packed", ("a", noise)).read_bytes()
    words = "cannot be unpacked .*Remove it and fetch it again"
    flipped = bytes([whole[900] ^ 1])
    for broken in (b"no archive", whole[: len(whole) // 2], whole[:900] + flipped + whole[901:]):
        (tmp_path / "packed").write_bytes(broken)
        with pytest.raises(DownloadError, match=words):
            unpack(tmp_path / "packed", tmp_path / "out")
        assert not (tmp_path / "out").exists()


@pytest.fixture
def dataset(server, tmp_path):
    """MPDD's layout, packed in a folder of its own, on the server."""
    put_pictures(tmp_path / "made", "tubes/train/good/0.png", "tubes/test/good/1.png")
    with zipfile.ZipFile(tmp_path / "made.zip", "w") as archive:
        for path in sorted((tmp_path / "made").rglob("*.png")):
            archive.write(path, f"MPDD/{path.relative_to(tmp_path / 'made')}")
    server.content = (tmp_path / "made.zip").read_bytes()
    checksum = f"sha256:{hashlib.sha256(server.content).hexdigest()}"
    return replace(MPDD, archive=Archive(url=url(server), checksum=checksum))


def test_a_data_set_is_fetched_checked_and_unpacked(server, dataset, tmp_path):
    server.break_off = [100]
    root = download(dataset, tmp_path / "new" / "mpdd")
    assert root == tmp_path / "new" / "mpdd" / "MPDD"
    assert len(collect(dataset, "tubes", root=root, seed=0)) == 2
    assert [p.name for p in (tmp_path / "new" / "mpdd").iterdir()] == ["MPDD"]


def test_what_an_earlier_attempt_left_is_gone_on_with(server, dataset, tmp_path):
    home = tmp_path / "mpdd"
    (home / ".unpacking" / "half").mkdir(parents=True)
    (home / ".data.zip.part").write_bytes(server.content[:50])
    assert download(dataset, home) == home / "MPDD"
    assert server.asked == ["bytes=50-"]
    assert [p.name for p in home.iterdir()] == ["MPDD"]


def test_another_file_than_was_published_is_not_unpacked(server, dataset, tmp_path):
    server.content += b"x"
    with pytest.raises(DownloadError, match="is not the file that was published"):
        download(dataset, tmp_path / "mpdd")
    assert not list((tmp_path / "mpdd").iterdir())


def test_a_folder_that_holds_something_is_left_alone(server, dataset, tmp_path):
    put_pictures(tmp_path, "mpdd/mine.png")
    with pytest.raises(OutputError, match=r"is not empty: it holds `mine\.png`"):
        download(dataset, tmp_path / "mpdd")
    assert server.asked == []


def test_a_folder_that_cannot_be_made_is_said(dataset, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file/mpdd` cannot be written"):
        download(dataset, tmp_path / "file" / "mpdd")


def test_another_layout_than_expected_is_said(server, dataset, tmp_path):
    other = replace(DAGM, archive=dataset.archive)
    with pytest.raises(DataError, match="which is not laid out as expected"):
        download(other, tmp_path / "dagm")


def test_a_data_set_without_an_official_file_says_where_to_get_it(tmp_path):
    words = "`mpdd` has no official file that can be fetched(.|\n)*Source: https://github.com"
    with pytest.raises(DownloadError, match=words):
        download(MPDD, tmp_path / "mpdd")


@pytest.fixture
def offered(dataset, monkeypatch):
    """The data set on the server, under the name that users type."""
    monkeypatch.setattr("ad.core.registry.get_dataset", lambda name: dataset)


def test_the_licence_is_shown_and_agreed_to(run_ad, offered, server, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    status, out, err = run_ad("data", "download", "mpdd", "--output", tmp_path / "x")
    assert (status, out) == (1, "")
    assert "Licence: not stated" in err
    assert "nothing was fetched\n\nhint: `--yes`" in err
    assert server.asked == []
    assert not (tmp_path / "x").exists()

    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    status, out, err = run_ad("data", "download", "mpdd", "--output", tmp_path / "x")
    assert (status, out) == (0, f"{tmp_path / 'x' / 'MPDD'}\n")
    assert f"hint: ad train mpdd CATEGORY MODEL --data-root {tmp_path / 'x' / 'MPDD'}" in err


def test_nobody_to_ask_fetches_nothing(run_ad, offered, server, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    status, _, err = run_ad("data", "download", "mpdd", "--output", tmp_path / "x")
    assert status == 1
    assert "hint: `--yes` agrees beforehand" in err
    assert server.asked == []


def test_agreeing_beforehand_asks_nothing(run_ad, offered, tmp_path):
    status, _, err = run_ad("data", "download", "mpdd", "--output", tmp_path / "x", "--yes")
    assert status == 0
    assert "[y/N]" not in err
    with Image.open(tmp_path / "x/MPDD/tubes/train/good/0.png") as picture:
        assert picture.size == (4, 4)
