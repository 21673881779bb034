"""Compile what `perturb` will run before there are images: `precompile`.

JAX compiles a program at its first call, while everything waits. A run knows its programs from its
configuration and can compile several at once, in threads: the compiler leaves the interpreter free.
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from srdef.attacks import programs
from srdef.attacks.arguments import check_arguments
from srdef.attacks.arithmetic import Arithmetic, computing_in, judging_in
from srdef.attacks.base import Attack
from srdef.attacks.batch import Storage
from srdef.attacks.stepping import is_looped
from srdef.batching import abstract, data_mesh, sharding_of_rows
from srdef.victims import Victim


def precompile(
    attack: Any,
    victim: Victim,
    shape: tuple[int, ...],
    *,
    key: jax.Array,
    batch_size: int,
    storage: Storage = "float32",
    draws: int = 1,
    mesh: Mesh | None = None,
    arithmetic: Arithmetic | None = None,
) -> None:
    """Compile the programs of `perturb` for a full batch; a call with the same arguments finds them.

    Parameters
    ----------
    attack, victim, key, batch_size, storage, draws, mesh, arithmetic
        As `perturb` takes them. Nothing is done for an attack that runs others (AutoAttack): what these need
        depends on what the first of them leave.
    shape : (height, width, channels)
    """
    if not isinstance(attack, Attack):
        return
    mesh = data_mesh() if mesh is None else mesh
    sharding = sharding_of_rows(mesh)
    targeted = attack.targeted
    one = np.zeros((1, *shape), np.float32)
    _, ids, attack, _ = check_arguments(attack, victim, one, None, key)
    rows = (attack, one, np.zeros(1, np.int32), ids, np.zeros(1, bool))
    victim, key, attack, images, labels, ids, needed = abstract((victim, key), rows, batch_size, mesh)

    # Compiled in the context of the calls, too: JAX knows a compiled program by it.
    with computing_in(arithmetic):
        first = programs.init.lower(attack, victim, key, images, labels, ids, None, sharding=sharding)
        first.compile()
        state, _ = abstract((), first.out_info, batch_size, mesh)
        looped = is_looped(attack, sharding)
        steps = programs.steps.lower(attack, victim, state, needed, 1, 0, looped=looped, sharding=sharding)
        steps.compile()
    judged = {"targeted": targeted, "draws": draws}
    with judging_in(arithmetic):
        programs.result.lower(attack, state[0], images).compile()
        if storage == "uint8":
            programs.rounded.lower(attack, victim, key, images, images, labels, ids).compile()
        programs.judged.lower(victim, key, images, images, labels, ids, **judged).compile()
