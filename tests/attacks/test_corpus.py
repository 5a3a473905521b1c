"""Files that fuzzing found worth keeping are read, or refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.attacks.targets import CORPUS, TARGETS, reader


@pytest.mark.parametrize("target", TARGETS)
def test_the_corpus(target: str, tmp_path: Path) -> None:
    read = reader(target, tmp_path)
    files = sorted((CORPUS / target).iterdir())
    assert files
    for file in files:
        read(file.read_bytes())


def test_it_has_a_folder_for_each_target() -> None:
    assert {folder.name for folder in CORPUS.iterdir()} == {*TARGETS}
