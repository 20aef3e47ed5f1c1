"""What a classifier warns of in maps, by its row in docs/guide/failures.rst: parameters, and arguments of fit."""


def warned_maps(X, y):
    """Return what is warned of for images X, of three channels, and maps y with 255 in unknown pixels."""
    return {
        "a label that is often unknown": ({"ignore_index": None}, {}),
        "a label that is often unknown, beside ignore_index": ({"ignore_index": -1}, {"y": y.astype(int)}),
    }
