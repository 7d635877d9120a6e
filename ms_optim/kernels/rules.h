// The rules, one functor each, as the functions of the same name in ../*.py say them; those are the specification.
//
// A functor is made once for each tensor, from the step's numbers in the order in which its function takes them and from
// its flags, and is called once for each element. Multiply-adds are fused where torch's are, so that the bits are
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
static inline T root(T x) {
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

template <class T>
struct sgd {
    static constexpr unsigned slots = 1, optional = 1;
    static constexpr int numbers = 4;
    T lr, momentum, take, weight_decay;
    bool nesterov;
    sgd(const T *n, const int *flags)
        : lr(n[0]), momentum(n[1]), take(n[2]), weight_decay(n[3]), nesterov(flags[0]) {}
    static int maximize(const int *flags) { return flags[1]; }
    template <unsigned has, bool tail>
    inline void operator()(T &param, T grad, T &buf, T &, T &) const {
        grad = decayed(grad, param, weight_decay);
        if (has & 1) {
            buf = tail ? fused(buf, momentum, take * grad) : fused(grad, take, momentum * buf);
            grad = nesterov ? fused(buf, momentum, grad) : buf;
        }
        param = fused(grad, -lr, param);
    }
};

template <class T>
struct adam {
    static constexpr unsigned slots = 3, optional = 4;
    static constexpr int numbers = 8;
    T keep, weight_decay, take1, beta2, take2, step_size, correction, eps;
    adam(const T *n, const int *flags)
        : keep(flags[0] ? n[0] : T(1)), weight_decay(flags[0] ? T(0) : n[1]), take1(n[2]), beta2(n[3]), take2(n[4]),
          step_size(n[5]), correction(n[6]), eps(n[7]) {}
    static int maximize(const int *flags) { return flags[1]; }
    template <unsigned has, bool tail>
    inline void operator()(T &param, T grad, T &exp_avg, T &exp_avg_sq, T &max_exp_avg_sq) const {
        param = param * keep;
        grad = decayed(grad, param, weight_decay);
        exp_avg = lerp(exp_avg, grad, take1);
        exp_avg_sq = tail ? fused(exp_avg_sq, beta2, take2 * grad * grad)
                          : mean_square(exp_avg_sq, grad, beta2, take2);
        T largest = exp_avg_sq;
        if (has & 4) largest = max_exp_avg_sq = larger(max_exp_avg_sq, exp_avg_sq);
        param = param - step_size * exp_avg / (root(largest) / correction + eps);
    }
};

template <class T>
struct adagrad {
    static constexpr unsigned slots = 1, optional = 0;
    static constexpr int numbers = 3;
    T step_size, weight_decay, eps;
    adagrad(const T *n, const int *) : step_size(n[0]), weight_decay(n[1]), eps(n[2]) {}
    static int maximize(const int *flags) { return flags[0]; }
    template <unsigned has, bool tail>
    inline void operator()(T &param, T grad, T &sum, T &, T &) const {
        grad = decayed(grad, param, weight_decay);
        sum = fused(grad, grad, sum);
        param = param - step_size * grad / (root(sum) + eps);
    }
};

template <class T>
struct adadelta {
    static constexpr unsigned slots = 2, optional = 0;
    static constexpr int numbers = 5;
    T lr, rho, take, eps, weight_decay;
    adadelta(const T *n, const int *) : lr(n[0]), rho(n[1]), take(n[2]), eps(n[3]), weight_decay(n[4]) {}
    static int maximize(const int *flags) { return flags[0]; }
    template <unsigned has, bool tail>
    inline void operator()(T &param, T grad, T &square_avg, T &acc_delta, T &) const {
        grad = decayed(grad, param, weight_decay);
        square_avg = mean_square(square_avg, grad, rho, take);
        const T delta = root(acc_delta + eps) / root(square_avg + eps) * grad;
        acc_delta = mean_square(acc_delta, delta, rho, take);
        param = fused(delta, -lr, param);
    }
};

template <class T>
struct adamax {
    static constexpr unsigned slots = 2, optional = 0;
    static constexpr int numbers = 5;
    T step_size, take, beta2, eps, weight_decay;
    adamax(const T *n, const int *)
        : step_size(n[0]), take(n[1]), beta2(n[2]), eps(n[3]), weight_decay(n[4]) {}
    static int maximize(const int *flags) { return flags[0]; }
    template <unsigned has, bool tail>
    inline void operator()(T &param, T grad, T &exp_avg, T &exp_inf, T &) const {
        grad = decayed(grad, param, weight_decay);
        exp_avg = lerp(exp_avg, grad, take);
        exp_inf = larger(beta2 * exp_inf, (grad < T(0) ? -grad : grad) + eps);
        param = param - step_size * exp_avg / exp_inf;
    }
};

template <class T>
struct rmsprop {
    static constexpr unsigned slots = 3, optional = 6;
    static constexpr int numbers = 6;
    T lr, alpha, take, eps, weight_decay, momentum;
    rmsprop(const T *n, const int *)
        : lr(n[0]), alpha(n[1]), take(n[2]), eps(n[3]), weight_decay(n[4]), momentum(n[5]) {}
    static int maximize(const int *flags) { return flags[0]; }
    template <unsigned has, bool tail>
    inline void operator()(T &param, T grad, T &square_avg, T &buf, T &grad_avg) const {
        grad = decayed(grad, param, weight_decay);
        square_avg = mean_square(square_avg, grad, alpha, take);
        T variance = square_avg;
        if (has & 4) {
            grad_avg = lerp(grad_avg, grad, take);
            variance = fused(-grad_avg, grad_avg, square_avg);
        }
        const T deviation = root(variance) + eps;
        if (has & 2) {
            buf = momentum * buf + grad / deviation;
            param = fused(buf, -lr, param);
        } else {
            param = param - lr * grad / deviation;
        }
    }
};

template <class T>
struct asgd {
    static constexpr unsigned slots = 1, optional = 0;
    static constexpr int numbers = 4;
    T eta, mu, keep, weight_decay;
    asgd(const T *n, const int *) : eta(n[0]), mu(n[1]), keep(n[2]), weight_decay(n[3]) {}
    static int maximize(const int *flags) { return flags[0]; }
    template <unsigned has, bool tail>
    inline void operator()(T &param, T grad, T &ax, T &, T &) const {
        grad = decayed(grad, param, weight_decay);
        param = fused(grad, -eta, param * keep);
        ax = mu == T(1) ? param : ax + (param - ax) * mu;
    }
};

template <class T>
struct rprop {
    static constexpr unsigned slots = 2, optional = 0;
    static constexpr int numbers = 6;
    T first, lr, etaminus, etaplus, least, most;
    rprop(const T *n, const int *)
        : first(n[0]), lr(n[1]), etaminus(n[2]), etaplus(n[3]), least(n[4]), most(n[5]) {}
    static int maximize(const int *flags) { return flags[0]; }
    template <unsigned has, bool tail>
    inline void operator()(T &param, T grad, T &prev, T &step_size, T &) const {
        const T turn = grad * prev;
        T step = first > T(0) ? lr : step_size;
        step = step * (turn > T(0) ? etaplus : turn < T(0) ? etaminus : T(1));
        step = step < least ? least : step;
        step = step > most ? most : step;
        grad = turn < T(0) ? T(0) : grad;
        param = param - (T(grad > T(0)) - T(grad < T(0))) * step;
        prev = grad;
        step_size = step;
    }
};

template <class T>
struct nadam {
    static constexpr unsigned slots = 2, optional = 0;
    static constexpr int numbers = 9;
    T keep, weight_decay, take1, beta2, take2, correction, eps, grad_size, momentum_size;
    nadam(const T *n, const int *flags)
        : keep(flags[0] ? n[0] : T(1)), weight_decay(flags[0] ? T(0) : n[1]), take1(n[2]), beta2(n[3]), take2(n[4]),
          correction(n[5]), eps(n[6]), grad_size(n[7]), momentum_size(n[8]) {}
    static int maximize(const int *flags) { return flags[1]; }
    template <unsigned has, bool tail>
    inline void operator()(T &param, T grad, T &exp_avg, T &exp_avg_sq, T &) const {
        param = param * keep;
        grad = decayed(grad, param, weight_decay);
        exp_avg = lerp(exp_avg, grad, take1);
        exp_avg_sq = mean_square(exp_avg_sq, grad, beta2, take2);
        const T denominator = root(exp_avg_sq / correction) + eps;
        param = param - grad_size * grad / denominator;
        param = param - momentum_size * exp_avg / denominator;
    }
};

template <class T>
struct radam {
    static constexpr unsigned slots = 2, optional = 0;
    static constexpr int numbers = 11;
    T keep, weight_decay, take1, beta2, take2, correction1, lr, correction2, eps, rect, rectified;
    radam(const T *n, const int *flags)
        : keep(flags[0] ? n[0] : T(1)), weight_decay(flags[0] ? T(0) : n[1]), take1(n[2]), beta2(n[3]), take2(n[4]),
          correction1(n[5]), lr(n[6]), correction2(n[7]), eps(n[8]), rect(n[9]), rectified(n[10]) {}
    static int maximize(const int *flags) { return flags[1]; }
    template <unsigned has, bool tail>
    inline void operator()(T &param, T grad, T &exp_avg, T &exp_avg_sq, T &) const {
        param = param * keep;
        grad = decayed(grad, param, weight_decay);
        exp_avg = lerp(exp_avg, grad, take1);
        exp_avg_sq = mean_square(exp_avg_sq, grad, beta2, take2);
        // A number over a tensor is that number times its reciprocal in torch.
        const T adaptive = rectified > T(0) ? T(1) / (root(exp_avg_sq) + eps) * correction2 : T(1);
        param = param - exp_avg / correction1 * lr * adaptive * rect;
    }
};

// The gradient that comes in is clipped: see units in apply.h.
template <class T>
struct momentum_agc : sgd<T> {
    static constexpr int numbers = 6;
    T clipping, clip_eps;
    momentum_agc(const T *n, const int *flags) : sgd<T>(n, flags), clipping(n[4]), clip_eps(n[5]) {}
    static bool exempt(const int *flags) { return flags[3]; }
    static bool squeezed(const int *flags) { return flags[2]; }
    // What a unit's gradient is multiplied by, from the sums of squares of its weight and its gradient.
    double factor(double param_square, double grad_square) const {
        const double param_norm = std::sqrt(param_square), grad_norm = std::sqrt(grad_square);
        const double max_norm = (param_norm < clip_eps ? double(clip_eps) : param_norm) * clipping;
        if (grad_norm < max_norm || clipping == 0) return 1;
        return grad_norm * 1e6 < 1 ? max_norm * 1e6 : max_norm / grad_norm;
    }
};

// Not an optimizer's rule, but that of an average: its one "gradient" is the value that is averaged.
template <class T>
struct average {
    static constexpr unsigned slots = 0, optional = 0;
    static constexpr int numbers = 1;
    T weight;
    bool copied;
    average(const T *n, const int *flags) : weight(n[0]), copied(flags[0]) {}
    static int maximize(const int *) { return 0; }
    template <unsigned has, bool tail>
    inline void operator()(T &mean, T value, T &, T &, T &) const {
        mean = copied ? value : lerp(mean, value, weight);
    }
};
