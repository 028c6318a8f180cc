"""What a GPU computes is what the processor computes; every test here needs one and is skipped, by name, without.

In float64, where the two must agree to rounding, and in the formats that one trains in.
"""

import json
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

import fieldguide as fg
from fieldguide import catalog
from fieldguide.blocks.attend import attend
from fieldguide.blocks.biases import ALiBi
from fieldguide.blocks.kernels.flex import flex
from fieldguide.blocks.masks import Causal, Full, Padding, Prefix, Strided, Window
from fieldguide.objectives import Classification
from fieldguide.train import Callback, RunFolder
from fieldguide.train.recipe import OptimizerRecipe

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read once, when the first product is computed
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

ROWS = {row.family: row for row in catalog.ARCHITECTURES}
MASKS = [Full(), Causal(), Causal() & Window(9), Prefix(5), Causal() & Strided(4), Window(16) | Prefix(2)]


def example(row, model):
    """A batch that the mini of a row takes."""
    if row.task == "classify":
        side = row.mini_image[1]
        return (torch.randn(4, model.config.in_channels, side, side),)
    if row.task in ("encode", "generate", "translate"):
        tokens = torch.randint(4, model.config.vocab_size, (3, 11))
        return (tokens, tokens[:, :9].flip(1)) if row.task == "translate" else (tokens,)
    return (torch.randn(4, model.config.in_features),)


def on_gpu(*tensors):
    return tuple(x.cuda() for x in tensors)


@pytest.mark.parametrize("family", ROWS)
def test_outputs_and_gradients_of_every_network_are_the_processors(family):
    model = fg.create_model(f"{family}_mini").double().eval()
    inputs = tuple(x.double() if x.is_floating_point() else x for x in example(ROWS[family], model))
    out = model(*inputs)
    upstream = torch.randn_like(out)
    out.backward(upstream)
    expected = {name: weight.grad for name, weight in model.named_parameters()}
    model.zero_grad()
    there = model.cuda()(*on_gpu(*inputs))
    there.backward(upstream.cuda())
    torch.testing.assert_close(there.cpu(), out, rtol=1e-9, atol=1e-9)
    for name, weight in model.named_parameters():
        if expected[name] is not None:
            torch.testing.assert_close(
                weight.grad.cpu(), expected[name], rtol=1e-7, atol=1e-8, msg=lambda m, n=name: f"{n}: {m}"
            )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("mask", MASKS, ids=str)
@pytest.mark.parametrize("biased", [False, True], ids=["plain", "alibi"])
def test_attention_with_any_mask_is_the_definition(mask, biased, dtype):
    bias = ALiBi(4) if biased else None
    q, k, v = (torch.randn(2, 4, 50, 16, dtype=torch.float64) for _ in range(3))
    keep = torch.rand(2, 50) > 0.2
    keep[:, 0] = True
    seen = (mask & Padding(keep)).dense(50, 50)
    scores = q @ k.mT / 4 + (0 if bias is None else bias(50, 50).double())
    weights = scores.masked_fill(~seen, float("-inf")).softmax(-1).nan_to_num()
    q, k, v = (x.to("cuda", dtype) for x in (q, k, v))
    out = attend(q, k, v, mask & Padding(keep.cuda()), None if bias is None else bias.cuda())
    rtol = {torch.float64: 1e-10, torch.float32: 1e-4}.get(dtype, 3e-2)
    error = (out.double().cpu() - weights @ v.double().cpu()).norm() / (weights @ v.double().cpu()).norm()
    assert error < rtol


@pytest.mark.parametrize("mask", [Causal() & Window(100), Causal() | Prefix(40)], ids=str)
def test_flex_skips_blocks_and_says_the_same_with_gradients(mask):
    q, k, v = (torch.randn(1, 2, 1100, 32, device="cuda", requires_grad=True) for _ in range(3))
    assert fg.explain(mask, 1100, device="cuda").kernel == flex.name
    out = attend(q, k, v, mask)
    upstream = torch.randn_like(out)
    mine = torch.autograd.grad(out, (q, k, v), upstream)
    seen = mask.dense(1100, 1100, device="cuda")
    weights = (q @ k.mT / 32**0.5).masked_fill(~seen, float("-inf")).softmax(-1)
    theirs = torch.autograd.grad(weights @ v, (q, k, v), upstream)
    for one, other in zip((out, *mine), (weights @ v, *theirs), strict=True):
        assert (one - other).norm() / other.norm() < 5e-3  # TF32 inside the generated kernel


