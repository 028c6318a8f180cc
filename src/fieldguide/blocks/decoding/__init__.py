"""How text is drawn from a network that predicts the next token: greedy, sampled, beams.

A network that generates is one of two kinds, and inherits from it what ``generate``, ``stream`` and ``beams`` need:

    class GPT(LanguageModel):          # continues a text
        def hidden(self, tokens, keep=None, cache=None): ...       # (b, n, d)
        def logits(self, hidden): ...                              # (b, n, vocab) of what follows each token

    class T5(TextToText):              # answers a text with another
        def encode(self, source, source_keep=None): ...            # memory (b, m, d)
        def decode(self, target, memory, *, source_keep=None, target_keep=None, cache=None): ...  # logits (b, n, vocab)

``cache`` holds what earlier calls have seen, so a call passes only the tokens that are new; ``keep`` covers all tokens
so far, cached ones included. ``config.start`` is the token that every target begins with; ``config.max_len``, where
there is one, is the longest text that the network can read.

On a processor, longer texts come from a copy of the network whose weights are laid out to be read faster
(``prepared.py``, ``weights.py``), so nothing of that shows in a model file.

Here rather than in a room above the models, because the models call it; it knows none of them.

b batch · n tokens · v vocabulary · k beams.
"""

from fieldguide.blocks.decoding.beam import Hypothesis
from fieldguide.blocks.decoding.choice import Choice, Greedy, Sample, sampling
from fieldguide.blocks.decoding.filters import MinP, RepetitionPenalty, Temperature, TopK, TopP
from fieldguide.blocks.decoding.kinds import LanguageModel, TextToText, left_padded
from fieldguide.blocks.decoding.prepared import prepared
from fieldguide.blocks.decoding.weights import Half, Int8, Packed, Weight

__all__ = [
    "Choice",
    "Greedy",
    "Half",
    "Hypothesis",
    "Int8",
    "LanguageModel",
    "MinP",
    "Packed",
    "RepetitionPenalty",
    "Sample",
    "Temperature",
    "TextToText",
    "TopK",
    "TopP",
    "Weight",
    "left_padded",
    "prepared",
    "sampling",
]
