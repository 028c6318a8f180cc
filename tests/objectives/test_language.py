"""What language objectives minimise, against the equations."""

import itertools
import math

import pytest
import torch
from torch import nn

from fieldguide.data import TokenWindows
from fieldguide.errors import FieldguideError
from fieldguide.metrics.language import IGNORED, TokenMetrics
from fieldguide.objectives import MaskedToken, NextToken, Objective, SequenceToSequence
from fieldguide.train import Recipe, fit
from fieldguide.train.recipe import OptimizerRecipe


class Bigram(nn.Module):
    """Logits of the next token that depend on the last one only."""

    def __init__(self, vocab_size=5):
        super().__init__()
        self.table = nn.Embedding(vocab_size, vocab_size)

    def forward(self, tokens, keep=None):
        return self.table(tokens)


class Echo(nn.Module):
    """A text-to-text network that shows what it was given."""

    def forward(self, source, target, source_keep, target_keep):
        self.given = (source, target, source_keep, target_keep)
        return torch.zeros(*target.shape, 9)


def test_they_are_objectives():
    for objective in (NextToken(), MaskedToken(mask_token=1, vocab_size=9), SequenceToSequence(start=0)):
        assert isinstance(objective, Objective)
        assert objective.monitor == ("loss", "min")


def test_next_token_is_the_mean_surprise():
    model, tokens = Bigram().double(), torch.randint(5, (3, 7))
    (phase,) = NextToken().step(model, (tokens,))
    chances = model.table.weight.detach().softmax(1)
    surprise = [-math.log(chances[a, b]) for row in tokens.tolist() for a, b in itertools.pairwise(row)]
    assert phase.loss.item() == pytest.approx(sum(surprise) / len(surprise), rel=1e-12)
    assert NextToken().weight((tokens,)) == len(surprise) == 18


def test_padding_is_not_to_be_found():
    model, tokens = Bigram().double(), torch.randint(5, (2, 6))
    keep = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    (phase,) = NextToken().step(model, (tokens, keep))
    one, other = (next(NextToken().step(model, (part,))).loss for part in (tokens[:1], tokens[1:, :4]))
    assert phase.loss.item() == pytest.approx(((5 * one + 3 * other) / 8).item(), rel=1e-12)
    assert NextToken().weight((tokens, keep)) == 8


def test_the_shares_of_masked_tokens():
    objective = MaskedToken(mask_token=3, vocab_size=50, first_real=4)
    tokens = torch.randint(4, 50, (200, 100))
    tokens[:, 0] = 1
    keep = torch.arange(100).expand(200, -1) < 90
    inputs, targets = objective.hide(tokens, keep)
    found = targets != IGNORED
    assert not found[:, 0].any(), "special tokens are never hidden"
    assert not found[:, 90:].any(), "padding is never hidden"
    assert torch.equal(targets[found], tokens[found])
    assert torch.equal(inputs[~found], tokens[~found])
    share = found[:, 1:90].float().mean()
    masked, same = (inputs[found] == 3).float().mean(), (inputs[found] == tokens[found]).float().mean()
    assert share == pytest.approx(0.15, abs=0.01)
    assert masked == pytest.approx(0.8, abs=0.02)
    assert same == pytest.approx(0.1 + 0.1 / 46, abs=0.02)


def test_a_short_batch_hides_at_least_one_token():
    objective = MaskedToken(mask_token=3, vocab_size=50, first_real=4, share=1e-9)
    for _ in range(20):
        _, targets = objective.hide(torch.tensor([[1, 7, 8, 2]]), None)
        assert (targets != IGNORED).sum() == 1


def test_evaluation_hides_the_same_tokens_every_time():
    objective, model, tokens = MaskedToken(mask_token=0, vocab_size=5), Bigram(), torch.randint(5, (4, 9))
    targets = [objective.predict(model.eval(), (tokens,))[1] for _ in range(2)]
    assert torch.equal(*targets)
    assert any(not torch.equal(objective.predict(model.train(), (tokens,))[1], targets[0]) for _ in range(5))


def test_the_decoder_reads_the_answer_one_token_late():
    source, answer = torch.tensor([[5, 6]]), torch.tensor([[7, 8, 2]])
    keep, answer_keep = torch.tensor([[True, True]]), torch.tensor([[True, True, False]])
    model = Echo()
    (phase,) = SequenceToSequence(start=4, label_smoothing=0.0).step(model, (source, answer, keep, answer_keep))
    assert model.given[1].tolist() == [[4, 7, 8]]
    assert model.given[3].tolist() == [[True, True, True]]
    assert phase.loss.item() == pytest.approx(math.log(9))
    assert SequenceToSequence(start=4).weight((source, answer, keep, answer_keep)) == 2


def test_metrics_are_their_definitions():
    model, objective = Bigram().double(), NextToken()
    batches = [(torch.randint(5, (3, 7)),), (torch.randint(5, (1, 4)),)]
    metrics = objective.metrics()
    for batch in batches:
        metrics.update(model, batch)
    losses = [next(objective.step(model, batch)).loss.item() * objective.weight(batch) for batch in batches]
    mean = sum(losses) / 21
    best = model.table.weight.argmax(1)
    hits = sum((best[tokens[:, :-1]] == tokens[:, 1:]).sum().item() for (tokens,) in batches)
    expected = {"loss": mean, "perplexity": math.exp(mean), "bits_per_token": mean / math.log(2)}
    expected |= {"token_accuracy": hits / 21}
    assert metrics.compute() == pytest.approx(expected, rel=1e-5)
    with pytest.raises(FieldguideError, match="no token to be found"):
        TokenMetrics(objective.predict).compute()


def test_a_bigram_model_learns_a_cycle():
    text = torch.arange(5).repeat(60)
    train, val = TokenWindows(text, 10, 4, seed=0), TokenWindows(text[:51], 10, 4, shuffle=False)
    recipe = Recipe(epochs=30, threads=1, optimizer=OptimizerRecipe(lr=0.1))
    run = fit(Bigram(), (train, val), NextToken(), recipe)
    assert run.history[-1]["val_token_accuracy"] == 1.0
    assert run.history[-1]["val_perplexity"] < 1.2


@pytest.mark.slow
def test_the_loss_of_a_compiled_network_is_compiled_and_the_same():
    model, tokens = Bigram(), torch.randint(5, (3, 8))
    model.table.weight.data.normal_(std=3)
    keep = torch.arange(8) < torch.tensor([[8], [5], [2]])
    plain = next(NextToken(label_smoothing=0.1).step(model, (tokens, keep))).loss
    (expected,) = torch.autograd.grad(plain, model.table.weight)
    model.compile(backend="eager")
    next(NextToken(label_smoothing=0.1).step(model, (tokens, keep)))  # is compiled
    with torch.profiler.profile() as seen:
        loss = next(NextToken(label_smoothing=0.1).step(model, (tokens, keep))).loss
    (gradient,) = torch.autograd.grad(loss, model.table.weight)
    torch.testing.assert_close(loss, plain)
    torch.testing.assert_close(gradient, expected)
    assert not any(event.key == "aten::cross_entropy_loss" for event in seen.key_averages())
