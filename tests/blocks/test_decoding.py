"""Generation by networks of the catalog: what a cache, padding, stops and beams may and may not change."""

import itertools

import pytest
import torch

from fieldguide.blocks.cache import DynamicCache, RollingCache, SlidingCache
from fieldguide.blocks.decoding import Greedy, LanguageModel, RepetitionPenalty, TextToText, left_padded
from fieldguide.blocks.decoding.replay import Replayed
from fieldguide.blocks.decoding.steps import stream
from fieldguide.errors import FieldguideError
from fieldguide.models import create_model

NEW = 24

each_model = pytest.mark.parametrize("name", ["gpt_mini", "gpt_neo_mini", "t5_mini", "transformer_mini"])
each_language_model = pytest.mark.parametrize("name", ["gpt_mini", "gpt_neo_mini"])
each_text_to_text = pytest.mark.parametrize("name", ["t5_mini", "transformer_mini"])


def lively(name: str, **overrides) -> LanguageModel | TextToText:
    """A network whose predictions follow its input, as fresh ones hardly do."""
    model = create_model(name, **overrides).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=1.5 * parameter.shape[-1] ** -0.5) if parameter.ndim > 1 else parameter.add_(0.1)
    return model


def prompts(rows=3, n=20) -> torch.Tensor:
    return torch.randint(256, (rows, n), generator=torch.Generator().manual_seed(3))


def read(model, prompt, new):
    """What the network, or its decoder, has read before it predicts the next token."""
    start = prompt.new_full((len(prompt), 1), getattr(model.config, "start", 0))
    return torch.cat((prompt if isinstance(model, LanguageModel) else start, new), 1)


@torch.no_grad()
def next_logits(model, prompt, new):
    """Of what follows, without a cache: everything is read again."""
    text = read(model, prompt, new)
    return (model(text) if isinstance(model, LanguageModel) else model(prompt, text))[:, -1]


def recomputed(model, prompt, steps=NEW, penalty=1.0):
    """Greedy without a cache."""
    new = prompt[:, :0]
    for _ in range(steps):
        logits = RepetitionPenalty(penalty)(next_logits(model, prompt, new), read(model, prompt, new))
        new = torch.cat((new, logits.argmax(-1, keepdim=True)), 1)
    return new


@each_model
@pytest.mark.parametrize("cache", [lambda: None, DynamicCache, SlidingCache], ids=["static", "dynamic", "sliding"])
def test_greedy_with_a_cache_equals_full_recomputation(name, cache):
    model = lively(name)
    assert torch.equal(model.generate(prompts(), max_new_tokens=NEW, cache=cache()), recomputed(model, prompts()))
    varied = model.generate(prompts(), max_new_tokens=NEW, repetition_penalty=3.0, cache=cache())
    assert torch.equal(varied, recomputed(model, prompts(), penalty=3.0))
    assert all(len(row.unique()) > NEW / 2 for row in varied), "the texts must not be trivial"


@each_language_model
def test_a_prompt_padded_on_the_left_is_continued_as_it_is_alone(name):
    model = lively(name)
    texts = [prompts()[i, :n].tolist() for i, n in enumerate((3, 9, 6))]
    tokens, keep = left_padded(texts, pad=7)
    alone = [recomputed(model, torch.tensor([text])) for text in texts]
    assert torch.equal(model.generate(tokens, max_new_tokens=NEW, keep=keep), torch.cat(alone))
    cache = SlidingCache()
    assert torch.equal(model.generate(tokens, max_new_tokens=NEW, keep=keep, cache=cache), torch.cat(alone))


@each_text_to_text
def test_a_padded_source_is_answered_as_it_is_alone(name):
    model = lively(name)
    sources = [prompts()[i : i + 1, :n] for i, n in enumerate((3, 9, 6))]
    keep = torch.arange(9) < torch.tensor([3, 9, 6])[:, None]
    padded = prompts()[:, :9]
    alone = torch.cat([recomputed(model, source) for source in sources])
    assert torch.equal(model.generate(padded, max_new_tokens=NEW, keep=keep), alone)
    together = model.beams(padded, max_new_tokens=6, keep=keep)
    for source, (one,) in zip(sources, together, strict=True):
        assert one.score == pytest.approx(model.beams(source, max_new_tokens=6)[0][0].score, abs=1e-9)


def test_padding_does_not_count_as_a_repetition():
    model = lively("gpt_mini")
    text = prompts()[0, :5]
    wanted = int(model(text[None])[0, -1].argmax())
    tokens, keep = left_padded([text.tolist(), prompts()[1, :9].tolist()], pad=wanted)
    choice = Greedy([RepetitionPenalty(1.5)])
    alone = recomputed(model, text[None], penalty=1.5)
    padded = torch.stack(list(model.stream(tokens, max_new_tokens=NEW, choice=choice, keep=keep)), 1)
    assert torch.equal(padded[:1], alone)
    assert not torch.equal(alone, recomputed(model, text[None])), "the penalty must do something"


