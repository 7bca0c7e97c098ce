"""Independent oracles in mpmath; nothing here comes from vmfdist.

Up to dimension 64 the radial quantities come from mpmath's Bessel functions. Above, where these
take a million terms, they are integrals over the cosine w = <x, loc>, whose density is proportional
to exp(k w) (1 - w^2)^((d-3)/2). With w = tanh(u) the integrand exp(k w) sech(u)^(d-1) is analytic
in |Im u| < pi/2 and decays at both ends, so the trapezoidal rule converges geometrically
(Trefethen & Weideman 2014, doi:10.1137/130932132). tests/test_reference.py holds the two against
each other.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import mpmath as mp

Number = int | float | mp.mpf


class Radial(NamedTuple):
    """The radial quantities at one dimension and concentration, as mpmath numbers."""

    log_partition: mp.mpf  # Phi = log Z(k)/Z(0)
    mean: mp.mpf  # A = E w
    one_minus_mean: mp.mpf  # 1 - A = E (1 - w)
    variance: mp.mpf  # A' = Var w
    third_cumulant: mp.mpf  # A''
    fourth_cumulant: mp.mpf  # A'''
    log_area: mp.mpf

    def kl_to_uniform(self, k: Number) -> mp.mpf:
        return mp.mpf(k) * self.mean - self.log_partition

    def entropy(self, k: Number) -> mp.mpf:
        return self.log_area - self.kl_to_uniform(k)

    @property
    def log_normalizer(self) -> mp.mpf:
        return self.log_area + self.log_partition

    def log_density_at_mode(self, k: Number) -> mp.mpf:
        return mp.mpf(k) - self.log_normalizer


def log_sphere_area(dim: Number) -> mp.mpf:
    d = mp.mpf(dim)
    return mp.log(2) + d / 2 * mp.log(mp.pi) - mp.loggamma(d / 2)


def _moments(dim: Number, k: Number) -> tuple[mp.mpf, mp.mpf, mp.mpf, mp.mpf, mp.mpf]:
    """log of the integral of exp(-k t) V^(m/2) du, and the first four cumulants of t = 1 - w.

    At the current precision. V = 1 - w^2 = t (2 - t), m = d - 1.
    """
    m, k = mp.mpf(dim) - 1, mp.mpf(k)
    root = mp.sqrt(m * m + 4 * k * k)
    mode = mp.atanh(2 * k / (m + root)) if k else mp.mpf(0)  # where k (1 - w^2) = m w
    curvature = 2 * m * root / (m + root)  # minus the second derivative of the log integrand there
    decay = mp.mpf(mp.mp.dps) * mp.log(10) + 5

    def exponent_and_t(u: mp.mpf) -> tuple[mp.mpf, mp.mpf]:
        e = mp.exp(-2 * u)  # t = 2 / (1 + exp(2u))
        t = 2 * e / (1 + e)
        return m / 2 * mp.log(t * (2 / (1 + e))) - k * t, t

    top, t_mode = exponent_and_t(mode)
    width = 1 / mp.sqrt(curvature)

    def terms(step: mp.mpf, offset: mp.mpf) -> list[tuple[mp.mpf, mp.mpf]]:
        result = []
        for direction in (1, -1):
            j = 0 if direction == 1 else 1
            while True:
                exponent, t = exponent_and_t(mode + offset + direction * j * step)
                if exponent - top < -decay:
                    break
                result.append((mp.exp(exponent - top), t - t_mode))
                j += 1
        return result

    # Halve the step until the sums agree to the working precision; old points are used again.
    step = min(width, mp.mpf(1) / 2)
    points = terms(step, mp.mpf(0))
    previous = None
    while True:
        total = mp.fsum(p for p, _ in points)
        first, second, third, fourth = (
            mp.fsum(p * t**j for p, t in points) / total for j in (1, 2, 3, 4)
        )
        variance = second - first**2
        current = (
            mp.log(total * step),
            first,
            variance,
            third - 3 * first * second + 2 * first**3,
            fourth - 4 * first * third + 6 * first**2 * second - 3 * first**4 - 3 * variance**2,
        )
        if previous is not None:
            tolerance = mp.mpf(10) ** (8 - mp.mp.dps // 2)
            scales = (1, mp.sqrt(current[2]), current[2])
            changes = (abs(a - b) for a, b in zip(current[:3], previous[:3], strict=True))
            if all(change <= tolerance * s for change, s in zip(changes, scales, strict=True)):
                break
        previous = current
        points += terms(step, step / 2)
        step /= 2
    log_integral, mean, *cumulants = current
    return log_integral + top, mean + t_mode, *cumulants


def radial_by_quadrature(dim: Number, k: Number, digits: int = 25) -> Radial:
    """All radial quantities for a dimension above 1 and k >= 0, by the trapezoidal rule.

    The geometric convergence doubles the digits with every halving of the step: agreement of two
    rules to half the working precision leaves the finer at all of it.
    """
    with mp.workdps(digits + 50):  # 50: Phi(1e-12) is about 1e-30 beside terms of order 1
        log_integral, t_mean, variance, third, fourth = _moments(dim, k)
        # Z(0) = |S^{d-1}| / |S^{d-2}| = sqrt(pi) Gamma(m/2) / Gamma((m+1)/2)
        m = mp.mpf(dim) - 1
        uniform = mp.log(mp.pi) / 2 + mp.loggamma(m / 2) - mp.loggamma((m + 1) / 2)
        return Radial(
            log_partition=log_integral + mp.mpf(k) - uniform,
            mean=1 - t_mean,
            one_minus_mean=t_mean,
            variance=variance,
            third_cumulant=-third,
            fourth_cumulant=fourth,
            log_area=log_sphere_area(dim),
        )


def radial_by_bessel(dim: Number, k: Number) -> Radial:
    """All radial quantities for a dimension of at least 1 and k > 0, from mpmath's besseli.

    The precision is raised until two results agree to 25 digits.
    """

    def at(digits: int) -> Radial:
        with mp.workdps(digits):
            d, x = mp.mpf(dim), mp.mpf(k)
            nu = d / 2 - 1
            bessel = mp.besseli(nu, x)
            a = mp.besseli(nu + 1, x) / bessel
            slope = 1 - a * a - (d - 1) * a / x
            across = (slope - a / x) / x  # the derivative of A/k
            curvature = -2 * a * slope - (d - 1) * across
            third = -2 * (slope**2 + a * curvature) - (d - 1) * (curvature - 2 * across) / x
            phi = mp.log(mp.gamma(nu + 1) * (2 / x) ** nu * bessel)
            return Radial(phi, a, 1 - a, slope, curvature, third, log_sphere_area(dim))

    digits = 60
    coarse, fine = at(digits), at(digits + 30)
    while any(abs(a - b) > mp.mpf("1e-25") * abs(b) for a, b in zip(coarse, fine, strict=True)):
        digits += 30
        coarse, fine = fine, at(digits + 30)
    return fine


@functools.cache
def radial(dim: Number, k: Number) -> Radial:
    """All radial quantities to 25 digits."""
    if k == 0:
        with mp.workdps(50):
            zero, one = mp.mpf(0), mp.mpf(1)
            d = mp.mpf(dim)
            fourth = -6 / (d * d * (d + 2))
            return Radial(zero, zero, one, one / d, zero, fourth, log_sphere_area(dim))
    return radial_by_bessel(dim, k) if dim <= 64 else radial_by_quadrature(dim, k)


class PowerSphericalRadial(NamedTuple):
    """The same of a power spherical law; log_partition = log E ((1 + w)/2)^k, w uniform's."""

    log_partition: mp.mpf
    from_uniform: mp.mpf  # log_partition less k times its derivative at 0
    mean_log: mp.mpf  # E log((1 + w)/2), and the variance and third cumulant
    variance_log: mp.mpf
    third_cumulant_log: mp.mpf
    mean_log_rise: mp.mpf  # mean_log less that at concentration 0
    cosine_entropy: mp.mpf  # and its derivatives
    cosine_entropy_slope: mp.mpf
    cosine_entropy_curvature: mp.mpf
    log_area: mp.mpf
    b: mp.mpf  # (d - 1) / 2

    def kl_to_uniform(self, k: Number) -> mp.mpf:
        return mp.mpf(k) * self.mean_log - self.log_partition

    def entropy(self, k: Number) -> mp.mpf:
        return self.log_area - self.kl_to_uniform(k)

    def log_normalizer(self, k: Number) -> mp.mpf:
        return self.log_area + mp.mpf(k) * mp.log(2) + self.log_partition


