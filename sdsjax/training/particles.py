"""Several particles: n assets side by side, of which step i trains particle i mod n.

They share the prior and the estimator's state (for vsd the network psi, so that psi
learns the distribution of all of them: ProlificDreamer, arXiv 2305.16213, alg. 1).
Where n > 1, parameters, the representation's state and the optimizer's moments have a
leading axis [n]; with one particle nothing has it.
"""

from __future__ import annotations

import jax

from sdsjax.types import PyTree

OWNED = ("params", "rep_state", "opt_state")  # what every particle has for itself


def state_of_particle(state, index, particles: int):
    """Picks particle `index` (a number or a traced one) out of a TrainState."""
    if particles == 1:
        return state
    own = {name: _row(getattr(state, name), index) for name in OWNED}
    return state._replace(**own)


def with_particle(state, index, part, particles: int):
    """Replaces particle `index` of a TrainState by `part`, what is shared included."""
    if particles == 1:
        return part
    own = {
        name: jax.tree.map(
            lambda rows, row: rows.at[index].set(row),
            getattr(state, name),
            getattr(part, name),
        )
        for name in OWNED
    }
    return part._replace(**own)


def _row(tree: PyTree, index) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[index], tree)
