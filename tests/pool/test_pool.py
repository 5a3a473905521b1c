"""Adding, finding, holding, replacing and removing, seen by whoever has the pool open."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from kronq import Native, Pool, load, quantize, save
from kronq.errors import (
    ArgumentError,
    FormatError,
    KronqError,
    NotFoundError,
    OutputExistsError,
)
from kronq.onnx.slots.record import layer_id, read_record
from kronq.pool import index, window
from kronq.pool.compaction import compact
from kronq.pool.index import Index
from kronq.pool.writing import append, remove
from tests.adapters import adapter
from tests.pool.records import content, held, is_right, record


@pytest.fixture(params=["window", "file"], autouse=True)
def kind_of_map(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Reserved addresses, and a plain map as on other systems."""
    if request.param == "file":
        monkeypatch.setattr("kronq.pool.mapped_files.make_map", lambda _: window.FileMap())
    return str(request.param)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    append(tmp_path / "pool", [record(name) for name in "abc"])
    return tmp_path / "pool"


def test_what_was_added_is_found(folder: Path) -> None:
    with Pool.open(folder) as pool:
        assert sorted(pool) == ["a", "b", "c"]
        assert len({entry.tag for entry in pool.values()}) == 3
        assert all(entry.offset % 4096 == 0 for entry in pool.values())
        assert all(is_right(pool, name) for name in pool)
        assert "d" not in pool
        with pytest.raises(NotFoundError, match=r"no such adapter in the pool.*found d"):
            pool.find("d")


def test_others_see_what_one_does(folder: Path) -> None:
    with Pool.open(folder) as pool:
        assert not pool.refresh()
        append(folder, [record("d", size=9000)])
        append(folder, [record("a", 1)], force=True)
        remove(folder, ["b"])
        assert sorted(pool) == ["a", "b", "c"]  # as it was, until it is refreshed
        assert is_right(pool, "b")
        pool.refresh()
        assert sorted(pool) == ["a", "c", "d"]
        assert np.array_equal(held(pool, "a"), content("a", 1))
        assert is_right(pool, "d")
        assert is_right(pool, "c")


def test_reserved_addresses_stay_where_they_are(folder: Path, kind_of_map: str) -> None:
    with Pool.open(folder) as pool:
        before = pool.bytes
        append(folder, [record("d")])
        assert pool.refresh() == (kind_of_map == "file")
        assert (pool.bytes is before) == (kind_of_map == "window")
        assert is_right(pool, "d")
        old = pool.find("a")
        assert bytes(before[old.offset : old.offset + 8]) == b"kronqrec"


def test_what_is_held_stays_while_it_is_replaced_and_compacted(
    folder: Path, kind_of_map: str
) -> None:
    with Pool.open(folder) as pool:
        array, old = pool.bytes, pool.pin("a")
        before = bytes(array[old.offset : old.offset + old.size])
        append(folder, [record("a", 1), record("d")], force=True)
        remove(folder, ["b"])
        compact(folder)
        append(folder, [record("e")])
        pool.refresh()
        assert bytes(array[old.offset : old.offset + old.size]) == before
        if kind_of_map == "window":  # elsewhere the new file waits until nothing is held
            assert sorted(pool) == ["a", "c", "d", "e"]
            assert np.array_equal(held(pool, "a"), content("a", 1))
        pool.unpin(old)
        pool.refresh()
        assert sorted(pool) == ["a", "c", "d", "e"]
        assert all(is_right(pool, name) for name in pool)
        assert len(pool._view.files._segments) == 1


def test_a_pool_larger_than_the_reserved_addresses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window, "ROOM", 2**16)
    monkeypatch.setattr(window, "_LEAST", 2**12)
    append(tmp_path / "pool", [record("a")])
    with Pool.open(tmp_path / "pool") as pool:
        pinned, array = pool.pin("a"), pool.bytes
        append(tmp_path / "pool", [record("b", size=200_000)])
        pool.refresh()
        assert bytes(array[pinned.offset : pinned.offset + 8]) == b"kronqrec"
        pool.unpin(pinned)
        pool.refresh()
        assert is_right(pool, "a")
        assert is_right(pool, "b")


def test_many_compactions_under_a_reader_leave_nothing_behind(folder: Path) -> None:
    with Pool.open(folder) as pool:
        for version in range(1, 6):
            append(folder, [record("a", version)], force=True)
            compact(folder)
            pool.refresh()
            assert all(is_right(pool, name) for name in pool)
        assert len(pool._view.files._segments) == 1
    assert sorted(path.name for path in folder.iterdir()) == ["index.sqlite", "records-6"]


def test_the_same_again_is_nothing_and_another_needs_force(folder: Path) -> None:
    before = Index(folder).read().head
    result = append(folder, [record("a"), record("b")])
    assert (result.added, result.unchanged) == ([], ["a", "b"])
    assert Index(folder).read().head == before
    with pytest.raises(OutputExistsError, match="other adapters of these names; found b"):
        append(folder, [record("a"), record("b", 1), record("z")])
    assert Index(folder).read().head == before
    (entry,) = append(folder, [record("a")], force=True).added  # mends a damaged record
    assert entry.generation == before.generation + 1


def test_generations_are_never_used_again(folder: Path) -> None:
    seen = {entry.generation for entry in Index(folder).read().entries}
    for version in range(3):
        remove(folder, ["a"])
        compact(folder)
        (entry,) = append(folder, [record("a", version)]).added
        assert entry.generation > max(seen)
        seen.add(entry.generation)


def test_removing_is_all_or_nothing(folder: Path) -> None:
    with pytest.raises(NotFoundError, match=r"no such adapter in the pool.*found x, y"):
        remove(folder, ["a", "x", "y"])
    assert len(Index(folder).read().entries) == 3