@functools.cache
def power_spherical(dim: Number, k: Number) -> PowerSphericalRadial:
    """Closed forms in gamma functions: (1 + w)/2 has the law Beta(b + k, b), b = (d - 1)/2."""
    with mp.workdps(70):
        b = mp.mpf(dim - 1) / 2
        a = b + mp.mpf(k)
        log_beta = mp.loggamma(a) + mp.loggamma(b) - mp.loggamma(a + b)
        log_partition = log_beta - 2 * mp.loggamma(b) + mp.loggamma(2 * b)
        at_a, at_sum = ([mp.psi(n, x) for n in range(3)] for x in (a, a + b))
        cumulants = [p - q for p, q in zip(at_a, at_sum, strict=True)]
        at_b = mp.psi(0, b)
        at_zero = at_b - mp.psi(0, 2 * b)
        x, y = a - 1, a + b - 2
        return PowerSphericalRadial(
            log_partition,
            log_partition - k * at_zero,
            *cumulants,
            cumulants[0] - at_zero,
            mp.log(2) + log_beta - x * at_a[0] - (b - 1) * at_b + y * at_sum[0],
            y * at_sum[1] - x * at_a[1],
            at_sum[1] - at_a[1] + y * at_sum[2] - x * at_a[2],
            log_sphere_area(dim),
            b,
        )


