"""Public layouts of networks for text, one row a case: the checkpoint that another library writes makes our network
compute what its own does, padding included, and comes back bit by bit.

Random values for everything, or zero biases and unit norms would hide a wrong place. The assertions are here; a family
adds rows.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fieldguide import catalog
from fieldguide.models import create_model
from fieldguide.weights import export_weights, load_weights

Oracle = Callable[[], nn.Module]
LENGTH, PADDED = 13, 4


class Case(NamedTuple):
    """Our catalog name, the layout that must be detected, and the independent network that writes it."""

    name: str
    layout: str
    oracle: Oracle
    overrides: Mapping[str, Any] = {}
    """Of our config, where the oracle is built smaller than published."""
    tolerance: float = 1e-10
    """Of the relative difference in float64; 1e-6 where the oracle computes a part in float32 whatever its type."""
    pad: int = 0
    """The padding token, where the oracle knows it."""
    segments: bool = False
    """Whether the oracle tells two segments apart."""
    label: str = ""
    slow: bool = False


def transformers(model: str, config: str, **arguments: Any) -> Oracle:
    def build() -> nn.Module:
        library = pytest.importorskip("transformers")
        return getattr(library, model)(getattr(library, config)(**arguments))

    return build


def marian(**arguments: Any) -> Oracle:
    """Its table of positions in the exactness of the comparison, and as a buffer, which is not jittered."""

    def build() -> nn.Module:
        oracle = transformers("MarianMTModel", "MarianConfig", **MARIAN, **arguments)()
        angles = torch.arange(40.0).double()[:, None] / 10_000 ** (torch.arange(0, 48, 2).double() / 48)
        for stack in (oracle.model.encoder, oracle.model.decoder):
            del stack.embed_positions.weight
            stack.embed_positions.register_buffer("weight", torch.cat((angles.sin(), angles.cos()), 1))
        oracle.final_logits_bias.normal_()
        return oracle

    return build


def t5(**arguments: Any) -> Oracle:
    """With norms that take their mean in the model's type, and not in float32 always."""

    def norm(self: nn.Module, x: Tensor) -> Tensor:
        return self.weight * x / (x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon).sqrt()

    def build() -> nn.Module:
        oracle = transformers("T5ForConditionalGeneration", "T5Config", **T5, **arguments)()
        for module in oracle.modules():
            if type(module).__name__ == "T5LayerNorm":
                module.forward = partial(norm, module)
        return oracle

    return build


def untied(oracle: Oracle) -> Oracle:
    """With a head of its own, which transformers 5 keeps when a file of v1.1 brings it and never builds."""

    def build() -> nn.Module:
        network = oracle()
        network.lm_head.weight = nn.Parameter(torch.empty_like(network.lm_head.weight))
        return network

    return build


GPT2 = {"vocab_size": 61, "n_positions": 40, "n_embd": 48, "n_layer": 3, "n_head": 4}
GPT = {"vocab_size": 61, "max_len": 40, "d_model": 48, "num_layers": 3, "num_heads": 4}
GPT_NEO = {
    "vocab_size": 61, "max_position_embeddings": 40, "hidden_size": 48, "num_layers": 4, "num_heads": 4,
    "attention_types": [[["global", "local"], 2]], "window_size": 5,
}  # fmt: skip
BERT = {
    "vocab_size": 61, "max_position_embeddings": 40, "hidden_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 4, "intermediate_size": 80, "num_labels": 3,
}  # fmt: skip
ROBERTA = BERT | {"max_position_embeddings": 42, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
DISTILBERT = {
    "vocab_size": 61, "max_position_embeddings": 40, "dim": 48, "n_layers": 3, "n_heads": 4, "hidden_dim": 80,
    "num_labels": 3,
}  # fmt: skip
ENCODER = {"vocab_size": 61, "max_len": 40, "d_model": 48, "num_layers": 3, "num_heads": 4, "d_ff": 80}
MARIAN = {
    "vocab_size": 61, "max_position_embeddings": 40, "d_model": 48, "scale_embedding": True, "pad_token_id": 0,
    "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 80,
    "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 80,
}  # fmt: skip
T5 = {"vocab_size": 61, "d_model": 48, "d_kv": 8, "num_layers": 2, "num_heads": 3, "d_ff": 80}
TRANSLATOR = {"vocab_size": 61, "d_model": 48, "num_layers": 2, "d_ff": 80}

CASES = [
    # BERT, RoBERTa, DistilBERT, below each head
    *(
        Case(
            "bert_base",
            "transformers",
            transformers(f"Bert{theirs}", "BertConfig", **BERT),
            {**ENCODER, "head": head, "num_classes": 3},
            segments=True,
            label=head,
        )
        for theirs, head in (
            ("Model", "encode"),
            ("ForMaskedLM", "masked_lm"),
            ("ForPreTraining", "pretrain"),
            ("ForSequenceClassification", "classify"),
        )
    ),
    *(
        Case(
            name,
            "transformers",
            transformers(f"{library}{theirs}", f"{library}Config", **config),
            {**ENCODER, "head": head, "num_classes": 3},
            pad=pad,
            label=head,
        )
        for name, library, config, pad in (
            ("roberta_base", "Roberta", ROBERTA, 1),
            ("distilbert_base", "DistilBert", DISTILBERT, 0),
        )
        for theirs, head in (
            ("Model", "encode"),
            ("ForMaskedLM", "masked_lm"),
            ("ForSequenceClassification", "classify"),
        )
    ),
    *(
        Case(
            name,
            "transformers",
            transformers(f"{library}Model", f"{library}Config", **config),
            label="published",
            slow=True,
        )
        for name, library, config in (
            ("bert_base", "Bert", {}),
            (
                "roberta_base",
                "Roberta",
                {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5},
            ),
            ("distilbert_base", "DistilBert", {}),
        )
    ),
    # GPT-1, GPT-2, GPT-Neo
    Case("gpt1", "transformers", transformers("OpenAIGPTLMHeadModel", "OpenAIGPTConfig", **GPT2), GPT),
    Case("gpt2", "transformers", transformers("GPT2LMHeadModel", "GPT2Config", **GPT2), GPT),
    Case(
        "gpt_neo_125m",
        "transformers",
        transformers("GPTNeoForCausalLM", "GPTNeoConfig", **GPT_NEO),
        {**GPT, "num_layers": 4, "window": 5},
        tolerance=1e-6,
    ),
    Case("gpt2", "transformers", transformers("GPT2LMHeadModel", "GPT2Config"), label="published", slow=True),
    # The Transformer, as Marian names it; T5 and its v1.1, which does not scale what its head gets
    *(
        Case(
            "transformer_base",
            "transformers",
            marian(activation_function=theirs),
            {**TRANSLATOR, "num_heads": 4, "activation": activation, "output_bias": True},
            label=activation,
        )
        for theirs, activation in (("relu", "relu"), ("swish", "silu"))
    ),
    *(
        Case(name, "transformers", oracle, {**TRANSLATOR, "num_heads": 3, "head_dim": 8})
        for name, oracle in (
            ("t5_small", t5()),
            ("t5_v1_1_small", untied(t5(feed_forward_proj="gated-gelu", tie_word_embeddings=False))),
        )
    ),
]


def label(case: Case) -> str:
    return "-".join(filter(None, (case.name, case.layout, case.label)))


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=label(case), marks=[pytest.mark.slow] * case.slow) for case in CASES]
)
def test_equals_the_network_that_wrote_the_checkpoint(case, tmp_path):
    oracle = jittered(case.oracle()).double().eval()
    theirs = checkpoint(oracle, tmp_path)
    ours = create_model(case.name, **case.overrides).double().eval()
    assert load_weights(ours, theirs).layout == case.layout
    batch = texts(case, ours.config.vocab_size)
    assert_same_output(ours, oracle, batch, case.tolerance)
    assert_identical(export_weights(ours, case.layout), theirs)
    assert_same_output(ours.float(), oracle.float(), batch, 1e-5)


