"""``KronLinear`` against PEFT's modules and ``torch.kron``: outputs, gradients, adapters."""

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.utils.checkpoint
import transformers
from peft import LoKrConfig, LoraConfig, get_peft_model, get_peft_model_state_dict

import kronq
import kronq.torch
from kronq import AdapterShape
from kronq.planning.families import make_delta
from kronq.torch import KronLinear
from kronq.writers.balance import balance_layer


def tiny_llama() -> torch.nn.Module:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=48,
        intermediate_size=72,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return transformers.LlamaForCausalLM(config).double().eval()


CASES = {
    "lokr": (
        AdapterShape("lokr", 4),
        LoKrConfig(r=4, alpha=8, decompose_factor=4, target_modules="all-linear"),
    ),
    "lokr, whole B": (
        AdapterShape("lokr", 16, factor=-1),
        LoKrConfig(r=16, alpha=32, decompose_factor=-1, target_modules="all-linear"),
    ),
    "lora": (
        AdapterShape("lora", 4),
        LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"),
    ),
}


def grow(model: torch.nn.Module) -> None:
    """Gives every trained parameter values, as some begin at zero."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.data.copy_(noise * 0.1)


@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients_are_pefts(case) -> None:
    shape, config = CASES[case]
    base = tiny_llama()
    peft = get_peft_model(copy.deepcopy(base), config)
    grow(peft)
    trained = kronq.Adapter.from_state_dict(
        get_peft_model_state_dict(peft), peft.peft_config["default"].to_dict()
    )
    model = copy.deepcopy(base)
    kronq.torch.adapt_linears(model, shape)
    kronq.torch.read_factors(model, trained)
    with torch.no_grad():  # the factors in float64, as PEFT's are
        for mine, theirs in paired_parameters(model, peft):
            mine.copy_(theirs)
    ids = torch.randint(0, 64, (2, 9), generator=torch.Generator().manual_seed(2))
    losses = []
    for each in (peft, model):
        out = each(input_ids=ids, labels=ids)
        out.loss.backward()
        losses.append(out)
    torch.testing.assert_close(losses[1].logits, losses[0].logits, rtol=1e-10, atol=1e-10)
    for mine, theirs in paired_parameters(model, peft):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-9, atol=1e-12)


STEPPED = CASES | {
    "lora, rank 1": (
        AdapterShape("lora", 1),
        LoraConfig(r=1, lora_alpha=2, target_modules="all-linear"),
    ),
    "lokr, rank 1": (
        AdapterShape("lokr", 1),
        LoKrConfig(r=1, alpha=2, decompose_factor=4, target_modules="all-linear"),
    ),
}


@pytest.mark.parametrize("case", STEPPED)
def test_four_steps_end_where_pefts_do(case) -> None:
    shape, config = STEPPED[case]
    base = tiny_llama()
    peft = get_peft_model(copy.deepcopy(base), config)
    grow(peft)
    model = copy.deepcopy(base)
    kronq.torch.adapt_linears(model, shape)
    pairs = paired_parameters(model, peft)
    with torch.no_grad():
        for mine, theirs in pairs:
            mine.copy_(theirs)
    ids = torch.randint(0, 64, (2, 9), generator=torch.Generator().manual_seed(2))
    for each, parameters in zip((model, peft), zip(*pairs, strict=True), strict=True):
        optimizer = torch.optim.SGD(parameters, lr=0.1)
        for _ in range(4):
            optimizer.zero_grad()
            each(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        (AdapterShape("lora", 1), (24, 10)),
        (AdapterShape("kron", 1, a_in=2, a_out=3), (24, 10)),
        (AdapterShape("kron", 3, a_in=2, b_out=1), (6, 10)),
        (AdapterShape("lokr", 50, factor=2), (12, 8)),
        (AdapterShape("lora", 3), (1, 10)),
        (AdapterShape("lora", 3), (10, 1)),
    ],
)
def test_gradients_leave_values_as_they_are(shape, size) -> None:
    torch.manual_seed(0)
    layer = KronLinear(torch.nn.Linear(size[1], size[0]), make_delta(shape, *size), scale=1.7)
    grow(layer)
    x = torch.randn(3, size[1], requires_grad=True)
    tensors = [x, layer.base.weight, *parameters_of(layer)]
    before = [each.detach().clone() for each in tensors]
    layer(x).square().sum().backward()
    for now, then in zip(tensors, before, strict=True):
        torch.testing.assert_close(now.detach(), then, rtol=0, atol=0)


def layers_of(model: torch.nn.Module) -> dict[str, KronLinear]:
    return {n: each for n, each in model.named_modules() if isinstance(each, KronLinear)}


def paired_parameters(model, peft) -> list[tuple[torch.nn.Parameter, torch.nn.Parameter]]:
    """Returns each trained parameter beside PEFT's."""
    pairs: list[tuple[torch.nn.Parameter, torch.nn.Parameter]] = []
    for name, layer in layers_of(model).items():
        theirs = peft_parameters(peft.base_model.model.get_submodule(name))
        pairs += zip(parameters_of(layer), theirs, strict=True)
    return pairs


