// What runs a rule over a range of one tensor. Included once for each instruction set: see kernels.cpp.

// Elements that are converted at a time where a tensor is not of the type that is computed in.
constexpr int64_t BLOCK = 512;

static inline float from_half(uint16_t half) {
    const uint32_t sign = uint32_t(half & 0x8000) << 16, rest = half & 0x7fff;
    uint32_t bits;
    if (rest >= 0x7c00) {  // infinite, or NaN
        bits = (rest << 13) + (112u << 23) + (112u << 23);
    } else if (rest >= 0x0400) {
        bits = (rest << 13) + (112u << 23);
    } else {  // a multiple of 2**-24
        const float small = float(rest) * 5.9604644775390625e-8f;
        std::memcpy(&bits, &small, 4);
    }
    bits |= sign;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

// To the nearest, ties to even.
static inline uint16_t to_half(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    const uint16_t sign = uint16_t(bits >> 16) & 0x8000;
    bits &= 0x7fffffff;
    if (bits > 0x7f800000) return sign | 0x7e00;
    if (bits >= 0x477ff000) return sign | 0x7c00;
    if (bits < 0x38800000) {  // below the normal numbers: adding 0.5 rounds at 2**-24, its last place
        float magnitude;
        std::memcpy(&magnitude, &bits, 4);
        magnitude += 0.5f;
        std::memcpy(&bits, &magnitude, 4);
        return sign | uint16_t(bits - 0x3f000000);
    }
    bits += 0xfff + (bits >> 13 & 1);
    return sign | uint16_t((bits - (112u << 23)) >> 13);
}

static inline float from_bfloat(uint16_t high) {
    const uint32_t bits = uint32_t(high) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

// To the nearest, ties to even.
static inline uint16_t to_bfloat(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    if ((bits & 0x7fffffff) > 0x7f800000) return uint16_t(bits >> 16) | 0x40;
    return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

template <class T>
static void load(T *to, const void *from, Type type, int64_t begin, int64_t count) {
    if (type == Type::float32)
        for (int64_t i = 0; i < count; ++i) to[i] = T(static_cast<const float *>(from)[begin + i]);
    else if (type == Type::float64)
        for (int64_t i = 0; i < count; ++i) to[i] = T(static_cast<const double *>(from)[begin + i]);
    else if (type == Type::bfloat16)
        for (int64_t i = 0; i < count; ++i) to[i] = T(from_bfloat(static_cast<const uint16_t *>(from)[begin + i]));
    else
        for (int64_t i = 0; i < count; ++i) to[i] = T(from_half(static_cast<const uint16_t *>(from)[begin + i]));
}

template <class T>
static void store(void *to, const T *from, Type type, int64_t begin, int64_t count) {
    if (type == Type::float32)
        for (int64_t i = 0; i < count; ++i) static_cast<float *>(to)[begin + i] = float(from[i]);
    else if (type == Type::float64)
        for (int64_t i = 0; i < count; ++i) static_cast<double *>(to)[begin + i] = double(from[i]);
    else if (type == Type::bfloat16)
        for (int64_t i = 0; i < count; ++i) static_cast<uint16_t *>(to)[begin + i] = to_bfloat(float(from[i]));
    else
        for (int64_t i = 0; i < count; ++i) static_cast<uint16_t *>(to)[begin + i] = to_half(float(from[i]));
}

template <unsigned has, bool tail, class Rule, class T>
static void loop(const Rule &rule, T scale, T *__restrict param, const T *__restrict grad, T *__restrict slot0,
                 T *__restrict slot1, T *__restrict slot2, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
        T value = param[i], state0 = has & 1 ? slot0[i] : T(0), state1 = has & 2 ? slot1[i] : T(0),
          state2 = has & 4 ? slot2[i] : T(0);
        rule.template operator()<has, tail>(value, grad[i] * scale, state0, state1, state2);
        param[i] = value;
        if (has & 1) slot0[i] = state0;
        if (has & 2) slot1[i] = state1;
        if (has & 4) slot2[i] = state2;
    }
}

// What the gradient is multiplied by on its way to the rule: a number, and then, in float64, one factor for a unit or,
// where units lie across each other, one for each element.
template <class T>
struct Gradient {
    T scale;
    const double *factors = nullptr;
    int64_t stride = 0;
};

// Elements [begin, end) of a tensor: in place where all of it is of the type T, else in blocks that are converted.
template <unsigned has, class Rule, class T>
static void range(const Rule &rule, const Gradient<T> &gradient, const Tensor &t, int64_t begin, int64_t end) {
    constexpr Type type = sizeof(T) == 4 ? Type::float32 : Type::float64;
    const bool native = t.type == type;
    if (native && t.grad_type == type && !gradient.factors) {
        T *slot[3];
        for (int k = 0; k < 3; ++k) slot[k] = has >> k & 1 ? static_cast<T *>(t.slots[k]) + begin : nullptr;
        T *param = static_cast<T *>(t.param) + begin;
        const T *grad = static_cast<const T *>(t.grad) + begin;
        const int64_t count = end - begin, rest = end == t.size ? t.size % int64_t(32 / sizeof(T)) : 0;
        const int64_t body = std::max<int64_t>(count - rest, 0);
        loop<has, false>(rule, gradient.scale, param, grad, slot[0], slot[1], slot[2], body);
        if (body == count) return;
        for (int k = 0; k < 3; ++k)
            if (has >> k & 1) slot[k] += body;
        loop<has, true>(rule, gradient.scale, param + body, grad + body, slot[0], slot[1], slot[2], count - body);
        return;
    }
    T params[BLOCK], grad[BLOCK], slots[3][BLOCK];
    for (int64_t done = 0; done < end - begin; done += BLOCK) {
        const int64_t at = begin + done, count = std::min(BLOCK, end - at);
        load(grad, t.grad, t.grad_type, at, count);
        if (gradient.factors && gradient.stride)
            for (int64_t i = 0; i < count; ++i)
                grad[i] = T(double(grad[i] * gradient.scale) * gradient.factors[done + i]);
        else if (gradient.factors)
            for (int64_t i = 0; i < count; ++i) grad[i] = T(double(grad[i] * gradient.scale) * *gradient.factors);
        const T scale = gradient.factors ? T(1) : gradient.scale;
        T *param = params, *slot[3] = {slots[0], slots[1], slots[2]};
        if (native)
            param = static_cast<T *>(t.param) + at;
        else
            load(param, t.param, t.type, at, count);
        for (int k = 0; k < 3; ++k) {
            if (!(has >> k & 1)) continue;
            if (native)
                slot[k] = static_cast<T *>(t.slots[k]) + at;
            else
                load(slot[k], t.slots[k], t.type, at, count);
        }
        loop<has, false>(rule, scale, param, grad, slot[0], slot[1], slot[2], count);
        if (native) continue;
        store(t.param, param, t.type, at, count);
        for (int k = 0; k < 3; ++k)
            if (has >> k & 1) store(t.slots[k], slot[k], t.type, at, count);
    }
}

// Choose the loop for the slots that a tensor has, among those that the rule may have.
template <class Rule, class T, unsigned optional = Rule::optional>
static void choose(const Rule &rule, const Gradient<T> &gradient, const Tensor &t, int64_t begin, int64_t end) {
    constexpr unsigned has = ((1u << Rule::slots) - 1 - Rule::optional) | optional;
    if (t.has == has)
        range<has>(rule, gradient, t, begin, end);
    else if constexpr (optional != 0)
        choose<Rule, T, (optional - 1) & Rule::optional>(rule, gradient, t, begin, end);
}

// A rule with the numbers of a tensor, in the type that is computed in.
template <template <class> class Rule, class T>
struct Made {
    T numbers[MAX_NUMBERS];
    Gradient<T> gradient;
    Rule<T> rule;
    explicit Made(const Tensor &t) : rule(cast(t), t.flags) {
        gradient.scale = numbers[Rule<T>::numbers];
        if (Rule<T>::maximize(t.flags)) gradient.scale = -gradient.scale;
    }
    const T *cast(const Tensor &t) {
        for (int i = 0; i <= Rule<T>::numbers; ++i) numbers[i] = T(t.numbers[i]);
        return numbers;
    }
};

template <template <class> class Rule>
static void elements(const Tensor &t, int64_t begin, int64_t end, double *) {
    if (t.type == Type::float64) {
        const Made<Rule, double> made(t);
        choose(made.rule, made.gradient, t, begin, end);
    } else {
        const Made<Rule, float> made(t);
        choose(made.rule, made.gradient, t, begin, end);
    }
}

// The sum of squares of elements [begin, end), in float64 from the numbers of type T times scale.
template <class T>
static double square_sum(const void *from, Type type, T scale, int64_t begin, int64_t end) {
    constexpr int LANES = 32;
    constexpr Type native = sizeof(T) == 4 ? Type::float32 : Type::float64;
    double sums[LANES] = {};
    T block[BLOCK];
    for (int64_t at = begin; at < end; at += BLOCK) {
        const int64_t count = std::min(BLOCK, end - at);
        const T *x = static_cast<const T *>(from) + at;
        if (type != native) load(block, from, type, at, count), x = block;
        int64_t i = 0;
        for (; i + LANES <= count; i += LANES)
            for (int lane = 0; lane < LANES; ++lane) {
                const double value = double(x[i + lane] * scale);
                sums[lane] += value * value;
            }
        for (; i < count; ++i) {
            const double value = double(x[i] * scale);
            sums[i % LANES] += value * value;
        }
    }
    for (int half = LANES / 2; half; half /= 2)
        for (int lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
    return sums[0];
}

template <template <class> class Rule, class T>
static void units_as(const Tensor &t, int64_t begin, int64_t end) {
    Made<Rule, T> made(t);
    auto &gradient = made.gradient;
    if (t.inner == 1) {
        const int64_t length = t.unit;
        for (int64_t at = begin * length; at < end * length; at += length) {
            const double factor = made.rule.factor(square_sum<T>(t.param, t.type, 1, at, at + length),
                                                   square_sum<T>(t.grad, t.grad_type, gradient.scale, at, at + length));
            gradient.factors = factor == 1 ? nullptr : &factor;
            choose(made.rule, gradient, t, at, at + length);
        }
        return;
    }
    // A unit is every inner-th element: a sum for each, along the rows.
    std::vector<double> param_squares(t.inner), factors(t.inner);
    std::vector<T> row(t.inner);
    gradient.factors = factors.data();
    gradient.stride = 1;
    for (int64_t outer = begin; outer < end; ++outer) {
        const int64_t first = outer * t.unit * t.inner, last = first + t.unit * t.inner;
        std::fill(param_squares.begin(), param_squares.end(), 0.0);
        std::fill(factors.begin(), factors.end(), 0.0);
        for (int64_t at = first; at < last; at += t.inner) {
            load(row.data(), t.param, t.type, at, t.inner);
            for (int64_t i = 0; i < t.inner; ++i) param_squares[i] += double(row[i]) * double(row[i]);
            load(row.data(), t.grad, t.grad_type, at, t.inner);
            for (int64_t i = 0; i < t.inner; ++i) {
                const double value = double(row[i] * gradient.scale);
                factors[i] += value * value;
            }
        }
        for (int64_t i = 0; i < t.inner; ++i) factors[i] = made.rule.factor(param_squares[i], factors[i]);
        for (int64_t at = first; at < last; at += t.inner) choose(made.rule, gradient, t, at, at + t.inner);
    }
}

// Units [begin, end), each in one go: its norms, then the rule while it is in cache.
template <template <class> class Rule>
static void units(const Tensor &t, int64_t begin, int64_t end, double *) {
    if (t.type == Type::float64)
        units_as<Rule, double>(t, begin, end);
    else
        units_as<Rule, float>(t, begin, end);
}

template <template <class> class Rule, class T>
static void piece_as(const Tensor &t, int64_t begin, int64_t end, double *squares) {
    Made<Rule, T> made(t);
    if (squares[2] == 0) {
        squares[0] = square_sum<T>(t.param, t.type, 1, begin, end);
        squares[1] = square_sum<T>(t.grad, t.grad_type, made.gradient.scale, begin, end);
        return;
    }
    const double factor = made.rule.factor(squares[0], squares[1]);
    made.gradient.factors = factor == 1 ? nullptr : &factor;
    choose(made.rule, made.gradient, t, begin, end);
}

// A piece of a unit that is too long for one thread: its two sums of squares, or, once `squares` holds those of the
// whole unit and a 1 after them, the rule.
template <template <class> class Rule>
static void piece(const Tensor &t, int64_t begin, int64_t end, double *squares) {
    if (t.type == Type::float64)
        piece_as<Rule, double>(t, begin, end, squares);
    else
        piece_as<Rule, float>(t, begin, end, squares);
}
