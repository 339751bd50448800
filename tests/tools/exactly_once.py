"""A run with lost replies beside the run in which the same clients were not asked."""

import fedbias as fb


def bits(arrays):
    return {name: (array.dtype, array.tobytes()) for name, array in arrays.items()}


def everything(objectives, optimizer, start, rounds, **settings):
    """After every round all of the server's state; at the end, what the clients remember."""
    states = []
    history = fb.run(
        *(objectives, optimizer, start, rounds),
        on_round=lambda k, state, outcome: states.append(
            (
                state.point.tobytes(),
                bits(state.optimizer),
                bits(state.memories),
                dict(state.counts),
                dict(state.acknowledged),
                outcome.applied,
                (state.batch_size, state.samples),
                (outcome.batch_size, outcome.samples, repr(outcome.wanted)),
                (dict(state.variances), outcome.dropped),
            )
        ),
        **({"seed": 3} | settings),
    )
    assert not any(outcome.refused for outcome in history.outcomes)
    return states, [bits(memory) for memory in history.memories]


def both_ways(gone, objectives, optimizer, start, rounds, **settings):
    """The run in which the pairs' replies are lost, and the one in which they are not asked."""
    clients = range(len(objectives))

    def absent(k):
        return [client for client in clients if (k, client) in gone]

    def present(k):
        return [client for client in clients if (k, client) not in gone]

    common = objectives, optimizer, start, rounds
    lossy = everything(*common, lost=absent, **settings)
    sparse = everything(*common, participation=present, **settings)
    return lossy, sparse
