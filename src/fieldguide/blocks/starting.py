"""How weights start where a paper draws them all from one distribution."""

from torch import nn


def small_normal(module: nn.Module, std: float = 0.02) -> None:
    """For ``model.apply``: weights of linear layers and embeddings from N(0, std²), biases 0 (BERT, GPT).

    Radford et al. 2018, §4.1; Devlin et al. 2019 cut the tails at two deviations, which changes little and is not done.
    """
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=std)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
