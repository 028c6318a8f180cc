"""A card for each optimizer and for what goes with any of them, in Markdown."""

from dataclasses import dataclass

HEAD = """\
# Optimizers

Written by `fieldguide lookup optimizer`.

One of them is `optimizer.name` in a recipe; the last four go with any optimizer and have fields of their own. Weight
decay λ never reaches norms, biases, embeddings and learned tokens. A schedule multiplies the rate `lr` of every group;
`layer_decay` and `rates` give parts of the network their share of it:

```toml
[optimizer]
name = "adamw"
lr = 3e-4

[optimizer.rates]
"stem|stages.0" = 0.1
head = 10.0
```

| name | memory, numbers per weight | decay |
|---|---:|---|
"""
LEGEND = """
w weights · g gradient · lr rate · λ weight decay · β₁ β₂ `betas` · ε `eps` · μ `momentum` · m̂, v̂ running means of g
and g² divided by 1 − βᵗ (bias correction) · t step. Memory is what the optimizer keeps beside weights and gradients.

"""


@dataclass(frozen=True, kw_only=True)
class OptimizerCard:
    """What there is to know of one."""

    name: str
    title: str
    paper: str
    equation: str
    when: str
    numbers: str
    """Which fields it reads, and usual values."""
    memory: str
    decay: str
    source: str


