"""L-BFGS (Liu and Nocedal 1989, "On the limited memory BFGS method for large scale optimization")."""

from ms_optim.lbfgs.optimizer import LBFGS

__all__ = ["LBFGS"]
