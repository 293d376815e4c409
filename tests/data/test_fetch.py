"""The stage `fetch`: downloads that go on, checks, and archives that one need not trust."""

import hashlib
import io
import json
import shutil
import stat
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from pmni.cli.main import main
from pmni.data import fetch
from pmni.io import download

FILES = {
    "data/objects/cow/K.txt": b"1 0 0\n0 1 0\n0 0 1\n",
    "data/objects/cow/mask/00.png": bytes(range(256)) * 3000,
    "data/other/readme.txt": b"not wanted",
}


class Handler(BaseHTTPRequestHandler):
    """Serves `server.files`; can break off, refuse ranges and fail."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> Any:
        server: Any = self.server
        server.ranges.append(self.headers.get("Range"))
        if server.failures:
            return self.send_error(server.failures.pop(0))
        content = server.files.get(self.path.lstrip("/"))
        if content is None:
            return self.send_error(404)
        start = 0
        if (asked := self.headers.get("Range")) and server.supports_ranges:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                return self.end_headers()
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        stop = server.breaks.pop(0) if server.breaks else len(content)
        self.wfile.write(content[start : max(start, stop)])
        self.close_connection = True
        return None


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(download, "RETRY_SECONDS", (0.0, 0.0))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.files, server.ranges, server.breaks, server.failures = {}, [], [], []
    server.supports_ranges = True
    server.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def make_zip(files: Any = FILES) -> Any:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def make_tar(files: Any = FILES, mode: Any = "w:gz") -> Any:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def project(tmp_path: Path, server: Any) -> Any:
    """A registry with one dataset, whose archive the server has."""

    def setup(content: Any = None, name: str = "data.zip", **changes: Any) -> Any:
        content = make_zip() if content is None else content
        server.files[name] = content
        entry = {
            "description": "a cow",
            "url": f"{server.address}/{name}",
            "archive": "zip",
            "root": "data/objects",
            "size": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "layout": "supernormal",
            "licence": "none",
            "citation": "nobody",
        } | changes
        (tmp_path / "registry.yaml").write_text(yaml.safe_dump({"cows": entry}))
        part = tmp_path / "resources" / f".cows-{name}.part"
        part.unlink(missing_ok=True)
        output = tmp_path / "resources" / "cows"
        return SimpleNamespace(root=tmp_path, output=output, part=part, content=content)

    return setup


def run(project: Any, *more: Any) -> Any:
    registry = project.root / "registry.yaml"
    command = ["fetch", "--registry", str(registry), "--dataset", "cows"]
    return main([*command, "--output", str(project.output), *more])


def assert_fetched(project: Any) -> None:
    found = {
        str(path.relative_to(project.output)): path.read_bytes()
        for path in project.output.rglob("*")
        if path.is_file() and path.name != "provenance.json"
    }
    wanted = {k.removeprefix("data/objects/"): v for k, v in FILES.items() if "objects" in k}
    assert found == wanted
    assert sorted(path.name for path in project.output.parent.iterdir()) == ["cows"]


def assert_refused(
    project: Any, capsys: pytest.CaptureFixture[str], *parts: Any, more: Any = ()
) -> Any:
    capsys.readouterr()
    assert run(project, *more) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("pmni fetch: error: ")
    for part in parts:
        assert part in error
    assert not project.output.exists()
    left = project.output.parent.glob(".cows.*") if project.output.parent.exists() else []
    assert not list(left)
    return error


def test_downloaded_checked_and_unpacked(project: Any) -> None:
    project = project()
    assert run(project) == 0
    assert_fetched(project)
    provenance = json.loads((project.output / "provenance.json").read_text())
    assert provenance["sha256"] == hashlib.sha256(project.content).hexdigest()
    assert provenance["files"] == 2


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_tar_archives(project: Any, mode: Any) -> None:
    project = project(make_tar(mode=mode), name="data.tar", archive="tar")
    assert run(project) == 0
    assert_fetched(project)


def test_everything_without_a_root(project: Any) -> None:
    project = project(root="")
    assert run(project) == 0
    assert (project.output / "data" / "other" / "readme.txt").read_bytes() == b"not wanted"


def test_broken_connection_goes_on_at_once(project: Any, server: Any) -> None:
    project = project()
    server.breaks = [1000, 1500]
    assert run(project) == 0
    assert server.ranges == [None, "bytes=1000-", "bytes=1500-"]
    assert_fetched(project)


def test_broken_off_download_goes_on_in_the_next_run(
    project: Any, server: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    project = project()
    server.breaks = [1000, 1000, 1000, 1000]
    assert_refused(project, capsys, "broken off at 1000 of", "goes on from there", "--archive")
    assert project.part.read_bytes() == project.content[:1000]
    server.ranges.clear()
    server.breaks.clear()
    assert run(project) == 0
    assert server.ranges == ["bytes=1000-"]
    assert_fetched(project)


def test_server_without_ranges_starts_anew(project: Any, server: Any) -> None:
    project = project()
    server.supports_ranges = False
    project.part.parent.mkdir()
    project.part.write_bytes(b"x" * 500)
    assert run(project) == 0
    assert_fetched(project)


@pytest.mark.parametrize("known_size", [True, False])
def test_whole_part_is_not_downloaded_again(project: Any, server: Any, known_size: Any) -> None:
    project = project(**({} if known_size else {"size": None}))
    project.part.parent.mkdir()
    project.part.write_bytes(project.content)
    assert run(project) == 0
    assert len(server.ranges) == (0 if known_size else 1)
    assert_fetched(project)


@pytest.mark.parametrize("known_size", [True, False])
def test_part_that_is_too_long_is_dropped(project: Any, known_size: Any) -> None:
    project = project(**({} if known_size else {"size": None}))
    project.part.parent.mkdir()
    project.part.write_bytes(b"x" * (len(project.content) + 7))
    assert run(project) == 0
    assert_fetched(project)


def test_busy_server_is_tried_again_and_missing_file_is_not(
    project: Any, server: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    project = project()
    server.failures = [503, 429]
    assert run(project) == 0
    assert_fetched(project)
    shutil.rmtree(project.output)
    server.failures = [503] * 9
    assert_refused(project, capsys, "HTTP 503", "cannot be downloaded")
    server.failures = []
    server.files.clear()
    server.ranges.clear()
    assert_refused(project, capsys, "data.zip: HTTP 404")
    assert len(server.ranges) == 1


def test_no_network(project: Any, server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    project = project(url="http://127.0.0.1:9/data.zip")
    assert_refused(project, capsys, "http://127.0.0.1:9/data.zip: cannot be downloaded", "refused")


def test_wrong_hash_is_thrown_away(project: Any, capsys: pytest.CaptureFixture[str]) -> None:
    project = project(sha256="0" * 64)
    assert_refused(project, capsys, "sha256 is", "must be " + "0" * 64)
    assert not project.part.exists()


def test_wrong_size_is_refused_before_the_download(
    project: Any, server: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    project = project(size=77)
    assert_refused(project, capsys, f"has {len(project.content)} bytes", "registry says 77")
    assert not project.part.exists()


def test_checksums_of_the_publisher(
    project: Any, server: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    setup = {"sha256": None, "size": None, "sha256sums_url": f"{server.address}/SHA256SUMS"}
    project = project(**setup)
    assert_refused(project, capsys, "SHA256SUMS: cannot be fetched", "Not Found")
    assert project.part.exists()  # the download itself need not be repeated
    other = "1" * 64 + "  other.zip\n"
    server.files["SHA256SUMS"] = other.encode()
    assert_refused(project, capsys, "SHA256SUMS: holds no SHA-256 of data.zip")
    server.files["SHA256SUMS"] = (other + "2" * 64 + " *./data.zip\n").encode()
    assert_refused(project, capsys, "must be " + "2" * 64)
    digest = hashlib.sha256(project.content).hexdigest().upper()
    server.files["SHA256SUMS"] = (other + f"{digest}  data.zip\n").encode()
    assert run(project) == 0
    assert_fetched(project)


def test_archive_downloaded_before(
    project: Any, server: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    project = project()
    archive = project.root / "mine.zip"
    archive.write_bytes(project.content)
    assert run(project, "--archive", str(archive)) == 0
    assert server.ranges == []
    assert archive.exists()
    assert_fetched(project)
    shutil.rmtree(project.output)
    archive.write_bytes(project.content[:-1] + b"?")
    assert_refused(project, capsys, "mine.zip", "must be", more=("--archive", str(archive)))
    archive.write_bytes(project.content[:-1])
    assert_refused(project, capsys, "mine.zip", "bytes", more=("--archive", str(archive)))
    assert archive.exists()
    gone = str(project.root / "gone.zip")
    assert_refused(project, capsys, "gone.zip: no such file", more=("--archive", gone))


def test_archive_downloaded_before_with_checksums_beside_it(
    project: Any, server: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    project = project(sha256=None, size=None, sha256sums_url=f"{server.address}/SHA256SUMS")
    archive = project.root / "mine.zip"
    archive.write_bytes(project.content)
    more = ("--archive", str(archive))
    assert_refused(project, capsys, "put SHA256SUMS beside the archive instead", more=more)
    digest = hashlib.sha256(project.content).hexdigest()
    (project.root / "SHA256SUMS").write_text(f"{digest}  data.zip\n")
    assert run(project, *more) == 0
    assert_fetched(project)


@pytest.mark.parametrize(
    "name", ["../evil", "/etc/evil", "data/objects/../../../evil", "a\\..\\evil", "C:/evil"]
)
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_paths_that_lead_out(
    project: Any, capsys: pytest.CaptureFixture[str], name: str, kind: str
) -> None:
    make = make_zip if kind == "zip" else make_tar
    project = project(make(FILES | {name: b"evil"}), name=f"data.{kind}", archive=kind)
    assert_refused(project, capsys, "leads out of its folder", name, "refused")
    assert not list(project.root.rglob("evil"))


def test_links(project: Any, capsys: pytest.CaptureFixture[str]) -> None:
    buffer = io.BytesIO(make_zip())
    with zipfile.ZipFile(buffer, "a") as archive:
        info = zipfile.ZipInfo("data/objects/link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    broken = project(buffer.getvalue())
    assert_refused(broken, capsys, "holds a link or special file (data/objects/link)")
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            info = tarfile.TarInfo("data/objects/link")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        broken = project(buffer.getvalue(), archive="tar", name="data.tar")
        assert_refused(broken, capsys, "holds a link or special file (data/objects/link)")


def test_damaged_archives(project: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The registry's checksum is that of a damaged file, so that unpacking meets it."""
    content = bytearray(make_zip())
    content[content.index(b"mask/00.png") + 40] ^= 255
    assert_refused(project(bytes(content)), capsys, "not a zip archive, or damaged")
    assert_refused(project(b"<html>no</html>"), capsys, "not a zip archive, or damaged")
    cut = make_tar()[:-50]
    broken = project(cut, name="data.tar", archive="tar")
    assert_refused(broken, capsys, "not a tar archive, or damaged")
    twice = io.BytesIO()
    with tarfile.open(fileobj=twice, mode="w") as archive:
        for _ in range(2):
            archive.addfile(tarfile.TarInfo("data/objects/a"), io.BytesIO(b""))
    broken = project(twice.getvalue(), name="data.tar", archive="tar")
    assert_refused(broken, capsys, "holds a twice")
    assert_refused(project(root="nowhere"), capsys, "holds nothing beneath 'nowhere'")