class Texts(NamedTuple):
    """Rows of random tokens, padded on the right in all rows but the first."""

    source: Tensor
    keep: Tensor
    target: Tensor | None
    """Of a text-to-text network."""
    segments: Tensor | None


def texts(case: Case, vocab_size: int) -> Texts:
    generator = torch.Generator().manual_seed(1)
    source, target = torch.randint(4, vocab_size, (2, 3, LENGTH), generator=generator)
    keep = torch.arange(LENGTH) < torch.tensor([LENGTH, LENGTH - PADDED, 2])[:, None]
    two = any(case.name in row.sizes and row.task == "translate" for row in catalog.ARCHITECTURES)
    segments = (torch.arange(LENGTH) > LENGTH // 3).long().expand_as(source) if case.segments else None
    return Texts(source.masked_fill(~keep, case.pad), keep, target[:, :-2] if two else None, segments)


def checkpoint(oracle: nn.Module, folder: Any) -> dict[str, Tensor]:
    """As it is on disk: what transformers calls its tensors in memory is not what its files hold."""
    oracle.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


@torch.no_grad()
def jittered(oracle: nn.Module) -> nn.Module:
    for parameter in oracle.parameters():
        if parameter.ndim < 2:
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
        else:
            parameter.normal_(std=parameter.shape[1] ** -0.5)
    return oracle


ANSWERS = ("last_hidden_state", "pooler_output", "logits", "prediction_logits", "seq_relationship_logits")


@torch.no_grad()
def theirs_of(oracle: nn.Module, batch: Texts) -> list[Tensor]:
    inputs = {"input_ids": batch.source, "attention_mask": batch.keep.long()}
    if batch.target is not None:
        inputs["decoder_input_ids"] = batch.target
    if batch.segments is not None:
        inputs["token_type_ids"] = batch.segments
    output = oracle(**inputs)
    return real_ones([output[name] for name in ANSWERS if name in output], batch)


@torch.no_grad()
def ours_of(model: nn.Module, batch: Texts) -> list[Tensor]:
    if batch.target is not None:
        return real_ones([model(batch.source, batch.target, source_keep=batch.keep)], batch)
    given = {} if batch.segments is None else {"segments": batch.segments}
    output = model(batch.source, keep=batch.keep, **given)
    stands_by = getattr(model.head, "pooler", None) if getattr(model.config, "head", "") == "encode" else None
    outputs = output if isinstance(output, tuple) else (output, stands_by(output)) if stands_by else (output,)
    return real_ones(outputs, batch)


def real_ones(outputs: Iterable[Tensor], batch: Texts) -> list[Tensor]:
    """What is said of real tokens, and of whole texts."""
    real = batch.keep if batch.target is None else torch.ones_like(batch.target, dtype=torch.bool)
    return [output[real] if output.shape[:2] == real.shape else output for output in outputs]


def assert_same_output(ours: nn.Module, oracle: nn.Module, batch: Texts, tolerance: float) -> None:
    others = batch._replace(source=torch.where(batch.keep, batch.source.flip(1).clamp_min(4), batch.source))
    outputs = theirs_of(oracle, batch), theirs_of(oracle, others), ours_of(ours, batch)
    for expected, other, our in zip(*outputs, strict=True):
        assert (expected - other).norm() / expected.norm() > max(0.01, 1e3 * tolerance), "this must be able to fail"
        assert (our - expected).norm() / expected.norm() <= tolerance


def assert_identical(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype, name
        assert torch.equal(one[name], other[name]), name
