"""Knowledge distillation with learned metaparameters, for scikit-learn."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sklearn_kd import losses, meta, teachers
from sklearn_kd._version import __version__
from sklearn_kd.estimators._classifier import DistilledClassifier
from sklearn_kd.inputs._streams import Stream
from sklearn_kd.meta._process import MetaparameterProcess
from sklearn_kd.preprocessing._table import TablePreprocessing
from sklearn_kd.runtime._execution import Execution
from sklearn_kd.students._architectures import CNNStudent, MLPStudent
from sklearn_kd.students._fcn import FCNStudent
from sklearn_kd.students._resized import ResizedStudent
from sklearn_kd.students._resnet import CIFARResNet
from sklearn_kd.students._standardize import StandardizedStudent
from sklearn_kd.students._tabular import TabularStudent

if TYPE_CHECKING:
    from sklearn_kd.comparison._compare import compare_methods
    from sklearn_kd.comparison._result import MethodComparison
    from sklearn_kd.distpro._layer_table import layer_table
    from sklearn_kd.distpro._pathways import Pathway, build_transforms
    from sklearn_kd.distpro._process import DistillationProcess
    from sklearn_kd.distpro._term import Pathways
    from sklearn_kd.estimators._distpro import DistProClassifier
    from sklearn_kd.estimators._distpro_regressor import DistProRegressor
    from sklearn_kd.estimators._regressor import DistilledRegressor
    from sklearn_kd.export._export_model import export_student
    from sklearn_kd.export._onnx_converter import register_onnx_converter
    from sklearn_kd.plotting._comparison_display import ComparisonDisplay
    from sklearn_kd.plotting._path_display import MetaparameterPathDisplay
    from sklearn_kd.plotting._process_display import ProcessDisplay
    from sklearn_kd.plotting._report_display import ReportDisplay
    from sklearn_kd.report._report import distillation_report
    from sklearn_kd.report._result import DistillationReport
    from sklearn_kd.training._single_step import hypergradient

__all__ = [
    "CIFARResNet",
    "CNNStudent",
    "ComparisonDisplay",
    "DistProClassifier",
    "DistProRegressor",
    "DistillationProcess",
    "DistillationReport",
    "DistilledClassifier",
    "DistilledRegressor",
    "Execution",
    "FCNStudent",
    "MLPStudent",
    "MetaparameterPathDisplay",
    "MetaparameterProcess",
    "MethodComparison",
    "Munge",
    "Pathway",
    "Pathways",
    "ProcessDisplay",
    "ReportDisplay",
    "ResizedStudent",
    "StandardizedStudent",
    "Stream",
    "TablePreprocessing",
    "TabularStudent",
    "__version__",
    "build_transforms",
    "compare_methods",
    "distillation_report",
    "export_student",
    "hypergradient",
    "layer_table",
    "losses",
    "meta",
    "register_onnx_converter",
    "teachers",
]

# Imported on first access, because many programs never use them.
_MODULES = {
    "ComparisonDisplay": "plotting._comparison_display",
    "DistProClassifier": "estimators._distpro",
    "DistProRegressor": "estimators._distpro_regressor",
    "DistillationProcess": "distpro._process",
    "DistilledRegressor": "estimators._regressor",
    "DistillationReport": "report._result",
    "MetaparameterPathDisplay": "plotting._path_display",
    "MethodComparison": "comparison._result",
    "Munge": "inputs._munge",
    "Pathway": "distpro._pathways",
    "Pathways": "distpro._term",
    "ProcessDisplay": "plotting._process_display",
    "ReportDisplay": "plotting._report_display",
    "build_transforms": "distpro._pathways",
    "compare_methods": "comparison._compare",
    "distillation_report": "report._report",
    "export_student": "export._export_model",
    "hypergradient": "training._single_step",
    "layer_table": "distpro._layer_table",
    "register_onnx_converter": "export._onnx_converter",
}


def __getattr__(name: str) -> Any:
    """Import a public name."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    return value


def __dir__() -> list[str]:
    """List all names, including the public ones not yet imported."""
    return sorted({*globals(), *_MODULES})
