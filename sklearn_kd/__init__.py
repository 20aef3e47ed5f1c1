"""Knowledge distillation with learned metaparameters, for scikit-learn."""

from sklearn_kd import losses, meta, teachers
from sklearn_kd._version import __version__
from sklearn_kd.comparison._compare import compare_methods
from sklearn_kd.comparison._result import MethodComparison
from sklearn_kd.distpro._layer_table import layer_table
from sklearn_kd.distpro._pathways import Pathway, build_transforms
from sklearn_kd.distpro._process import DistillationProcess
from sklearn_kd.estimators._classifier import DistilledClassifier
from sklearn_kd.estimators._distpro import DistProClassifier
from sklearn_kd.plotting._path_display import MetaparameterPathDisplay
from sklearn_kd.plotting._process_display import ProcessDisplay
from sklearn_kd.runtime._execution import Execution
from sklearn_kd.students._architectures import CNNStudent, MLPStudent
from sklearn_kd.students._resnet import CIFARResNet
from sklearn_kd.students._standardize import StandardizedStudent
from sklearn_kd.training._single_step import hypergradient

__all__ = [
    "CIFARResNet",
    "CNNStudent",
    "DistProClassifier",
    "DistillationProcess",
    "DistilledClassifier",
    "Execution",
    "MLPStudent",
    "MetaparameterPathDisplay",
    "MethodComparison",
    "Pathway",
    "ProcessDisplay",
    "StandardizedStudent",
    "__version__",
    "build_transforms",
    "compare_methods",
    "hypergradient",
    "layer_table",
    "losses",
    "meta",
    "teachers",
]
