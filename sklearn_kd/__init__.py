"""Knowledge distillation whose own knobs are learned, for scikit-learn."""

from sklearn_kd import meta
from sklearn_kd._bilevel import hypergradient
from sklearn_kd._classifier import DistilledClassifier
from sklearn_kd._compare import compare_methods
from sklearn_kd._comparison import MethodComparison
from sklearn_kd._display import MetaparameterPathDisplay
from sklearn_kd._distillation_process import DistillationProcess
from sklearn_kd._distpro import DistProClassifier
from sklearn_kd._layer_table import layer_table
from sklearn_kd._pathways import Pathway, build_transforms
from sklearn_kd._process_display import ProcessDisplay
from sklearn_kd._resnets import CIFARResNet
from sklearn_kd._students import CNNStudent, MLPStudent

__version__ = "0.1.0.dev0"

__all__ = [
    "CIFARResNet",
    "CNNStudent",
    "DistProClassifier",
    "DistillationProcess",
    "DistilledClassifier",
    "MLPStudent",
    "MetaparameterPathDisplay",
    "MethodComparison",
    "Pathway",
    "ProcessDisplay",
    "build_transforms",
    "compare_methods",
    "hypergradient",
    "layer_table",
    "meta",
]
