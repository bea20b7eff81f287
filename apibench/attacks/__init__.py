"""The ensemble transfer attack: made offline from public classifiers, meant for a system nobody can see into.

:mod:`~apibench.attacks.catalogue` is the table of the parts that an attack is put together from, and
:mod:`~apibench.attacks.composition` reads an attack's name. :mod:`~apibench.attacks.loop` is the one iteration of all of them,
in a ball (:mod:`~apibench.attacks.budgets`), up what :mod:`~apibench.attacks.objective` says. The parts: gradient rules
(:mod:`~apibench.attacks.gradients`), input transforms (:mod:`~apibench.attacks.transforms`), ensemble rules
(:mod:`~apibench.attacks.ensembles`) and losses (:mod:`~apibench.attacks.losses`). :mod:`~apibench.attacks.stage` makes whole
image sets.
"""
