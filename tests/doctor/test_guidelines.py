"""The linter of settings: silent on usual ones, a sentence on others, and no alarm."""

import pytest
import torch
from torch import nn

from fieldguide.doctor.guidelines import advice, of_recipe
from fieldguide.doctor.observe.structure import layer_facts, model_facts


def setup(kind: str = "AdamW", lr: float = 1e-3, decay: float = 0.01, batch: int = 64, layers: tuple = ()) -> dict:
    return {
        "optimizers": [{"type": kind, "lr": lr, "weight_decay": decay}],
        "loader": {"batch_size": batch},
        "layers": [{"name": "0", **layer} for layer in layers],
    }


@pytest.mark.parametrize(
    "usual",
    [
        setup(),
        setup(lr=2e-5),
        setup("SGD", 0.1, 5e-4),
        setup(decay=0.0),
        setup("Lion", 5.0),
        setup(batch=2048) | {"model": {"device": "cuda"}},
        setup() | {"model": {"attention": [[512, 6]] * 6}},
        setup(layers=({"type": "Linear"},)),
        setup(layers=({"type": "Embedding"}, *[{"type": "Linear"}] * 40)),
        {},
    ],
)
def test_usual_settings_need_no_advice(usual):
    assert advice(usual) == []


@pytest.mark.parametrize(
    ("unusual", "said"),
    [
        (setup(lr=1.0), "learning rate 1 for AdamW"),
        (setup("SGD", 5.0, 0.0), "learning rate 5 for SGD"),
        (setup("SGD", 0.1, 0.1), "weight decay 0.1 for SGD"),
        (setup(batch=2), "batch 2"),
        (setup(layers=({"type": "Dropout", "p": 0.8},)), "dropout 0.8 for dense layers"),
        (setup(layers=({"type": "Dropout2d", "p": 0.5},)), "dropout 0.5 for convolutional layers"),
        (setup(layers=({"type": "LSTM", "p": 0.7},)), "dropout 0.7 for recurrent layers"),
        (setup(batch=2048) | {"model": {"device": "cpu"}}, "batch 2048 for a CPU"),
        (setup(batch=2) | {"model": {"device": "cuda"}}, "batch 2 for a GPU"),
        (setup() | {"model": {"attention": [[128, 32]]}}, "heads 32 for attention over up to 512 channels"),
        (setup() | {"model": {"attention": [[4096, 2]]}}, "heads 2 for attention over more than 512 channels"),
        (setup() | {"model": {"attention": [[512, 8]] * 60}}, "depth 60 for transformers"),
        (setup(layers=tuple([{"type": "Linear"}] * 12)), "depth 12 for multilayer perceptrons"),
    ],
)
def test_unusual_settings_get_one_sentence(unusual, said):
    (sentence,) = advice(unusual)
    assert sentence.startswith(said)


def test_a_recipe_is_read_like_an_observed_run():
    assert advice(of_recipe({"batch_size": 64, "optimizer": {"name": "adamw", "lr": 1e-3, "weight_decay": 0.01}})) == []
    (sentence,) = advice(of_recipe({"batch_size": 64, "optimizer": {"name": "sgd", "lr": 30.0}}))
    assert "learning rate 30 for SGD" in sentence


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.cell = nn.MultiheadAttention(64, 32), nn.LSTM(64, 64, 2, dropout=0.7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.cell(self.attention(x, x, x)[0])[0]


def test_heads_and_recurrent_dropout_of_a_network_are_known():
    models = [Reader()]
    facts = {"model": model_facts(models, 1, True), "layers": layer_facts(models)}
    assert facts["model"]["attention"] == [[64, 32]]
    assert facts["model"]["has_dropout"]
    assert advice(facts) == [
        "dropout 0.7 for recurrent layers: usual is 0.1 to 0.5",
        "heads 32 for attention over up to 512 channels: usual is 4 to 8",
    ]