class SphericalCauchyRadial(NamedTuple):
    """The same of a spherical Cauchy law, at rho = tanh(k/2); derivatives are in k."""

    divergence: mp.mpf  # to the uniform law, and from it
    mean: mp.mpf  # E w
    across: mp.mpf  # E (1 - w^2) / (d - 1), and its derivatives
    across_slope: mp.mpf
    across_curvature: mp.mpf
    along: mp.mpf  # Var w, and its derivatives
    along_slope: mp.mpf
    along_curvature: mp.mpf
    log_area: mp.mpf


def _cauchy_of_moments(
    dim: Number, divergence: mp.mpf, m1: mp.mpf, m2: mp.mpf, m3: mp.mpf, m4: mp.mpf
) -> SphericalCauchyRadial:
    """From the moments E w^j: w = tanh(k - u) has the derivative 1 - w^2 in k, for each u."""
    m, fall = mp.mpf(dim) - 1, m1 - m3
    return SphericalCauchyRadial(
        divergence,
        m1,
        (1 - m2) / m,
        -2 * fall / m,
        -2 * (1 - 4 * m2 + 3 * m4) / m,
        m2 - m1**2,
        2 * fall - 2 * m1 * (1 - m2),
        2 * (1 - 4 * m2 + 3 * m4) - 2 * (1 - m2) ** 2 + 4 * m1 * fall,
        log_sphere_area(dim),
    )


