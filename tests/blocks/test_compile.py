"""Every block compiles as one graph.

In an interpreter of its own: the test runner's shape checks are Python that a graph cannot hold.
"""

import subprocess
import sys

import pytest

SCRIPT = """
import torch
from torch import nn
from fieldguide.blocks.attention import Attention
from fieldguide.blocks.conv import BasicBlock, Bottleneck, InvertedResidual, SqueezeExcitation
from fieldguide.blocks.embeddings import Embeddings, ScaledEmbedding
from fieldguide.blocks.feedforward import FeedForward, GatedFeedForward
from fieldguide.blocks.masks import Causal, Window
from fieldguide.blocks.norms import BatchNorm, ChannelFirst, GroupNorm, LayerNorm
from fieldguide.blocks.patches import PatchEmbedding
from fieldguide.blocks.pooling import GlobalAverage, MeanToken
from fieldguide.blocks.positions import Sinusoidal
from fieldguide.blocks.residual import PostNorm, PreNorm, Sandwich
from fieldguide.blocks.transformer import PostNormBlock, PreNormBlock, Stack

def attention(**options):
    return Attention(16, 4, **options)

images, tokens, indices = torch.randn(2, 8, 8, 8), torch.randn(2, 5, 16), torch.randint(0, 9, (2, 5))
cases = [
    (BasicBlock(8, 16, 2), images),
    (Bottleneck(8, 16, 2, inner_channels=4, gate=SqueezeExcitation(4, 2)), images),
    (InvertedResidual(8, 8, hidden_channels=16, drop=0.2), images),
    (nn.Sequential(BatchNorm(8), GroupNorm(4, 8), ChannelFirst(LayerNorm(8)), GlobalAverage()), images),
    (PatchEmbedding(8, 4, 8, 16), images),
    (nn.Sequential(*(w(FeedForward(16, 32), LayerNorm(16)) for w in (PreNorm, PostNorm)), MeanToken()), tokens),
    (Sandwich(GatedFeedForward(16, 32), LayerNorm(16), LayerNorm(16)), tokens),
    (Embeddings(ScaledEmbedding(9, 16), Sinusoidal(16)), indices),
    (Stack(PreNormBlock(attention(mask=Causal()), FeedForward(16, 32)) for _ in range(2)), tokens),
    (PostNormBlock(attention(mask=Causal() & Window(2)), FeedForward(16, 32)), tokens),
]
for block, x in cases:
    block.eval()
    compiled = torch.compile(block, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), block(x))
    print(type(block).__name__)
decoder = PreNormBlock(attention(), GatedFeedForward(16, 32), cross_attention=attention()).eval()
compiled = torch.compile(decoder, fullgraph=True, backend="eager")
torch.testing.assert_close(compiled(tokens, tokens), decoder(tokens, tokens))
print("decoder")
"""


@pytest.mark.slow
def test_every_block_compiles_as_one_graph():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert done.stdout.split()[-1] == "decoder"
