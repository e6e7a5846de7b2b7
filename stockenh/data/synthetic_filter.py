"""Hidden Markov chains: walked, filtered from evidence, and asked for the sign of what comes.

Everything here is exact but for rounding. Legend: T bars, S series, K states of the chain, H horizons.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_NODES = 512  # of the integral; the result stands to 1e-12 from half as many
_CUT = 9.0  # standard deviations of the narrowest sum in frequency: what lies beyond is below 1e-17
_LEAST = -600.0  # log-likelihood beside the likeliest state's: e to it is still no zero


def stationary(transition: Floats) -> Floats:
    """(K,) the distribution that the chain (K, K; rows are where from) keeps."""
    k = len(transition)
    equations = np.vstack([transition.T - np.eye(k), np.ones(k)])
    return np.asarray(np.linalg.lstsq(equations, np.append(np.zeros(k), 1.0), rcond=None)[0])


def walk(transition: Floats, uniform: Floats) -> NDArray[np.int64]:
    """(T,) states of a stationary chain, one number from [0, 1) spent on each."""
    edges = [row.cumsum()[:-1].tolist() for row in transition]
    state = bisect(stationary(transition).cumsum()[:-1].tolist(), float(uniform[0]))
    path = [state]
    for number in uniform[1:].tolist():
        state = bisect(edges[state], number)
        path.append(state)
    return np.array(path, np.int64)


def filtered(evidence: Floats, transition: Floats) -> Floats:
    """(T, S, K) probability of each state given the evidence up to and with that bar (Hamilton 1989).

    evidence: (T, S, K) log-likelihood of what is seen at a bar in each state, up to a constant
    """
    weight = np.exp(np.maximum(evidence - evidence.max(-1, keepdims=True), _LEAST))
    belief = np.broadcast_to(stationary(transition), evidence.shape[1:])
    beliefs = np.empty_like(evidence)
    for t in range(len(evidence)):
        belief = belief @ transition * weight[t]
        belief /= belief.sum(-1, keepdims=True)
        beliefs[t] = belief
    return beliefs


def up_probability(transition: Floats, mean: Floats, deviation: Floats, horizons: Sequence[int]) -> Floats:
    """(K, H) probability that the next h returns add up to more than 0, by the state that the chain is in.

    A return is normal with the mean and deviation (K,) of its bar's state. The characteristic function of
    the sum from each state is a product of h matrices; its sign follows by Gil-Pelaez's (1951) integral.
    """
    columns = []
    for horizon in horizons:
        width = _CUT / (np.sqrt(horizon) * deviation.min()) / _NODES
        frequency = (np.arange(_NODES)[:, None] + 0.5) * width
        one = np.exp(1j * frequency * mean - 0.5 * (frequency * deviation) ** 2)  # (nodes, K)
        total = np.ones_like(one)
        for _ in range(horizon):
            total = (one * total) @ transition.T
        columns.append(0.5 + (total.imag / frequency).sum(0) * width / np.pi)
    return np.column_stack(columns)
