"""Infrastructure as data: each artefact is a pure function from a `Deployment` to plain data, checked offline.

``penstock infra render`` writes the files, ``penstock infra validate`` checks them; nothing here talks to AWS or to
Kubernetes. Modules import `deployment` and not each other, so that each is validated alone.
"""