def naive_beams(model, prompt, steps, width, best, penalty, eos):
    """Beam search by lists, reading everything again for each beam and step, and never stopping early."""
    live, ended = [((), 0.0)], []
    for _ in range(steps):
        candidates = []
        for tokens, total in live:
            logits = next_logits(model, prompt[None], prompt.new_tensor(tokens)[None])
            for token, value in enumerate(logits[0].log_softmax(-1).tolist()):
                candidates.append(((*tokens, token), total + value))
        ended += [one for one in candidates if one[0][-1] == eos]
        live = sorted((one for one in candidates if one[0][-1] != eos), key=lambda one: -one[1])[:width]
    return sorted(ended + live, key=lambda one: -one[1] / len(one[0]) ** penalty)[:best]


@each_model
@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
def test_beams_with_a_cache_equal_full_recomputation(name, penalty):
    model, batch = lively(name), prompts(rows=2, n=6)
    eos = int(model.generate(batch[:1], max_new_tokens=4)[0, 3])
    found = model.beams(batch, max_new_tokens=7, width=3, best=3, length_penalty=penalty, eos=eos)
    for prompt, hypotheses in zip(batch, found, strict=True):
        expected = naive_beams(model, prompt, 7, 3, 3, penalty, eos)
        assert [tuple(one.tokens.tolist()) for one in hypotheses] == [tokens for tokens, _ in expected]
        values = [(one.log_probability, one.score) for one in hypotheses]
        assert values == [
            pytest.approx((total, total / len(tokens) ** penalty), abs=1e-9) for tokens, total in expected
        ]


def test_beams_of_padded_prompts_are_those_of_each_alone():
    model = lively("gpt_neo_mini")
    texts = [prompts()[i, :n].tolist() for i, n in enumerate((3, 9))]
    tokens, keep = left_padded(texts)
    together = model.beams(tokens, max_new_tokens=12, keep=keep)
    for text, (one,) in zip(texts, together, strict=True):
        (alone,) = model.beams(torch.tensor([text]), max_new_tokens=12)[0]
        assert torch.equal(one.tokens, alone.tokens)
        assert one.score == pytest.approx(alone.score, abs=1e-9)


