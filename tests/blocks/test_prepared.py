"""Networks prepared to generate: they write what they wrote before, and the network they come from does not notice."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, linear

from fieldguide.blocks.cache import DynamicCache
from fieldguide.blocks.decoding import Half, Int8, LanguageModel, Packed, TextToText, Weight, left_padded, prepared
from fieldguide.blocks.lora import lora
from fieldguide.errors import FieldguideError
from fieldguide.models import create_model

NEW = 32  # the fewest for which generate prepares a network by itself

each_model = pytest.mark.parametrize("name", ["gpt_mini", "gpt_neo_mini", "t5_mini", "transformer_mini"])
each_kind = pytest.mark.parametrize("kind", [Packed, Half, Int8])


def lively(name: str, **overrides) -> LanguageModel | TextToText:
    """A network in float32 whose predictions follow its input, as fresh ones hardly do."""
    torch.manual_seed(0)
    model = create_model(name, **overrides).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=1.5 * parameter.shape[-1] ** -0.5) if parameter.ndim > 1 else parameter.add_(0.1)
    return model


def prompts(rows=3, n=20) -> torch.Tensor:
    return torch.randint(256, (rows, n), generator=torch.Generator().manual_seed(3))


def weights_of(model: nn.Module) -> list[Weight]:
    return [weight for weight in model.parameters() if isinstance(weight, Weight)]


@each_model
@pytest.mark.parametrize("rows", [1, 3])
def test_a_prepared_network_writes_the_same(name, rows):
    model = lively(name)
    fast = prepared(model)
    assert weights_of(fast)

    def written(network, weights):
        return network.generate(prompts(rows), max_new_tokens=NEW, repetition_penalty=3.0, weights=weights)

    plain = written(model, None)
    assert torch.equal(written(fast, None), plain)
    assert torch.equal(written(model, Packed), plain)
    assert len(plain.unique()) > NEW / 2, "the texts must not be trivial"


@each_model
def test_so_do_its_beams_and_what_it_draws(name):
    model = lively(name)
    fast = prepared(model)
    for one, other in zip(*(m.beams(prompts(), max_new_tokens=12, weights=None) for m in (model, fast)), strict=True):
        assert torch.equal(one[0].tokens, other[0].tokens)
        assert one[0].score == pytest.approx(other[0].score, abs=1e-4)

    def drawn(network):
        generator = torch.Generator().manual_seed(5)
        return network.generate(prompts(), max_new_tokens=12, temperature=1.0, generator=generator, weights=None)

    assert torch.equal(drawn(model), drawn(fast))


@pytest.mark.parametrize("name", ["gpt_mini", "gpt_neo_mini"])
def test_so_do_prompts_padded_on_the_left(name):
    model = lively(name)
    tokens, keep = left_padded([prompts()[i, :n].tolist() for i, n in enumerate((3, 9, 6))], pad=7)
    plain = model.generate(tokens, max_new_tokens=NEW, keep=keep, weights=None)
    assert torch.equal(model.generate(tokens, max_new_tokens=NEW, keep=keep), plain)


@pytest.mark.parametrize("length", [5, 60])
def test_a_cache_of_the_callers_own_serves_a_prepared_network(length):
    fast, prompt = prepared(lively("gpt_mini")), prompts(1, length)
    cache, whole = DynamicCache(), fast(prompt)
    parts = [fast(part, cache=cache) for part in prompt.split(1, 1)]
    assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 2, 8, 33])
@pytest.mark.parametrize(("outputs", "inputs"), [(48, 24), (24, 48)])
@pytest.mark.parametrize("biased", [True, False])
def test_products_stay_within_their_bounds(rows, outputs, inputs, biased):
    generator = torch.Generator().manual_seed(rows)
    x, w = (torch.randn(n, inputs, generator=generator) for n in (rows, outputs))
    bias = torch.randn(outputs, generator=generator) if biased else None
    exact = linear(x.double(), w.double(), None if bias is None else bias.double())
    sizes = x.abs().double() @ w.abs().double().T + 1
    w_step = w.abs().amax(1).double() / 127
    x_step = (x.max().clamp_min(0) - x.min().clamp_max(0)).double() / 127
    bounds = {
        Packed: sizes * 1e-6,
        Half: sizes * 2**-11 * 1.01,  # half a unit in the last of 11 places
        Int8: (x.abs().sum(1, keepdim=True) * w_step + (w.abs().sum(1) + inputs * w_step) * x_step) * 0.51 + 1e-4,
    }
    for kind, bound in bounds.items():
        weight = kind.of(w)
        for shaped in (x, x[None], x.repeat(2, 1)[::2] if rows == 1 else x.T.contiguous().T):
            y = linear(shaped, weight, bias)
            assert type(y) is torch.Tensor
            assert y.shape == (*shaped.shape[:-1], outputs)
            assert ((y.double() - exact).abs() <= bound).all(), kind


def test_sums_of_the_largest_bytes_do_not_overflow():
    x, w = torch.ones(1, 512), torch.ones(16, 512)
    for row in (x, x * torch.tensor([1.0, -1.0]).repeat(256)):
        assert torch.allclose(linear(row, Int8.of(w)), row @ w.T, atol=5.0)  # 1 % of 512


@each_kind
def test_a_whole_network_stays_close(kind):
    model = lively("gpt_mini")
    exact, close = model(prompts()), prepared(model, kind)(prompts())
    error = float(((close - exact).norm() / exact.norm()).detach())
    assert error < {Packed: 1e-5, Half: 1e-3, Int8: 0.2}[kind]
    assert error > 0 or kind is Packed


@each_kind
def test_the_network_itself_is_left_alone(kind):
    model = lively("gpt_mini", dropout=0.2).train()
    before, classes = copy.deepcopy(model.state_dict()), [type(module) for module in model.modules()]
    model.generate(prompts(), max_new_tokens=NEW, weights=kind)
    assert not weights_of(model)
    assert classes == [type(module) for module in model.modules()]
    assert all(module.training for module in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert list(before) == list(prepared(model, kind).state_dict())
    cross_entropy(model(prompts()).flatten(0, 1), prompts().flatten()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_changed_weights_are_noticed():
    model = lively("gpt_mini")
    first = model.generate(prompts(), max_new_tokens=NEW)
    for parameter in model.parameters():
        parameter.data.mul_(-1.1)  # changes no version that could be asked
    second = model.generate(prompts(), max_new_tokens=NEW)
    assert not torch.equal(first, second)
    assert torch.equal(second, model.generate(prompts(), max_new_tokens=NEW, weights=None))


def test_adapted_layers_keep_their_adapters():
    model = lively("gpt_mini")
    lora(model, "*.query|*.expand", rank=4)
    for name, parameter in model.named_parameters():
        if ".up." in name:
            parameter.data.normal_()
    fast = prepared(model)
    assert weights_of(fast)
    assert torch.allclose(fast(prompts()), model(prompts()), atol=1e-4)
    assert torch.equal(fast.generate(prompts(), max_new_tokens=8), model.generate(prompts(), max_new_tokens=8))


def test_a_network_that_is_watched_or_ready_is_given_back():
    model = lively("gpt_mini")
    fast = prepared(model)
    assert prepared(fast, Int8) is fast
    handle = model.decoder.layers[0].register_forward_hook(lambda *_: None)
    assert prepared(model) is model
    handle.remove()
    assert prepared(model) is not model


def test_other_types_keep_their_weights():
    model = lively("gpt_mini").double()
    fast = prepared(model)
    assert not weights_of(fast)
    assert torch.equal(fast(prompts()), model(prompts()))


@pytest.mark.parametrize("rows", [1, 8, 40])
def test_bfloat16_weights_are_packed_where_the_processor_knows_them(rows):
    generator = torch.Generator().manual_seed(rows)
    x, w = (torch.randn(n, 24, generator=generator).bfloat16() for n in (rows, 48))
    bias = torch.randn(48, generator=generator).bfloat16()
    exact = linear(x.double(), w.double(), bias.double())
    y = linear(x, Packed.of(w), bias)
    assert y.dtype == torch.bfloat16
    assert ((y.double() - exact).abs() <= 2**-8 * exact.abs() + 1e-2).all()
    model = lively("gpt_mini").bfloat16()
    assert bool(weights_of(prepared(model))) == (torch.bfloat16 in Packed.dtypes())
    assert not weights_of(prepared(model, Half))


def test_what_cannot_be_is_said_in_one_line(monkeypatch):
    model = lively("gpt_mini")
    with pytest.raises(FieldguideError, match=r"for Int8 weights and a cache of yours, .* prepared\(model, Int8\)"):
        model.generate(prompts(), max_new_tokens=4, cache=DynamicCache(), weights=Int8)
    monkeypatch.setattr(torch.backends.quantized, "engine", "qnnpack")
    with pytest.raises(FieldguideError, match=r"Half: PyTorch multiplies here by qnnpack, which has no such kernel"):
        model.generate(prompts(), max_new_tokens=4, weights=Half)
