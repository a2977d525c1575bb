"""What a benchmark problem is: a `BilevelProblem`, where to start, and how to draw it."""

from collections.abc import Callable
from dataclasses import dataclass, field

from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ..mdp import MDP
from ..problem import BilevelProblem


@dataclass(frozen=True)
class Grid:
    """How the states of a grid world lie on a map.

    A world with several followers holds their copies of the map one behind the other: state
    c·len(cells) + i is cell i of follower c.

    Args:
        shape: (rows, columns) of the map.
        cells: (row, column) of each cell that is a state; all others are walls.
        contexts: name of each follower, one copy of the cells each.
        marks: what stands where: "start", "goal", ... -> (row, column), drawn as a letter.
    """

    shape: tuple[int, int]
    cells: tuple[tuple[int, int], ...]
    contexts: tuple[str, ...] = ("",)
    marks: dict[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """A problem that can be named on the command line.

    Args:
        name: such as "four-rooms".
        title: one line that says what the leader does.
        problem: on an `MDP`.
        start: key -> x0.
        step_size: a good step of Adam for it.
        steps: of Adam, after which little changes.
        outcomes: (x, policy) -> what people report of it, by name, such as {"leader return": F}.
        grid: map, where there is one.
        payment: x -> what the leader pays in each state, (S,), for the picture; None: nothing to draw.
        ease: (problem, t) -> the problem made easier for t < 1, itself at t = 1, for a search that starts
            easy; None: there is nothing to ease.
    """

    name: str
    title: str
    problem: BilevelProblem[MDP]
    start: Callable[[PRNGKeyArray], PyTree]
    step_size: float
    steps: int
    outcomes: Callable[[PyTree, Float[Array, "S A"]], dict[str, Float[Array, ""]]]
    grid: Grid | None = None
    payment: Callable[[PyTree], Float[Array, " S"]] | None = None
    ease: Callable[[BilevelProblem[MDP], Float[Array, ""]], BilevelProblem[MDP]] | None = None
