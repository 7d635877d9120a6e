// The rules, one functor each, as the functions of the same name in ../*.py say them; those are the specification.
//
// A functor is made once for each tensor, from the step's numbers and from its flags, and updates one element after the
// other; declare.h says how it names what it takes. Multiply-adds are fused where torch's are, so that the bits are
// torch's, and in the tail, the last elements that do not fill a vector of 32 bytes, where its compiler has put them.
// This file is included once for each instruction set: see kernels.cpp.

template <class T>
static inline T fused(T x, T y, T z) {
#if HAS_FMA
    return std::is_same_v<T, float> ? __builtin_fmaf(x, y, z) : __builtin_fma(x, y, z);
#else
    return x * y + z;
#endif
}

template <class T>
static inline T square_root(T x) {
    return std::is_same_v<T, float> ? __builtin_sqrtf(x) : __builtin_sqrt(x);
}

template <class T>
static inline T lerp(T start, T end, T weight) {
    const T way = end - start;
    return std::abs(weight) < T(0.5) ? fused(weight, way, start) : fused(weight - T(1), way, end);
}

template <class T>
static inline T decayed(T grad, T param, T weight_decay) {
    return weight_decay != T(0) ? fused(param, weight_decay, grad) : grad;
}

template <class T>
static inline T mean_square(T average, T value, T keep, T take) {
    return fused(take * value, value, keep * average);
}

// The larger one, or NaN if one is.
template <class T>
static inline T larger(T x, T y) {
    return (x > y) | (x != x) ? x : y;
}

// One decay of the two: of the parameter where it is decoupled, else of the gradient.
template <class T>
static inline void keep_one_decay(bool decoupled, T &keep, T &weight_decay) {
    if (decoupled)
        weight_decay = T(0);
    else
        keep = T(1);
}

// The rule of sgd, which momentum_agc ends with; the buffer is there if `has` is not 0.
template <unsigned has, bool tail, class T>
static inline void descend(T &param, T grad, T &momentum_buffer, T lr, T momentum, T take, T weight_decay,
                           bool nesterov) {
    grad = decayed(grad, param, weight_decay);
    if (has) {
        momentum_buffer = tail ? fused(momentum_buffer, momentum, take * grad)
                               : fused(grad, take, momentum * momentum_buffer);
        grad = nesterov ? fused(momentum_buffer, momentum, grad) : momentum_buffer;
    }
    param = fused(grad, -lr, param);
}

template <class T>
struct sgd : Declaration {
    NUMBERS(lr, momentum, take, weight_decay)
    FLAGS(nesterov, maximize)
    SLOTS(momentum_buffer)
    static constexpr unsigned optional = 1u << Place::momentum_buffer;
    template <unsigned has, bool tail>
    inline void update(T &param, T grad) {
        descend<has, tail>(param, grad, momentum_buffer, lr, momentum, take, weight_decay, nesterov);
    }
};

template <class T>
struct adam : Declaration {
    NUMBERS(keep, weight_decay, take1, beta2, take2, step_size, root, eps)
    FLAGS(decoupled_weight_decay, maximize)
    SLOTS(exp_avg, exp_avg_sq, max_exp_avg_sq)
    static constexpr unsigned optional = 1u << Place::max_exp_avg_sq;
    void prepare() { keep_one_decay(decoupled_weight_decay, keep, weight_decay); }
    template <unsigned has, bool tail>
    inline void update(T &param, T grad) {
        param = param * keep;
        grad = decayed(grad, param, weight_decay);
        exp_avg = lerp(exp_avg, grad, take1);
        exp_avg_sq = tail ? fused(exp_avg_sq, beta2, take2 * grad * grad)
                          : mean_square(exp_avg_sq, grad, beta2, take2);
        T largest = exp_avg_sq;
        if (HAS(max_exp_avg_sq)) largest = max_exp_avg_sq = larger(max_exp_avg_sq, exp_avg_sq);
        param = param - step_size * exp_avg / (square_root(largest) / root + eps);
    }
};

template <class T>
struct adagrad : Declaration {
    NUMBERS(step_size, weight_decay, eps)
    FLAGS(maximize)
    SLOTS(sum)
    template <unsigned has, bool tail>
    inline void update(T &param, T grad) {
        grad = decayed(grad, param, weight_decay);
        sum = fused(grad, grad, sum);
        param = param - step_size * grad / (square_root(sum) + eps);
    }
};

template <class T>
struct adadelta : Declaration {
    NUMBERS(lr, rho, take, eps, weight_decay)
    FLAGS(maximize)
    SLOTS(square_avg, acc_delta)
    template <unsigned has, bool tail>
    inline void update(T &param, T grad) {
        grad = decayed(grad, param, weight_decay);
        square_avg = mean_square(square_avg, grad, rho, take);
        const T delta = square_root(acc_delta + eps) / square_root(square_avg + eps) * grad;
        acc_delta = mean_square(acc_delta, delta, rho, take);
        param = fused(delta, -lr, param);
    }
};

template <class T>
struct adamax : Declaration {
    NUMBERS(step_size, take, beta2, eps, weight_decay)
    FLAGS(maximize)
    SLOTS(exp_avg, exp_inf)
    template <unsigned has, bool tail>
    inline void update(T &param, T grad) {
        grad = decayed(grad, param, weight_decay);
        exp_avg = lerp(exp_avg, grad, take);
        exp_inf = larger(beta2 * exp_inf, (grad < T(0) ? -grad : grad) + eps);
        param = param - step_size * exp_avg / exp_inf;
    }
};