@pytest.mark.parametrize("family", [row.family for row in ROWS.values() if row.task == "generate"])
def test_generated_tokens_are_the_processors(family):
    model = fg.create_model(f"{family}_mini").double().eval()
    prompt = torch.randint(4, model.config.vocab_size, (2, 7))
    expected = model.generate(prompt, max_new_tokens=40)
    assert torch.equal(model.cuda().generate(prompt.cuda(), max_new_tokens=40).cpu(), expected)


class Unplugged(Callback):
    """Ends the process, as far as training can tell, after a step."""

    def __init__(self, step):
        self.step = step

    def on_step(self, record):
        if self.loop.progress.step == self.step:
            raise ConnectionAbortedError


def digits_like(count=128):
    images = torch.randn(count, 1, 8, 8)
    return images, (images.flatten(1)[:, :10]).argmax(1)


def small_network():
    torch.manual_seed(3)
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(288, 10))
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_an_interrupted_training_ends_in_the_same_bits(precision, tmp_path):
    data = digits_like(), digits_like()
    recipe = fg.Recipe(
        epochs=3, batch_size=16, precision=precision, deterministic=True, ema=0.9, optimizer=OptimizerRecipe(lr=1e-2)
    )

    def train(folder, *plugs, resume=False):
        model = small_network().cuda()
        return fg.fit(model, data, Classification(), recipe, run=folder, resume=resume, callbacks=plugs)

    whole = train(RunFolder.create_at(tmp_path / "whole"))
    broken = RunFolder.create_at(tmp_path / "broken")
    with pytest.raises(ConnectionAbortedError):
        train(broken, Unplugged(13))
    resumed = train(broken, resume=True)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name


class Augmented(torch.utils.data.Dataset):
    """Samples that draw random numbers when they are read."""

    def __len__(self):
        return 64

    def __getitem__(self, index):
        return torch.randn(1, 8, 8), index % 10


def test_workers_of_a_training_on_the_device_read_what_one_process_reads():
    def train(workers):
        recipe = fg.Recipe(epochs=2, batch_size=16, workers=workers, deterministic=True)
        return fg.fit(small_network().cuda(), (Augmented(), Augmented()), Classification(), recipe).model.state_dict()

    alone, beside = train(0), train(2)
    assert all(torch.equal(alone[name], beside[name]) for name in alone)


def test_the_peak_is_the_allocators():
    model, x = nn.Sequential(nn.Linear(500, 1000), nn.ReLU(), nn.Linear(1000, 250)).cuda(), torch.randn(64, 500).cuda()
    found = fg.profile(model, x, train=True, seconds=0.2)
    model.zero_grad()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    with torch.no_grad():
        model(x)
    assert found.forward_peak == pytest.approx(torch.cuda.max_memory_allocated() - before, rel=0.02)
    assert found.roof.binds == "launch"


@pytest.mark.parametrize("fault", ["none", "rate"])
def test_the_doctor_sees_a_training_on_the_gpu(fault):
    torch.manual_seed(0)
    images, labels = on_gpu(*digits_like(1024))
    model = small_network().cuda()
    optimizer = torch.optim.Adam(model.parameters(), lr=30.0 if fault == "rate" else 3e-3)
    doctor = fg.Doctor(model, optimizer)
    for step in range(150):
        chosen = torch.arange(64, device="cuda") + 64 * (step % 16)
        loss = nn.functional.cross_entropy(model(images[chosen]), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        doctor.step(loss)
    slugs = {finding.slug for finding in doctor.close().findings}
    assert ("lr-too-high" in slugs) == (fault == "rate"), slugs


def test_the_command_trains_predicts_and_measures(tmp_path):
    def run(*words):
        done = subprocess.run(
            [sys.executable, "-m", "fieldguide", *words], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("train", "resnet_mini", "--data", "digits", "--epochs", "2", "--device", "cuda", "--out", ".", "--name", "run")
    assert json.loads(run("eval", "run", "--device", "cuda", "--json"))["accuracy"] > 0.5
    assert json.loads(run("profile", "resnet_mini", "--device", "cuda", "--json"))["device"] == "cuda"
