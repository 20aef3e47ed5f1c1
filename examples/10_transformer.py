"""Texts: a transformer distilled into a smaller one
====================================================

A small BERT is trained on the words of docstrings, to tell which library a paragraph comes from. A smaller
one with a fourth of the weights is to take its place. It has 300 labels, and many paragraphs without any.

Both networks are built from their configuration with the library transformers: nothing is downloaded. X is a
dict, as a tokenizer makes it, and a student is called as ``forward(input_ids=..., attention_mask=...)``.
"""

import inspect
import re
import time
from collections import Counter

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scipy.signal
import scipy.sparse
import scipy.stats
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import accuracy_score, log_loss
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.utils.discovery import all_estimators, all_functions
from transformers import BertConfig, BertForSequenceClassification

from sklearn_kd import DistilledClassifier

LENGTH, N_WORDS, N_LABELS = 24, 1500, 300
PAD, UNKNOWN, START = 0, 1, 2

# %%
# Paragraphs of docstrings
# ------------------------
#
# 600 paragraphs of each of five libraries. The names of the libraries are taken out, since they would give
# the answer away.


def documented(module):
    """Yield the public objects of a module, and the methods of its classes."""
    for name, value in inspect.getmembers(module):
        if not name.startswith("_") and not name.endswith("Storage") and callable(value):
            yield value
            if inspect.isclass(value):
                yield from (method for n, method in inspect.getmembers(value) if not n.startswith("_"))


def paragraphs(objects):
    """Return the different paragraphs of 8 words or more in the docstrings of objects."""
    texts = {inspect.getdoc(value) or "" for value in objects}
    # A deprecation may list arguments in the order of a set, which is another one in each process.
    left_out = re.compile(">>>|deprecated")
    found = {
        " ".join(part.split()) for text in texts for part in text.split("\n\n") if not left_out.search(part)
    }
    words = (re.findall(r"[a-z]+", part.lower()) for part in sorted(found))
    return [" ".join(w for w in part if w not in LIBRARIES) for part in words if len(part) >= 8]


LIBRARIES = {
    "numpy": [np, np.linalg, np.random, np.ma, np.fft],
    "pandas": [pd, pd.api.types],
    "scipy": [scipy.stats, scipy.signal, scipy.sparse],
    "sklearn": [],
    "torch": [torch, torch.nn, torch.optim, torch.nn.functional],
}
texts, labels = [], []
for code, (library, modules) in enumerate(LIBRARIES.items()):
    objects = [value for module in modules for value in documented(module)]
    if library == "sklearn":
        objects = [value for _, value in all_functions()]
        objects += [value for _, kind in all_estimators() for value in (kind, kind.fit, kind.get_params)]
    found = paragraphs(objects)
    kept = np.random.default_rng(0).permutation(len(found))[:600]
    texts += [found[k] for k in kept]
    labels += [code] * len(kept)
order = np.random.default_rng(0).permutation(len(texts))
texts, y = [texts[k] for k in order], np.array(labels)[order]
n_test = len(texts) // 4
train, test = slice(n_test, None), slice(0, n_test)
few, unseen = slice(n_test, n_test + N_LABELS), slice(n_test + N_LABELS, None)
print(f"{len(texts)} paragraphs of {', '.join(LIBRARIES)}; {n_test} for the test")
print(f"The first: {texts[0][:80]} ...")

# %%
# Tokens
# ------
#
# ``tokens`` numbers the words, and fills short paragraphs up. A tokenizer of transformers gives such a dict
# too: ``tokenizer(texts, padding="max_length", ...)``.

counts = Counter(word for text in texts[train] for word in text.split())
number = {word: k + 3 for k, (word, _) in enumerate(counts.most_common(N_WORDS))}


def tokens(texts):
    """Return the dict of a tokenizer: the numbers of the words, and which of them are padding."""
    rows = [[START, *(number.get(word, UNKNOWN) for word in text.split())][:LENGTH] for text in texts]
    ids = np.array([row + [PAD] * (LENGTH - len(row)) for row in rows])
    return {"input_ids": ids, "attention_mask": ids != PAD}


X, X_few, X_test = (tokens(texts[rows]) for rows in (train, few, test))

