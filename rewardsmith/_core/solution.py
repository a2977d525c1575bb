"""How a computation ended, and what `solve` hands back."""

import equinox as eqx


class RESULTS(eqx.Enumeration):
    """Result codes; they travel through `jit` and `vmap`. The text of each says what to do."""

    successful = ""
    max_steps_reached = (
        "the tolerance was not reached in max_steps; give more steps, a larger tolerance, or throw=False to "
        "take what there is"
    )
    not_finite = (
        "NaN or infinity appeared; take a smaller step size, check the reward and the upper loss at x0, or "
        "give throw=False to see how far it went"
    )