def parameters_of(layer: KronLinear) -> list[torch.nn.Parameter]:
    return [p for p in (layer.a, layer.b1, layer.b2) if p is not None]


def peft_parameters(layer) -> list[torch.nn.Parameter]:
    if hasattr(layer, "lora_A"):
        return [layer.lora_B["default"].weight, layer.lora_A["default"].weight]
    whole = "default" in layer.lokr_w2
    b = [layer.lokr_w2] if whole else [layer.lokr_w2_a, layer.lokr_w2_b]
    return [layer.lokr_w1["default"], *(each["default"] for each in b)]


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        (AdapterShape("kron", 3, a_in=2, a_out=3), (24, 10)),
        (AdapterShape("kron", 3, a_in=2, a_out=5), (23, 11)),
        (AdapterShape("kron", 2, a_in=3, b_out=4), (30, 7)),
        (AdapterShape("lokr", 50, factor=2), (12, 8)),
    ],
)
@pytest.mark.parametrize("lead", [(), (5,), (2, 3)])
def test_the_papers_shapes_against_the_product(shape, size, lead) -> None:
    torch.manual_seed(0)
    base = torch.nn.Linear(size[1], size[0]).double()
    layer = KronLinear(base, make_delta(shape, *size), scale=1.7)
    grow(layer)
    x = torch.randn(*lead, size[1], dtype=torch.float64, requires_grad=True)
    b = layer.b1 if layer.b2 is None else layer.b1 @ layer.b2
    delta = 1.7 * torch.kron(layer.a, b)[: size[0], : size[1]]
    expected = torch.nn.functional.linear(x, base.weight + delta, base.bias)
    torch.testing.assert_close(layer(x), expected)
    found = torch.autograd.grad(layer(x).square().sum(), [x, *parameters_of(layer)])
    wanted = torch.autograd.grad(expected.square().sum(), [x, *parameters_of(layer)])
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs)


def seen(layer: KronLinear, x: torch.Tensor) -> list[torch.Tensor]:
    """Returns the output and the gradients of x and the factors."""
    y = layer(x)
    return [y, *torch.autograd.grad(y.square().sum(), [x, *parameters_of(layer)])]


LOOKED_INTO = {
    "a hook on the base": lambda layer: layer.base.register_forward_hook(lambda *_: None),
    "dropout of almost nothing": lambda layer: setattr(layer, "dropout", torch.nn.Dropout(1e-12)),
    "a base that is trained too": lambda layer: layer.base.requires_grad_(True),
    "a base whose forward is another's": lambda layer: setattr(
        layer.base, "forward", lambda x: torch.nn.Linear.forward(layer.base, x)
    ),
    "a base of a class of its own": lambda layer: setattr(
        layer.base, "__class__", type("Other", (torch.nn.Linear,), {})
    ),
}