def test_full_disk_while_downloading_and_unpacking(
    project: Any, server: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    free = SimpleNamespace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    project = project()
    assert_refused(project, capsys, "the disk has 100 bytes free", "the download needs")
    free.free = len(project.content) + 10
    assert_refused(project, capsys, "the disk has", "unpacking needs")
    free.free = 10**9

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", full)
        assert_refused(project, capsys, "the disk is full")
    assert run(project) == 0
    assert_fetched(project)


def test_write_error_of_a_full_disk_is_not_retried(
    project: Any, server: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    project = project()
    real_open = Path.open

    def opened(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path == project.part:
            return real_open(Path("/dev/full"), *args, **kwargs)
        return real_open(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", opened)
    project.part.parent.mkdir()
    assert_refused(project, capsys, f"{project.part}: the disk is full")
    assert len(server.ranges) == 1


def test_unknown_dataset_and_bad_registry(project: Any, capsys: pytest.CaptureFixture[str]) -> None:
    project = project()
    registry = project.root / "registry.yaml"
    output = ["--output", str(project.output)]
    assert main(["fetch", "--registry", str(registry), "--dataset", "pigs", *output]) == 2
    assert "unknown dataset 'pigs'" in capsys.readouterr().err
    entries = yaml.safe_load(registry.read_text())
    entries["cows"]["sha256"] = "abc"
    registry.write_text(yaml.safe_dump(entries))
    assert_refused(project, capsys, "registry.yaml: cows: 'sha256'")
    del entries["cows"]["url"]
    entries["cows"]["sha256"] = None
    registry.write_text(yaml.safe_dump(entries))
    assert_refused(project, capsys, "registry.yaml: cows: 'url'")


def test_the_projects_own_registry() -> None:
    """Every entry is complete, and has some checksum to be verified against."""
    registry = Path(__file__).parents[2] / "resources" / "registry.yaml"
    names = yaml.safe_load(registry.read_text())
    assert "diligent_mv" in names
    for name in names:
        dataset = fetch.read_dataset(registry, name)
        assert dataset.url.startswith("https://")
        assert dataset.sha256 or dataset.sha256sums_url
        assert dataset.file_name == "data.zip"
