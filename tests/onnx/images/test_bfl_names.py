"""Adapters with Black Forest Labs' names on a Flux transformer exported from diffusers."""

from __future__ import annotations

import copy
import inspect
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from diffusers import FluxTransformer2DModel  # noqa: E402
from diffusers.loaders import single_file_utils  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

import kronq  # noqa: E402
from kronq.errors import MismatchError  # noqa: E402
from kronq.onnx.base_folder import load_base  # noqa: E402
from kronq.onnx.graph.bfl_names import bfl_names  # noqa: E402
from kronq.onnx.graph.sites import find_sites  # noqa: E402
from tests.onnx.images.test_convolutions import EXACT, apart  # noqa: E402

D = 32
LAYERS = {
    "img_in": (D, 8),
    "txt_in": (D, 24),
    "time_in.in_layer": (D, 256),
    "time_in.out_layer": (D, D),
    "vector_in.in_layer": (D, 12),
    "vector_in.out_layer": (D, D),
    "guidance_in.in_layer": (D, 256),
    "guidance_in.out_layer": (D, D),
    "final_layer.linear": (8, D),
    "final_layer.adaLN_modulation.1": (2 * D, D),
}
for _i in range(2):
    for _half in ("img", "txt"):
        LAYERS |= {
            f"double_blocks.{_i}.{_half}_mod.lin": (6 * D, D),
            f"double_blocks.{_i}.{_half}_attn.qkv": (3 * D, D),
            f"double_blocks.{_i}.{_half}_attn.proj": (D, D),
            f"double_blocks.{_i}.{_half}_mlp.0": (4 * D, D),
            f"double_blocks.{_i}.{_half}_mlp.2": (D, 4 * D),
        }
    LAYERS |= {
        f"single_blocks.{_i}.modulation.lin": (3 * D, D),
        f"single_blocks.{_i}.linear1": (7 * D, D),
        f"single_blocks.{_i}.linear2": (D, 5 * D),
    }
"""Linear layers of ``flux.model.Flux`` of this size."""
SWAPPED = "final_layer.adaLN_modulation.1"
FEEDS = {
    "hidden_states": torch.randn(1, 16, 8, generator=torch.Generator().manual_seed(1)),
    "encoder_hidden_states": torch.randn(1, 5, 24, generator=torch.Generator().manual_seed(2)),
    "pooled_projections": torch.randn(1, 12, generator=torch.Generator().manual_seed(3)),
    "timestep": torch.tensor([0.5]),
    "img_ids": torch.randn(16, 3, generator=torch.Generator().manual_seed(4)),
    "txt_ids": torch.zeros(5, 3),
    "guidance": torch.tensor([3.5]),
}


def convert(checkpoint: dict) -> dict:
    """diffusers' converter, which has the width of the released model in its source."""
    source = inspect.getsource(single_file_utils.convert_flux_transformer_checkpoint_to_diffusers)
    assert source.count("inner_dim = 3072") == 1
    scope = dict(vars(single_file_utils))
    # Its own code, at the width of the test's model.
    exec(source.replace("inner_dim = 3072", f"inner_dim = {D}"), scope)  # noqa: S102
    return scope["convert_flux_transformer_checkpoint_to_diffusers"](dict(checkpoint))


def checkpoint_of(tensors: dict[str, torch.Tensor]) -> dict:
    """W and biases by BFL's names, and norms."""
    found = {f"{name}.weight": weight for name, weight in tensors.items()}
    torch.manual_seed(6)
    found |= {f"{name}.bias": torch.randn(rows) * 0.1 for name, (rows, _) in LAYERS.items()}
    for i in range(2):
        places = [f"double_blocks.{i}.{half}_attn.norm" for half in ("img", "txt")]
        for place in (*places, f"single_blocks.{i}.norm"):
            for norm in ("query_norm", "key_norm"):
                found[f"{place}.{norm}.scale"] = torch.rand(16) + 0.5
    return found