CARDS = (
    OptimizerCard(
        name="adamw",
        title="AdamW",
        paper="Loshchilov & Hutter 2019, Decoupled Weight Decay Regularization, Alg. 2",
        equation="w ← (1 − lr·λ) w − lr · m̂ / (√v̂ + ε)",
        when="the default; almost everything, Transformers above all",
        numbers="`lr` 1e-4 to 5e-3, `betas` 0.9 0.999 (0.95 for large language models), `weight_decay` 0.01 to 0.1",
        memory="2",
        decay="decoupled",
        source="torch, fused",
    ),
    OptimizerCard(
        name="adam",
        title="Adam",
        paper="Kingma & Ba 2015, Adam: A Method for Stochastic Optimization, Alg. 1",
        equation="g ← g + λw;  w ← w − lr · m̂ / (√v̂ + ε)",
        when="to repeat older results; with weight decay AdamW is better",
        numbers="`lr` 1e-4 to 3e-3, `betas` 0.9 0.999, `weight_decay` 0",
        memory="2",
        decay="in the gradient",
        source="torch, fused",
    ),
    OptimizerCard(
        name="sgd",
        title="SGD with Nesterov momentum",
        paper="Sutskever et al. 2013, On the importance of initialization and momentum in deep learning, eq. 3 and 4",
        equation="g ← g + λw;  b ← μb + g;  w ← w − lr · (g + μb)",
        when="convolutional networks trained long, with a tuned rate; `momentum = 0` is plain SGD",
        numbers="`lr` 0.01 to 0.5, `momentum` 0.9, `weight_decay` 1e-4 to 5e-4",
        memory="1",
        decay="in the gradient",
        source="torch, fused",
    ),
    OptimizerCard(
        name="rmsprop",
        title="RMSprop",
        paper="Tieleman & Hinton 2012, lecture 6.5",
        equation="g ← g + λw;  v ← 0.99 v + 0.01 g²;  b ← μb + g / (√v + ε);  w ← w − lr · b",
        when="recurrent networks and reinforcement learning of their time; to repeat older results",
        numbers="`lr` 1e-4 to 1e-3 (momentum makes steps 1 / (1 − μ) times as large), `momentum` 0 to 0.9",
        memory="2",
        decay="in the gradient",
        source="torch",
    ),
    OptimizerCard(
        name="nadam",
        title="NAdam",
        paper="Dozat 2016, Incorporating Nesterov Momentum into Adam, Alg. 2",
        equation="w ← (1 − lr·λ) w − lr · (μₜ₊₁ m̂ + (1 − μₜ) ĝ) / (√v̂ + ε),  μₜ = β₁ (1 − 0.96^(t/250) / 2)",
        when="as AdamW, a little quicker at the start",
        numbers="as AdamW",
        memory="2",
        decay="decoupled",
        source="torch",
    ),
    OptimizerCard(
        name="radam",
        title="RAdam",
        paper="Liu et al. 2020, On the Variance of the Adaptive Learning Rate and Beyond, Alg. 2",
        equation="w ← (1 − lr·λ) w − lr · rₜ m̂ / (√v̂ + ε), and − lr · m̂ as long as v̂ rests on 5 gradients or fewer",
        when="when there is to be no warm-up: set `schedule.warmup = 0`",
        numbers="as AdamW",
        memory="2",
        decay="decoupled",
        source="torch",
    ),
    OptimizerCard(
        name="adafactor",
        title="Adafactor",
        paper="Shazeer & Stern 2018, Adafactor: Adaptive Learning Rates with Sublinear Memory Cost, Alg. 4",
        equation="V = R·C / mean R, R and C running means of g² over rows and columns;  u = g / √V, at most RMS 1;  "
        "w ← (1 − lr·λ) w − max(10⁻³, RMS(w)) · min(lr, 1/√t) · u",
        when="matrices that fill the memory, as T5's; kernels of convolutions gain little and take long",
        numbers="`lr` is the largest share by which a tensor may change, 0.01 to 0.1",
        memory="rows + columns",
        decay="decoupled",
        source="torch",
    ),
    OptimizerCard(
        name="muon",
        title="Muon",
        paper="Jordan et al. 2024, Muon: An optimizer for hidden layers; Liu et al. 2025, Muon is Scalable for LLM "
        "Training, §2.2",
        equation="b ← μb + (1 − μ) g;  w ← (1 − lr·λ) w − lr · 0.2 √max(rows, columns) · UVᵀ of "
        "USVᵀ = (1 − μ) g + μb, by 5 rounds of Newton–Schulz",
        when="hidden matrices of Transformers, and kernels, as matrices (outputs, inputs · height · width); the first "
        "and the last layer, embeddings, grouped kernels, norms and biases move by AdamW",
        numbers="`lr`, `weight_decay` as AdamW, which shares them; `momentum` 0.95; `betas` are AdamW's",
        memory="1 (AdamW's part 2)",
        decay="decoupled",
        source="here; torch's has no kernels and computes in bf16, which is slow on most CPUs",
    ),
    OptimizerCard(
        name="lion",
        title="Lion",
        paper="Chen et al. 2023, Symbolic Discovery of Optimization Algorithms, Alg. 2",
        equation="w ← w − lr · (sign(β₁ m + (1 − β₁) g) + λw);  m ← β₂ m + (1 − β₂) g",
        when="large batches, when half of Adam's memory counts",
        numbers="`betas` 0.9 0.99; `lr` 3 to 10 times smaller than AdamW's and `weight_decay` as much larger",
        memory="1",
        decay="decoupled",
        source="the library pytorch-optimizer: install `fieldguide[optimizers]`",
    ),
    OptimizerCard(
        name="lamb",
        title="LAMB",
        paper="You et al. 2020, Large Batch Optimization for Deep Learning, Alg. 2",
        equation="u = m̂ / (√v̂ + ε) + λw;  w ← w − lr · ‖w‖ / ‖u‖ · u for each tensor",
        when="batches of thousands; norms, biases and embeddings move by Adam",
        numbers="`lr` is the share by which a tensor changes in a step: 1e-3 to 2e-2",
        memory="2",
        decay="in the update, before its norm is taken",
        source="here; pytorch-optimizer 4.1 leaves v uncorrected, and its first step is 1 / (1 − β₁) times too long",
    ),
    OptimizerCard(
        name="soap",
        title="SOAP",
        paper="Vyas et al. 2024, SOAP: Improving and Stabilizing Shampoo using Adam, Alg. 3",
        equation="AdamW on Q_Lᵀ g Q_R, turned back by Q_L · Q_Rᵀ; Q of an axis: eigenvectors of the running mean of "
        "ggᵀ, renewed by a power iteration and QR every 10 steps; the first gradient only finds them",
        when="fewest steps, when a step may cost more; matrices of moderate size",
        numbers="`betas` 0.95 0.95, `lr` 1e-3 to 1e-2",
        memory="2 + 2 squares of each axis",
        decay="decoupled",
        source="here; pytorch-optimizer 4.1's does not resume bit for bit from a file of plain tensors",
    ),
    OptimizerCard(
        name="schedule_free",
        title="Schedule-free AdamW",
        paper="Defazio et al. 2024, The Road Less Scheduled, Alg. 1",
        equation="y = (1 − β₁) z + β₁ x;  z ← z − lr · (g(y) / (√v̂ + ε) + λy);  x ← (1 − c) x + cz, "
        "c = r² / Σr², r the largest rate so far",
        when='when the end of training is not known; needs `schedule.name = "constant"` (warm-up is fine) and no '
        "other average",
        numbers="`lr` 1 to 10 times AdamW's, `betas` 0.9 0.999; x is evaluated and saved, and batch norms get new "
        "statistics for it in a pass over the data",
        memory="2",
        decay="decoupled, at y",
        source="here; pytorch-optimizer 4.1's changes the weights in the last bits when it switches to x and back",
    ),
    OptimizerCard(
        name="sharpness",
        title="SAM, sharpness-aware minimisation",
        paper="Foret et al. 2021, Sharpness-Aware Minimization for Efficiently Improving Generalization, eq. 2 and 3",
        equation="the gradient at w + ρ g / ‖g‖ in place of g, for any optimizer",
        when="small data sets and noisy labels, when twice the time per step is no matter",
        numbers="`sharpness` is ρ: 0.01 to 0.2, usually 0.05. The step's record has `sharpness`, the loss there minus "
        "the loss here",
        memory="1 (2 activations)",
        decay="the optimizer's",
        source="here, around the objective",
    ),
    OptimizerCard(
        name="ema",
        title="EMA, exponential moving average",
        paper="Tarvainen & Valpola 2017, Mean teachers are better role models, eq. 1",
        equation="average ← d · average + (1 − d) · w after each step, d = min(`ema`, (1 + n) / (10 + n))",
        when="nearly always; it takes the noise of the last steps away. Running statistics of norms are averaged too",
        numbers="`ema` 0.98 for hundreds of steps to 0.9999 for hundreds of thousands",
        memory="1",
        decay="the optimizer's",
        source="here",
    ),
    OptimizerCard(
        name="swa",
        title="SWA, stochastic weight averaging",
        paper="Izmailov et al. 2018, Averaging Weights Leads to Wider Optima and Better Generalization, Alg. 1",
        equation="the plain mean of w after each of the last steps; batch norms get new statistics for it",
        when='with a rate that stays high to the end (`schedule.name = "constant"`), so that there is something to '
        "average",
        numbers="`swa` 0.25: the last quarter of all steps",
        memory="1",
        decay="the optimizer's",
        source="here",
    ),
    OptimizerCard(
        name="lookahead",
        title="Lookahead",
        paper="Zhang et al. 2019, Lookahead Optimizer: k steps forward, 1 step back, Alg. 1",
        equation="every k steps: slow ← slow + (w − slow) / 2;  w ← slow",
        when="to calm an optimizer that swings; the slow weights are evaluated and saved",
        numbers="`lookahead` is k: 5 to 10",
        memory="1",
        decay="the optimizer's",
        source="here",
    ),
)


def card(entry: OptimizerCard) -> str:
    """One of them: equation, use, numbers, memory, decay, paper and where its code is."""
    return f"""## {entry.title} (`{entry.name}`)

    {entry.equation}

- **For**: {entry.when}
- **Numbers**: {entry.numbers}
- **Memory**: {entry.memory}
- **Weight decay**: {entry.decay}
- **Paper**: {entry.paper}
- **Code**: {entry.source}
"""


def cards() -> str:
    """The page of all."""
    table = "\n".join(f"| `{entry.name}` | {entry.memory} | {entry.decay} |" for entry in CARDS)
    return HEAD + table + "\n" + LEGEND + "\n".join(map(card, CARDS))
