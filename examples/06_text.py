"""Text: a linear model of many words teaches a small network of few words
=======================================================================

A linear model on tf-idf of words and pairs of words is hard to beat if it has many labeled texts. It is also
large: one weight for each pair of words and each class. Here it teaches a network that knows 1,000 words and
has few labels, but many texts without any.

The teacher reads texts, the student tf-idf of 1,000 words. They share no input. So the teacher's answers are
given to ``fit`` as logits: ``teacher_logits`` for the texts with labels and ``teacher_logits_unlabeled`` for
those without.
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

# %%
# The texts
# ---------
#
# They are docstrings of six packages that are installed with this library, read without importing them. The
# class is the package. The packages' own names are left out of the words below, since they would give the
# answer away.

PACKAGES = ("networkx", "numpy", "scipy", "sklearn", "sympy", "torch")


def definitions(node):
    """Yield the functions and classes in the body of a module, class or function."""
    for child in node.body:
        if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
            yield child
            yield from definitions(child)


def docstrings(package):
    """Return about 600 docstrings of 200 characters or more of a package's functions and classes."""
    found = set()
    for path in sorted(Path(importlib.util.find_spec(package).origin).parent.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if "tests" in path.parts or len(text) > 200_000:
            continue
        of_file = (ast.get_docstring(node) or "" for node in definitions(ast.parse(text)))
        found.update(docstring for docstring in of_file if len(docstring) >= 200)
        if len(found) >= 600:
            break
    return sorted(found)


rng = np.random.default_rng(0)
texts, labels = [], []
for package in PACKAGES:
    found = rng.permutation(docstrings(package))[:600]
    texts.extend(found)
    labels.extend([package] * len(found))
order = rng.permutation(len(texts))
texts, labels = np.array(texts, dtype=object)[order], np.array(labels)[order]
many, few, unlabeled, test = np.split(np.arange(len(texts)), [1200, 1260, 2400])
print(f"the teacher's texts, all with labels: {len(many):5d}")
print(f"the student's, with labels:           {len(few):5d}")
print(f"the student's, without labels:        {len(unlabeled):5d}")
print(f"for the test:                         {len(test):5d}")

# %%
# The teacher
# -----------
#
# It weighs words and pairs of words, and is fitted on its own texts. The student sees the 1,000 most frequent
# words of its own texts.
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
# The students
# ------------
#
# The student is fitted with the teacher's answers for all of its texts, and once more with its 60 labels
# alone. A linear model of the same 1,000 words gets the same: the 60 labels alone, and the teacher's labels
# for the other texts as well.
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

# %%
# Accuracy and size
# -----------------
#
# The size is that of a pickle of the model and of the 1,000 words that it needs.


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
# The figure shows accuracy against size: up and to the left is better.

STYLES = (
    ("teacher: words and pairs", "s", "#6b7280", (9, 12), "right"),
    ("student", "o", "#d55e00", (12, -5), "left"),
    ("the same, no teacher", "D", "#0072b2", (12, -5), "left"),
    ("linear model", "^", "#56b4e9", (12, -5), "left"),
    ("linear model, taught", "v", "#56b4e9", (-9, 12), "left"),
)
figure, axes = plt.subplots(layout="constrained")
for (_, accuracy, n_bytes), (label, marker, color, shift, side) in zip(rows, STYLES, strict=True):
    axes.plot(n_bytes / 1000, accuracy, marker, color=color, markersize=10)
    axes.annotate(label, (n_bytes / 1000, accuracy), shift, textcoords="offset points", ha=side)
axes.set(xscale="log", xlim=(20, 10_000), ylim=(0.55, 0.99), xlabel="size, kB")
axes.set(ylabel="accuracy on new texts", title="Texts: the teacher's answers fit into little space")
plt.show()

# %%
# What it shows
# -------------
#
# The teacher is the most accurate and the largest. The student is about .04 less accurate and has a thirtieth
# of its size. So little space is enough for a linear model as well: what counts is that the small models were
# given the teacher's answers for the texts without labels. On 60 labels alone both are far worse.
