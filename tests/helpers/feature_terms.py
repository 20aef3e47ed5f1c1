"""The feature terms in plain NumPy, float64, from their papers: loops, nothing of torch."""

from math import factorial

import numpy as np


def conv2d(x, weight, bias=None):
    """Convolution with a stride of 1 that keeps height and width."""
    k = weight.shape[2]
    h, w = x.shape[2:]
    padded = np.pad(x, ((0, 0), (0, 0), (k // 2, k // 2), (k // 2, k // 2)))
    out = np.zeros((len(x), len(weight), h, w))
    for dy in range(k):
        for dx in range(k):
            out += np.einsum("bchw,oc->bohw", padded[:, :, dy : dy + h, dx : dx + w], weight[:, :, dy, dx])
    return out if bias is None else out + bias[:, None, None]


def batch_norm(x, weight, bias):
    mean, var = x.mean(axis=(0, 2, 3), keepdims=True), x.var(axis=(0, 2, 3), keepdims=True)
    return (x - mean) / np.sqrt(var + 1e-5) * weight[:, None, None] + bias[:, None, None]


def nearest(x, size):
    (h, w), (H, W) = x.shape[2:], size
    return x[:, :, np.arange(H) * h // H][:, :, :, np.arange(W) * w // W]


def averaged(x, size):
    """Adaptive average pooling over the last two axes."""
    out = np.empty((*x.shape[:-2], *size))
    (h, w), (H, W) = x.shape[-2:], size
    for i in range(H):
        for j in range(W):
            rows = slice(i * h // H, -(-(i + 1) * h // H))
            columns = slice(j * w // W, -(-(j + 1) * w // W))
            out[..., i, j] = x[..., rows, columns].mean(axis=(-2, -1))
    return out


def unit(x, axis):
    norm = np.sqrt((x**2).sum(axis=axis, keepdims=True))
    return np.divide(x, norm, out=np.zeros_like(x), where=norm > 0)


def hint(students, teachers, p, **_):
    total = 0.0
    for i, (s, t) in enumerate(zip(students, teachers, strict=True)):
        total += ((nearest(conv2d(s, p[f"{i}.weight"], p[f"{i}.bias"]), t.shape[2:]) - t) ** 2).mean()
    return total


def attention(students, teachers, p, **_):
    total = 0.0
    for s, t in zip(students, teachers, strict=True):
        size = np.minimum(s.shape[2:], t.shape[2:])
        q = [unit(averaged((own**2).sum(axis=1), size).reshape(len(own), -1), 1) for own in (s, t)]
        total += ((q[0] - q[1]) ** 2).mean()
    return total


def hcl(s, t):
    loss, total, weight = ((s - t) ** 2).mean(), 1.0, 1.0
    for size in (4, 2, 1):
        if size < min(s.shape[2:]):
            weight /= 2
            loss += weight * ((averaged(s, (size, size)) - averaged(t, (size, size))) ** 2).mean()
            total += weight
    return loss / total


def reviewkd(students, teachers, p, **_):
    def normalised(x, name):
        x = conv2d(x, p[f"{name}.0.weight"])
        return batch_norm(x, p[f"{name}.1.weight"], p[f"{name}.1.bias"])

    deeper, total = None, 0.0
    for i in range(len(students) - 1, -1, -1):
        s, t = students[i], teachers[i]
        fused = normalised(s, f"{i}.narrow")
        if deeper is not None:
            deeper = nearest(deeper, s.shape[2:])
            joined = np.concatenate([fused, deeper], axis=1)
            z = 1 / (1 + np.exp(-conv2d(joined, p[f"{i}.attention.weight"], p[f"{i}.attention.bias"])))
            fused = fused * z[:, :1] + deeper * z[:, 1:]
        total += hcl(normalised(nearest(fused, t.shape[2:]), f"{i}.match"), t)
        deeper = fused
    return total


def mgd(students, teachers, p, *, uniform, ratio=0.15):
    total = 0.0
    for i, (s, t) in enumerate(zip(students, teachers, strict=True)):
        if f"{i}.0.weight" in p:
            s = conv2d(s, p[f"{i}.0.weight"], p[f"{i}.0.bias"])
        x = nearest(s, t.shape[2:]) * (uniform[i] >= ratio)
        x = np.maximum(conv2d(x, p[f"{i}.1.0.weight"], p[f"{i}.1.0.bias"]), 0)
        total += ((conv2d(x, p[f"{i}.1.2.weight"], p[f"{i}.1.2.bias"]) - t) ** 2).mean()
    return total


def similarity(students, teachers, p, **_):
    total = 0.0
    for pair in zip(students, teachers, strict=True):
        rows = [own.reshape(len(own), -1) for own in pair]
        g = [unit(own @ own.T, 1) for own in rows]
        total += ((g[0] - g[1]) ** 2).sum() / len(rows[0]) ** 2
    return total


def huber(a, b):
    d = np.abs(a - b)
    return np.where(d < 1, d**2 / 2, d - 0.5).mean()


def rkd(students, teachers, p, **_):
    """Distances and angles, by the differences of all pairs of rows."""
    total = np.zeros(2)
    for pair in zip(students, teachers, strict=True):
        relations = []
        for own in pair:
            rows = own.reshape(len(own), -1)
            e = rows[:, None] - rows
            d = np.sqrt((e**2).sum(axis=2))
            n = len(rows)
            mean = d.sum() / max(1, n * (n - 1))
            e = unit(e, 2)
            relations.append((d / mean if mean else d, np.einsum("ijd,kjd->jik", e, e)))
        total += [huber(*parts) for parts in zip(*relations, strict=True)]
    return total


def correlation(students, teachers, p, *, gamma=0.4, order=2):
    total = 0.0
    for i, pair in enumerate(zip(students, teachers, strict=True)):
        kernels = []
        for j, own in enumerate(pair):
            rows = own.reshape(len(own), -1)
            if f"{i}.{j}.weight" in p:
                rows = rows @ p[f"{i}.{j}.weight"].T + p[f"{i}.{j}.bias"]
            rows = unit(rows, 1)
            powers = [(2 * gamma) ** k / factorial(k) * (rows @ rows.T) ** k for k in range(order + 1)]
            kernels.append(np.exp(-2 * gamma) * sum(powers))
        total += ((kernels[0] - kernels[1]) ** 2).mean()
    return total


REFERENCES = {
    "hint": hint,
    "attention": attention,
    "reviewkd": reviewkd,
    "mgd": mgd,
    "similarity": similarity,
    "rkd": rkd,
    "correlation": correlation,
}
