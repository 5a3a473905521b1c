"""hf://owner/name where a path stands: what is fetched, what never is, and what happens offline."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

import kronq
from kronq.errors import ArgumentError, FormatError, MissingDependencyError, NotFoundError
from kronq.io.hub import HubPath, parse_hub_path
from kronq.io.input_path import check_input, find_input
from tests.cli.command import Kronq
from tests.paths import EXAMPLE

hub = pytest.importorskip("huggingface_hub")
COMMIT = "0123456789" * 4


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """huggingface_hub offline, with one adapter in its cache: me/arc."""
    folder = tmp_path / "hub"
    snapshot = folder / "models--me--arc" / "snapshots" / COMMIT
    shutil.copytree(EXAMPLE, snapshot)
    kronq.save(kronq.quantize(kronq.load(EXAMPLE)), snapshot / "small.safetensors")
    (folder / "models--me--arc" / "refs").mkdir()
    (folder / "models--me--arc" / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(folder))
    return snapshot


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A repository with a bit of everything; returns what was asked of it."""
    asked: list[dict[str, Any]] = []
    files = [
        "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin", "README.md",
        "training_args.bin", "config.json", "model-00001-of-2.safetensors", "tokenizer.json",
        "pytorch_model.bin", "run.py", "chat_template.jinja", "small.safetensors", "merges.txt",
        "onnx/model.onnx", "onnx/model.onnx.data", "onnx/genai_config.json", "a.Q4_1.gguf",
        "checkpoint-5/adapter_model.safetensors", "checkpoint-5/optimizer.pt",
    ]  # fmt: skip

    def snapshot_download(repo: str, **settings: Any) -> str:
        asked.append({"repo": repo, **settings})
        wanted = hub.utils.filter_repo_objects(
            files,
            allow_patterns=settings["allow_patterns"],
            ignore_patterns=settings["ignore_patterns"],
        )
        for name in wanted:
            file = tmp_path / "snapshot" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        return str(tmp_path / "snapshot")

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    return asked


def fetched(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("hf://me/arc", HubPath("me/arc")),
        ("hf://me/arc/", HubPath("me/arc")),
        ("hf://models/me/arc", HubPath("me/arc")),
        ("hf://me/arc@v1.0", HubPath("me/arc", "v1.0")),
        ("hf://me/arc@refs/pr/3/sub", HubPath("me/arc", "refs/pr/3", "sub")),
        ("hf://me/arc/sub/a.safetensors", HubPath("me/arc", None, "sub/a.safetensors")),
        ("hf://me/arc@main/a.safetensors", HubPath("me/arc", "main", "a.safetensors")),
    ],
)
def test_places(text: str, place: HubPath) -> None:
    assert parse_hub_path(text) == place


@pytest.mark.parametrize(
    "text",
    ["hf://", "hf://me", "hf:///arc", "hf://me/arc@",
     "hf://me/arc/../x", "hf://me/arc/*", "hf://a b/c"],
)  # fmt: skip
def test_what_is_no_place(text: str) -> None:
    with pytest.raises(ArgumentError, match="not a place on the Hub"):
        check_input(text)


def test_of_an_adapter_only_safe_files_are_fetched_and_no_base(repository: Any) -> None:
    assert fetched(find_input("hf://me/arc")) == {
        "adapter_config.json", "adapter_model.safetensors", "config.json", "tokenizer.json",
        "chat_template.jinja", "small.safetensors", "merges.txt", "onnx/genai_config.json",
        "checkpoint-5/adapter_model.safetensors",
    }  # fmt: skip
    assert repository[0]["revision"] is None


def test_of_a_base_the_weights_too(repository: Any) -> None:
    found = fetched(find_input("hf://me/arc@v2", "base"))
    assert {"model-00001-of-2.safetensors", "tokenizer.json", "config.json"} < found
    assert not {name for name in found if name.endswith((".bin", ".pt", ".py", ".gguf", ".onnx"))}
    assert repository[0]["revision"] == "v2"


def test_a_file_or_folder_of_it(repository: Any, tmp_path: Path) -> None:
    assert find_input("hf://me/arc/a.Q4_1.gguf", "base").name == "a.Q4_1.gguf"
    shutil.rmtree(tmp_path / "snapshot")
    folder = find_input("hf://me/arc/onnx", "base")
    assert fetched(folder) == {"model.onnx", "model.onnx.data", "genai_config.json"}
    shutil.rmtree(tmp_path / "snapshot")
    folder = find_input("hf://me/arc/checkpoint-5")
    assert fetched(folder) == {"adapter_model.safetensors"}
    with pytest.raises(NotFoundError, match="not in the repository"):
        find_input("hf://me/arc/nothing.safetensors")


@pytest.mark.parametrize("name", ["adapter_model.bin", "optimizer.pt", "a.ckpt", "sub/a.pkl"])
def test_a_pickle_is_never_asked_for(repository: Any, name: str) -> None:
    with pytest.raises(FormatError, match="never fetched"):
        find_input(f"hf://me/arc/{name}")
    assert repository == []


def test_the_real_library_finds_its_cache(cache: Path, kronq_verb: Kronq) -> None:
    assert kronq.load("hf://me/arc").keys() == kronq.load(EXAMPLE).keys()
    assert kronq.load("hf://me/arc/small.safetensors").recipe is not None
    assert kronq_verb("inspect", "hf://me/arc@main", "--json").json()["parameters"] == 613920


def test_what_is_not_cached_is_one_line_offline(cache: Path, kronq_verb: Kronq) -> None:
    for text in ("hf://me/nothing", "hf://me/arc@v9"):
        line = kronq_verb.refuses("inspect", text)
        assert f"{text}: not to be had from the Hub" in line
        assert "HF_HUB_OFFLINE" in line


def test_a_name_without_a_scheme_is_never_downloaded(
    repository: Any, kronq_verb: Kronq, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    line = kronq_verb.refuses("inspect", "me/arc")
    assert line.endswith(
        "me/arc: no such file or folder (hint: if it is on the Hugging Face Hub: hf://me/arc, or "
        "'hf download me/arc')"
    )
    (tmp_path / "me").mkdir()  # then it is a mistyped path
    assert kronq_verb.refuses("inspect", "me/arc").endswith("no such file or folder")
    assert repository == []


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, kronq_verb: Kronq) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'kronq\[hub\]'"):
        kronq.load("hf://me/arc")
    line = kronq_verb.refuses("quantize", "hf://me/arc", "-o", "a.safetensors")
    assert "hf:// needs packages that are not installed; found no huggingface_hub" in line


@pytest.fixture
def kronq_verb(capsys: pytest.CaptureFixture[str]) -> Kronq:
    return Kronq(capsys)