template <class T>
struct rmsprop : Declaration {
    NUMBERS(lr, alpha, take, eps, weight_decay, momentum)
    FLAGS(maximize)
    SLOTS(square_avg, momentum_buffer, grad_avg)
    static constexpr unsigned optional = 1u << Place::momentum_buffer | 1u << Place::grad_avg;
    template <unsigned has, bool tail>
    inline void update(T &param, T grad) {
        grad = decayed(grad, param, weight_decay);
        square_avg = mean_square(square_avg, grad, alpha, take);
        T variance = square_avg;
        if (HAS(grad_avg)) {
            grad_avg = lerp(grad_avg, grad, take);
            variance = fused(-grad_avg, grad_avg, square_avg);
        }
        const T deviation = square_root(variance) + eps;
        if (HAS(momentum_buffer)) {
            momentum_buffer = momentum * momentum_buffer + grad / deviation;
            param = fused(momentum_buffer, -lr, param);
        } else {
            param = param - lr * grad / deviation;
        }
    }
};

template <class T>
struct asgd : Declaration {
    NUMBERS(eta, mu, keep, weight_decay)
    FLAGS(maximize)
    SLOTS(ax)
    template <unsigned has, bool tail>
    inline void update(T &param, T grad) {
        grad = decayed(grad, param, weight_decay);
        param = fused(grad, -eta, param * keep);
        ax = mu == T(1) ? param : ax + (param - ax) * mu;
    }
};

template <class T>
struct rprop : Declaration {
    NUMBERS(first, lr, etaminus, etaplus, step_size_min, step_size_max)
    FLAGS(maximize)
    SLOTS(prev, step_size)
    template <unsigned has, bool tail>
    inline void update(T &param, T grad) {
        const T turn = grad * prev;
        T step = first > T(0) ? lr : step_size;
        step = step * (turn > T(0) ? etaplus : turn < T(0) ? etaminus : T(1));
        step = step < step_size_min ? step_size_min : step;
        step = step > step_size_max ? step_size_max : step;
        grad = turn < T(0) ? T(0) : grad;
        param = param - (T(grad > T(0)) - T(grad < T(0))) * step;
        prev = grad;
        step_size = step;
    }
};

template <class T>
struct nadam : Declaration {
    NUMBERS(keep, weight_decay, take1, beta2, take2, correction2, eps, grad_size, momentum_size)
    FLAGS(decoupled_weight_decay, maximize)
    SLOTS(exp_avg, exp_avg_sq)
    void prepare() { keep_one_decay(decoupled_weight_decay, keep, weight_decay); }
    template <unsigned has, bool tail>
    inline void update(T &param, T grad) {
        param = param * keep;
        grad = decayed(grad, param, weight_decay);
        exp_avg = lerp(exp_avg, grad, take1);
        exp_avg_sq = mean_square(exp_avg_sq, grad, beta2, take2);
        const T denominator = square_root(exp_avg_sq / correction2) + eps;
        param = param - grad_size * grad / denominator;
        param = param - momentum_size * exp_avg / denominator;
    }
};

template <class T>
struct radam : Declaration {
    NUMBERS(keep, weight_decay, take1, beta2, take2, correction1, lr, root, eps, rect, excess)
    FLAGS(decoupled_weight_decay, maximize)
    SLOTS(exp_avg, exp_avg_sq)
    void prepare() { keep_one_decay(decoupled_weight_decay, keep, weight_decay); }
    template <unsigned has, bool tail>
    inline void update(T &param, T grad) {
        param = param * keep;
        grad = decayed(grad, param, weight_decay);
        exp_avg = lerp(exp_avg, grad, take1);
        exp_avg_sq = mean_square(exp_avg_sq, grad, beta2, take2);
        // A number over a tensor is that number times its reciprocal in torch.
        const T adaptive = T(1) / (square_root(exp_avg_sq) + eps) * root;
        const T change = exp_avg / correction1 * lr;
        param = param - (excess > T(0) ? change * adaptive * rect : change);
    }
};

// What it does to a gradient that is clipped: see units.h.
template <class T>
struct momentum_agc : Declaration {
    NUMBERS(lr, momentum, take, weight_decay, clipping, clip_eps)
    FLAGS(nesterov, maximize, unit, exempt)
    CHOICES(unit, output, squeezed)
    SLOTS(momentum_buffer)
    static constexpr unsigned optional = 1u << Place::momentum_buffer;
    static constexpr bool has_units = true;
    // The units of a tensor of this shape, as `unit_axes` of ../_math.py has them.
    Units units(int64_t size, int dimensions, const int64_t *shape) const {
        int wide = 0;
        for (int i = 0; i < dimensions; ++i) wide += shape[i] != 1;
        if (exempt) return {};
        if (dimensions <= 1 || (unit == squeezed && wide <= 1)) return {size, 1};
        if (unit == squeezed && dimensions == 3) return {shape[1], shape[2]};
        return {size / shape[0], 1};
    }
    // What a unit's gradient is multiplied by.
    double factor(const Squares &squares) const {
        const double param_norm = std::sqrt(squares.param), grad_norm = std::sqrt(squares.grad);
        const double max_norm = (param_norm < clip_eps ? double(clip_eps) : param_norm) * clipping;
        if (grad_norm < max_norm || clipping == 0) return 1;
        return grad_norm * 1e6 < 1 ? max_norm * 1e6 : max_norm / grad_norm;
    }
    template <unsigned has, bool tail>
    inline void update(T &param, T grad) {
        descend<has, tail>(param, grad, momentum_buffer, lr, momentum, take, weight_decay, nesterov);
    }
};

// Not an optimizer's rule, but that of an average: its one "gradient" is the value that is averaged.
template <class T>
struct average : Declaration {
    NUMBERS(weight)
    FLAGS(copied)
    static constexpr int maximize = 0;
    template <unsigned has, bool tail>
    inline void update(T &mean, T value) {
        mean = copied ? value : lerp(mean, value, weight);
    }
};
