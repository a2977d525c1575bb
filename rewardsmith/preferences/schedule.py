"""When comparisons are asked for."""


def comparisons_due(step: int, total_steps: int, budget: int, first_share: float = 0.25) -> int:
    """How many of `budget` comparisons should have been asked after `step` of `total_steps`.

    pre + (1 − pre)(1 − 0.01^{t/T}) of the budget, with pre = `first_share`: the schedule of Christiano et
    al. (2017), fast at first and slow later. All of it at the end. t counts the random steps too, so the
    first session asks for more than `first_share`.

    Args:
        step: t, environment steps taken.
        total_steps: T, of the whole run.
        budget: comparisons of the whole run.
        first_share: share of the budget that is asked at the start, 0 to 1.
    """
    if step >= total_steps:
        return budget
    share = first_share + (1.0 - first_share) * (1.0 - 0.01 ** (step / total_steps))
    return min(budget, round(budget * share))
