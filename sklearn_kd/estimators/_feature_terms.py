"""Terms of features of a fit: their layers, their metaparameters, and the teacher that they ask."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from sklearn_kd.distpro._bound_pathways import BoundPathways
from sklearn_kd.distpro._term import Pathways, bound_pathways
from sklearn_kd.errors._context import error_context
from sklearn_kd.estimators._preflight import initial_student
from sklearn_kd.inputs._parts import Parts
from sklearn_kd.inputs._raw import RawRows
from sklearn_kd.layers._find import find_layers, layer_shapes, table_hint
from sklearn_kd.layers._hooks import feature_hooks
from sklearn_kd.layers._training_mode import check_training_mode
from sklearn_kd.losses._bound_terms import BoundTerm, PairedTerm
from sklearn_kd.losses._feature_term import FeatureTerm, Shape
from sklearn_kd.losses._term_weights import NamedWeights
from sklearn_kd.meta._space import Metaparameter
from sklearn_kd.runtime._eval_mode import eval_mode
from sklearn_kd.runtime._random_state import preserved_random_state
from sklearn_kd.teachers._features import FeatureTeacher
