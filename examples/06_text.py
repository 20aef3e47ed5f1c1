"""Text: a linear model of many words teaches a small network of few words
=======================================================================

A linear model on tf-idf of words and pairs of words is hard to beat if it has many labelled texts. It is also
large: one weight for each pair of words and each class. Here it teaches a network that knows 1,000 words and
has few labels, but many texts without any.

The texts are docstrings of six packages that are installed with this library; the class is the package. The
packages' own names are left out. The teacher sees the texts, the student tf-idf of 1,000 words. So the
teacher's answers are given to ``fit`` as logits: ``teacher_logits`` for the texts with labels and
``teacher_logits_unlabeled`` for those without.
"""

import ast
import importlib.util
import pickle
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from sklearn_kd import DistilledClassifier, MLPStudent

PACKAGES = ("networkx", "numpy", "scipy", "sklearn", "sympy", "torch")


def definitions(node):
    """Yield the functions and classes in the body of a module, class or function."""
    for child in node.body:
        if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
            yield child
            yield from definitions(child)


def docstrings(package):
    """Return the docstrings of 200 characters or more of a package's functions and classes."""
    found = set()
    for path in sorted(Path(importlib.util.find_spec(package).origin).parent.rglob("*.py"))[:320]:
        text = path.read_text(encoding="utf-8")
        if "tests" in path.parts or len(text) > 200_000:
            continue
        found.update(ast.get_docstring(node) or "" for node in definitions(ast.parse(text)))
    return sorted(text for text in found if len(text) >= 200)


rng = np.random.default_rng(0)
texts, labels = [], []
for package in PACKAGES:
    found = rng.permutation(docstrings(package))[:600]
    texts.extend(found)
    labels.extend([package] * len(found))
order = rng.permutation(len(texts))
texts, labels = np.array(texts, dtype=object)[order], np.array(labels)[order]
many, few, unlabeled, test = np.split(np.arange(len(texts)), [1200, 1260, 2400])
print(
    f"{len(many)} texts with labels for the teacher; {len(few)} with and {len(unlabeled)} without labels for"
)
print(f"the student; {len(test)} for the test")

# %%
# The teacher, fitted on its own texts, and what the student sees of a text. The 1,000 words are those
# of the student's texts.
word = rf"\b(?!{'|'.join(PACKAGES)})[a-z]{{2,}}\b"
teacher = make_pipeline(
    TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=word),
    LogisticRegression(C=30, max_iter=1000),
)
teacher.fit(texts[many], labels[many])
words = TfidfVectorizer(max_features=1000, sublinear_tf=True, token_pattern=word, dtype=np.float32)
words.fit(texts[np.append(few, unlabeled)])
X, X_unlabeled, X_test = (words.transform(texts[rows]).toarray() for rows in (few, unlabeled, test))

# %%
# The student with the teacher, and without; a linear model of the same words on the same labels, and on the
# teacher's labels for the other texts as well.
student = DistilledClassifier(None, MLPStudent, student__hidden=32, meta="naive", random_state=0)
student.fit(
    X, labels[few],
    teacher_logits=teacher.predict_log_proba(texts[few]),
    X_unlabeled=X_unlabeled,
    teacher_logits_unlabeled=teacher.predict_log_proba(texts[unlabeled]),
)  # fmt: skip
alone = DistilledClassifier(None, MLPStudent, student__hidden=32, meta="none", random_state=0)
alone.fit(X, labels[few])
linear = LogisticRegression(C=30, max_iter=1000).fit(X, labels[few])
X_both = np.vstack([X, X_unlabeled])
linear_taught = LogisticRegression(C=30, max_iter=1000)
linear_taught.fit(X_both, np.append(labels[few], teacher.predict(texts[unlabeled])))


def size(model):
    """Return the bytes of a pickle of what predicts."""
    return len(pickle.dumps(model))


print(f"{'':42}accuracy     kB")
rows = [("teacher", teacher.score(texts[test], labels[test]), size(teacher))]
rows += [
    (name, model.score(X_test, labels[test]), size(words) + size(getattr(model, "student_", model)))
    for name, model in {
        "student: labels, teacher, unlabeled texts": student,
        "the same student, labels alone": alone,
        "linear model, labels alone": linear,
        "linear model, the teacher's labels too": linear_taught,
    }.items()
]
for name, accuracy, n_bytes in rows:
    print(f"{name:42}{accuracy:.3f} {n_bytes / 1000:10,.0f}")

# %%
# The teacher is the most accurate and the largest. What it knows fits into models of a thirtieth of its
# size, of either kind: what counts is that they were given its answers for the texts without labels.
figure, axes = plt.subplots(figsize=(8, 3), layout="constrained")
for name, accuracy, n_bytes in rows:
    axes.plot(n_bytes / 1000, accuracy, "o", label=name)
axes.set(xscale="log", xlabel="kB", ylabel="accuracy on new texts")
axes.spines[["top", "right"]].set_visible(False)
figure.legend(loc="outside right upper", frameon=False)
plt.show()
