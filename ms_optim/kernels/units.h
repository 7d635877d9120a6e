// What a rule does that looks at whole units of a tensor: it measures each, and scales its gradient by a factor that
// follows from the measures, before the rule is run on its elements. Included once for each instruction set: see
// kernels.cpp.

// The sum of squares of elements [begin, end), in float64 from the numbers of type T times scale.
template <class T>
static double square_sum(const void *from, Type type, T scale, int64_t begin, int64_t end) {
    constexpr int LANES = 32;
    double sums[LANES] = {};
    T block[BLOCK];
    for (int64_t at = begin; at < end; at += BLOCK) {
        const int64_t count = std::min(BLOCK, end - at);
        const T *x = static_cast<const T *>(from) + at;
        if (type != type_in<T>) load(block, from, type, at, count), x = block;
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

// A rule, made for a tensor that has units.
template <class Rule, class T>
class UnitRule {
    const Tensor &t;
    const Rule rule = make<Rule>(t);
    const T scale = scale_of<T>(rule, t);

  public:
    explicit UnitRule(const Tensor &tensor) : t(tensor) {}

    // The sums over elements that lie side by side.
    Squares measure(int64_t begin, int64_t end) const {
        return {square_sum<T>(t.param, t.type, 1, begin, end), square_sum<T>(t.grad, t.grad_type, scale, begin, end)};
    }

    // Elements of one unit whose sums are known.
    void apply(int64_t begin, int64_t end, const Squares &unit) const {
        const double factor = rule.factor(unit);
        if (factor == 1)
            range(rule, Scaled<T>{scale}, t, begin, end);
        else
            range(rule, ScaledByUnit<T>{scale, factor}, t, begin, end);
    }

    // Elements of whole units, each in one go: the rule finds it in the cache.
    void apply(int64_t begin, int64_t end) const {
        if (!t.units) return range(rule, Scaled<T>{scale}, t, begin, end);
        if (t.units.stride > 1) return apply_across(begin, end);
        for (int64_t at = begin, last; at < end; at = last) {
            last = at + t.units.length;
            apply(at, last, measure(at, last));
        }
    }

  private:
    // The same of units that lie across each other: their sums are taken row by row, an element of each at a time.
    void apply_across(int64_t begin, int64_t end) const {
        const int64_t width = t.units.stride;
        std::vector<double> param_squares(width), grad_squares(width), factors(width);
        std::vector<T> row(width);
        for (int64_t first = begin, last; first < end; first = last) {
            last = first + t.units.together();
            std::fill(param_squares.begin(), param_squares.end(), 0.0);
            std::fill(grad_squares.begin(), grad_squares.end(), 0.0);
            for (int64_t at = first; at < last; at += width) {
                load(row.data(), t.param, t.type, at, width);
                for (int64_t i = 0; i < width; ++i) param_squares[i] += double(row[i]) * double(row[i]);
                load(row.data(), t.grad, t.grad_type, at, width);
                for (int64_t i = 0; i < width; ++i) {
                    const double value = double(row[i] * scale);
                    grad_squares[i] += value * value;
                }
            }
            for (int64_t i = 0; i < width; ++i) factors[i] = rule.factor({param_squares[i], grad_squares[i]});
            for (int64_t at = first; at < last; at += width)
                range(rule, ScaledByUnits<T>{scale, factors.data()}, t, at, at + width);
        }
    }
};

// In the type that is computed in: what a piece of a unit adds to its sums; the rule on a piece, when they are known; and
// the rule on whole units.
template <template <class> class Rule>
static Squares measure(const Tensor &t, int64_t begin, int64_t end) {
    return t.type == Type::float64 ? UnitRule<Rule<double>, double>(t).measure(begin, end)
                                   : UnitRule<Rule<float>, float>(t).measure(begin, end);
}
template <template <class> class Rule>
static void apply_to_piece(const Tensor &t, int64_t begin, int64_t end, const Squares &unit) {
    t.type == Type::float64 ? UnitRule<Rule<double>, double>(t).apply(begin, end, unit)
                            : UnitRule<Rule<float>, float>(t).apply(begin, end, unit);
}
template <template <class> class Rule>
static void apply_to_units(const Tensor &t, int64_t begin, int64_t end) {
    t.type == Type::float64 ? UnitRule<Rule<double>, double>(t).apply(begin, end)
                            : UnitRule<Rule<float>, float>(t).apply(begin, end);
}
