"""Every private name of scikit-learn that the package uses, in one place."""

from sklearn.base import _clone_parametrized as clone_by_parameters
from sklearn.utils import _safe_indexing as safe_indexing
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import _check_sample_weight as check_sample_weight

try:
    from sklearn.utils._repr_html.estimator import _VisualBlock as VisualBlock
except ImportError:  # scikit-learn 1.6
    from sklearn.utils._estimator_html_repr import _VisualBlock as VisualBlock

__all__ = [
    "Interval",
    "StrOptions",
    "VisualBlock",
    "check_sample_weight",
    "clone_by_parameters",
    "safe_indexing",
]