@pytest.fixture(scope="module")
def models() -> tuple[FluxTransformer2DModel, FluxTransformer2DModel, dict]:
    """What diffusers makes of W and of W + ΔW by BFL's names, and the factors of ΔW."""
    torch.manual_seed(0)
    plain = FluxTransformer2DModel(
        patch_size=1,
        in_channels=8,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=24,
        pooled_projection_dim=12,
        guidance_embeds=True,
        axes_dims_rope=(4, 4, 8),
    ).eval()
    weights = {n: torch.randn(shape) / shape[1] ** 0.5 for n, shape in LAYERS.items()}
    factors = {
        name: (torch.randn(rows, 2) * 0.2, torch.randn(2, columns) / columns**0.5)
        for name, (rows, columns) in LAYERS.items()
        if name != SWAPPED
    }
    changed = copy.deepcopy(plain)
    plain.load_state_dict(convert(checkpoint_of(weights)), strict=True)
    for name, (up, down) in factors.items():
        weights[name] = weights[name] + up @ down
    changed.load_state_dict(convert(checkpoint_of(weights)), strict=True)
    return plain, changed, factors


@pytest.fixture(scope="module")
def base(models: tuple, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("flux") / "base.onnx"
    more = FEEDS | {"return_dict": False}
    torch.onnx.export(models[0], (), path, kwargs=more, dynamo=True, verbose=False)
    return path


def write(factors: dict, file: Path, style: str) -> Path:
    tensors = {}
    for name, (up, down) in factors.items():
        flat = f"lora_unet_{name.replace('.', '_')}"
        key, parts = {
            "kohya": (flat, ("lora_up", "lora_down")),
            "BFL": (f"diffusion_model.{name}", ("lora_B", "lora_A")),
        }[style]
        tensors |= {f"{key}.{parts[0]}.weight": up, f"{key}.{parts[1]}.weight": down}
        if style == "kohya":
            tensors[f"{key}.alpha"] = torch.tensor(2.0)
    save_file(tensors, file)
    return file


def run(path: Path) -> np.ndarray:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return session.run(None, {name: FEEDS[name].numpy() for name in names})[0]


def weights_of(path: Path) -> dict[str, np.ndarray]:
    """W [d_out, d_in] by the modules that the exporter made the nodes from."""
    found = {}
    for site in find_sites(load_base(path)):
        kept = site.source.const_value.numpy()
        found[f"{site.names[0]}.weight"] = kept if site.stored_transposed else kept.T
    return found


@pytest.mark.parametrize("style", ["kohya", "BFL"])
def test_weights_are_those_that_diffusers_converts(
    tmp_path: Path, models: tuple, base: Path, style: str
) -> None:
    """Merged layer by layer; the branch then says what the merged weights say."""
    plain, changed, factors = models
    adapter = kronq.load(write(factors, tmp_path / "own.safetensors", style))
    assert len(adapter) == len(LAYERS) - 1
    for form in ("merged", "branch"):
        report = kronq.export_onnx(adapter, base, tmp_path / form, form=form, verify=False)
        assert report.matched == {"name": len(adapter)}

    stored = weights_of(tmp_path / "merged" / "model.onnx")
    wanted = {n: w.numpy() for n, w in changed.state_dict().items() if w.dim() == 2}
    assert len(wanted) == len(LAYERS) + 2 * 2 * 2 + 2 * 3  # qkv apart, and linear1
    for name, weight in wanted.items():
        before = plain.state_dict()[name].numpy()
        assert apart(stored[name], weight) < 1e-6
        assert (apart(before, weight) > 1e-2) == (name != "norm_out.linear.weight")
    merged, branch = (run(tmp_path / form / "model.onnx") for form in ("merged", "branch"))
    assert apart(branch, merged) < EXACT
    with torch.no_grad():
        before, after = (m(**FEEDS, return_dict=False)[0].numpy() for m in (plain, changed))
    # The exporter's own graph of the base is no nearer to torch.
    assert apart(merged, after) < 3 * apart(run(base), before) < 3e-4 < 1e-2 < apart(before, after)


def test_halves_in_opposite_order_are_refused(tmp_path: Path, models: tuple, base: Path) -> None:
    extra = {SWAPPED: (torch.randn(2 * D, 2), torch.randn(2, D))}
    file = write(models[2] | extra, tmp_path / "own.safetensors", "kohya")
    with pytest.raises(MismatchError, match="another order") as error:
        kronq.export_onnx(kronq.load(file), base, tmp_path / "out")
    assert "adaLN_modulation" in str(error.value)
    assert not (tmp_path / "out").exists()


def test_other_transformers_have_no_names_by_bfl() -> None:
    """SD 3, and others by diffusers, have ``transformer_blocks`` too, and other rows."""
    names = ["x_embedder", "context_embedder", "proj_out", "norm_out_linear"]
    names += ["transformer_blocks_0_attn_to_q", "transformer_blocks_0_attn_add_q_proj"]
    assert not [*bfl_names(names)]
