"""Branches and the tables that build them."""

import torch
from torch import nn

from fieldguide.blocks.branches import Branches, Style, branches, conv, hidden, keep, named, path
from fieldguide.blocks.norms import GroupNorm


def test_branches_concatenate_along_the_channels():
    x = torch.randn(2, 3, 5, 5)
    assert torch.equal(Branches([nn.Identity(), nn.MaxPool2d(1)])(x), torch.cat([x, x], 1))


def test_a_table_threads_its_channels():
    table = named(
        {
            "a": branches(path(conv(4)), path(conv(6, 3), conv(8, (1, 5))), path(keep(nn.Identity))),
            "b": conv(10, 3, stride=2, padding=0),
            "c": hidden(12, positions=4),
        }
    )
    module, channels = table(Style(), 3)
    assert channels == 12
    assert [name for name, _ in module.named_children()] == ["a", "b", "c"]
    assert module.a(torch.randn(2, 3, 6, 6)).shape == (2, 4 + 8 + 3, 6, 6)
    assert module(torch.randn(2, 3, 6, 6)).shape == (2, 12)


def test_style_sets_widths_and_norms_of_all_layers():
    style = Style(width=0.25, norm=lambda channels: GroupNorm(1, channels))
    module, channels = path(conv(8), branches(conv(16), conv(1)))(style, 5)
    assert channels == 4 + 1, "never less than one channel"
    assert [m.out_channels for m in module.modules() if isinstance(m, nn.Conv2d)] == [2, 4, 1]
    assert sum(isinstance(m, GroupNorm) for m in module.modules()) == 3


def test_building_twice_shares_nothing():
    table = conv(4)
    one, other = (table(Style(), 3)[0] for _ in range(2))
    assert not torch.equal(one.conv.weight, other.conv.weight)
