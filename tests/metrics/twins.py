"""Slow and obvious metrics: loops over pairs and over orders."""

import itertools
import math


def pairs(labels, scores, weights, groups):
    """Group -> [weight of the concordant pairs, of the discordant, of the tied]."""
    found = {group: [0.0, 0.0, 0.0] for group in groups}
    for i, j in itertools.product(range(len(labels)), repeat=2):
        if groups[i] == groups[j] and labels[i] == 1 and labels[j] == 0:
            place = 0 if scores[i] > scores[j] else 1 if scores[i] < scores[j] else 2
            found[groups[i]][place] += weights[i] * weights[j]
    return found


def auc(labels, scores, weights):
    ((concordant, discordant, tied),) = pairs(labels, scores, weights, [0] * len(labels)).values()
    return (concordant + tied / 2) / (concordant + discordant + tied)


def group_auc(labels, scores, weights, groups, weighting):
    top = bottom = 0.0
    for group, (concordant, discordant, tied) in pairs(labels, scores, weights, groups).items():
        if concordant + discordant + tied:
            mine = [i for i in range(len(labels)) if groups[i] == group]
            weight = {
                "examples": sum(weights[i] for i in mine),
                "positives": sum(weights[i] * labels[i] for i in mine),
                "groups": 1,
            }[weighting]
            top += weight * (concordant + tied / 2) / (concordant + discordant + tied)
            bottom += weight
    return top / bottom


def positive_negative_ratio(labels, scores, weights, groups):
    found = pairs(labels, scores, weights, groups).values()
    concordant, discordant, tied = (sum(one) for one in zip(*found, strict=True))
    return (concordant + tied / 2) / (discordant + tied / 2)


def orders(relevance, scores):
    """Every order of the items of a list in which no item is before one with a higher score: their relevances."""
    items = [i for i in range(len(scores)) if relevance[i] >= 0]
    for order in itertools.permutations(items):
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order)):
            yield [relevance[i] for i in order]


def of_lists(value, relevances, scores, weights):
    """The weighted mean over lists with a relevant item, each with the mean over its orders."""
    top = bottom = 0.0
    for relevance, score, weight in zip(relevances, scores, weights, strict=True):
        if max(relevance) > 0:
            found = [value(order) for order in orders(relevance, score)]
            top += weight * sum(found) / len(found)
            bottom += weight
    return top / bottom


def recall(k):
    return lambda order: sum(order[:k]) / sum(order)


def reciprocal_rank(k):
    return lambda order: next((1 / place for place, one in enumerate(order[:k], 1) if one), 0.0)


def ndcg(k, gain):
    def dcg(order):
        return sum(gain(one) / math.log2(1 + place) for place, one in enumerate(order[:k], 1))

    return lambda order: dcg(order) / dcg(sorted(order, reverse=True))
