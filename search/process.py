"""Gaussian process regression over the unit cube, with observations that are known to differ.

A Matérn 5/2 kernel with a length scale for each dimension; each observation has a variance of its
own that is known, and all have one more that is learned. Rasmussen & Williams, Gaussian Processes
for Machine Learning (2006), chapters 2 and 5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize

Array = NDArray[np.float64]

_ROOT5 = math.sqrt(5.0)
_JITTER = 1e-6  # variance that every observation has at least
_LENGTH, _NOISE = 0.33, 0.02  # priors' medians: a length for one dimension, the learned variance
_STEPS = 60  # of the search for the best settings


@dataclass(frozen=True)
class Settings:
    """What is learned of a kernel.

    Attributes:
        lengths: [dimensions], over which values stay alike.
        signal: variance of the values.
        noise: variance of what no position explains.
    """

    lengths: Array
    signal: float
    noise: float

    @classmethod
    def of(cls, logs: Array) -> Settings:
        """From the logarithms of all, in order."""
        values = np.exp(logs)
        return cls(values[:-2], float(values[-2]), float(values[-1]))

    @property
    def logs(self) -> Array:
        """The reverse of `of`."""
        return np.log([*self.lengths, self.signal, self.noise])


@dataclass(frozen=True)
class Process:
    """A process that has seen values with mean 0 and variance 1, about.

    Attributes:
        points: [n, dimensions], in 0..1.
        settings: of the kernel.
        factor: [n, n], the lower Cholesky factor of the covariance of what was seen.
        weights: [n], the inverse of that covariance times the values.
    """

    points: Array
    settings: Settings
    factor: Array
    weights: Array

    @classmethod
    def of(cls, points: Array, values: Array, known: Array, settings: Settings) -> Process:
        """With settings that are given.

        Args:
            points: [n, dimensions], in 0..1.
            values: [n].
            known: [n], variances of the values that are known.
            settings: of the kernel.
        """
        covariance = settings.signal * _matern(points, points, settings.lengths)
        covariance[np.diag_indices(len(points))] += settings.noise + known + _JITTER
        factor = cholesky(covariance, lower=True)
        return cls(points, settings, factor, cho_solve((factor, True), values))

    @classmethod
    def fit(
        cls, points: Array, values: Array, known: Array, start: Settings | None = None
    ) -> Process:
        """With the most probable settings; `start` saves steps where they change little."""
        settings = _most_probable(points, values, known, start)
        return cls.of(points, values, known, settings)

    def expect(self, points: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of the values without noise at [m, dimensions], each [m]."""
        signal = self.settings.signal
        cross = signal * _matern(points, self.points, self.settings.lengths)
        half = solve_triangular(self.factor, cross.T, lower=True)
        variance = signal - np.sum(half * half, axis=0)
        return cross @ self.weights, np.sqrt(np.maximum(_JITTER**2, variance))


def _matern(one: Array, two: Array, lengths: Array) -> Array:
    a, b = one / lengths, two / lengths
    squares = np.sum(a * a, axis=1)[:, None] + np.sum(b * b, axis=1)[None] - 2.0 * a @ b.T
    far = _ROOT5 * np.sqrt(np.maximum(squares, 0.0))
    return np.asarray((1.0 + far + far * far / 3.0) * np.exp(-far))


def _most_probable(points: Array, values: Array, known: Array, start: Settings | None) -> Settings:
    """The settings with the highest posterior density.

    Lengths are log-normal and grow with the root of the number of dimensions, as distances do
    (Hvarfner et al. 2024); so are the variances.
    """
    count = points.shape[1]
    gaps = (points[:, None, :] - points[None, :, :]).transpose(2, 0, 1) ** 2
    center = np.log([*[_LENGTH * math.sqrt(count)] * count, 1.0, _NOISE])
    spread = np.array([*[1.0] * count, 1.0, 1.5])
    diagonal = np.diag_indices(len(points))

    def loss(logs: Array) -> tuple[float, Array]:
        settings = Settings.of(logs)
        inverse = settings.lengths**-2.0
        far = _ROOT5 * np.sqrt(np.einsum("k,kij->ij", inverse, gaps))
        decay = np.exp(-far)
        matern = (1.0 + far + far * far / 3.0) * decay
        covariance = settings.signal * matern
        covariance[diagonal] += settings.noise + known + _JITTER
        factor = cholesky(covariance, lower=True)
        weights = cho_solve((factor, True), values)
        gain = np.outer(weights, weights) - cho_solve((factor, True), np.eye(len(points)))
        slope = gain * (settings.signal * 5.0 / 3.0) * (1.0 + far) * decay
        gradient = -0.5 * np.array(
            [
                *(np.einsum("ij,kij->k", slope, gaps) * inverse),
                np.sum(gain * matern) * settings.signal,
                np.trace(gain) * settings.noise,
            ]
        )
        off = (logs - center) / spread
        density = 0.5 * float(values @ weights) + float(np.log(np.diag(factor)).sum())
        return density + 0.5 * float(off @ off), gradient + off / spread

    bounds = [*[(-4.0, 3.0)] * count, (-3.0, 3.0), (math.log(1e-5), 0.5)]
    found = [
        minimize(
            loss, logs, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": _STEPS}
        )
        for logs in ([center] if start is None else [center, start.logs])
    ]
    return Settings.of(min(found, key=lambda one: float(one.fun)).x)
