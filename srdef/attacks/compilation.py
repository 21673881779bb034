"""Compile what `perturb` will run before there are images: `precompile`.

JAX compiles a program at its first call, while everything waits. A run knows its programs from its
configuration and can compile several at once, in threads: the compiler leaves the interpreter free. What is
compiled says how much memory it will need.
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from srdef import memory
from srdef.attacks import programs
from srdef.attacks.arguments import check_arguments
from srdef.attacks.arithmetic import Arithmetic, computing_in, judging_in
from srdef.attacks.autoattack import AutoAttack
from srdef.attacks.base import Attack, without_early_stop
from srdef.attacks.batch import Storage
from srdef.attacks.counts import AttackRows
from srdef.attacks.ensemble import Ensemble
from srdef.attacks.repeat import Repeated
from srdef.attacks.stepping import is_looped
from srdef.attacks.transfer import correct_share
from srdef.batching import abstract, data_mesh, sharding_of_rows
from srdef.errors import InputError
from srdef.validation import check_ids
from srdef.victims import ExpectationOverTransformation, Victim


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
    everything: bool = False,
) -> int:
    """Compile the programs of `perturb` for a full batch; a call with the same arguments finds them.

    Parameters
    ----------
    attack, victim, key, batch_size, storage, draws, mesh, arithmetic
        As `perturb` takes them.
    shape : (height, width, channels)
    everything : bool
        Of an attack that runs others (AutoAttack), compile all of these. Otherwise only the first: the
        batches of the others depend on what it leaves.

    Returns
    -------
    int
        The bytes that a batch needs on each device, with the weights of the victim.
    """
    if not isinstance(attack, Attack):
        parts = _parts(attack, victim)
        options: dict[str, Any] = {
            "key": key,
            "batch_size": batch_size,
            "storage": storage,
            "mesh": mesh,
            "arithmetic": arithmetic,
        }
        needs = [precompile(*part, shape, **options) for part in (parts if everything else parts[:1])]
        return max(needs)
    mesh = data_mesh() if mesh is None else mesh
    sharding = sharding_of_rows(mesh)
    targeted = attack.targeted
    one = np.zeros((1, *shape), np.float32)
    _, ids, key, attack, _ = check_arguments(attack, victim, one, None, key)
    given = (AttackRows.create(attack, 1), one, np.zeros(1, np.int32), ids, np.zeros(1, bool))
    victim, key, rows, images, labels, ids, needed = abstract((victim, key), given, batch_size, mesh)

    # Compiled in the context of the calls, too: JAX knows a compiled program by it.
    with computing_in(arithmetic):
        first = programs.init.lower(rows, victim, key, images, labels, ids, None, sharding=sharding)
        compiled = [first.compile()]
        state, _ = abstract((), first.out_info, batch_size, mesh)
        looped = is_looped(attack, sharding)
        steps = programs.steps.lower(rows, victim, state, needed, 1, 0, looped=looped, sharding=sharding)
        compiled.append(steps.compile())
    # As many steps as `run_steps` begins before it waits for one.
    calls = 1 if looped else max(attack.max_steps // 1000, 1) if attack.stops_early else attack.max_steps
    waiting = memory.in_flight(compiled[-1], calls)
    judged = {"targeted": targeted, "draws": draws}
    with judging_in(arithmetic):
        lowered = [programs.result.lower(rows, state[0], images)]
        if storage == "uint8":
            lowered.append(programs.rounded.lower(rows, victim, key, images, images, labels, ids))
        lowered.append(programs.judged.lower(victim, key, images, images, labels, ids, **judged))
        compiled += [program.compile() for program in lowered]
    return waiting + memory.of_programs(compiled, images)


def precompile_accuracy(
    victim: Victim, shape: tuple[int, ...], *, key: jax.Array, batch_size: int, draws: int = 1
) -> int:
    """Compile what `accuracy_over_draws` runs for images of the given shape (height, width, channels).

    Returns
    -------
    int
        The bytes that a batch needs on each device.
    """
    rows = (np.zeros((1, *shape), np.float32), np.zeros(1, np.int32), check_ids(None, 1))
    given = abstract((victim, key), rows, batch_size, data_mesh())
    return memory.of_programs([correct_share.lower(*given, draws=draws).compile()], given[2])


def _parts(attack: Ensemble, victim: Victim) -> list[tuple[Attack, Victim]]:
    """The attacks that an ensemble runs, each with what it attacks; the first attacks whole batches."""
    if isinstance(attack, Repeated):
        return [(attack.attack, victim)]
    if not isinstance(attack, AutoAttack):
        raise InputError(f"what {type(attack).__name__} runs cannot be compiled before it runs")
    if attack.version != "rand":
        return [(member, victim) for member in attack.members]
    seen = ExpectationOverTransformation(victim, attack.draws, "loss")
    return [(without_early_stop(member), seen) for member in attack.members]
