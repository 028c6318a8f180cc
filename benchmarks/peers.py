"""Networks that another library has too: ours and theirs with the same weights, and inputs for both.

pair = peer("gpt2", batch=2)
pair.ours(*pair.inputs), pair.theirs(*pair.inputs)      # the same numbers
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fieldguide.models import create_model
from fieldguide.weights import load_weights

LENGTH = 128
"""Tokens of a text."""


class Pair(NamedTuple):
    ours: nn.Module
    theirs: nn.Module
    inputs: tuple[Tensor, ...]


class Calling(nn.Module):
    """Their network, called with our inputs; its answer is the tensor that ours gives."""

    def __init__(self, network: nn.Module, call: Callable[..., Tensor]):
        super().__init__()
        self.network, self.call = network, call

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.call(self.network, *inputs)


@dataclass(frozen=True)
class Images:
    """A classifier of images of torchvision or timm."""

    library: str
    name: str
    side: int = 224
    settings: dict[str, Any] = field(default_factory=dict)
    overrides: dict[str, Any] = field(default_factory=dict)
    """Of our config."""
    any_side: bool = True
    """Whether it takes images of other sides."""

    def pair(self, ours: str, batch: int, side: int | None) -> Pair:
        side = side if side and self.any_side else self.side
        if self.library == "torchvision":
            theirs = import_module("torchvision.models").get_model(self.name, weights=None, **self.settings)
        else:
            theirs = import_module("timm").create_model(self.name, **self.settings)
        return _alike(create_model(ours, **self.overrides), theirs, theirs, (torch.randn(batch, 3, side, side),))


@dataclass(frozen=True)
class Texts:
    """A network of transformers."""

    network: str
    config: str
    call: Callable[..., Tensor]
    settings: dict[str, Any] = field(default_factory=dict)
    overrides: dict[str, Any] = field(default_factory=dict)
    sources: int = 1
    """Texts that one sample has."""

    library = "transformers"

    def pair(self, ours: str, batch: int, side: int | None) -> Pair:
        library = import_module("transformers")
        theirs = getattr(library, self.network)(getattr(library, self.config)(**self.settings))
        inputs = tuple(torch.randint(10, 30_000, (batch, LENGTH)) for _ in range(self.sources))
        return _alike(create_model(ours, **self.overrides), theirs, Calling(theirs, self.call), inputs)


def _alike(ours: nn.Module, theirs: nn.Module, called: nn.Module, inputs: tuple[Tensor, ...]) -> Pair:
    with torch.no_grad():
        for weight in theirs.parameters():
            if not weight.any():  # a head of zeros would make everything alike
                weight.normal_(std=0.02)
    load_weights(ours, theirs.state_dict())
    return Pair(ours, called, inputs)


def peer(name: str, batch: int, side: int | None = None) -> Pair:
    """The pair of a row of :data:`PEERS`; images have their usual side unless one is given.

    Raises AssertionError when the two are not the same network.
    """
    torch.manual_seed(0)
    row = PEERS[name]
    pair = row.pair(name.partition(":")[0], batch, side)
    with torch.no_grad():
        expected, got = pair.theirs.eval()(*pair.inputs), pair.ours.eval()(*pair.inputs)
    error = (got - expected).norm() / expected.norm()
    assert error < 1e-4, f"{name}: not the same network, {error:.1e}"
    return pair


def _logits(network: nn.Module, tokens: Tensor) -> Tensor:
    return network(tokens, use_cache=False).logits


def _hidden(network: nn.Module, tokens: Tensor) -> Tensor:
    return network(tokens).last_hidden_state


def _answer(network: nn.Module, source: Tensor, target: Tensor) -> Tensor:
    return network(source, decoder_input_ids=target, use_cache=False).logits


BARE = {"settings": {"aux_logits": False, "init_weights": False}, "overrides": {"auxiliary": False}}
PEERS: dict[str, Images | Texts] = {
    **{
        name: Images("torchvision", name)
        for name in (
            "alexnet", "vgg11", "vgg11_bn", "vgg16", "resnet18", "resnet50", "resnext50_32x4d", "mobilenet_v2",
            "mobilenet_v3_large", "mobilenet_v3_small", "efficientnet_b0", "efficientnet_v2_s", "regnet_x_400mf",
            "regnet_y_400mf", "swin_t",
        )
    },
    "vit_b_16": Images("torchvision", "vit_b_16", any_side=False),
    "googlenet": Images("torchvision", "googlenet", **BARE),
    "inception_v3": Images("torchvision", "inception_v3", 299, **BARE),
    "resnet50:timm": Images("timm", "resnet50"),
    "vit_b_16:timm": Images("timm", "vit_base_patch16_224", any_side=False),
    "bert_base": Texts("BertModel", "BertConfig", _hidden, {"attn_implementation": "sdpa"}),
    "roberta_base": Texts("RobertaModel", "RobertaConfig", _hidden, {
        "vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5}),
    "distilbert_base": Texts("DistilBertModel", "DistilBertConfig", _hidden),
    "gpt2": Texts("GPT2LMHeadModel", "GPT2Config", _logits),
    "gpt_neo_125m": Texts("GPTNeoForCausalLM", "GPTNeoConfig", _logits, {
        "hidden_size": 768, "num_layers": 12, "num_heads": 12,
        "attention_types": [[["global", "local"], 6]], "max_position_embeddings": 2048}),
    "t5_small": Texts("T5ForConditionalGeneration", "T5Config", _answer, sources=2),
}  # fmt: skip
"""By the name of ours, and the library where a network has two peers."""
