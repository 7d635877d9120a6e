"""SGD with momentum (Sutskever et al. 2013, "On the importance of initialization and momentum in deep learning")."""

from ms_optim._optimizer import Optimizer, Slot


def sgd_scalars(step, lr, momentum, dampening, weight_decay):
    """The step's numbers. The first step seeds the momentum buffer with the gradient itself, undampened."""
    return lr, momentum, 1 - dampening * (step > 1), weight_decay


def sgd(param, grad, slots, lr, momentum, take, weight_decay, nesterov, maximize):
    """Compute buf <- momentum*buf + take*(grad + weight_decay*param); param <- param - lr*buf."""
    (momentum_buffer,) = slots
    grad = -grad if maximize else grad
    grad = grad + weight_decay * param
    if momentum_buffer is not None:
        momentum_buffer = momentum * momentum_buffer + take * grad
        grad = grad + momentum * momentum_buffer if nesterov else momentum_buffer
    return param - lr * grad, (momentum_buffer,)


class SGD(Optimizer):
    """Stochastic gradient descent with momentum."""

    scalars, update = sgd_scalars, sgd
    slots = (Slot("momentum_buffer", when="momentum"),)

    def __init__(self, params, lr=1e-3, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False, *,
                 maximize=False, fused=None, loss_scale=1.0):
        defaults = dict(lr=lr, momentum=momentum, dampening=dampening, weight_decay=weight_decay, nesterov=nesterov,
                        maximize=maximize)
        super().__init__(params, defaults, loss_scale, fused)
