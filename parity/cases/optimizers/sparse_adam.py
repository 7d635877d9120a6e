"""SparseAdam, whose gradients are rows."""

from parity.cases.case import Entry, grid, mutants

ENTRY = Entry(
    "SparseAdam",
    cases=(
        *grid(
            "SparseAdam",
            {},
            {"lr": 0.05, "betas": (0.8, 0.99999), "eps": 1e-3},
            {"lr": 0.1, "betas": (0.999, 0.9), "eps": 1e-2, "maximize": True},
            sparse=True,
        ),
        *grid(
            "SparseAdam",
            {"lr": 0.03},
            sparse=True,
            groups=(("*.weight", {"lr": 1e-5, "betas": (0.7, 0.95), "eps": 1e-2}), ("*.b*", {"eps": 1e-4})),
        ),
    ),
    mutants=mutants(
        "SparseAdam",
        (
            "eps after the bias correction",
            "(1 - power(beta1, step)), eps",
            "(1 - power(beta1, step)), eps * (1 - power(beta2, step)).sqrt()",
        ),
        ("eps inside the root", "(exp_avg_sq.sqrt() + eps)", "(exp_avg_sq + eps).sqrt()"),
        ("no first bias correction", "/ (1 - power(beta1, step))", "/ (1 - beta1 * 0)"),
        ("no second bias correction", "(1 - power(beta2, step)).sqrt()", "(1 - beta2 * 0).sqrt()"),
        ("bias correction one step ahead", "(1 - power(beta2, step)).sqrt()", "(1 - power(beta2, step + 1)).sqrt()"),
        ("1 - beta1 in float32", "return 1 - beta1,", "return 1 - beta1.float().double(),"),
        ("1 - beta2 in float32", " 1 - beta2, lr", " 1 - beta2.float().double(), lr"),
        ("betas swapped", "take1 * (grad - exp_avg)", "take2 * (grad - exp_avg)"),
        ("second moment of exp_avg", "(grad * grad - exp_avg_sq)", "(exp_avg * exp_avg - exp_avg_sq)"),
        ("maximize ignored", "-grad if maximize", "grad if maximize"),
        (
            "duplicates are not summed",
            "grad = sum_duplicates(indices, ops.cast(values, dtype), param.shape)",
            "grad = ops.cast(values, dtype)",
            "graph",
        ),
        (
            "the moments of all rows decay",
            "        rounded = read(",
            "        ops.assign(exp_avg, exp_avg * (1 - numbers[0]))\n        rounded = read(",
            "graph",
        ),
        ("the second moment is not kept", "write(exp_avg_sq, indices, ops.where(moves, new2, old2))", "old2", "graph"),
    ),
    kernels=(
        ({}, 26, 22, 18),
        ({"maximize": True}, 27, 22, 18),
    ),
    memory=(({}, 2),),
    within={"lr": bool},  # torch refuses a rate of zero
)
