"""What a network costs: layers, parameters, FLOPs, memory. Takes any ``nn.Module``."""

from fieldguide.profile.layers import Layer, LayerTable, layer_table

__all__ = ["Layer", "LayerTable", "layer_table"]
