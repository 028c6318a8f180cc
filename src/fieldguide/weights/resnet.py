"""Public weights of ResNet, ResNeXt and wide ResNet.

``cifar`` is the layout of Idelbayev's pytorch_resnet_cifar10, the usual source of ResNet-20 … 56: option-A shortcuts
without parameters, or option B with a convolution and its norm.
"""

from fieldguide.weights.adapt import first_convolution
from fieldguide.weights.family import Family
from fieldguide.weights.table import COUNTERS, Table

TORCHVISION = {
    "conv1.*": "stem.0.conv.*",
    "bn1.*": "stem.0.norm.*",
    "layer{s+1}.{i}.downsample.0.*": "stages.{s}.{i}.shortcut.conv.*",
    "layer{s+1}.{i}.downsample.1.*": "stages.{s}.{i}.shortcut.norm.*",
    "fc.*": "head.*",
}
BASIC = {
    "layer{s+1}.{i}.conv{k+1}.*": "stages.{s}.{i}.conv{k+1}.conv.*",
    "layer{s+1}.{i}.bn{k+1}.*": "stages.{s}.{i}.conv{k+1}.norm.*",
}
BOTTLENECK = {
    "layer{s+1}.{i}.conv1.*": "stages.{s}.{i}.reduce.conv.*",
    "layer{s+1}.{i}.conv2.*": "stages.{s}.{i}.conv.conv.*",
    "layer{s+1}.{i}.conv3.*": "stages.{s}.{i}.restore.conv.*",
    "layer{s+1}.{i}.bn1.*": "stages.{s}.{i}.reduce.norm.*",
    "layer{s+1}.{i}.bn2.*": "stages.{s}.{i}.conv.norm.*",
    "layer{s+1}.{i}.bn3.*": "stages.{s}.{i}.restore.norm.*",
}

TRANSFORMERS = {
    "resnet.embedder.embedder.convolution.*": "stem.0.conv.*",
    "resnet.embedder.embedder.normalization.*": "stem.0.norm.*",
    "resnet.encoder.stages.{s}.layers.{i}.shortcut.convolution.*": "stages.{s}.{i}.shortcut.conv.*",
    "resnet.encoder.stages.{s}.layers.{i}.shortcut.normalization.*": "stages.{s}.{i}.shortcut.norm.*",
    "classifier.1.*": "head.*",
}
TRANSFORMERS_BASIC = {
    "resnet.encoder.stages.{s}.layers.{i}.layer.{k}.convolution.*": "stages.{s}.{i}.conv{k+1}.conv.*",
    "resnet.encoder.stages.{s}.layers.{i}.layer.{k}.normalization.*": "stages.{s}.{i}.conv{k+1}.norm.*",
}
TRANSFORMERS_BOTTLENECK = {
    "resnet.encoder.stages.{s}.layers.{i}.layer.0.convolution.*": "stages.{s}.{i}.reduce.conv.*",
    "resnet.encoder.stages.{s}.layers.{i}.layer.1.convolution.*": "stages.{s}.{i}.conv.conv.*",
    "resnet.encoder.stages.{s}.layers.{i}.layer.2.convolution.*": "stages.{s}.{i}.restore.conv.*",
    "resnet.encoder.stages.{s}.layers.{i}.layer.0.normalization.*": "stages.{s}.{i}.reduce.norm.*",
    "resnet.encoder.stages.{s}.layers.{i}.layer.1.normalization.*": "stages.{s}.{i}.conv.norm.*",
    "resnet.encoder.stages.{s}.layers.{i}.layer.2.normalization.*": "stages.{s}.{i}.restore.norm.*",
}
HEADLESS = {"embedder.*": "resnet.embedder.*", "encoder.*": "resnet.encoder.*"}  # a file of ResNetModel

CIFAR = {
    "conv1.*": "stem.conv.*",
    "bn1.*": "stem.norm.*",
    "layer{s+1}.{i}.shortcut.0.*": "stages.{s}.{i}.shortcut.conv.*",
    "layer{s+1}.{i}.shortcut.1.*": "stages.{s}.{i}.shortcut.norm.*",
    "linear.*": "head.*",
}

_IMAGENET = (Table(TORCHVISION | BASIC), Table(TORCHVISION | BOTTLENECK))

FAMILY = Family(
    name="resnet",
    layouts={
        "torchvision": _IMAGENET,
        "timm": _IMAGENET,
        "transformers": (
            Table(TRANSFORMERS | TRANSFORMERS_BASIC, aliases=HEADLESS),
            Table(TRANSFORMERS | TRANSFORMERS_BOTTLENECK, aliases=HEADLESS),
        ),
        "cifar": (Table(CIFAR | BASIC, absent=COUNTERS),),
    },
    adapt={"stem.0.conv.weight": first_convolution, "stem.conv.weight": first_convolution},
)