@pytest.mark.parametrize("case", LOOKED_INTO)
@pytest.mark.parametrize("shape", [AdapterShape("kron", 3, b_out=10), AdapterShape("lora", 2)])
def test_what_looks_into_a_layer_changes_nothing(case, shape) -> None:
    torch.manual_seed(0)
    layer = KronLinear(torch.nn.Linear(11, 23).double(), make_delta(shape, 23, 11), scale=1.7)
    grow(layer)
    x = torch.randn(2, 3, 11, dtype=torch.float64, requires_grad=True)
    expected = seen(layer, x)
    assert "FrozenWithFactors" in type(layer(x).grad_fn).__name__
    LOOKED_INTO[case](layer)
    assert "FrozenWithFactors" not in type(layer(x).grad_fn).__name__
    for found, wanted in zip(seen(layer, x), expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_a_hook_of_the_base_sees_its_own_output() -> None:
    torch.manual_seed(0)
    base = torch.nn.Linear(8, 6)
    layer = KronLinear(base, make_delta(AdapterShape("lora", 2), 6, 8))
    grow(layer)
    kept = []
    base.register_forward_hook(lambda _module, _x, y: kept.append(y))
    x = torch.randn(3, 8)
    layer(x)
    assert torch.equal(kept[0], torch.nn.functional.linear(x, base.weight, base.bias))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_other_users_of_autograd() -> None:
    torch.manual_seed(0)
    shape = AdapterShape("lokr", 2, factor=2)
    layer = KronLinear(torch.nn.Linear(32, 48), make_delta(shape, 48, 32))
    grow(layer)
    x = torch.randn(5, 32, requires_grad=True)
    expected = seen(layer, x)
    with torch.autocast("cpu", torch.bfloat16):
        rough = layer(x)
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.float(), expected[0], rtol=0.05, atol=0.05)
    again = torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=False)
    found = torch.autograd.grad(again.square().sum(), [x, *parameters_of(layer)])
    assert all(map(torch.equal, found, expected[1:]))
    values = {n: p.detach() for n, p in layer.named_parameters() if p.requires_grad}

    def loss(values: dict, row: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, values, (row[None],)).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(values, x.detach())
    for name, total in zip(("a", "b1", "b2"), expected[2:], strict=True):
        torch.testing.assert_close(each[name].sum(0), total)
    (first,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()
    assert layer(torch.randn(0, 32)).shape == (0, 48)


def test_nothing_changes_before_training_and_nothing_else_is_trained() -> None:
    model = tiny_llama()
    ids = torch.arange(8)[None]
    before = model(input_ids=ids).logits
    layers = kronq.torch.adapt_linears(model, AdapterShape("kron", 2, b_out=16), alpha=4)
    assert len(layers) == 14
    assert torch.equal(model(input_ids=ids).logits, before)
    trained = {n.rpartition(".")[2] for n, p in model.named_parameters() if p.requires_grad}
    assert trained == {"a", "b1", "b2"}


def test_an_adapter_goes_to_a_file_and_back(tmp_path) -> None:
    model = tiny_llama()
    kronq.torch.adapt_linears(model, AdapterShape("lokr", 4), only="q_proj|v_proj")
    grow(model)
    adapter = kronq.torch.read_trained(model)
    read = kronq.load(kronq.convert(adapter, tmp_path / "lokr", to="peft"))
    assert [*read] == [*adapter]
    other = tiny_llama()
    kronq.torch.adapt_linears(other, AdapterShape("lokr", 4), only="q_proj|v_proj")
    kronq.torch.read_factors(other, read)
    ids = torch.arange(8)[None]
    assert torch.allclose(other(input_ids=ids).logits, model(input_ids=ids).logits, atol=1e-5)
    again = kronq.torch.read_trained(other)
    for name in read:
        assert np.array_equal(again[name].b.left.float32(), read[name].b.left.float32())


def test_floats_that_are_made_when_they_are_used_are_taken_as_they_are() -> None:
    model = tiny_llama()
    kronq.torch.adapt_linears(model, AdapterShape("lokr", 4))
    grow(model)
    adapter = kronq.torch.read_trained(model)
    made = {name: balance_layer(delta) for name, delta in adapter.items()}
    kronq.torch.read_factors(model, kronq.Adapter(made))
    for name, delta in kronq.torch.read_trained(model).items():
        assert np.array_equal(delta.b.left.float32(), made[name].b.left.float32())


@pytest.mark.parametrize("family", ["lora", "kron", "lokr"])
@pytest.mark.parametrize("config", [kronq.Native(4), kronq.Compact(size=1500)], ids=["4", "small"])
def test_own_training_goes_on_from_codes_as_from_floats(family, config) -> None:
    """Codes divide ΔW otherwise: with a B1 of a thousandth AdamW's first steps would destroy it."""
    shape = AdapterShape(family, 4, b_out=16)
    start = tiny_llama()
    kronq.torch.adapt_linears(start, shape)
    grow(start)
    quantized = kronq.quantize(kronq.torch.read_trained(start), config)
    wanted = {name: delta.dense() for name, delta in quantized.items()}
    ids = torch.randint(0, 64, (4, 9), generator=torch.Generator().manual_seed(2))
    losses = []
    for adapter in (kronq.torch.read_trained(start), quantized):
        model = tiny_llama()
        kronq.torch.adapt_linears(model, shape)
        kronq.torch.read_factors(model, adapter)
        if adapter is quantized:
            for name, delta in kronq.torch.read_trained(model).items():
                np.testing.assert_allclose(delta.dense(), wanted[name], atol=1e-6)
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-2)
        for _ in range(20):
            loss = model(input_ids=ids, labels=ids).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=0.1)


def test_what_does_not_fit_is_refused() -> None:
    model = tiny_llama()
    with pytest.raises(kronq.ArgumentError, match="no linear layer"):
        kronq.torch.adapt_linears(model, AdapterShape("lora", 2), only="nowhere")
    with pytest.raises(kronq.ArgumentError, match="LoRA-XS needs the base"):
        kronq.torch.adapt_linears(model, AdapterShape("lora-xs", 2))
    with pytest.raises(kronq.ArgumentError, match="no KronLinear"):
        kronq.torch.read_trained(model)
    with pytest.raises(kronq.ArgumentError, match="no adapter of this linear layer"):
        KronLinear(torch.nn.Linear(4, 6), make_delta(AdapterShape("lora", 2), 4, 6))
    kronq.torch.adapt_linears(model, AdapterShape("lora", 2), only="q_proj")
    adapter = kronq.torch.read_trained(model)
    with pytest.raises(kronq.ArgumentError, match="other shapes"):
        next(iter(layers_of(model).values())).load(make_delta(AdapterShape("lora", 3), 48, 48))
    cropped = KronLinear(torch.nn.Linear(48, 47), make_delta(AdapterShape("kron", 2), 47, 48))
    with pytest.raises(kronq.ArgumentError, match="other shapes"):  # the same factors, cropped less
        cropped.load(make_delta(AdapterShape("kron", 2, a_out=1), 47, 47))
    part = kronq.Adapter({name: adapter[name] for name in [*adapter][:1]})
    with pytest.raises(kronq.ArgumentError, match="other layers"):
        kronq.torch.read_factors(model, part)


def test_kronq_alone_imports_no_torch() -> None:
    code = "import sys, kronq; kronq.AdapterShape; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