@pytest.mark.parametrize(
    "name",
    ["", "x" * 201, "a\nb", "a\x1bb", "../a", "/a", "a//b", "a/./b", "a\\b", " a", "-a", "\ud800"],
)
def test_names_that_are_none(tmp_path: Path, name: str) -> None:
    from kronq.pool.entry import check_name

    with pytest.raises(ArgumentError, match="not a name for an adapter of a pool"):
        check_name(name)


def test_a_name_is_found_in_both_of_unicodes_forms(tmp_path: Path) -> None:
    append(tmp_path / "pool", [record("caf\u00e9")])
    with Pool.open(tmp_path / "pool") as pool:
        assert pool.find("cafe\u0301") == pool.find("caf\u00e9")


def test_a_folder_of_others_is_no_pool(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    (tmp_path / "file").touch()
    for name in ("photos", "file"):
        with pytest.raises(OutputExistsError, match="not a pool"):
            append(tmp_path / name, [record("a")])
    for name in ("photos", "nothing"):
        with pytest.raises(NotFoundError, match="no pool here"):
            Pool.open(tmp_path / name)
    (tmp_path / "empty").mkdir()
    append(tmp_path / "empty", [record("a")])
    assert len(Pool.open(tmp_path / "empty")) == 1


def test_a_writer_waits_for_its_turn(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = threading.Event()
    with contextlib.closing(Index(folder, writing=True)) as other:
        with other.change():
            writer = threading.Thread(
                target=lambda: (append(folder, [record("d")]), done.set()), daemon=True
            )
            writer.start()
            time.sleep(0.1)
            assert not done.is_set()
            assert is_right(Pool.open(folder), "a")  # readers do not wait
        assert done.wait(30)
        monkeypatch.setattr(index, "WAIT_SECONDS", 0.1)
        with other.change(), pytest.raises(KronqError, match="another program is writing"):
            append(folder, [record("e")])
    assert len(Pool.open(folder)) == 4


def test_what_cannot_be_written_changes_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Index(folder).read()
    size = (folder / "records-1").stat().st_size

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    for name in ("write", "fsync"):
        with monkeypatch.context() as patch, pytest.raises(OSError, match="could not be written"):
            patch.setattr(f"kronq.pool.writing.os.{name}", full)
            append(folder, [record("d")])
        assert Index(folder).read() == before
        assert (folder / "records-1").stat().st_size == size
    append(folder, [record("d")])


def test_a_file_that_is_cut_off_is_refused(folder: Path) -> None:
    with (folder / "records-1").open("r+b") as file:
        file.truncate(10_000)
    with pytest.raises(FormatError, match="the file of records is cut off"):
        Pool.open(folder)
    with pytest.raises(FormatError, match="the file of records is cut off"):
        append(folder, [record("d")])


def test_threads_find_and_hold_while_the_pool_changes(folder: Path) -> None:
    with Pool.open(folder) as pool:
        stop, wrong = threading.Event(), []

        def reader(seed: int) -> None:
            rng = np.random.default_rng(seed)
            while not stop.is_set():
                name = str(rng.choice(["a", "b", "c"]))
                with pool.use(name) as entry:
                    array = pool.bytes
                    if bytes(array[entry.offset : entry.offset + 8]) != b"kronqrec":
                        wrong.append(name)

        threads = [threading.Thread(target=reader, args=(i,)) for i in range(3)]
        for thread in threads:
            thread.start()
        for version in range(1, 12):
            append(folder, [record("a", version), record("b", version)], force=True)
            if version % 3 == 0:
                compact(folder)
            pool.refresh()
        stop.set()
        for thread in threads:
            thread.join()
        assert wrong == []


def test_adapters_are_added_as_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream waits for the disk once a batch; a name that comes again is replaced in order."""
    written = []
    monkeypatch.setattr(
        "kronq.pool.importing.append",
        lambda *given, **how: (written.append(len(given[1])), append(*given, **how)),
    )
    made = [quantize(adapter(seed), Native(4)) for seed in range(4)]
    with Pool.open(tmp_path / "new", create=True) as pool:
        pool.add_many((f"n{number % 3}", each) for number, each in enumerate(made[:3]))
        assert (list(pool), written) == (["n0", "n1", "n2"], [3])
        first = dict(pool)
        pool.add_many([("n0", made[0]), ("n0", made[3])], force=True)
        assert written[1:] == [1, 1]
        assert pool.find("n0").digest == pool.add("again", made[3]).digest
        with pytest.raises(OutputExistsError, match="n1"):
            pool.add_many([("new", made[1]), ("new", made[1]), ("n1", made[2])])
        assert pool.find("n1") == first["n1"]
        assert pool.find("new").digest == first["n1"].digest


def test_an_adapter_is_added_from_its_file_and_from_memory(tmp_path: Path, folder: Path) -> None:
    whole = quantize(adapter(), Native(bits=4))
    file = save(whole, tmp_path / "whole.safetensors")
    with Pool.open(folder) as pool:
        of_file, of_memory = pool.add("file", file), pool.add("memory", load(file))
        assert of_file.digest == of_memory.digest
        assert of_file.tag != of_memory.tag
        assert of_file.source == hashlib.sha256(file.read_bytes()).hexdigest()
        assert of_file.method == "native"
        assert of_file.error == whole.recipe.relative_error
        assert of_file.parameters == whole.parameters
        found = read_record(pool.bytes[of_file.offset : of_file.offset + of_file.size])
        assert found.keys() == {layer_id(name) for name in whole}
        assert pool.add("file", file) == of_file
        with pytest.raises(OutputExistsError, match="found file"):
            pool.add("file", adapter(1))
        assert pool.add("file", adapter(1), force=True).generation > of_memory.generation
        pool.remove("file")
        assert "file" not in pool
