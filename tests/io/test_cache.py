"""The user's cache: location, permissions, damaged entries and the size limit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kronq.io.cache import cache_folder, digest, digest_files, new_entry, read_entry, trim


def test_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KRONQ_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder("tasks") == Path.home() / ".cache" / "kronq" / "tasks"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_folder("tasks") == Path("/xdg/kronq/tasks")
    monkeypatch.setenv("KRONQ_CACHE", "/mine")
    assert cache_folder("kernels") == Path("/mine/kernels")
    assert cache_folder("kernels", "/asked") == Path("/asked/kernels")


def test_boundaries_of_parts_count(tmp_path: Path) -> None:
    assert digest("ab", "c") != digest("a", "bc") != digest("abc")
    assert digest("ab") == digest(b"ab") == digest(memoryview(b"ab"))
    (tmp_path / "one").write_bytes(b"x")
    (tmp_path / "two").write_bytes(b"x")
    assert digest_files([tmp_path / "one"]) == digest_files([tmp_path / "two"])


def test_folders_are_the_users_alone(tmp_path: Path) -> None:
    with new_entry(tmp_path / "cache" / "tasks" / "a") as work:
        work.write_bytes(b"a")
    for folder in ("cache", "cache/tasks"):
        assert (tmp_path / folder).stat().st_mode & 0o777 == 0o700


def test_a_damaged_entry_is_absent_and_deleted(tmp_path: Path) -> None:
    file = tmp_path / "a"
    assert read_entry(file, Path.read_bytes) is None
    file.write_text("12")
    assert read_entry(file, lambda f: int(f.read_text())) == 12
    file.write_text("twelve")
    assert read_entry(file, lambda f: int(f.read_text())) is None
    assert not file.exists()


def test_the_least_recently_used_entries_are_deleted(tmp_path: Path) -> None:
    entries = [tmp_path / f"{digest(str(i))}.bin" for i in range(4)]
    entries[2] = entries[2].with_suffix("")
    for age, entry in enumerate(entries):
        file = entry
        if not entry.suffix:
            entry.mkdir()
            file = entry / "part"
        file.write_bytes(bytes(100))
        os.utime(file, (age, age))
    (tmp_path / "notes.txt").write_bytes(bytes(100))
    read_entry(entries[0], Path.read_bytes)
    trim(tmp_path, limit=200, keeping=entries[1])
    assert set(tmp_path.iterdir()) == {entries[0], entries[1], tmp_path / "notes.txt"}
    trim(tmp_path / "nowhere", limit=0, keeping=entries[0])


@pytest.mark.skipif(os.name == "nt", reason="a profile's folders are the user's own there")
@pytest.mark.parametrize("mode", [0o777, 0o770, 0o722])
def test_no_entry_of_a_folder_that_others_can_write_is_read(tmp_path: Path, mode: int) -> None:
    """Its checksum, and the mark that it was compared, may be theirs."""
    file = tmp_path / "tasks" / ("0" * 40)
    with new_entry(file) as work:
        work.write_text("1")
    assert read_entry(file, Path.read_text) == "1"
    file.parent.chmod(mode)
    assert read_entry(file, Path.read_text) is None
    assert file.exists()
    file.parent.chmod(0o700)
    assert read_entry(file, Path.read_text) == "1"
