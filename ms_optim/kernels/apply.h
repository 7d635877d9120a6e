// What runs a rule over a range of one tensor. Included once for each instruction set: see kernels.cpp.

// Elements that are converted at a time where a tensor is not of the type that is computed in.
constexpr int64_t BLOCK = 512;

template <class T>
constexpr Type type_in = sizeof(T) == 4 ? Type::float32 : Type::float64;

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
static void loop(Rule rule, T scale, T *__restrict param, const T *__restrict grad, T *__restrict slot0,
                 T *__restrict slot1, T *__restrict slot2, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
        T value = param[i];
        rule.template load<has>(i, slot0, slot1, slot2);
        rule.template update<has, tail>(value, grad[i] * scale);
        param[i] = value;
        rule.template store<has>(i, slot0, slot1, slot2);
    }
}

// What gradients are multiplied by on their way to the rule: a number of the tensor. `start` does what must be done
// beforehand to elements `done` and on of a range, and gives what is left for the loop.
template <class T>
struct Scaled {
    T scale;
    T start(T *, int64_t, int64_t) const { return scale; }
};

// And then, in float64, by the factor of their unit.
template <class T>
struct ScaledByUnit {
    T scale;
    double factor;
    T start(T *grad, int64_t, int64_t count) const {
        for (int64_t i = 0; i < count; ++i) grad[i] = T(double(grad[i] * scale) * factor);
        return T(1);
    }
};

// The same of a row through units that lie across each other: each element has a factor of its own.
template <class T>
struct ScaledByUnits {
    T scale;
    const double *factors;
    T start(T *grad, int64_t done, int64_t count) const {
        for (int64_t i = 0; i < count; ++i) grad[i] = T(double(grad[i] * scale) * factors[done + i]);
        return T(1);
    }
};

template <unsigned has, class Rule, class T>
static void in_place(const Rule &rule, T scale, const Tensor &t, int64_t begin, int64_t end) {
    T *slot[MAX_SLOTS];
    for (int k = 0; k < MAX_SLOTS; ++k) slot[k] = has >> k & 1 ? static_cast<T *>(t.slots[k]) + begin : nullptr;
    T *param = static_cast<T *>(t.param) + begin;
    const T *grad = static_cast<const T *>(t.grad) + begin;
    const int64_t count = end - begin, rest = end == t.size ? t.size % int64_t(32 / sizeof(T)) : 0;
    const int64_t body = std::max<int64_t>(count - rest, 0);
    loop<has, false>(rule, scale, param, grad, slot[0], slot[1], slot[2], body);
    if (body == count) return;
    for (int k = 0; k < MAX_SLOTS; ++k)
        if (has >> k & 1) slot[k] += body;
    loop<has, true>(rule, scale, param + body, grad + body, slot[0], slot[1], slot[2], count - body);
}

template <unsigned has, class Rule, class T, class Scaling>
static void in_blocks(const Rule &rule, const Scaling &scaling, const Tensor &t, int64_t begin, int64_t end) {
    const bool native = t.type == type_in<T>;
    T params[BLOCK], grad[BLOCK], slots[MAX_SLOTS][BLOCK];
    for (int64_t done = 0; done < end - begin; done += BLOCK) {
        const int64_t at = begin + done, count = std::min(BLOCK, end - at);
        load(grad, t.grad, t.grad_type, at, count);
        const T scale = scaling.start(grad, done, count);
        T *param = params, *slot[MAX_SLOTS] = {slots[0], slots[1], slots[2]};
        if (native)
            param = static_cast<T *>(t.param) + at;
        else
            load(param, t.param, t.type, at, count);
        for (int k = 0; k < MAX_SLOTS; ++k) {
            if (!(has >> k & 1)) continue;
            if (native)
                slot[k] = static_cast<T *>(t.slots[k]) + at;
            else
                load(slot[k], t.slots[k], t.type, at, count);
        }
        loop<has, false>(rule, scale, param, grad, slot[0], slot[1], slot[2], count);
        if (native) continue;
        store(t.param, param, t.type, at, count);
        for (int k = 0; k < MAX_SLOTS; ++k)
            if (has >> k & 1) store(t.slots[k], slot[k], t.type, at, count);
    }
}

// Elements [begin, end) of a tensor: in place where all of it is of the type that is computed in and no unit scales it,
// else in blocks that are converted. The loop is that for the slots that there are, of those that the rule may have.
template <class Rule, class Scaling, unsigned optional = Rule::optional>
static void range(const Rule &rule, const Scaling &scaling, const Tensor &t, int64_t begin, int64_t end) {
    using T = decltype(scaling.scale);
    constexpr unsigned has = ((1u << count_names(Rule::slot_names)) - 1 - Rule::optional) | optional;
    if (t.has != has) {
        if constexpr (optional != 0)
            range<Rule, Scaling, (optional - 1) & Rule::optional>(rule, scaling, t, begin, end);
        return;
    }
    if constexpr (std::is_same_v<Scaling, Scaled<T>>)
        if (t.type == type_in<T> && t.grad_type == type_in<T>)
            return in_place<has>(rule, scaling.scale, t, begin, end);
    in_blocks<has, Rule, T>(rule, scaling, t, begin, end);
}

template <class Rule>
static Rule make(const Tensor &t) {
    Rule rule;
    rule.read_numbers(t.numbers);
    rule.read_flags(t.flags);
    rule.prepare();
    return rule;
}

// What the gradient is multiplied by.
template <class T, class Rule>
static T scale_of(const Rule &rule, const Tensor &t) {
    const T scale = T(t.numbers[count_names(Rule::number_names)]);
    return rule.maximize ? -scale : scale;
}

template <class Rule, class T>
static void apply_as(const Tensor &t, int64_t begin, int64_t end) {
    const Rule rule = make<Rule>(t);
    range(rule, Scaled<T>{scale_of<T>(rule, t)}, t, begin, end);
}

// The rule on elements [begin, end).
template <template <class> class Rule>
static void apply(const Tensor &t, int64_t begin, int64_t end) {
    if (t.type == Type::float64)
        apply_as<Rule<double>, double>(t, begin, end);
    else
        apply_as<Rule<float>, float>(t, begin, end);
}
