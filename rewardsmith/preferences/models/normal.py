"""The logarithm of the normal distribution function, with derivatives that are right in both tails."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# Below this Mills' ratio is a continued fraction; so many terms of it give float64 to its last digits.
_FAR, _TERMS = -8.0, 24


@jax.custom_jvp
def log_normal_cdf(z: Float[Array, "*m"]) -> Float[Array, "*m"]:
    """log Φ(z), with a gradient that is right in both tails."""
    # Above 0 Φ is nearly 1, and its logarithm would be what is left of 1 − Φ after rounding.
    upper = jnp.log1p(-jax.scipy.stats.norm.cdf(-jnp.maximum(z, 0.0)))
    return jnp.where(z > 0.0, upper, jax.scipy.stats.norm.logcdf(jnp.minimum(z, 0.0)))


@log_normal_cdf.defjvp
def _log_normal_cdf_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (z,), (tangent,) = primals, tangents
    # φ/Φ is √(2/π)/erfcx(−z/√2); the quotient of exponentials that JAX takes has no digits left at −1000.
    ratio = _inverse_mills(z)
    return log_normal_cdf(z), ratio * tangent


def _inverse_mills(z: Float[Array, "*m"]) -> Float[Array, "*m"]:
    """φ(z)/Φ(z)."""
    far = z < _FAR
    # Both sides of a `where` are differentiated, so each is kept where it is finite.
    inside = jnp.where(far, 0.0, z)
    near = jax.scipy.stats.norm.pdf(inside) / jax.scipy.stats.norm.cdf(inside)
    t = jnp.where(far, -z, -_FAR)
    # Laplace's continued fraction of Mills' ratio: t + 1/(t + 2/(t + 3/(t + …))).
    fraction = t
    for n in range(_TERMS, 0, -1):
        fraction = t + n / fraction
    return jnp.where(far, fraction, near)
