"""What a learned reward is asked: accuracy, calibration, agreement, distance, where it is most wrong."""

from collections.abc import Callable, Sequence

import numpy as np
import scipy.stats
from jaxtyping import Bool, Float, Int

from ..._core import InputError
from ...preferences.models import Regret
from ...rewards import DistanceEstimate, return_distance
from ..choices import HUMAN
from ..parts import make_teacher
from ..snapshots import evenly
from ..statistics import Interval
from .compare import Pairs, clip_rewards, fresh_pairs, gather, held_out_pairs, judge, predicting, right
from .coverage import cover, distance_to_true
from .films import film_disagreements
from .measures import correlation, gain, last_third, proportion, trend
from .play import Played, rewards
from .progress import AuditProgress
from .record import Agreement, Along, Episodes, Hacking, RewardAudit
from .subject import Subject

ON_POLICY, ALL, PEOPLE = "clips of the newest policy", "clips of all policies", "people's answers, held out"
NEWEST, EARLIER, RANDOM = "newest policy", "earlier policies", "random actions"
_SHOWN = 300


def question(
    subject: Subject,
    played: Played,
    gains: Float[np.ndarray, "N L"],
    episodes: Sequence[Episodes],
    progress: AuditProgress,
) -> RewardAudit:
    """Ask the rewards of a run.

    Args:
        subject: the run.
        played: what its policies did.
        gains: the newest learned reward of every step of that, 0 behind the end of an episode.
        episodes: of the policies, the newest last.
        progress: is told.
    """
    rng, clips = np.random.default_rng(subject.seed), played.clips
    newest = _newest(subject, clips)
    progress.part("comparing fresh clips", len(subject.rewards))
    sets = _sets(subject, played, clips, newest, rng)
    predict = predicting(subject.experiment, subject.rewards[-1], subject.follower)
    judged = tuple(
        judge(name, pairs, predict, subject.seed) for name, pairs in sets.items() if pairs.told.any()
    )
    distances, states, note = _distances(subject, progress)
    along, gained = _along(subject, played, clips, sets, distances, progress.done, rng)
    progress.part("filming where learned and true reward disagree")
    films, films_note = (), "No episode is as long as a clip: there are no films."
    if len(clips) > 1:
        owners = [None if owner is None else subject.steps[owner] for owner in subject.owners]
        films, films_note = film_disagreements(
            subject.config,
            played,
            clips,
            _clip_gains(subject, gains, clips),
            clip_rewards(played, clips).sum(axis=1),
            owners,
            subject.folder.audit_films_path,
        )
    return RewardAudit(
        hacking_of(episodes, subject.seed),
        judged,
        along,
        gained,
        _agreement(subject, played, gains, rng),
        states,
        _horizon(subject),
        note,
        films,
        films_note,
    )


def hacking_of(episodes: Sequence[Episodes], seed: int) -> Hacking:
    """Learned against true returns over the policies of a run, in order of their steps."""
    steps = np.array([one.step or 0 for one in episodes], float)
    learned, true = (
        np.array([np.mean(getattr(one, name)) for one in episodes])
        for name in ("learned_returns", "true_returns")
    )
    last = last_third(len(steps))
    return Hacking(
        correlation(learned, true, seed, ranks=True),
        last,
        trend(steps[-last:], learned[-last:]),
        trend(steps[-last:], true[-last:]),
    )


def _newest(subject: Subject, clips: Int[np.ndarray, "n 2"]) -> Int[np.ndarray, "m 2"]:
    own = np.array([owner == len(subject.policies) - 1 for owner in subject.owners])
    return clips[own[clips[:, 1]]]


def _sets(
    subject: Subject,
    played: Played,
    clips: Int[np.ndarray, "n 2"],
    newest: Int[np.ndarray, "m 2"],
    rng: np.random.Generator,
) -> dict[str, Pairs]:
    """Comparisons by name, the newest policy's first."""
    config, stack = subject.config, subject.stack
    teacher = None if config.teacher == HUMAN else make_teacher(config)
    found = {
        name: fresh_pairs(played, which, subject.budget.pairs, config, teacher, stack, rng)
        for name, which in ((ON_POLICY, newest), (ALL, clips))
    }
    if config.teacher == HUMAN:
        found[PEOPLE] = held_out_pairs(config, subject.folder.path, stack)
    return {name: pairs for name, pairs in found.items() if pairs is not None}


