"""What stands on a text encoder, against its equations in float64."""

import math

import pytest
import torch
from torch import nn

from fieldguide.blocks.heads import Hidden, MaskedTokens, Pooler, Pretraining, TextClassifier


@pytest.fixture
def hidden():
    torch.manual_seed(0)
    return torch.randn(2, 5, 8, dtype=torch.float64)


@pytest.fixture
def table():
    return torch.randn(11, 8, dtype=torch.float64, requires_grad=True)


def jitter(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module.double().eval()


def test_masked_tokens_are_the_equation(hidden, table):
    head = jitter(MaskedTokens(8, 11))
    x = hidden @ head.transform.weight.T + head.transform.bias
    x = x * (1 + torch.erf(x / math.sqrt(2))) / 2  # the exact GELU, not tanh's
    x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    x = x * head.norm.weight + head.norm.bias
    expected = torch.einsum("bnd,vd->bnv", x, table) + head.bias
    torch.testing.assert_close(head(hidden, table), expected, rtol=0, atol=1e-12)


def test_a_tied_table_learns_from_the_logits_and_is_stored_by_its_owner(hidden, table):
    head = jitter(MaskedTokens(8, 11))
    head(hidden, table).square().sum().backward()
    assert table.grad is not None
    assert table.grad.any()
    assert [name for name, tensor in head.state_dict().items() if tensor.shape == table.shape] == []


def test_a_text_is_its_first_token(hidden, table):
    pooler = jitter(Pooler(8))
    expected = torch.tanh(hidden[:, 0] @ pooler.dense.weight.T + pooler.dense.bias)
    torch.testing.assert_close(pooler(hidden), expected, rtol=0, atol=1e-12)
    head = jitter(TextClassifier(Pooler(8, activation=nn.ReLU()), 3))
    x = (hidden[:, 0] @ head.pooler.dense.weight.T + head.pooler.dense.bias).clamp_min(0)
    expected = x @ head.output.weight.T + head.output.bias
    torch.testing.assert_close(head(hidden, table), expected, rtol=0, atol=1e-12)


def test_pretraining_is_both_tasks(hidden, table):
    head = jitter(Pretraining(MaskedTokens(8, 11), Pooler(8)))
    tokens, order = head(hidden, table)
    assert torch.equal(tokens, head.masked(hidden, table))
    assert torch.equal(order, head.next_sentence(head.pooler(hidden)))
    assert order.shape == (2, 2)


def test_hidden_states_pass_whether_a_pooler_stands_by_or_not(hidden, table):
    assert Hidden()(hidden, table) is hidden
    assert Hidden(Pooler(8))(hidden, table) is hidden


def test_dropout_acts_before_and_after_the_pooler_in_training_only(hidden, table):
    torch.manual_seed(0)
    head = jitter(TextClassifier(Pooler(8, dropout=0.5), 3, dropout=0.5))
    assert torch.equal(head(hidden, table), head(hidden, table))
    head.train()
    for part in (head.dropout, head.pooler.dropout):
        part.eval()
        assert not torch.equal(head(hidden, table), head(hidden, table))
        part.train()
