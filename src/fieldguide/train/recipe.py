"""How a network is trained: one frozen tree of numbers, complete enough to repeat the run.

A recipe is data. Every family has its tuned defaults in ``recipes/<family>.toml``; a file given by the user and
then dotted overrides (``--optimizer.lr 3e-4``) are laid over them, and the resolved copy goes into the run folder.
"""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class OptimizerRecipe:
    name: Literal["adamw", "adam", "sgd", "rmsprop"] = "adamw"
    lr: float = 1e-3
    """Base learning rate; the schedule multiplies it."""
    weight_decay: float = 0.01
    """Decoupled for AdamW, L2 for the others; never applied to norms, biases and embeddings."""
    momentum: float = 0.9
    """SGD (with Nesterov) and RMSprop only."""
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8


@dataclass(frozen=True, kw_only=True)
class ScheduleRecipe:
    name: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: float = 0.05
    """Share of all optimizer steps during which the rate rises linearly."""
    final: float = 0.0
    """The rate at the end as a share of the base rate."""


@dataclass(frozen=True, kw_only=True)
class AugmentRecipe:
    """Random changes of training images, drawn for each sample; all off by default."""

    shift: float = 0.0
    """Largest translation as a share of the side."""
    rotate: float = 0.0
    """Largest rotation in degrees."""
    scale: float = 0.0
    """Largest relative change of size."""
    flip: bool = False
    """Mirror left and right with probability 1/2."""
    erase: float = 0.0
    """Probability of blanking a random rectangle (Zhong et al. 2020)."""
    mixup: float = 0.0
    """Beta(α, α) mixing of pairs and their labels (Zhang et al. 2018); 0 is off."""


@dataclass(frozen=True, kw_only=True)
class StoppingRecipe:
    patience: int = 0
    """Epochs without improvement of the validation metric before training stops; 0 never stops early."""
    min_delta: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Recipe:
    epochs: int | Literal["auto"] = "auto"
    """``"auto"`` gives small data sets more passes: about 1,500 / √samples, between 3 and 60."""
    batch_size: int = 64
    """Samples in one forward pass."""
    accumulation: int = 1
    """Forward passes summed into one optimizer step."""
    clip: float = 1.0
    """Largest global gradient norm; 0 is off."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    memory_format: Literal["contiguous", "channels_last"] = "contiguous"
    label_smoothing: float = 0.0
    ema: float = 0.0
    """Decay per step of an averaged copy of the weights that is evaluated and saved; 0 is off."""
    seed: int = 0
    threads: int | Literal["auto"] = "auto"
    """CPU threads; ``"auto"`` times a few steps with one and with all and keeps the faster."""
    checkpoint_every: int = 0
    """Optimizer steps between checkpoints inside an epoch; 0 saves at the end of each epoch only."""
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    schedule: ScheduleRecipe = field(default_factory=ScheduleRecipe)
    augment: AugmentRecipe = field(default_factory=AugmentRecipe)
    stopping: StoppingRecipe = field(default_factory=StoppingRecipe)
