"""What holds for every network for text in the catalog; a new row is tested by being there.

Encoders give a vector for each token, language models and text-to-text networks the logits of each next token.
"""

import pytest
import torch

from fieldguide import catalog
from fieldguide.blocks.cache import DynamicCache, StaticCache
from fieldguide.errors import FieldguideError
from fieldguide.models import create_model, load_model, save_model
from fieldguide.profile import layer_table

ENCODERS, GENERATORS, TRANSLATORS = (
    [row.family for row in catalog.ARCHITECTURES if row.task == task] for task in ("encode", "generate", "translate")
)
ROWS = {row.family: row for row in catalog.ARCHITECTURES}
LENGTH = 11

each_family = pytest.mark.parametrize("family", [*ENCODERS, *GENERATORS, *TRANSLATORS])
each_encoder = pytest.mark.parametrize("family", ENCODERS)
each_generator = pytest.mark.parametrize("family", GENERATORS)
each_translator = pytest.mark.parametrize("family", TRANSLATORS)


def mini(family, **overrides):
    torch.manual_seed(0)
    return create_model(f"{family}_mini", **overrides).double().eval()


def texts(model, n=LENGTH, rows=3):
    """Random tokens; none is a number below 4, which families keep for padding and the like."""
    return torch.randint(4, model.config.vocab_size, (rows, n), generator=torch.Generator().manual_seed(1))


def inputs(family, model):
    source = texts(model)
    return (source, source[:, : LENGTH - 2].flip(1)) if family in TRANSLATORS else (source,)


def assert_same(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


@each_family
def test_gradients_reach_everything(family):
    model = mini(family).train()
    out = model(*inputs(family, model))
    width = model.config.d_model if family in ENCODERS else model.config.vocab_size
    assert out.shape == (3, LENGTH - 2 * (family in TRANSLATORS), width)
    (out * torch.randn_like(out)).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{name} takes no part in the output"
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), f"{name} has a zero gradient"


@each_family
def test_save_and_load_are_bit_identical(family, tmp_path):
    model = mini(family).float()
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert loaded.config == model.config
    assert torch.equal(loaded(*inputs(family, model)), model(*inputs(family, model)))


@each_family
def test_evaluation_treats_every_text_by_itself(family):
    model = mini(family)
    batch = inputs(family, model)
    alone = [model(*(tokens[i : i + 1] for tokens in batch)) for i in range(3)]
    assert_same(model(*batch), torch.cat(alone))


@each_family
def test_the_same_seed_builds_the_same_weights(family):
    one, other = mini(family), mini(family)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@each_family
def test_exports(family):
    model = mini(family).float()
    batch = inputs(family, model)
    program = torch.export.export(model, batch)
    torch.testing.assert_close(program.module()(*batch), model(*batch), rtol=1e-5, atol=1e-5)


@each_family
def test_the_layer_table_agrees_with_the_catalog(family):
    model = mini(family).float()
    table = layer_table(model, inputs(family, model))
    assert table.total.parameters == ROWS[family].sizes[f"{family}_mini"]
    assert table.total.flops > 0


@each_family
def test_a_token_outside_the_vocabulary_is_named(family):
    model = mini(family)
    batch = inputs(family, model)
    batch[0][1, 2] = model.config.vocab_size
    with pytest.raises(
        FieldguideError, match=rf"token {model.config.vocab_size} .*vocab_size={model.config.vocab_size}"
    ):
        model(*batch)


@each_family
def test_a_text_without_a_real_token_is_refused(family):
    model = mini(family)
    batch = inputs(family, model)
    keep = torch.ones(batch[0].shape, dtype=torch.bool)
    keep[1] = False
    name = "source_keep" if family in TRANSLATORS else "keep"
    with pytest.raises(FieldguideError, match=r"row 1 .*no real token"):
        model(*batch, **{name: keep})


@each_encoder
def test_an_encoder_does_not_feel_padding(family):
    model = mini(family)
    tokens = texts(model)
    padded = torch.cat((tokens, torch.randint(4, model.config.vocab_size, (3, 5))), 1)
    keep = torch.arange(LENGTH + 5).expand(3, -1) < LENGTH
    assert_same(model(padded, keep=keep)[:, :LENGTH], model(tokens))
    assert (model(padded)[:, :LENGTH] - model(tokens)).abs().max() > 1e-6, "without keep it must"


@each_encoder
def test_an_encoder_sees_both_ways(family):
    model = mini(family)
    tokens = texts(model)
    changed = tokens.clone()
    changed[:, -1] = 4 + (changed[:, -1] - 3) % (model.config.vocab_size - 4)
    assert (model(tokens)[:, 0] - model(changed)[:, 0]).abs().min() > 0


@each_generator
def test_a_language_model_does_not_see_the_future(family):
    model = mini(family)
    tokens = texts(model)
    changed = tokens.clone()
    changed[:, 6:] = tokens[:, 6:].flip(0)
    assert_same(model(tokens)[:, :6], model(changed)[:, :6])
    assert (model(tokens)[:, 6:] - model(changed)[:, 6:]).abs().max() > 1e-6


@each_generator
def test_padding_on_the_left_changes_nothing(family):
    model = mini(family)
    tokens = texts(model)
    padded = torch.cat((torch.randint(4, model.config.vocab_size, (3, 5)), tokens), 1)
    keep = torch.arange(LENGTH + 5).expand(3, -1) >= 5
    assert_same(model(padded, keep=keep)[:, 5:], model(tokens))


@each_generator
@pytest.mark.parametrize("steps", [(5, 1, 1, 1, 3), (1,) * LENGTH])
@pytest.mark.parametrize("cache", [DynamicCache, lambda: StaticCache(LENGTH)], ids=["dynamic", "static"])
def test_a_cache_changes_nothing(family, steps, cache):
    model = mini(family)
    tokens, kept = texts(model), cache()
    with torch.no_grad():
        parts = [model(part, cache=kept) for part in tokens.split(steps, dim=1)]
        assert_same(torch.cat(parts, 1), model(tokens))


@each_translator
def test_a_decoder_sees_the_source_and_not_the_future(family):
    model = mini(family)
    source, target = inputs(family, model)
    changed = target.clone()
    changed[:, 5:] = target[:, 5:].flip(0)
    assert_same(model(source, target)[:, :5], model(source, changed)[:, :5])
    assert (model(source, target) - model(source.flip(0), target)).abs().max() > 1e-6


@each_translator
def test_neither_side_feels_padding(family):
    model = mini(family)
    source, target = inputs(family, model)
    rubbish = torch.randint(4, model.config.vocab_size, (3, 4))
    keeps = (torch.arange(side.shape[1] + 4).expand(3, -1) < side.shape[1] for side in (source, target))
    padded = model(torch.cat((source, rubbish), 1), torch.cat((target, rubbish), 1), *keeps)
    assert_same(padded[:, : target.shape[1]], model(source, target))
