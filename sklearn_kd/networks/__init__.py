"""Networks for 32×32 images that papers on distillation use, and a loader of their published weights."""

from sklearn_kd.networks._mobilenet import MobileNetV2
from sklearn_kd.networks._published import NETWORKS, load_published
from sklearn_kd.networks._resnet import ResNet
from sklearn_kd.networks._shufflenet import ShuffleNetV1, ShuffleNetV2
from sklearn_kd.networks._vgg import VGG
from sklearn_kd.networks._wide_resnet import WideResNet

__all__ = [
    "NETWORKS",
    "VGG",
    "MobileNetV2",
    "ResNet",
    "ShuffleNetV1",
    "ShuffleNetV2",
    "WideResNet",
    "load_published",
]
