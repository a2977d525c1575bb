"""Records of what no run did, for pages and cards."""

import numpy as np

from rewardsmith.runs.audit.measures import calibrate
from rewardsmith.runs.audit.record import (
    VERSION,
    Agreement,
    Along,
    Audit,
    Episodes,
    Hacking,
    Judged,
    RewardAudit,
)
from rewardsmith.runs.statistics import Interval


def made_up_audit(step=2000, hacked=False):
    """An audit of no run."""
    rng = np.random.default_rng(0)
    rise = np.linspace(0.0, 9.0, 6)
    policies = tuple(
        Episodes(
            int(step * (index + 1) / 6),
            5 * index,
            (-up if hacked else up, up),
            (up, up),
            (9, 9),
            (False,) * 2,
        )
        for index, up in enumerate(rise)
    )
    probability = rng.random(200)
    calibration = calibrate(probability, (rng.random(200) < probability).astype(float), 0)
    some = Interval(0.8, 0.7, 0.9)
    along = tuple(Along(one.step or 0, 5, some, some, Interval(0.3, 0.2, 0.4), some) for one in policies)
    trends = (Interval(3.0, 1.0, 5.0), Interval(-3.0, -5.0, -1.0)) if hacked else (None, None)
    reward = RewardAudit(
        Hacking(Interval(0.9, 0.5, 1.0), 4, *trends),
        (Judged("clips of all policies", 200, 0, some, calibration),),
        along,
        None,
        (Agreement("newest policy", 90, 0.5, 0.4, 10, 0.9, None, (0.1, 0.2), (1.0, 2.0)),),
        64,
        50,
        "",
        (),
        "There are no films: none were made.",
    )
    return Audit(VERSION, step, 0, 10, 9, policies, policies[0], reward)
