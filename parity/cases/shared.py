"""What the entries of several optimizers share: arguments, mistakes that their rules have in common, a constraint."""

ADAM_GRID = (
    {},
    {"lr": 0.05, "betas": (0.8, 0.99999), "eps": 1e-3},
    {"lr": 0.01, "betas": (0.0, 0.5), "eps": 1e-6, "weight_decay": 0.7},
    {"lr": 0.1, "betas": (0.999, 0.9), "eps": 1e-12, "weight_decay": 0.3, "maximize": True},
    {"lr": 0.02, "betas": (0.5, 0.7), "eps": 1e-4, "weight_decay": 0.5, "amsgrad": True},
)
DECAY = "grad = decay_gradient(grad, param, weight_decay, decays)"
NEGATE = "grad = -grad if maximize else grad"
NO_DECAY = ("decay dropped", DECAY, "grad = grad + 0")
NO_MAXIMIZE = ("maximize ignored", NEGATE, "grad = grad if maximize else grad")
DECAY_TURNED = ("maximize turns the decay around", f"    {NEGATE}\n    {DECAY}", f"    {DECAY}\n    {NEGATE}")
DECAY_SIGNED = (
    "the sign of the decay follows maximize",
    DECAY,
    "grad = decay_gradient(grad, param, -weight_decay if maximize else weight_decay, decays)",
)
# Of a rule whose decay goes into the gradient, and of one where a flag says whether it does.
COUPLED_MISTAKES = (NO_DECAY, NO_MAXIMIZE, DECAY_TURNED)
FLAGGED_MISTAKES = (
    (
        "decay coupled for decoupled",
        "if decoupled_weight_decay:",
        "if decoupled_weight_decay and not decoupled_weight_decay:",
    ),
    (
        "decay decoupled for coupled",
        "if decoupled_weight_decay:",
        "if decoupled_weight_decay or not decoupled_weight_decay:",
    ),
    ("decoupled decay without the learning rate", "lr * weight_decay, beta1", "weight_decay, beta1"),
    NO_DECAY,
    NO_MAXIMIZE,
    DECAY_SIGNED,
)


def mend_nesterov(options: dict) -> dict:
    """What makes arguments fit where Nesterov's momentum needs momentum and no dampening."""
    if not options.get("nesterov"):
        return {}
    return {"dampening": 0.0} if options["momentum"] else {"nesterov": False}
