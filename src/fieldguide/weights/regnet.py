"""Public weights of RegNet X and Y."""

from fieldguide.weights.adapt import first_convolution
from fieldguide.weights.family import Family
from fieldguide.weights.table import Table

TORCHVISION = Table(
    {
        "stem.0.*": "stem.conv.*",
        "stem.1.*": "stem.norm.*",
        "trunk_output.block{s+1}.block{s+1}-{i}.proj.0.*": "stages.{s}.{i}.shortcut.conv.*",
        "trunk_output.block{s+1}.block{s+1}-{i}.proj.1.*": "stages.{s}.{i}.shortcut.norm.*",
        "trunk_output.block{s+1}.block{s+1}-{i}.f.a.0.*": "stages.{s}.{i}.reduce.conv.*",
        "trunk_output.block{s+1}.block{s+1}-{i}.f.a.1.*": "stages.{s}.{i}.reduce.norm.*",
        "trunk_output.block{s+1}.block{s+1}-{i}.f.b.0.*": "stages.{s}.{i}.conv.conv.*",
        "trunk_output.block{s+1}.block{s+1}-{i}.f.b.1.*": "stages.{s}.{i}.conv.norm.*",
        "trunk_output.block{s+1}.block{s+1}-{i}.f.se.fc1.*": "stages.{s}.{i}.gate.squeeze.*",
        "trunk_output.block{s+1}.block{s+1}-{i}.f.se.fc2.*": "stages.{s}.{i}.gate.expand.*",
        "trunk_output.block{s+1}.block{s+1}-{i}.f.c.0.*": "stages.{s}.{i}.restore.conv.*",
        "trunk_output.block{s+1}.block{s+1}-{i}.f.c.1.*": "stages.{s}.{i}.restore.norm.*",
        "fc.*": "head.*",
    }
)

TIMM = Table(
    {
        "stem.conv.*": "stem.conv.*",
        "stem.bn.*": "stem.norm.*",
        "s{s+1}.b{i+1}.downsample.conv.*": "stages.{s}.{i}.shortcut.conv.*",
        "s{s+1}.b{i+1}.downsample.bn.*": "stages.{s}.{i}.shortcut.norm.*",
        "s{s+1}.b{i+1}.conv1.conv.*": "stages.{s}.{i}.reduce.conv.*",
        "s{s+1}.b{i+1}.conv1.bn.*": "stages.{s}.{i}.reduce.norm.*",
        "s{s+1}.b{i+1}.conv2.conv.*": "stages.{s}.{i}.conv.conv.*",
        "s{s+1}.b{i+1}.conv2.bn.*": "stages.{s}.{i}.conv.norm.*",
        "s{s+1}.b{i+1}.se.fc1.*": "stages.{s}.{i}.gate.squeeze.*",
        "s{s+1}.b{i+1}.se.fc2.*": "stages.{s}.{i}.gate.expand.*",
        "s{s+1}.b{i+1}.conv3.conv.*": "stages.{s}.{i}.restore.conv.*",
        "s{s+1}.b{i+1}.conv3.bn.*": "stages.{s}.{i}.restore.norm.*",
        "head.fc.*": "head.*",
    }
)

TRANSFORMERS = {
    "regnet.embedder.embedder.convolution.*": "stem.conv.*",
    "regnet.embedder.embedder.normalization.*": "stem.norm.*",
    "regnet.encoder.stages.{s}.layers.{i}.shortcut.convolution.*": "stages.{s}.{i}.shortcut.conv.*",
    "regnet.encoder.stages.{s}.layers.{i}.shortcut.normalization.*": "stages.{s}.{i}.shortcut.norm.*",
    "regnet.encoder.stages.{s}.layers.{i}.layer.0.convolution.*": "stages.{s}.{i}.reduce.conv.*",
    "regnet.encoder.stages.{s}.layers.{i}.layer.0.normalization.*": "stages.{s}.{i}.reduce.norm.*",
    "regnet.encoder.stages.{s}.layers.{i}.layer.1.convolution.*": "stages.{s}.{i}.conv.conv.*",
    "regnet.encoder.stages.{s}.layers.{i}.layer.1.normalization.*": "stages.{s}.{i}.conv.norm.*",
    "classifier.1.*": "head.*",
}
TRANSFORMERS_X = {
    "regnet.encoder.stages.{s}.layers.{i}.layer.2.convolution.*": "stages.{s}.{i}.restore.conv.*",
    "regnet.encoder.stages.{s}.layers.{i}.layer.2.normalization.*": "stages.{s}.{i}.restore.norm.*",
}
TRANSFORMERS_Y = {
    "regnet.encoder.stages.{s}.layers.{i}.layer.2.attention.0.*": "stages.{s}.{i}.gate.squeeze.*",
    "regnet.encoder.stages.{s}.layers.{i}.layer.2.attention.2.*": "stages.{s}.{i}.gate.expand.*",
    "regnet.encoder.stages.{s}.layers.{i}.layer.3.convolution.*": "stages.{s}.{i}.restore.conv.*",
    "regnet.encoder.stages.{s}.layers.{i}.layer.3.normalization.*": "stages.{s}.{i}.restore.norm.*",
}
HEADLESS = {"embedder.*": "regnet.embedder.*", "encoder.*": "regnet.encoder.*"}  # a file of RegNetModel

FAMILY = Family(
    name="regnet",
    layouts={
        "torchvision": (TORCHVISION,),
        "timm": (TIMM,),
        "transformers": (
            Table(TRANSFORMERS | TRANSFORMERS_X, aliases=HEADLESS),
            Table(TRANSFORMERS | TRANSFORMERS_Y, aliases=HEADLESS),
        ),
    },
    adapt={"stem.conv.weight": first_convolution},
)
