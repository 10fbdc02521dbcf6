"""Downloads from a server of the test's own: whole files or none, resumed, checked, by two processes at once."""

import contextlib
import dataclasses
import gzip
import hashlib
import http.server
import os
import subprocess
import sys
import threading

import made_data
import pytest

from fcbp import data
from fcbp.data import catalogue, download

CONTENT = bytes(range(256)) * 4000


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.asked.append((self.path, self.headers.get("Range")))
        content = server.files.get(self.path.lstrip("/"))
        if content is None:
            return self.send_error(404 if server.refuses == 200 else server.refuses)
        start = 0
        asked = self.headers.get("Range")
        if asked and server.resumes:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        body = content[start:]
        if server.breaks:
            server.breaks -= 1
            body = body[: len(body) // 2]
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.wfile.write(body)
        return None

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download.time, "sleep", lambda _: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        made.daemon_threads = True
        made.files, made.asked, made.resumes, made.breaks, made.refuses = {}, [], True, 0, 200
        made.url = f"http://127.0.0.1:{made.server_port}/"
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def md5(content):
    return f"md5:{hashlib.md5(content, usedforsecurity=False).hexdigest()}"


@pytest.fixture
def one(server, monkeypatch):
    """``cifar10`` of one file at the server."""
    server.files["archive"] = CONTENT
    publish(monkeypatch, server, ("archive",))
    return server


def publish(monkeypatch, server, urls, name="cifar10", content=CONTENT):
    (file,) = catalogue.CATALOGUE[name].files
    file = dataclasses.replace(file, urls=tuple(server.url + url for url in urls), sum=md5(content))
    entry = dataclasses.replace(catalogue.CATALOGUE[name], files=(file,))
    monkeypatch.setitem(catalogue.CATALOGUE, name, entry)


def fetched(root):
    path = root / "cifar-10-python.tar.gz"
    return path.read_bytes() if path.exists() else None


def test_a_data_set_is_downloaded_and_read(server, tmp_path, monkeypatch):
    expected = made_data.mnist(tmp_path / "theirs", "gz")
    files = []
    for file in catalogue.CATALOGUE["mnist"].files:
        name = file.path.rsplit("/", 1)[-1]
        content = (tmp_path / "theirs" / file.path).read_bytes()
        server.files[name] = content
        files.append(dataclasses.replace(file, urls=(server.url + name,), sum=md5(content)))
    entry = dataclasses.replace(catalogue.CATALOGUE["mnist"], files=tuple(files))
    monkeypatch.setitem(catalogue.CATALOGUE, "mnist", entry)
    assert data.fetch("mnist", tmp_path / "ours", progress=False) == tmp_path / "ours"
    read = data.load("mnist", tmp_path / "ours")
    assert read.train.targets.tolist() == expected["train"][1].tolist()
    assert [line.state for line in data.check("mnist", tmp_path / "ours")] == ["good"] * 5
    asked = len(server.asked)
    data.fetch("mnist", tmp_path / "ours", progress=False)
    assert len(server.asked) == asked  # they are there
    for file in files:  # unpacked files do as well
        path = tmp_path / "ours" / file.path
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    data.fetch("mnist", tmp_path / "ours", progress=False)
    assert len(server.asked) == asked


def test_a_download_goes_on_where_it_was_interrupted(one, tmp_path):
    part = made_data.write(tmp_path / "cifar-10-python.tar.gz.part", CONTENT[:1000])
    data.fetch("cifar10", tmp_path, progress=False)
    assert fetched(tmp_path) == CONTENT
    assert one.asked == [("/archive", "bytes=1000-")]
    assert not part.exists()


def test_a_part_that_is_whole_is_taken(one, tmp_path):
    made_data.write(tmp_path / "cifar-10-python.tar.gz.part", CONTENT)
    data.fetch("cifar10", tmp_path, progress=False)
    assert fetched(tmp_path) == CONTENT


def test_a_server_that_cannot_go_on_sends_all(one, tmp_path):
    one.resumes = False
    made_data.write(tmp_path / "cifar-10-python.tar.gz.part", CONTENT[:1000])
    data.fetch("cifar10", tmp_path, progress=False)
    assert fetched(tmp_path) == CONTENT


def test_a_part_of_another_file_is_thrown_away(one, tmp_path):
    made_data.write(tmp_path / "cifar-10-python.tar.gz.part", b"x" * 1000)
    data.fetch("cifar10", tmp_path, progress=False)
    assert fetched(tmp_path) == CONTENT
    assert one.asked == [("/archive", "bytes=1000-"), ("/archive", None)]


@pytest.mark.parametrize("breaks", [1, 2])
def test_a_connection_that_breaks_is_opened_anew(one, breaks, tmp_path):
    one.breaks = breaks
    data.fetch("cifar10", tmp_path, progress=False)
    assert fetched(tmp_path) == CONTENT
    assert [asked for _, asked in one.asked][1] == f"bytes={len(CONTENT) // 2}-"


def test_a_connection_that_always_breaks_leaves_no_file_and_goes_on_later(one, tmp_path):
    one.breaks = 3
    with pytest.raises(OSError, match="it ended after") as error:
        data.fetch("cifar10", tmp_path, progress=False)
    assert "cifar-10-python.tar.gz" in str(error.value)
    assert fetched(tmp_path) is None
    data.fetch("cifar10", tmp_path, progress=False)
    assert fetched(tmp_path) == CONTENT
    assert one.asked[-1][1] == f"bytes={len(CONTENT) * 7 // 8}-"


def test_a_wrong_sum_names_the_file_and_leaves_nothing(one, tmp_path):
    one.files["archive"] = CONTENT[:-1] + b"x"
    with pytest.raises(ValueError, match=r"the sum of .*cifar-10-python.tar.gz.part is md5:.*expected md5:.*archive"):
        data.fetch("cifar10", tmp_path, progress=False)
    assert list(tmp_path.glob("*.gz")) == list(tmp_path.glob("*.part")) == []


def test_a_file_in_place_that_is_another_is_named_and_kept(one, tmp_path):
    made_data.write(tmp_path / "cifar-10-python.tar.gz", b"a user's")
    with pytest.raises(ValueError, match=r"the sum of .*cifar-10-python.tar.gz is md5.*remove it, and fetch again"):
        data.fetch("cifar10", tmp_path, progress=False)
    assert fetched(tmp_path) == b"a user's"


@pytest.mark.parametrize("refuses", [403, 404, 503])
def test_another_mirror_is_asked_and_all_are_named(server, refuses, tmp_path, monkeypatch):
    server.refuses = refuses
    publish(monkeypatch, server, ("none", "archive"))
    with pytest.raises(OSError, match=rf"none: .*{refuses}.*archive: .*{refuses}"):
        data.fetch("cifar10", tmp_path, progress=False)
    server.files["archive"] = CONTENT
    data.fetch("cifar10", tmp_path, progress=False)
    assert fetched(tmp_path) == CONTENT


def test_a_login_that_is_asked_for_is_told_of(server, tmp_path, monkeypatch):
    server.refuses = 401
    publish(monkeypatch, server, ("none",), "imagenet32")
    with pytest.raises(OSError, match=r"401.*may ask for a login: put Imagenet32_train_npz.zip"):
        data.fetch("imagenet32", tmp_path, progress=False)


def test_no_server_at_all_is_told(server, tmp_path, monkeypatch):
    server.url = "http://127.0.0.1:9/"
    publish(monkeypatch, server, ("x",))
    with pytest.raises(OSError, match=r"http://127\.0\.0\.1:9/x: .*refused"):
        data.fetch("cifar10", tmp_path, progress=False)


def test_a_folder_that_cannot_be_written_is_named(one, tmp_path):
    made_data.write(tmp_path / "file", b"")
    with pytest.raises(OSError, match="the download cannot be written") as error:
        data.fetch("cifar10", tmp_path / "file", progress=False)
    assert error.value.filename == str(tmp_path / "file" / "cifar-10-python.tar.gz")
    assert one.asked == []


PROGRAM = """
import dataclasses, sys
from fcbp import data
from fcbp.data import catalogue
root, url, sum, limit = sys.argv[1:]
if int(limit):
    import resource, signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
(file,) = catalogue.CATALOGUE["cifar10"].files
file = dataclasses.replace(file, urls=(url,), sum=sum)
catalogue.CATALOGUE["cifar10"] = dataclasses.replace(catalogue.CATALOGUE["cifar10"], files=(file,))
try:
    data.fetch("cifar10", root, progress=False)
except OSError as error:
    print(error)
"""


def program(server, root, limit=0):
    command = [sys.executable, "-c", PROGRAM, root, f"{server.url}archive", md5(CONTENT), str(limit)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_two_processes_download_once(one, tmp_path):
    runs = [program(one, tmp_path) for _ in range(2)]
    for run in runs:
        _, errors = run.communicate()
        assert run.returncode == 0, errors
    assert fetched(tmp_path) == CONTENT
    assert len(one.asked) == 1


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="limits of files are POSIX's")
def test_a_full_disk_is_told_and_the_download_goes_on_later(one, tmp_path):
    out, _ = program(one, tmp_path, 300_000).communicate()
    assert "the download cannot be written" in out
    assert "cifar-10-python.tar.gz" in out
    assert fetched(tmp_path) is None
    data.fetch("cifar10", tmp_path, progress=False)
    assert fetched(tmp_path) == CONTENT
    assert one.asked[-1][1] is not None  # it went on


@pytest.mark.parametrize("name", ["digits", "mnist-5k", "mini-imagenet"])
def test_what_cannot_be_downloaded_says_why(name, tmp_path):
    with pytest.raises(ValueError, match=f"{name} cannot be downloaded: "):
        data.fetch(name, tmp_path)


def test_an_unknown_name_is_told(tmp_path):
    with pytest.raises(ValueError, match="did you mean 'cifar10' or 'cifar100'"):
        data.fetch("cifar11", tmp_path)


def test_progress_is_a_bar_or_lines(one, tmp_path, monkeypatch, capsys):
    data.fetch("cifar10", tmp_path / "bar")
    assert "cifar-10-python.tar.gz: 100%" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    monkeypatch.setattr(download, "SHOW_EVERY", -1.0)
    data.fetch("cifar10", tmp_path / "lines")
    assert "cifar-10-python.tar.gz: 1 of 1 MB" in capsys.readouterr().err


def test_every_published_sum_is_one():
    for entry in catalogue.CATALOGUE.values():
        for file in entry.files:
            kind, digits = file.sum.split(":")
            assert len(bytes.fromhex(digits)) == {"md5": 16, "sha256": 32}[kind]
            assert all(url.rsplit("/", 1)[-1] == file.path.rsplit("/", 1)[-1] for url in file.urls)
