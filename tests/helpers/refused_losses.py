"""What a classifier refuses of a list of losses, by its row in docs/guide/failures.rst: loss, and parameters."""

import numpy as np
from sklearn.ensemble import RandomForestClassifier

from sklearn_kd import MetaparameterProcess, Pathways
from sklearn_kd.losses import FeatureTerm, Hint, Metaparameter


class Nameless(FeatureTerm):
    """A term that has forgotten its name."""

    def loss(self, student, teacher, module):
        return (student[0].mean() - teacher[0].mean()) ** 2


class Detached(Nameless):
    """A term that teaches nothing."""

    name = "detached"

    def loss(self, student, teacher, module):
        return super().loss(student, teacher, module).detach()


OF_OTHER_PATHWAYS = MetaparameterProcess(
    {"pathways_importance": np.ones((2, 4))},
    {"pathways_importance": Metaparameter(1.0, shape=(4,), components=("a", "b", "c", "d"))},
)

REFUSED_LOSSES = {
    "an empty list of losses": ([], {}),
    "two losses of the outputs": (["kd", "dkd"], {}),
    "two terms of one name": ([Hint(), Hint()], {}),
    "a term whose weight or loss has a name that is taken": ([("train", Hint())], {}),
    "an unknown name in a list of losses": (["hnt"], {}),
    "a class in a list of losses": ([Hint], {}),
    "a term without a list": (Hint(), {}),
    "a term of features without a name": ([Nameless()], {}),
    "a weight of 0": ([Hint(weight=0)], {}),
    "terms without a teacher": (["kd", "hint"], {"teacher": None}),
    "a teacher without layers, beside terms": (["hint"], {"teacher": RandomForestClassifier()}),
    "layers that cannot be paired": ([Hint(teacher_layers=["stage1", "stage2"])], {}),
    "a term that torch cannot differentiate": ([Detached()], {}),
    "a compiled student beside terms": (["hint"], {"execution": "compiled"}),
    "rows of hypergradients beside terms": (["hint"], {"meta": "linear", "meta__hypergradient_rows": 8}),
    "a strategy that looks far ahead, beside terms": (["kd", "hint"], {"meta": "forward"}),
    "``student_preprocessing`` beside terms": (["hint"], {"student_preprocessing": "auto"}),
    "a process of other pathways": ([Pathways(transforms=["conv1"])], {"process": OF_OTHER_PATHWAYS}),
    "a parameter that an entry of a list lacks": (["kd", "hint"], {"loss__kd__temperature": 3}),
}