def spherical_cauchy_by_hypergeometric_functions(dim: Number, k: Number) -> SphericalCauchyRadial:
    """For k > 0, from power series in rho^2.

    With q = 1 + rho^2 + 2 rho v over cosines v of uniform unit vectors, the mean of q^s is
    F(-s, 1 - d/2 - s; d/2; rho^2), and w = (1 + rho^2 - (1 - rho^2)^2 / q) / (2 rho). What
    cancels at either end is what the digits are for.
    """
    digits = 60 + int(6 * k) + int(5 * max(0, -mp.log10(k)))
    with mp.workdps(digits):
        half, rho = mp.mpf(dim) / 2, mp.tanh(mp.mpf(k) / 2)
        x, gap = rho**2, mp.sech(mp.mpf(k) / 2) ** 2
        of_q = [mp.hyp2f1(j, 1 - half + j, half, x) for j in range(5)]
        # the derivative of that in s at 0, by its terms
        log_q, term, n = mp.mpf(0), mp.mpf(1), 0
        while abs(term) > mp.mpf(10) ** -digits:
            term *= (1 - half + n) / (half + n) * x
            n += 1
            log_q -= term / n
        moments = [
            sum(
                mp.binomial(j, i) * (1 + x) ** (j - i) * (-(gap**2)) ** i * of_q[i]
                for i in range(j + 1)
            )
            / (2 * rho) ** j
            for j in range(1, 5)
        ]
        divergence = (mp.mpf(dim) - 1) * (log_q - mp.log(gap))
        return _cauchy_of_moments(dim, divergence, *moments)


def spherical_cauchy_by_quadrature(dim: Number, k: Number) -> SphericalCauchyRadial:
    """For any k, by the trapezoidal rule over u, whose density is sech(u)^(d-1) at every k."""
    digits = 30 + int(2 * k) + (int(2 * max(0, -mp.log10(k))) if k else 0)
    with mp.workdps(digits):
        m, k = mp.mpf(dim) - 1, mp.mpf(k)
        end = mp.acosh(mp.exp((digits * mp.log(10) + 3 * k) / m))
        # The error is exp(-pi^2 / step); in high dimensions the weight is the narrower function.
        step = min(mp.mpf(10) / (digits * mp.log(10)), 1 / mp.sqrt(m * digits))
        count = int(end / step) + 1
        odds, ratio = mp.exp(-2 * step * count), mp.exp(2 * step)  # exp(2u)
        shrink, growth = mp.exp(-2 * k), mp.expm1(2 * k)
        total = [mp.mpf(0)] * 6
        for _ in range(2 * count + 1):
            weight = (odds / (1 + odds) ** 2) ** (m / 2)
            w = (1 - odds * shrink) / (1 + odds * shrink)
            log_q = mp.log1p(growth * odds / (1 + odds)) - k  # log(cosh k + sinh k tanh u)
            values = 1, log_q, w, w**2, w**3, w**4
            total = [x + weight * y for x, y in zip(total, values, strict=True)]
            odds *= ratio
        log_q, *moments = (x / total[0] for x in total[1:])
        return _cauchy_of_moments(dim, m * log_q, *moments)


@functools.cache
def spherical_cauchy(dim: Number, k: Number) -> SphericalCauchyRadial:
    """All of them to 25 digits."""
    if k == 0:
        with mp.workdps(50):
            d, zero = mp.mpf(dim), mp.mpf(0)
            fourth = 3 / (d * (d + 2))  # E w^4
            return _cauchy_of_moments(dim, zero, zero, 1 / d, zero, fourth)
    if dim <= 64 and (k < 1 or dim % 2 == 0):  # where the series are short or end
        return spherical_cauchy_by_hypergeometric_functions(dim, k)
    return spherical_cauchy_by_quadrature(dim, k)


def signed_score(score: mp.mpf) -> mp.mpf:
    """The s >= 0 with 2 Phi(s) - 1 = Phi(score)."""
    if score < 0:
        return mp.sqrt(2) * mp.erfinv(mp.ncdf(score))
    half = mp.log(mp.ncdf(-score) / 2)
    return mp.findroot(lambda s: mp.log(mp.ncdf(-s)) - half, score + mp.mpf("0.1"))