# %%
# Teacher and students
# --------------------
#
# The teacher is trained on all labels. The student is trained three times: on 300 labels; on the same labels
# with the teacher's answers for these rows; and with the teacher's answers for all other paragraphs too,
# whose labels it does not see. ``meta="naive"`` gives labels and teacher the same weight, at temperature 1.
#
# Beside them is what is usually tried first: a perceptron on tf-idf of the same words, with 300 labels and
# with all.


def bert(n_classes, width, depth):
    """An untrained BERT of this width and depth."""
    config = BertConfig(
        vocab_size=N_WORDS + 3,
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=2,
        intermediate_size=2 * width,
        max_position_embeddings=LENGTH,
        num_labels=n_classes,
    )
    return BertForSequenceClassification(config)


common = {"random_state": 0, "batch_size": 64, "device": "cpu"}
small = common | {"student__width": 16, "student__depth": 1, "lr": 0.01}
rows = []


def evaluate(name, model, X, X_test, y, n_parameters, **given):
    """Fit a model, and note how well it does and how long it took."""
    start = time.process_time()
    model.fit(X, y, **given)
    seconds, probabilities = time.process_time() - start, model.predict_proba(X_test)
    n_weights = n_parameters(model)
    rows.append({
        "": name, "accuracy": accuracy_score(truth, model.classes_[probabilities.argmax(axis=1)]),
        "log loss": log_loss(truth, probabilities), "weights": n_weights, "fit seconds": seconds,
    })  # fmt: skip
    return model


def of_network(model):
    return sum(w.numel() for w in model.student_.parameters())


def of_perceptron(model):
    return sum(w.size for w in (*model[-1].coefs_, *model[-1].intercepts_))


truth = y[test]
teacher = DistilledClassifier(
    None, bert, student__width=48, student__depth=2, meta="none", max_epochs=6, lr=0.001, **common
)
evaluate("BERT, all labels", teacher, X, X_test, y[train], of_network)
alone = DistilledClassifier(None, bert, meta="none", max_epochs=50, **small)
evaluate("small BERT, 300 labels", alone, X_few, X_test, y[few], of_network)
taught = DistilledClassifier(teacher.student_, bert, meta="naive", max_epochs=50, **small)
evaluate("and the teacher on these", taught, X_few, X_test, y[few], of_network)
X_unlabeled = tokens(texts[unseen])
all_rows = DistilledClassifier(teacher.student_, bert, meta="naive", max_epochs=8, **small)
evaluate("and the teacher on all", all_rows, X_few, X_test, y[few], of_network, X_unlabeled=X_unlabeled)
words = TfidfVectorizer(max_features=N_WORDS)
for seen, some in (("300 labels", few), ("all labels", train)):
    model = make_pipeline(words, MLPClassifier(16, max_iter=400, random_state=0))
    evaluate(f"TF-IDF + MLPClassifier, {seen}", model, texts[some], texts[test], y[some], of_perceptron)

table = pd.DataFrame(rows).set_index("")
print(table.to_string(float_format=lambda x: f"{x:.3f}" if x < 10 else f"{x:.1f}"))

# %%
# The figure has the accuracy of each model. Hatched bars have no teacher.

STYLES = {
    "BERT": ("#6b7280", ""),
    "small": ("#0072b2", "//"),
    "and": ("#d55e00", ""),
    "TF-IDF": ("#56b4e9", "//"),
}
LABELS = (
    "BERT, the teacher",
    "small, 300 labels",
    "+ teacher on these",
    "+ teacher on all",
    "MLP, 300 labels",
    "MLP, all labels",
)
figure, axes = plt.subplots(layout="constrained")
for name, label, accuracy in zip(table.index, LABELS, table["accuracy"], strict=True):
    color, hatch = STYLES[name.split(",")[0].split(" ")[0]]
    bar = axes.barh(label, accuracy, color=color, hatch=hatch, edgecolor="white")
    axes.bar_label(bar, fmt="{:.2f}", padding=3)
axes.set(xlim=(0, 0.95), xlabel="accuracy on new paragraphs, 0.2 is chance")
axes.set_title("A small BERT needs the teacher on all texts")
axes.invert_yaxis()
plt.show()

# %%
# What it shows
# -------------
#
# On the 300 rows alone the teacher helps little. Asked about all rows, it makes up for most of the labels
# that are missing. No BERT is ahead of a perceptron on tf-idf that has as many labels as the BERT's teacher:
# these networks are small, and not pretrained.
