"""Grid maps as text, and how one moves on them."""

from collections import deque
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .._core import InputError

# (row, column) steps of the actions: up, right, down, left.
MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))

OTHER_MOVE, UNIFORM_MOVE = "other-move", "uniform-move"
KERNELS = (OTHER_MOVE, UNIFORM_MOVE)


@dataclass(frozen=True)
class GridMap:
    """A map of one character a cell, "x" a wall, all else free; cells are numbered row by row.

    Args:
        text: the rows, one a line.
    """

    text: str

    @cached_property
    def rows(self) -> tuple[str, ...]:
        """The lines."""
        lines = tuple(self.text.strip("\n").splitlines())
        if not lines or len({len(line) for line in lines}) != 1:
            raise InputError("the rows of a map must be equally long; fill them up with x")
        return lines

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return len(self.rows), len(self.rows[0])

    @cached_property
    def cells(self) -> tuple[tuple[int, int], ...]:
        """(row, column) of each free cell."""
        return tuple((i, j) for i, row in enumerate(self.rows) for j, mark in enumerate(row) if mark != "x")

    @cached_property
    def index(self) -> dict[tuple[int, int], int]:
        """Number of each free cell."""
        return {cell: i for i, cell in enumerate(self.cells)}

    @cached_property
    def letters(self) -> np.ndarray:
        """The character of each free cell, (S,)."""
        return np.array([self.rows[i][j] for i, j in self.cells])

    def find(self, letter: str) -> tuple[int, int]:
        """The one cell marked so."""
        found = np.flatnonzero(self.letters == letter)
        if len(found) != 1:
            raise InputError(f"the map has {len(found)} cells {letter!r}; mark one")
        return self.cells[found[0]]

    @cached_property
    def successors(self) -> np.ndarray:
        """Cell that each move leads to, (S, 4); a move into a wall or off the map stays."""
        return np.array(
            [
                [self.index.get((i + di, j + dj), here) for di, dj in MOVES]
                for here, (i, j) in enumerate(self.cells)
            ]
        )

    def distances(self, cell: tuple[int, int]) -> np.ndarray:
        """Moves from each cell to `cell`, (S,).

        Raises:
            InputError: a cell from which there is no way.
        """
        far = np.full(len(self.cells), -1)
        goal = self.index[cell]
        far[goal] = 0
        queue = deque([goal])
        while queue:
            here = queue.popleft()
            # Every move can be taken back, so ways to the goal are ways from it.
            for there in self.successors[here]:
                if far[there] < 0:
                    far[there] = far[here] + 1
                    queue.append(there)
        if far.min() < 0:
            raise InputError(f"no way leads from {self.cells[int(far.argmin())]} to {cell}; open a wall")
        return far


def slip_matrix(noise: float, kernel: str = OTHER_MOVE) -> np.ndarray:
    """Probability, (4, 4), that move b is made where a was meant.

    Args:
        noise: probability of a slip.
        kernel: "other-move": a slip makes one of the three other moves; "uniform-move": it makes any of the
            four, the one that was meant among them.
    """
    if kernel == OTHER_MOVE:
        return (1 - noise) * np.eye(4) + noise / 3 * (1 - np.eye(4))
    return (1 - noise) * np.eye(4) + noise / 4


def sparse_moves(
    grid: GridMap, slips: np.ndarray, terminal: tuple[tuple[int, int], ...] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """Successors and their probabilities, (S, 4, 4) each: entry b of a row is move b."""
    states = len(grid.cells)
    to = np.broadcast_to(grid.successors[:, None, :], (states, 4, 4)).copy()
    weight = np.broadcast_to(slips, (states, 4, 4)).copy()
    weight[[grid.index[cell] for cell in terminal]] = 0
    return to, weight


def dense_table(successors: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """P, (S, A, S), of successors and weights (S, A, K)."""
    states, actions, _ = weights.shape
    table = np.zeros((states, actions, states))
    rows = np.arange(states)[:, None, None], np.arange(actions)[None, :, None]
    np.add.at(table, (*rows, successors), weights)
    return table
