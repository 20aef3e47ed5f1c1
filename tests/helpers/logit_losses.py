"""The losses of logits in plain NumPy and SciPy, float64, written from the papers: no torch, no shared code."""

import numpy as np
from scipy.special import logsumexp, rel_entr, softmax


def cross_entropy(z, y):
    """−log softmax(z)_y of each row."""
    return logsumexp(z, axis=1) - z[np.arange(len(z)), y]


def without(z, y):
    """The logits of each row but that of its label, shape (B, K − 1)."""
    return np.stack([np.delete(row, label) for row, label in zip(z, y, strict=True)])


def kl(t, q):
    """KL of each row."""
    return rel_entr(t, q).sum(axis=1)


def dkd(z, f, y, *, lambda1, temperature, alpha, beta):
    """CE and T² (alpha TCKD + beta NCKD): Zhao et al. 2022, Eq. 7."""
    rows, T = np.arange(len(z)), temperature
    p, t = softmax(z / T, axis=1), softmax(f / T, axis=1)
    binary = [np.stack([a[rows, y], 1 - a[rows, y]], axis=1) for a in (t, p)]
    tckd = kl(*binary)
    others = [without(a, y) for a in (f, z)]
    nckd = np.zeros(len(z))
    known = np.isfinite(others[0]).any(axis=1)
    nckd[known] = kl(softmax(others[0][known] / T, axis=1), softmax(others[1][known] / T, axis=1))
    return lambda1 * cross_entropy(z, y) + (1 - lambda1) * T**2 * (alpha * tckd + beta * nckd)


def nkd(z, f, y, *, lambda1, temperature, gamma):
    """CE, t CE and gamma T² CE of the normalised others: Yang et al. 2023."""
    T, ce = temperature, cross_entropy(z, y)
    t = softmax(f, axis=1)[np.arange(len(z)), y]
    others = [without(a, y) for a in (f, z)]
    known = np.isfinite(others[0]).any(axis=1)
    of_others = np.zeros(len(z))
    log_q = others[1][known] / T - logsumexp(others[1][known] / T, axis=1, keepdims=True)
    of_others[known] = -(softmax(others[0][known] / T, axis=1) * log_q).sum(axis=1)
    return lambda1 * ce + (1 - lambda1) * (t * ce + gamma * T**2 * of_others)


def dist(z, f, y, *, lambda1, temperature, beta, gamma, weight=None):
    """CE and T² (beta inter + gamma intra), by numpy.corrcoef and cov: Huang et al. 2022."""
    T = temperature
    q, t = softmax(z / T, axis=1), softmax(f / T, axis=1)
    inter = np.array([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(q, t, strict=True)])
    ones = np.ones(len(z)) if weight is None else weight
    intra = []
    for a, b in zip(q.T, t.T, strict=True):
        c = np.cov(a, b, aweights=ones)
        intra.append(1 - (c[0, 1] / np.sqrt(c[0, 0] * c[1, 1]) if c[1, 1] > 0 else 0.0))
    soft = T**2 * (beta * inter + gamma * np.mean(intra))
    return lambda1 * cross_entropy(z, y) + (1 - lambda1) * soft


def standardized_kd(z, f, y, *, lambda1, temperature):
    """CE and T² KL of z-scores with 1/K: Sun et al. 2024. Impossible classes are left out of the scores."""
    T, soft = temperature, []
    for own, of_teacher in zip(z, f, strict=True):
        known = np.isfinite(of_teacher)
        counted = known if known.sum() > 1 else np.ones_like(known)
        t, q = np.full_like(f[0], -np.inf), (own - own[counted].mean()) / own[counted].std()
        t[known] = of_teacher[known] - of_teacher[known].mean()
        if known.sum() > 1:
            t[known] /= of_teacher[known].std()
        soft.append(rel_entr(softmax(t / T), softmax(q / T)).sum())
    return lambda1 * cross_entropy(z, y) + (1 - lambda1) * T**2 * np.array(soft)


def mkd(z, f, y, *, lambda1, student_temperature, teacher_temperature):
    """CE and S T CE(teacher at T, student at S): Liu et al. 2022."""
    S, T = student_temperature, teacher_temperature
    log_q = z / S - logsumexp(z / S, axis=1, keepdims=True)
    soft = -(softmax(f / T, axis=1) * log_q).sum(axis=1)
    return lambda1 * cross_entropy(z, y) + (1 - lambda1) * S * T * soft


def smoothed_kd(z, f, y, *, lambda1, temperature, smoothing):
    """CE of smoothed labels (Szegedy et al. 2016) and T² CE of the teacher."""
    T, n_classes = temperature, z.shape[1]
    labels = (1 - smoothing) * np.eye(n_classes)[y] + smoothing / n_classes
    hard = -(labels * (z - logsumexp(z, axis=1, keepdims=True))).sum(axis=1)
    log_q = z / T - logsumexp(z / T, axis=1, keepdims=True)
    soft = -(softmax(f / T, axis=1) * log_q).sum(axis=1)
    return lambda1 * hard + (1 - lambda1) * T**2 * soft


REFERENCES = {
    "dkd": dkd,
    "nkd": nkd,
    "dist": dist,
    "standardized_kd": standardized_kd,
    "mkd": mkd,
    "smoothed_kd": smoothed_kd,
}

# Where the losses are compared: away from bounds and starts.
VALUES = {
    "lambda1": 0.3, "temperature": 2.5, "alpha": 0.7, "beta": 3.0, "gamma": 1.7,
    "student_temperature": 1.5, "teacher_temperature": 3.0, "smoothing": 0.2,
}  # fmt: skip


def values_of(loss, n_classes):
    """The values of a loss's metaparameters at which it is compared."""
    return {name: VALUES[name] for name in loss.metaparameters(n_classes)}
