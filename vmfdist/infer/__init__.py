"""Inference on the sphere in Pyro: a guide for SVI and a reparametrisation for HMC and NUTS.

Both serve every latent site whose support is Pyro's ``constraints.sphere``, whatever its law and
dimension. A sphere has no global bijection to a Euclidean space, so that ``biject_to`` knows none,
and Pyro's own continuous guides and samplers refuse such sites.
"""

from vmfdist.infer.guide import AutoVonMisesFisher
from vmfdist.infer.reparam import AutoSphereReparam, SphereReparam

__all__ = ["AutoSphereReparam", "AutoVonMisesFisher", "SphereReparam"]
