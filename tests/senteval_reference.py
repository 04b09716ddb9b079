"""SentEval's three protocols as plain loops, one small network at a time, to compare with."""

import copy

import numpy as np
import torch
from sklearn.model_selection import StratifiedKFold

DECAYS = [1e-5, 1e-4, 1e-3, 1e-2]


def folds_of(labels, folds):
    return StratifiedKFold(folds, shuffle=True, random_state=1111).split(labels, labels)


def share_right(layer, x, y):
    with torch.no_grad():
        return (layer(x).argmax(1) == y).sum().item() / len(y)


def trained(x, y, classes, decay, held_out=None, last_look=200):
    """Best accuracy on the held-out sentences, the layer that had it, and how often it looked."""
    x, y = torch.tensor(x, dtype=torch.float32), torch.tensor(y)
    np.random.seed(1111)  # noqa: NPY002
    torch.manual_seed(1111)
    layer = torch.nn.Linear(x.shape[1], classes)
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-3, weight_decay=decay)
    if held_out is None:
        shuffled = np.random.permutation(len(y))  # noqa: NPY002
        few = int(0.05 * len(y))
        held_out = x[shuffled[:few]], y[shuffled[:few]]
        x, y = x[shuffled[few:]], y[shuffled[few:]]
    held_x, held_y = (torch.as_tensor(part) for part in held_out)
    best, kept, looks, not_better = -1, None, 0, 0
    while not_better < 6 and 4 * looks <= last_look:
        for _ in range(4):
            shuffled = torch.tensor(np.random.permutation(len(y)))  # noqa: NPY002
            for first in range(0, len(y), 64):
                rows = shuffled[first : first + 64]
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(layer(x[rows]), y[rows]).backward()
                optimizer.step()
        looks += 1
        accuracy = share_right(layer, held_x.float(), held_y)
        if accuracy > best:
            best, kept = accuracy, copy.deepcopy(layer)
        else:
            not_better += 1
    return best, kept, looks


def chosen_decay(x, y, classes, folds):
    """The weight decay that cross-validation chooses, and its accuracy."""
    scores = []
    for decay in DECAYS:
        accuracies = [
            trained(x[train], y[train], classes, decay, (x[held], y[held]))[0]
            for train, held in folds_of(y, folds)
        ]
        scores.append(round(100 * np.mean(accuracies), 2))
    return DECAYS[int(np.argmax(scores))], max(scores)


def guess(layer, x):
    with torch.no_grad():
        return layer(torch.tensor(x, dtype=torch.float32)).argmax(1).numpy()


def with_a_test_set(x, y, test_x, test_y, classes, folds=10):
    """Accuracy, development accuracy, weight decay and guesses."""
    decay, development = chosen_decay(x, y, classes, folds)
    guesses = guess(trained(x, y, classes, decay)[1], test_x)
    return round(100 * (guesses == test_y).sum() / len(test_y), 2), development, decay, guesses


def nested(x, y, classes, folds=10):
    """The same, with a list of weight decays, one for each fold."""
    guesses = np.empty_like(y)
    accuracies, developments, decays = [], [], []
    for train, test in folds_of(y, folds):
        accuracy, development, decay, guesses[test] = with_a_test_set(
            x[train], y[train], x[test], y[test], classes, folds
        )
        accuracies.append(accuracy)
        developments.append(development)
        decays.append(decay)
    return round(np.mean(accuracies), 2), round(np.mean(developments), 2), decays, guesses


def with_a_development_set(x, y, dev_x, dev_y, test_x, test_y, classes):
    """Accuracy, development accuracy, weight decay and guesses."""
    fits = [trained(x, y, classes, decay, (dev_x, dev_y))[:2] for decay in DECAYS]
    scores = [round(100 * accuracy, 2) for accuracy, _ in fits]
    best = int(np.argmax(scores))
    guesses = guess(fits[best][1], test_x)
    accuracy = round(100 * (guesses == test_y).sum() / len(test_y), 2)
    return accuracy, scores[best], DECAYS[best], guesses