class CosineReference:
    """Tail integrals of the density of u = artanh(-w), exp(-k s) (t (2 - t))^(m/2) du.

    s is t for the von Mises-Fisher law and -log(1 - t/2) for the power spherical one.
    """

    def __init__(self, dim: int, k: float, power_spherical: bool = False) -> None:
        self.m, self.k, self.power_spherical = mp.mpf(dim - 1), mp.mpf(k), power_spherical
        self.mode, self.width = self._mode_and_width()
        self.top = self._exponent(self.mode)
        self.far = max(20 * self.width, 160 / self.m)
        upper, lower = self.tail(self.mode, 1), self.tail(self.mode, -1)
        self.total, self.first = upper[0] + lower[0], upper[1] + lower[1]

    def _mode_and_width(self) -> tuple[mp.mpf, mp.mpf]:
        if self.power_spherical:
            v = self.m * (self.m + 2 * self.k) / (self.m + self.k) ** 2
            width = 1 / mp.sqrt(v * (self.m + self.k))
            return -mp.atanh(self.k / (self.m + self.k)), width
        root = mp.sqrt(self.m**2 + 4 * self.k**2)
        width = mp.sqrt((self.m + root) / (2 * self.m * root))
        return -mp.atanh(2 * self.k / (self.m + root)), width

    @staticmethod
    def t(u: mp.mpf) -> mp.mpf:
        return 2 / (1 + mp.exp(-2 * u))

    def _exponent_and_statistic(self, u: mp.mpf) -> tuple[mp.mpf, mp.mpf]:
        odds = mp.exp(2 * u)
        half_log_v = mp.log(2) + u - mp.log1p(odds)
        statistic = mp.log1p(odds) if self.power_spherical else 2 * odds / (1 + odds)
        return self.m * half_log_v - self.k * statistic, statistic

    def _exponent(self, u: mp.mpf) -> mp.mpf:
        return self._exponent_and_statistic(u)[0]

    def statistic(self, u: mp.mpf) -> mp.mpf:
        return self._exponent_and_statistic(u)[1]

    def density(self, u: mp.mpf) -> mp.mpf:
        return mp.exp(self._exponent(u) - self.top)

    def slope(self, u: mp.mpf) -> mp.mpf:
        """d log density / du."""
        t = self.t(u)
        return self.m * (1 - t) - self.k * (t if self.power_spherical else t * (2 - t))

    def tail(self, u: mp.mpf, side: int) -> tuple[mp.mpf, mp.mpf]:
        """Integrals of the density and of s times it from u on, in units of the density at u.

        By the double exponential rule for integrands that fall exponentially (Takahasi and Mori
        1974), x = exp(s - exp(-s)); its step is halved until two rules agree to more than half of
        the digits, which leaves the finer at all of them.
        """
        base, pace = self._exponent(u), 1 / (abs(self.slope(u)) + 1 / self.width)
        decay = mp.mpf(5) / 2 * mp.mp.dps  # terms that are less than exp(-decay) say nothing

        def terms(step: mp.mpf, offset: mp.mpf) -> tuple[mp.mpf, mp.mpf]:
            mass = first = mp.mpf(0)
            s = offset - mp.log(decay)
            while True:
                shrink = mp.exp(-s)
                x = pace * mp.exp(s - shrink)
                exponent, statistic = self._exponent_and_statistic(u + side * x)
                if exponent - base < -decay:
                    return mass * step, first * step
                term = mp.exp(exponent - base) * x * (1 + shrink)
                mass += term
                first += term * statistic
                s += step

        step = mp.mpf(1) / 8
        mass, first = terms(step, mp.mpf(0))
        while True:
            more_mass, more_first = terms(step, step / 2)
            old, mass, first = mass, (mass + more_mass) / 2, (first + more_first) / 2
            step /= 2
            if abs(mass - old) < mp.mpf(10) ** (-mp.mp.dps * 0.6) * mass:
                return mass, first

    def score_and_rate(self, u: mp.mpf) -> tuple[mp.mpf, mp.mpf]:
        """Normal score of P(U <= u), and d artanh(w)/dk at that quantile."""
        side = -1 if u < self.mode else 1
        mass, first = self.tail(u, side)
        tail = mass * self.density(u) / self.total
        start = mp.sqrt(2 * abs(mp.log(tail))) * mp.mpf("0.8") if tail < 0.5 else mp.mpf(0)
        score = mp.findroot(lambda x: mp.log(mp.ncdf(-x)) - mp.log(tail), start)
        # The integral of s - E s over the tail above, or minus that below.
        return side * score, side * (first - mass * self.first / self.total)

    def probabilities(self, u: mp.mpf) -> tuple[mp.mpf, mp.mpf, mp.mpf]:
        """P(U < u), P(U > u), and the derivative of the former in the concentration."""
        side = -1 if u < self.mode else 1
        mass, first = (x * self.density(u) / self.total for x in self.tail(u, side))
        slope = side * (first - mass * self.first / self.total)
        return (mass, 1 - mass, slope) if side < 0 else (1 - mass, mass, slope)

    def entropy(self) -> mp.mpf:
        """Of the cosine: u has a density of 1 - w^2 = sech(u)^2 times that of w."""

        def term(u: mp.mpf) -> mp.mpf:
            density = self.density(u) / self.total
            return -density * (mp.log(density) + 2 * mp.log(mp.cosh(u)))

        inner = (self.mode + j * self.width for j in (-16, -8, -4, -2, 0, 2, 4, 8, 16))
        ends = self.mode - self.far, self.mode + self.far
        return mp.quad(term, sorted({*inner, *ends}))

    def errors(self, zeta: float, t: float, rate: float, eps: float) -> tuple[mp.mpf, mp.mpf]:
        """Errors of the normal score and (relative) of the rate, beyond the rounding of t itself.

        An ulp of t moves the score by the density times eps / (2 - t) in u; the rate belongs to the
        exact quantile and moves over the scale 2 - t. On the circle the score is that of the angle
        with its sign.
        """
        score, relative, slope = self.deviations(zeta, t, rate)
        rounding = mp.mpf(eps) / (2 - mp.mpf(t))
        zero = mp.mpf(0)
        return max(zero, score - rounding * slope), max(zero, relative - rounding)

    def deviations(self, zeta: float, t: float, rate: float) -> tuple[mp.mpf, mp.mpf, mp.mpf]:
        """The whole of both errors, and how the score changes with u."""
        u = mp.log(mp.mpf(t) / (2 - mp.mpf(t))) / 2
        score, true_rate = self.score_and_rate(u)
        slope = self.density(u) / self.total
        if self.m == 1:
            zeta, score, slope = abs(zeta), signed_score(score), slope / 2
        slope *= mp.sqrt(2 * mp.pi) * mp.exp(score**2 / 2)
        return abs(score - mp.mpf(zeta)), abs(rate / true_rate - 1), slope


class SphericalCauchyCosineReference(CosineReference):
    """The same for the density of u = artanh(-w) that is sech(u + k)^m du, k = 2 artanh(rho).

    There s is minus the derivative of its logarithm in k.
    """

    def _mode_and_width(self) -> tuple[mp.mpf, mp.mpf]:
        return -self.k, 1 / mp.sqrt(self.m)

    def _exponent_and_statistic(self, u: mp.mpf) -> tuple[mp.mpf, mp.mpf]:
        moved = u + self.k
        half_log_v = mp.log(2) + moved - mp.log1p(mp.exp(2 * moved))
        return self.m * half_log_v, -self.slope(u)

    def slope(self, u: mp.mpf) -> mp.mpf:
        return self.m * (1 - self.t(u + self.k))


@functools.cache
def spherical_cauchy_cosine_reference(dim: int, k: float) -> SphericalCauchyCosineReference:
    return SphericalCauchyCosineReference(dim, k)


@functools.cache
def cosine_reference(dim: int, k: float, power_spherical: bool = False) -> CosineReference:
    return CosineReference(dim, k, power_spherical)
