"""The ensemble transfer attack: made offline from public classifiers, meant for a system nobody can see into.

:mod:`~apibench.attacks.loop` is the iteration; the parts it is put together from are gradient rules
(:mod:`~apibench.attacks.gradients`), input transforms (:mod:`~apibench.attacks.transforms`) and ensemble rules
(:mod:`~apibench.attacks.ensembles`). :mod:`~apibench.attacks.stage` makes whole image sets with it.
"""