def _along(
    subject: Subject,
    played: Played,
    clips: Int[np.ndarray, "n 2"],
    sets: dict[str, Pairs],
    distances: dict[int, Interval],
    done: Callable[[int], None],
    rng: np.random.Generator,
) -> tuple[tuple[Along, ...], Interval | None]:
    """Each snapshot's reward on the same pairs and clips; how accuracy rose over the last third of them."""
    budget = subject.budget
    some = {name: pairs.upto(budget.earlier_pairs) for name, pairs in sets.items()}
    chosen = clips[rng.permutation(len(clips))[: 2 * budget.earlier_pairs]]
    shown = gather(played, chosen, subject.stack) if len(chosen) > 2 else None
    true = clip_rewards(played, chosen).sum(axis=1) if shown is not None else np.zeros(0)
    found, agreed = [], []
    for index, (step, x) in enumerate(zip(subject.steps, subject.rewards, strict=True)):
        last = index == len(subject.steps) - 1
        # Of earlier snapshots the follower's values, which a model by regret goes by, were not kept.
        knows = last or not isinstance(subject.experiment.preference_model, Regret)
        predict = predicting(subject.experiment, x, subject.follower if last else None)
        own = {name: right(pairs, predict) for name, pairs in some.items()} if knows else {}
        if ALL in own:
            agreed.append(own[ALL])
        near = None
        if shown is not None:
            learned = rewards(x, shown.observations, shown.actions, subject.stack).sum(axis=1)
            near = as_interval(return_distance(learned, true, groups=chosen[:, 1], seed=subject.seed))
        found.append(
            Along(
                step,
                subject.comparisons[index],
                _share(own.get(ALL)),
                _share(own.get(ON_POLICY)),
                near,
                distances.get(index),
            )
        )
        done(index + 1)
    before = len(agreed) - last_third(len(agreed))
    risen = gain(agreed[before], agreed[-1], subject.seed) if len(agreed) > 3 and len(agreed[-1]) else None
    return tuple(found), risen


def _share(agreed: Bool[np.ndarray, " n"] | None) -> Interval | None:
    return None if agreed is None or not len(agreed) else proportion(agreed)


def _distances(subject: Subject, progress: AuditProgress) -> tuple[dict[int, Interval], int, str]:
    """STARC distances by number of the snapshot, state-actions they are of, and why there are none."""
    budget = subject.budget
    if not budget.rewards:
        return {}, 0, "Pictures are too dear to play on from: see the clips' returns instead."
    progress.part("distance to the true reward: playing on from states", 1)
    try:
        coverage = cover(
            subject.config,
            subject.policies[-1],
            states=budget.states,
            repeats=budget.repeats,
            seed=subject.seed,
            horizon=_horizon(subject),
            done=progress.done,
        )
    except InputError as error:
        return {}, 0, f"No STARC distance: {error}."
    chosen = evenly(range(len(subject.rewards)), budget.rewards)
    progress.part("distance to the true reward: asking rewards", len(chosen))
    found = {}
    for count, index in enumerate(chosen):
        distance = distance_to_true(coverage, subject.rewards[index], seed=subject.seed)
        if not any(distance.trivial):
            found[index] = as_interval(distance)
        progress.done(count + 1)
    note = "" if found else f"No STARC distance: {budget.states} states do not tell an advantage from noise."
    return found, budget.states if found else 0, note


def _horizon(subject: Subject) -> int:
    return min(subject.budget.horizon, subject.spec.max_episode_steps or subject.budget.horizon)


def as_interval(distance: DistanceEstimate) -> Interval:
    """A distance as all other numbers of an audit."""
    return Interval(distance.value, distance.low, distance.high)


def _clip_gains(
    subject: Subject, gains: Float[np.ndarray, "N L"], clips: Int[np.ndarray, "n 2"]
) -> Float[np.ndarray, " n"]:
    length = subject.config.clip_length
    return gains.reshape(len(gains), -1, length).sum(axis=2)[clips[:, 1], clips[:, 0]]


def _agreement(
    subject: Subject, played: Played, gains: Float[np.ndarray, "N L"], rng: np.random.Generator
) -> tuple[Agreement, ...]:
    last = len(subject.policies) - 1
    owners = np.array([-1 if owner is None else owner for owner in subject.owners])
    groups = {NEWEST: owners == last, EARLIER: (owners >= 0) & (owners < last), RANDOM: owners < 0}
    return tuple(
        agreement_of(name, gains[own], played.true[own], played.valid[own], rng)
        for name, own in groups.items()
        if own.any()
    )


def agreement_of(
    name: str,
    learned: Float[np.ndarray, "e L"],
    true: Float[np.ndarray, "e L"],
    valid: Bool[np.ndarray, "e L"],
    rng: np.random.Generator,
) -> Agreement:
    """Correlations of learned and true reward over the steps, and over the returns, of episodes."""
    steps = learned[valid], true[valid]
    returns = learned.sum(axis=1), true.sum(axis=1)
    some = rng.permutation(len(steps[0]))[:_SHOWN]
    return Agreement(
        name,
        len(steps[0]),
        _correlated(scipy.stats.pearsonr, *steps),
        _correlated(scipy.stats.spearmanr, *steps),
        len(learned),
        _correlated(scipy.stats.pearsonr, *returns),
        _correlated(scipy.stats.spearmanr, *returns),
        tuple(steps[0][some].tolist()),
        tuple(steps[1][some].tolist()),
    )


def _correlated(by: Callable[..., object], first: np.ndarray, second: np.ndarray) -> float | None:
    if len(first) < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(getattr(by(first, second), "statistic"))  # noqa: B009 (SciPy's two results share no type)
