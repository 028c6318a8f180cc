"""Public weights of AlexNet."""

from fieldguide.weights.adapt import first_convolution
from fieldguide.weights.family import Family
from fieldguide.weights.table import Table

TORCHVISION = {
    "features.0.*": "stages.0.0.conv.*",
    "features.3.*": "stages.1.0.conv.*",
    "features.6.*": "stages.2.0.conv.*",
    "features.8.*": "stages.2.1.conv.*",
    "features.10.*": "stages.2.2.conv.*",
    "classifier.1.*": "hidden.1.*",
    "classifier.4.*": "hidden.4.*",
    "classifier.6.*": "head.*",
}

FAMILY = Family(
    name="alexnet",
    layouts={"torchvision": (Table(TORCHVISION),)},
    head=("hidden.*", "head.*"),
    adapt={"stages.0.0.conv.weight": first_convolution},
)