@each_language_model
def test_beams_may_forget_what_no_window_reaches(name):
    model = lively(name)
    kept, slid = (model.beams(prompts(), max_new_tokens=12, cache=cache) for cache in (None, SlidingCache()))
    for (one,), (other,) in zip(kept, slid, strict=True):
        assert torch.equal(one.tokens, other.tokens)
        assert one.score == pytest.approx(other.score, abs=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("penalty", [-0.5, 0.0, 0.7, 1.5])
def test_a_wide_beam_finds_the_best_of_all_texts(seed, penalty):
    torch.manual_seed(seed)
    model, prompt, eos, longest = lively("gpt_mini", vocab_size=4), torch.tensor([[1, 2]]), 3, 4
    scores = {}
    for n in range(1, longest + 1):
        for text in itertools.product(range(4), repeat=n):
            if eos in text[:-1] or (n < longest and text[-1] != eos):
                continue
            whole = torch.cat((prompt, torch.tensor([text])), 1)
            chances = model(whole)[0, 1:-1].log_softmax(-1).gather(1, whole[0, 2:, None])
            scores[text] = float(chances.sum()) / n**penalty
    expected = sorted(scores, key=lambda text: -scores[text])[:5]
    (found,) = model.beams(prompt, max_new_tokens=longest, width=4**3, best=5, length_penalty=penalty, eos=eos)
    assert [tuple(one.tokens.tolist()) for one in found] == expected
    assert [one.score for one in found] == pytest.approx([scores[text] for text in expected], abs=1e-9)


def test_one_beam_is_greedy():
    model = lively("gpt_mini")
    found = model.beams(prompts(), max_new_tokens=NEW, width=1)
    assert torch.equal(torch.stack([one.tokens for (one,) in found]), recomputed(model, prompts()))


def test_the_same_seed_draws_the_same_text():
    model = lively("gpt_mini")

    def drawn(seed):
        generator = torch.Generator().manual_seed(seed)
        torch.rand(seed)  # torch's own state does not matter
        return model.generate(prompts(), max_new_tokens=NEW, temperature=1.0, top_p=0.9, generator=generator)

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


@each_model
@pytest.mark.parametrize("length", [1, 2])
def test_a_row_that_has_ended_repeats_its_last_token(name, length):
    model = lively(name)
    free = recomputed(model, prompts())
    stop = free[0, 3 : 3 + length].tolist()
    new = model.generate(prompts(), max_new_tokens=NEW, stop=[stop])
    ends = [next((i + length for i in range(NEW) if row[i : i + length] == stop), NEW) for row in free.tolist()]
    assert new.shape[1] == max(ends)
    assert ends[0] < NEW
    for row, whole, end in zip(new, free, ends, strict=True):
        assert torch.equal(row[:end], whole[:end])
        assert (row[end:] == whole[end - 1]).all()
    if length == 1:
        assert torch.equal(new, model.generate(prompts(), max_new_tokens=NEW, eos=stop[0]))


def test_a_stop_does_not_begin_in_the_prompt():
    model = lively("gpt_mini")
    free = recomputed(model, prompts(rows=1))
    across = [int(prompts(rows=1)[0, -1]), int(free[0, 0])]
    assert torch.equal(model.generate(prompts(rows=1), max_new_tokens=NEW, stop=[across]), free)


def test_tokens_come_one_by_one():
    model, read = lively("gpt_mini"), []
    model.embeddings.register_forward_hook(lambda module, inputs, output: read.append(output.shape[1]))
    stream = model.stream(prompts(), max_new_tokens=NEW)
    assert not read
    first, second = next(stream), next(stream)
    assert read == [20, 1], "a token is read when the next one is asked for"
    assert torch.equal(torch.stack((first, second), 1), recomputed(model, prompts(), 2))


def test_generation_is_prediction_also_in_training():
    model = lively("gpt_mini", dropout=0.5).train()
    model.decoder.layers[0].eval()
    modes = [module.training for module in model.modules()]
    new = model.generate(prompts(), max_new_tokens=NEW)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(new, recomputed(model.eval(), prompts()))


def test_no_new_tokens_are_none():
    assert lively("gpt_mini").generate(prompts(), max_new_tokens=0).shape == (3, 0)


def test_the_last_place_can_be_used():
    model = lively("gpt_mini", max_len=24)
    assert model.generate(prompts(), max_new_tokens=5).shape == (3, 5)


BAD = [
    (torch.zeros(1, 0).long(), {}, r"the prompt is empty, \(1, 0\); begin with at least one token"),
    (prompts(), {"max_new_tokens": 110}, r"GPT reads at most max_len=128 tokens; .* of 20 .* ask for at most 109"),
    (prompts(n=129), {}, r"a prompt of 129 leaves no room .*=4; keep the last 125 tokens of the prompt"),
    (prompts(), {"max_new_tokens": -1}, r"max_new_tokens=-1 must be at least 0"),
    (prompts(), {"keep": torch.arange(20).expand(3, -1) < 19}, r"padded on the right; pad on the left"),
    (*left_padded([[1], [], [2, 3]])[:1], {"keep": left_padded([[1], [], [2, 3]])[1]}, r"prompt 1 has no real token"),
    (prompts(), {"keep": torch.ones(3, 4).bool()}, r"keep is \(3, 4\) and the prompt \(3, 20\)"),
    (prompts(), {"stop": [[]]}, r"a stop sequence is empty"),
    (prompts() + 300, {}, r"outside vocab_size=256"),
]  # fmt: skip


@pytest.mark.parametrize(("prompt", "arguments", "said"), BAD)
def test_what_cannot_be_is_said_in_one_line(prompt, arguments, said):
    with pytest.raises(FieldguideError, match=said) as error:
        create_model("gpt_mini").generate(prompt, **{"max_new_tokens": 4, **arguments})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [({"width": 0}, "width=0, best=1 .* at least 1"), ({"eos": 256}, "eos=256 is outside the vocabulary of 256")],
)
def test_beams_that_cannot_be_are_named(arguments, said):
    with pytest.raises(FieldguideError, match=said):
        create_model("gpt_mini").beams(prompts(), max_new_tokens=4, **arguments)


def replayed(model, prompt, keep=None):
    """As on a GPU, with the step itself in place of its recording."""
    steps = model.begin(prompt, keep, None, NEW)
    steps = Replayed(steps, steps.prompt.shape[1] + NEW - 1, record=lambda step, state: step)
    return torch.stack(list(stream(steps, NEW, Greedy(), [])), 1)


@each_model
def test_steps_that_can_be_recorded_say_the_same(name):
    """One set of shapes and addresses for all steps, the newest token always last."""
    model = lively(name)
    assert torch.equal(replayed(model, prompts()), model.generate(prompts(), max_new_tokens=NEW))
    texts, keep = left_padded([[5, 6, 7], [9, 8, 7, 6, 5, 4, 3], [1, 2, 3, 4, 5]], pad=0)
    expected = model.generate(texts, keep=keep, max_new_tokens=NEW)
    assert torch.equal(replayed(model, texts, keep), expected)


def test_a_recorded_step_allocates_no_other_memory_for_its_state():
    model = lively("gpt_mini")
    cache = DynamicCache()
    with torch.no_grad():
        model(prompts(), cache=cache)
        rolling = RollingCache(cache, 30)
        addresses = [x.data_ptr() for x in rolling.state]
        keep = torch.arange(30).expand(3, -1) >= 9
        model(prompts()[:, :1], keep, cache=rolling)
    assert [x.data_ptr() for x in rolling.state] == addresses
