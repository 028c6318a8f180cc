"""The index: one literal row per architecture. It imports nothing of fieldguide and needs no torch.

The command line, the documentation, the advisor and the sweep tests read these rows, so a new architecture is one
model file and one row here. ``sizes`` maps every public name to its exact parameter count; a test builds each on the
meta device and counts.
"""

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import NamedTuple


class Architecture(NamedTuple):
    """One family: its paper, its file, what it is good for, and its sizes."""

    family: str
    """Also the name of the family's recipe and docs page."""
    module: str
    """Below ``fieldguide.models``."""
    model: str
    """The class; its config is ``<model>Config`` in the same file."""
    task: str
    paper: str
    year: int
    key_idea: str
    best_for: str
    weights: str
    """Where public checkpoints come from: libraries, data and files."""
    sizes: dict[str, int]
    image: tuple[int, int] | None = None
    """Smallest and native image side of the published sizes; data of other sizes is resized into this range. None for
    networks that do not take images."""
    mini_image: tuple[int, int] | None = None
    """The same for ``<family>_mini``."""


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        family="lenet",
        module="vision.lenet",
        model="LeNet",
        task="classify",
        paper="LeCun, Bottou, Bengio & Haffner 1998, Gradient-based learning applied to document recognition",
        year=1998,
        key_idea="learned convolutions with shared weights, alternating with sub-sampling",
        best_for="small grey images of one object; learning how a CNN works",
        image=(32, 32),
        mini_image=(32, 32),
        weights="none in common use; `fieldguide train lenet5` reaches the published accuracy in minutes",
        sizes={"lenet5": 61_706, "lenet5_1998": 60_000, "lenet_mini": 17_662},
    ),
    Architecture(
        family="alexnet",
        module="vision.alexnet",
        model="AlexNet",
        task="classify",
        paper="Krizhevsky 2014, One weird trick for parallelizing convolutional neural networks",
        year=2014,
        key_idea="a deep CNN with ReLU, overlapping pooling and dropout, trained on a million photographs",
        best_for="history; fast features where accuracy matters less",
        image=(63, 224),
        mini_image=(16, 32),
        weights="torchvision (ImageNet-1k)",
        sizes={"alexnet": 61_100_840, "alexnet_mini": 92_762},
    ),
    Architecture(
        family="vgg",
        module="vision.vgg",
        model="VGG",
        task="classify",
        paper="Simonyan & Zisserman 2015, Very Deep Convolutional Networks for Large-Scale Image Recognition",
        year=2015,
        key_idea="only 3×3 convolutions, stacked deep",
        best_for="features for style transfer and perceptual losses; a plain baseline",
        image=(32, 224),
        mini_image=(8, 32),
        weights="torchvision and timm (ImageNet-1k); torchvision's VGG16 features of the paper's authors' weights",
        sizes={
            "vgg11": 132_863_336,
            "vgg13": 133_047_848,
            "vgg16": 138_357_544,
            "vgg19": 143_667_240,
            "vgg11_bn": 132_868_840,
            "vgg13_bn": 133_053_736,
            "vgg16_bn": 138_365_992,
            "vgg19_bn": 143_678_248,
            "vgg_mini": 79_154,
        },
    ),
    Architecture(
        family="resnet",
        module="vision.resnet",
        model="ResNet",
        task="classify",
        paper="He, Zhang, Ren & Sun 2016, Deep Residual Learning for Image Recognition",
        year=2016,
        key_idea="each block learns a change to its input, so depth no longer hurts",
        best_for="the first thing to try on images; a backbone for detection and segmentation",
        image=(32, 224),
        mini_image=(8, 32),
        weights="torchvision, timm and transformers (ImageNet-1k); Idelbayev's pytorch_resnet_cifar10 (CIFAR-10)",
        sizes={
            "resnet18": 11_689_512,
            "resnet34": 21_797_672,
            "resnet50": 25_557_032,
            "resnet101": 44_549_160,
            "resnet152": 60_192_808,
            "resnext50_32x4d": 25_028_904,
            "wide_resnet50_2": 68_883_240,
            "resnet20_cifar": 269_722,
            "resnet32_cifar": 464_154,
            "resnet44_cifar": 658_586,
            "resnet56_cifar": 853_018,
            "resnet_mini": 77_754,
        },
    ),
    Architecture(
        family="inception",
        module="vision.inception",
        model="Inception",
        task="classify",
        paper="Szegedy et al. 2015, Going Deeper with Convolutions; v3: Szegedy et al. 2016, Rethinking the Inception "
        "Architecture for Computer Vision",
        year=2015,
        key_idea="filters of several sizes side by side, with 1×1 convolutions that keep them cheap",
        best_for="good accuracy from few multiplications; objects of very different sizes",
        image=(75, 299),
        mini_image=(8, 32),
        weights="torchvision (both) and timm (inception_v3), ImageNet-1k; GoogLeNet's auxiliary heads are untrained",
        sizes={"googlenet": 13_004_888, "inception_v3": 27_161_264, "inception_mini": 88_626},
    ),
    Architecture(
        family="mobilenet",
        module="vision.mobilenet",
        model="MobileNet",
        task="classify",
        paper="Howard et al. 2017, MobileNets; Sandler et al. 2018, MobileNetV2; Howard et al. 2019, MobileNetV3",
        year=2017,
        key_idea="a convolution split into one over space and one over channels, between narrow ends",
        best_for="phones and other small devices; low latency on a CPU",
        image=(32, 224),
        mini_image=(8, 32),
        weights="torchvision (v2, v3), timm (tf_… models: layout timm_tf) and transformers (v1, v2), ImageNet-1k",
        sizes={
            "mobilenet_v1": 4_231_976,
            "mobilenet_v2": 3_504_872,
            "mobilenet_v3_large": 5_483_032,
            "mobilenet_v3_small": 2_542_856,
            "mobilenet_mini": 82_394,
        },
    ),
    Architecture(
        family="efficientnet",
        module="vision.efficientnet",
        model="EfficientNet",
        task="classify",
        paper="Tan & Le 2019, EfficientNet: Rethinking Model Scaling for CNNs; Tan & Le 2021, EfficientNetV2",
        year=2019,
        key_idea="depth, width and image side scaled together from one small network that a search found",
        best_for="the most accuracy for few parameters and operations, when latency on a GPU matters less",
        image=(32, 224),
        mini_image=(8, 32),
        weights="torchvision and timm (tf_… models: layout timm_tf), ImageNet-1k and ImageNet-21k",
        sizes={
            "efficientnet_b0": 5_288_548,
            "efficientnet_b1": 7_794_184,
            "efficientnet_b2": 9_109_994,
            "efficientnet_b3": 12_233_232,
            "efficientnet_b4": 19_341_616,
            "efficientnet_b5": 30_389_784,
            "efficientnet_b6": 43_040_704,
            "efficientnet_b7": 66_347_960,
            "efficientnet_v2_s": 21_458_488,
            "efficientnet_v2_m": 54_139_356,
            "efficientnet_v2_l": 118_515_272,
            "efficientnet_mini": 60_316,
        },
    ),
    Architecture(
        family="regnet",
        module="vision.regnet",
        model="RegNet",
        task="classify",
        paper="Radosavovic, Kosaraju, Girshick, He & Dollár 2020, Designing Network Design Spaces",
        year=2020,
        key_idea="widths on one straight line, the rule that the best of many sampled networks share",
        best_for="a size for every budget, fast on GPUs; Y is the more accurate",
        image=(32, 224),
        mini_image=(8, 32),
        weights="torchvision, timm and transformers (ImageNet-1k); of the last two, those of the authors' widths need "
        'rounding="paper"',
        sizes={
            "regnet_x_400mf": 5_495_976,
            "regnet_x_800mf": 7_259_656,
            "regnet_x_1_6gf": 9_190_136,
            "regnet_x_3_2gf": 15_296_552,
            "regnet_x_8gf": 39_572_648,
            "regnet_x_16gf": 54_278_536,
            "regnet_x_32gf": 107_811_560,
            "regnet_y_400mf": 4_344_144,
            "regnet_y_800mf": 6_432_512,
            "regnet_y_1_6gf": 11_202_430,
            "regnet_y_3_2gf": 19_436_338,
            "regnet_y_8gf": 39_381_472,
            "regnet_y_16gf": 83_590_140,
            "regnet_y_32gf": 145_046_770,
            "regnet_mini": 83_014,
        },
    ),
    Architecture(
        family="vit",
        module="vision.vit",
        model="ViT",
        task="classify",
        paper="Dosovitskiy et al. 2021, An Image is Worth 16x16 Words",
        year=2021,
        key_idea="an image as a sequence of patches for a plain Transformer encoder",
        best_for="large labelled sets or fine-tuning from public weights",
        image=(224, 224),
        mini_image=(16, 32),
        weights="torchvision, timm and transformers (ImageNet-1k, ImageNet-21k)",
        sizes={
            "vit_ti_16": 5_717_416,
            "vit_s_16": 22_050_664,
            "vit_b_16": 86_567_656,
            "vit_b_32": 88_224_232,
            "vit_l_16": 304_326_632,
            "vit_h_14": 632_045_800,
            "vit_mini": 139_978,
        },
    ),
    Architecture(
        family="swin",
        module="vision.swin",
        model="Swin",
        task="classify",
        paper="Liu et al. 2021, Swin Transformer: Hierarchical Vision Transformer using Shifted Windows",
        year=2021,
        key_idea="attention within windows that move by half their size from block to block, in a pyramid of maps",
        best_for="accuracy on images of any size; a Transformer backbone for detection and segmentation",
        image=(32, 224),
        mini_image=(8, 32),
        weights="torchvision, timm and transformers (ImageNet-1k, ImageNet-22k); Microsoft's own files",
        sizes={
            "swin_t": 28_288_354,
            "swin_s": 49_606_258,
            "swin_b": 87_768_224,
            "swin_l": 196_532_476,
            "swin_mini": 135_414,
        },
    ),
    Architecture(
        family="transformer",
        module="text.transformer",
        model="Transformer",
        task="translate",
        paper="Vaswani et al. 2017, Attention Is All You Need",
        year=2017,
        key_idea="attention alone, without recurrence, relates every token to every other in one step",
        best_for="translation between two languages, or any pairs of texts, learnt from your own data",
        weights="transformers (MarianMT, Helsinki-NLP/opus-mt-…): create transformer_base with output_bias=True and "
        'the vocab_size, pad, start, eos and activation of config.json ("silu" is its "swish")',
        sizes={"transformer_base": 63_082_496, "transformer_big": 214_245_376, "transformer_mini": 144_576},
    ),
    Architecture(
        family="bert",
        module="text.bert",
        model="BERT",
        task="encode",
        paper="Devlin et al. 2019, BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding",
        year=2019,
        key_idea="every token read with all others in view, learnt by restoring tokens that were hidden",
        best_for="classifying and tagging texts, vectors for search; fine-tuning on little labelled text",
        weights="transformers (English and multilingual text; Google's checkpoints)",
        sizes={"bert_base": 109_482_240, "bert_large": 335_141_888, "bert_mini": 125_056},
    ),
    Architecture(
        family="roberta",
        module="text.roberta",
        model="RoBERTa",
        task="encode",
        paper="Liu et al. 2019, RoBERTa: A Robustly Optimized BERT Pretraining Approach",
        year=2019,
        key_idea="BERT unchanged, but trained longer, on more text and on masked tokens alone",
        best_for="what BERT is for, more accurately",
        weights="transformers (English text; the paper's authors' checkpoints)",
        sizes={"roberta_base": 124_645_632, "roberta_large": 355_359_744, "roberta_mini": 125_120},
    ),
    Architecture(
        family="distilbert",
        module="text.distilbert",
        model="DistilBERT",
        task="encode",
        paper="Sanh et al. 2019, DistilBERT, a distilled version of BERT: smaller, faster, cheaper and lighter",
        year=2019,
        key_idea="half of BERT's layers, taught to say what the whole BERT says",
        best_for="what BERT is for, where time or memory is short",
        weights="transformers (English text, and the SST-2 sentiment classifier)",
        sizes={"distilbert_base": 66_362_880, "distilbert_mini": 124_928},
    ),
    Architecture(
        family="gpt",
        module="text.gpt",
        model="GPT",
        task="generate",
        paper="Radford et al. 2018, Improving Language Understanding by Generative Pre-Training; Radford et al. 2019, "
        "Language Models are Unsupervised Multitask Learners; Brown et al. 2020, Language Models are Few-Shot Learners",
        year=2018,
        key_idea="a Transformer decoder alone, trained on nothing but to predict the next token",
        best_for="continuing text; learning from examples in the prompt",
        weights="transformers: openai-community/openai-gpt, openai-community/gpt2…; those of GPT-3 are not public",
        sizes={
            "gpt1": 116_534_784,
            "gpt2": 124_439_808,
            "gpt2_medium": 354_823_168,
            "gpt2_large": 774_030_080,
            "gpt2_xl": 1_557_611_200,
            "gpt3_175b": 174_604_259_328,
            "gpt_mini": 124_672,
        },
    ),
    Architecture(
        family="gpt_neo",
        module="text.gpt_neo",
        model="GPTNeo",
        task="generate",
        paper="Black, Gao, Wang, Leahy & Biderman 2021, GPT-Neo: Large Scale Autoregressive Language Modeling with "
        "Mesh-Tensorflow",
        year=2021,
        key_idea="every second layer looks back 256 tokens only",
        best_for="continuing text with public weights trained on the Pile",
        weights="transformers: EleutherAI/gpt-neo-…",
        sizes={
            "gpt_neo_125m": 125_198_592,
            "gpt_neo_1_3b": 1_315_575_808,
            "gpt_neo_2_7b": 2_651_307_520,
            "gpt_neo_mini": 124_288,
        },
    ),
    Architecture(
        family="t5",
        module="text.t5",
        model="T5",
        task="translate",
        paper="Raffel et al. 2020, Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer",
        year=2020,
        key_idea="every task as text to text, for one network that knows positions only as distances",
        best_for="summaries, answers, translation and labels, fine-tuned from public weights",
        weights="transformers: google-t5/t5-…; of v1.1, google/t5-v1_1-… and google/flan-t5-…",
        sizes={
            "t5_small": 60_506_624,
            "t5_base": 222_903_552,
            "t5_large": 737_668_096,
            "t5_3b": 2_851_598_336,
            "t5_11b": 11_307_321_344,
            "t5_v1_1_small": 76_961_152,
            "t5_v1_1_base": 247_577_856,
            "t5_v1_1_large": 783_150_080,
            "t5_v1_1_xl": 2_849_757_184,
            "t5_v1_1_xxl": 11_135_332_352,
            "t5_mini": 132_352,
        },
    ),
    Architecture(
        family="linformer",
        module="text.linformer",
        model="Linformer",
        task="encode",
        paper="Wang et al. 2020, Linformer: Self-Attention with Linear Complexity",
        year=2020,
        key_idea="keys and values of all places projected to a fixed number of slots, so that cost is linear in length",
        best_for="encoding texts of up to a few thousand tokens of similar length, trained on your own data",
        weights="none public; train it",
        sizes={"linformer_base": 125_625_600, "linformer_mini": 132_864},
    ),
    Architecture(
        family="performer",
        module="text.performer",
        model="Performer",
        task="encode",
        paper="Choromanski et al. 2021, Rethinking Attention with Performers",
        year=2021,
        key_idea="softmax attention estimated without bias from random features, in time linear in the length",
        best_for="encoding very long sequences, trained on your own data",
        weights="none public; train it, or swap_attention(bert, core=Performer(256), dropout=0.0) and fine-tune",
        sizes={"performer_base": 111_642_624, "performer_mini": 124_672},
    ),
    Architecture(
        family="mlp",
        module="tabular.mlp",
        model="MLP",
        task="regress",
        paper="Rumelhart, Hinton & Williams 1986, Learning representations by back-propagating errors",
        year=1986,
        key_idea="layers of units that each see all of the layer before, taught by passing the error backwards",
        best_for="tables of numbers and words: a number or a class from the other columns",
        weights="none public; train it on your table",
        sizes={"mlp": 68_353, "mlp_mini": 1_377},
    ),
)


def find(name: str) -> Architecture | None:
    """The row that holds a public name such as ``"resnet50"``, or None."""
    return next((row for row in ARCHITECTURES if name in row.sizes), None)


def names() -> Iterator[str]:
    """Every public name, family by family."""
    return (name for row in ARCHITECTURES for name in row.sizes)


def list_models(pattern: str = "*", task: str | None = None) -> list[str]:
    """Public names that match a shell pattern, optionally of one task; needs no torch.

    ``list_models("*vit*", task="classify")`` → ``["vit_ti_16", …]``.
    """
    return [
        name for row in ARCHITECTURES for name in row.sizes if fnmatchcase(name, pattern) and task in (None, row.task)
    ]
