"""LBFGS, whose step takes a closure."""

from parity.cases.case import Entry, grid, mutants

_CAUTION = "1.0 / number(sum_of_magnitudes(grad))"

ENTRY = Entry(
    "LBFGS",
    cases=grid(
        "LBFGS",
        {"lr": 0.3, "max_iter": 5},  # without a search, steps of length 1 leave the valley
        {"max_iter": 5, "line_search_fn": "strong_wolfe"},
        {
            "max_iter": 4,
            "max_eval": 6,
            "tolerance_grad": 0.1,
            "tolerance_change": 0.05,
            "history_size": 2,
            "line_search_fn": "strong_wolfe",
        },
    ),
    mutants=mutants(
        "LBFGS",
        ("the first step is not cautious", _CAUTION, "1.0", "graph"),
        ("every step is cautious", 'if state["n_iter"] > 1:', 'if state["n_iter"] < 1:', "graph"),
        ("the scale of the inverse Hessian stays 1", "[*ro[kept], r], ratio", "[*ro[kept], r], scale", "graph"),
        ("the scale is that of the steps", "ys / dot(y, y)", "ys / dot(s, s)", "graph"),
        ("one gradient before the last", "grad - previous, d * t", "previous - grad, d * t", "graph"),
        (
            "the history is gone through forward",
            "zip(reversed(old_dirs), reversed(old_stps), reversed(ro))",
            "zip(old_dirs, old_stps, ro)",
            "graph",
        ),
        (
            "the second pass takes the other product",
            "weight - dot(y, d) * r",
            "weight - dot(s, d) * r",
            "graph",
        ),
        ("the first pass adds", "add_scaled(q, -weight, y)", "add_scaled(q, weight, y)", "graph"),
        (
            "Armijo's share is that of the slope",
            "ARMIJO, CURVATURE = 1e-4, 0.9",
            "ARMIJO, CURVATURE = 0.9, 0.9",
            "graph",
        ),
        (
            "a step may leave nothing of the slope",
            "ARMIJO, CURVATURE = 1e-4, 0.9",
            "ARMIJO, CURVATURE = 1e-4, 0.1",
            "graph",
        ),
        ("the search goes to the middle", "if not square >= 0:", "if square >= 0 or not square >= 0:", "graph"),
        ("evaluations of the search are not counted", "evaluations += used", "evaluations += 0 * used", "graph"),
        ("the history has one pair too many", "len(ro) + 1 - history_size", "len(ro) - history_size", "graph"),
        ("the history is not limited", "len(ro) + 1 - history_size", "len(ro) * 0", "graph"),
        ("max_eval is exceeded by one", "or evaluations >= max_eval", "or evaluations > max_eval", "graph"),
        ("max_iter is exceeded by one", "iteration == max_iter", "iteration > max_iter", "graph"),
        (
            "the gradient is never small enough",
            "or number(largest(grad)) <= tolerance_grad",
            "or number(largest(grad)) <= tolerance_grad * 0",
            "graph",
        ),
    ),
    memory=(({"max_iter": 1}, 2), ({"lr": 0.1, "max_iter": 101}, 202)),
    closure=True,
    state=("d", "prev_flat_grad", "old_dirs", "old_stps"),
)
