// One optimizer step over all tensors, as functions that MindSpore's `ops.Custom(..., func_type="aot")` calls.
//
// The inputs of each: numbers (float64, one row for each parameter: what `scalars` returns, and what the gradient is
// multiplied by), present (bool, for each parameter), layout (int32, for each parameter: which slots it has, then its
// flags), the parameters, the gradients, the slots (parameter by parameter, those that there are). Parameters and slots
// are written in place. The output says that it is done, and is of use for the order of execution.
//
// They return 0, or REFUSED if the inputs are not those; nothing is written then. ../_native.py checks all of it before
// it comes to that, by the table of rules at the end of this file.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>
#include <vector>

#include "declare.h"
#include "pool.h"
#include "tensor.h"

// The rules for each instruction set, in a namespace of its own; MS_OPTIM_PLAIN leaves out all but the first, which is
// that of the compiler's options.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(MS_OPTIM_PLAIN)
#define MORE_SETS 1
#else
#define MORE_SETS 0
#endif
#if defined(__aarch64__) || defined(__FMA__)
#define HAS_FMA 1
#else
#define HAS_FMA 0
#endif
namespace plain {
#include "instruction_set.h"
}  // namespace plain
#if MORE_SETS
#undef HAS_FMA
#define HAS_FMA 1
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
namespace avx2 {
#include "instruction_set.h"
}  // namespace avx2
#pragma GCC pop_options
#pragma GCC push_options
// Tensors of MindSpore begin anywhere: every access of 64 bytes would cross two lines of the cache.
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,prefer-vector-width=256")
namespace avx512 {
#include "instruction_set.h"
}  // namespace avx512
#pragma GCC pop_options

// 0, 1 for AVX2 with FMA, 2 for AVX-512; the environment may lower it.
static int level() {
    static const int found = [] {
        const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"),
                   avx512 = __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                            __builtin_cpu_supports("avx512bw");
        const int best = avx512 ? 2 : avx2 ? 1 : 0;
        const char *limit = std::getenv("MS_OPTIM_SIMD");
        return limit ? std::min(best, std::atoi(limit)) : best;
    }();
    return found;
}
#define BEST(Function, function, rule)                         \
    (level() == 2   ? Function(avx512::function<avx512::rule>) \
     : level() == 1 ? Function(avx2::function<avx2::rule>)     \
                    : Function(plain::function<plain::rule>))
#define BEST_CALL(call) (level() == 2 ? avx512::call : level() == 1 ? avx2::call : plain::call)
#else
#define BEST(Function, function, rule) Function(plain::function<plain::rule>)
#define BEST_CALL(call) plain::call
#endif

namespace {

constexpr int DONE = 0, REFUSED = 1;

// The tensors that MindSpore passes: those that a function writes into among them, and last its output.
struct Inputs {
    int given;
    void **data;
    int *dimensions;
    int64_t **shapes;
    const char **dtypes;

    int64_t count() const { return given - 1; }
    template <class T>
    const T *values(int64_t i) const {
        return static_cast<const T *>(data[i]);
    }
    Type type(int64_t i) const { return type_of(dtypes[i]); }
    int64_t size(int64_t i) const {
        int64_t size = 1;
        for (int k = 0; k < dimensions[i]; ++k) size *= shapes[i][k];
        return size;
    }
    bool is_matrix(int64_t i, std::string_view dtype, int64_t rows, int64_t columns) const {
        return dtypes[i] == dtype && dimensions[i] == 2 && shapes[i][0] == rows && shapes[i][1] == columns;
    }
    bool is_vector(int64_t i, std::string_view dtype) const { return dtypes[i] == dtype && dimensions[i] == 1; }
    bool is_one(int64_t i, std::string_view dtype) const { return dtypes[i] == dtype && size(i) == 1; }
};

// What a function leaves in its output once it has run, and returns: an interrupt may take the place of what it returns.
int done(const Inputs &inputs) {
    *static_cast<float *>(inputs.data[inputs.count()]) = 1;
    return DONE;
}

// The tensors that a step is taken on, or false if the inputs are not as the rule declares them.
template <class Rule>
bool read(const Inputs &inputs, std::vector<Tensor> &tensors) {
    constexpr int numbers = count_names(Rule::number_names) + 1, slots = count_names(Rule::slot_names),
                  width = slots + count_names(Rule::flag_names);
    static_assert(slots <= MAX_SLOTS);
    if (inputs.count() < 3 || !inputs.is_vector(1, "bool")) return false;
    const int64_t count = inputs.shapes[1][0];
    if (!inputs.is_matrix(0, "float64", count, numbers) || !inputs.is_matrix(2, "int32", count, width)) return false;
    if (inputs.count() < 3 + 2 * count) return false;
    tensors.reserve(count);
    int64_t slot = 3 + 2 * count;
    for (int64_t i = 0; i < count; ++i) {
        const int64_t param = 3 + i, grad = param + count;
        const int *layout = inputs.values<int>(2) + i * width;
        Tensor t{};
        t.param = inputs.data[param], t.grad = inputs.data[grad];
        t.type = inputs.type(param), t.grad_type = inputs.type(grad);
        t.size = inputs.size(param);
        t.numbers = inputs.values<double>(0) + i * numbers;
        t.flags = layout + slots;
        for (int k = 0; k < slots; ++k) {
            if (!layout[k]) continue;
            if (slot == inputs.count() || inputs.type(slot) != t.type || inputs.size(slot) != t.size) return false;
            t.has |= 1u << k;
            t.slots[k] = inputs.data[slot++];
        }
        if ((t.has | Rule::optional) != (1u << slots) - 1) return false;
        if (!inputs.values<bool>(1)[i]) continue;
        if (t.type == Type::other || t.grad_type == Type::other || inputs.size(grad) != t.size) return false;
        if (t.size == 0) continue;
        if constexpr (Rule::has_units)
            t.units = plain::make<Rule>(t).units(t.size, inputs.dimensions[param], inputs.shapes[param]);
        tensors.push_back(t);
    }
    return slot == inputs.count();
}

// A step writes before it has read everything: gradients that lie in what it writes are copied first. The gradients of
// a product of two parameters do so in a graph. The copies are to be kept until the step is done.
std::vector<std::vector<char>> set_apart(std::vector<Tensor> &tensors) {
    using Place = const char *;
    struct Written {
        Place begin, end;
        bool operator<(const Written &other) const { return begin < other.begin; }
    };
    std::vector<Written> written;
    for (const Tensor &t : tensors) {
        const int64_t bytes = t.size * width_of(t.type);
        const auto add = [&](const void *begin) { written.push_back({Place(begin), Place(begin) + bytes}); };
        add(t.param);
        for (int k = 0; k < MAX_SLOTS; ++k)
            if (t.has >> k & 1) add(t.slots[k]);
    }
    std::sort(written.begin(), written.end());
    std::vector<std::vector<char>> copies;
    for (Tensor &t : tensors) {
        const Place begin = Place(t.grad), end = begin + t.size * width_of(t.grad_type);
        const auto after = std::partition_point(written.begin(), written.end(),
                                                [&](const Written &other) { return other.end <= begin; });
        if (after == written.end() || end <= after->begin) continue;
        copies.emplace_back(begin, end);
        t.grad = copies.back().data();
    }
    return copies;
}

// Elements that one thread takes at a time: with their state they fit its cache.
constexpr int64_t CHUNK = 16384;

// Whether a unit is shared among threads.
bool is_long(const Units &units) { return units.stride == 1 && units.length > 2 * CHUNK; }

struct Range {
    const Tensor *tensor;
    int64_t begin, end;
};

template <class Call>
void for_each_chunk(int64_t begin, int64_t end, int64_t chunk, Call call) {
    for (; begin < end; begin += chunk) call(begin, std::min(begin + chunk, end));
}

template <class Job, class Call>
void share(std::vector<Job> &jobs, Call call) {
    if (!jobs.empty()) Pool::here().run(static_cast<int64_t>(jobs.size()), [&](int64_t i) { call(jobs[i]); });
}

using Apply = void (*)(const Tensor &, int64_t begin, int64_t end);

// The rule on all elements but those of long units; other units stay whole.
void run(const std::vector<Tensor> &tensors, Apply apply) {
    std::vector<Range> ranges;
    for (const Tensor &t : tensors) {
        if (is_long(t.units)) continue;
        const int64_t whole = t.units ? t.units.together() : 1, chunk = std::max<int64_t>(1, CHUNK / whole) * whole;
        for_each_chunk(0, t.size, chunk, [&](int64_t begin, int64_t end) { ranges.push_back({&t, begin, end}); });
    }
    share(ranges, [&](const Range &range) { apply(*range.tensor, range.begin, range.end); });
}

using Measure = Squares (*)(const Tensor &, int64_t begin, int64_t end);
using ApplyToPiece = void (*)(const Tensor &, int64_t begin, int64_t end, const Squares &unit);

// The rule on long units, in pieces: their sums first, which the rule needs.
void run_long_units(const std::vector<Tensor> &tensors, Measure measure, ApplyToPiece apply) {
    struct Piece : Range {
        size_t unit;
        Squares sums;
    };
    std::vector<Piece> pieces;
    std::vector<Squares> units;
    for (const Tensor &t : tensors) {
        if (!is_long(t.units)) continue;
        for_each_chunk(0, t.size, t.units.length, [&](int64_t first, int64_t last) {
            for_each_chunk(first, last, CHUNK, [&](int64_t begin, int64_t end) {
                pieces.push_back({{&t, begin, end}, units.size(), {}});
            });
            units.push_back({});
        });
    }
    share(pieces, [&](Piece &piece) { piece.sums = measure(*piece.tensor, piece.begin, piece.end); });
    for (const Piece &piece : pieces) {
        units[piece.unit].param += piece.sums.param;
        units[piece.unit].grad += piece.sums.grad;
    }
    share(pieces, [&](const Piece &piece) { apply(*piece.tensor, piece.begin, piece.end, units[piece.unit]); });
}

// An average of each tensor: inputs are its weight (float64), whether it is due (bool), which are copied (int32, for
// each), the averages and the values.
int step_average(const Inputs &inputs, Apply apply) {
    if (inputs.count() < 3 || !inputs.is_one(0, "float64") || !inputs.is_one(1, "bool")) return REFUSED;
    if (!inputs.is_vector(2, "int32") || inputs.count() != 3 + 2 * inputs.shapes[2][0]) return REFUSED;
    const int64_t count = inputs.shapes[2][0];
    const double numbers[] = {*inputs.values<double>(0), 1};
    std::vector<Tensor> averaged, copied;
    for (int64_t i = 0; i < count; ++i) {
        const int64_t mean = 3 + i, value = mean + count;
        const std::string_view dtype = inputs.dtypes[mean];
        Tensor t{};
        t.param = inputs.data[mean], t.grad = inputs.data[value];
        t.type = inputs.type(mean), t.grad_type = inputs.type(value);
        t.size = inputs.size(mean);
        t.numbers = numbers, t.flags = inputs.values<int>(2) + i;
        if (t.size != inputs.size(value)) return REFUSED;
        if (*t.flags && dtype == inputs.dtypes[value]) {
            const size_t bits = dtype.find_first_of("1368");
            if (dtype != "bool" && bits == dtype.npos) return REFUSED;
            t.size *= dtype == "bool" ? 1 : std::atoi(dtype.data() + bits) / 8;
            copied.push_back(t);
        } else if (t.type == Type::other || t.grad_type == Type::other) {
            return REFUSED;
        } else {
            averaged.push_back(t);
        }
    }
    if (!*inputs.values<bool>(1)) return done(inputs);
    const auto copies = set_apart(averaged);
    for (const Tensor &t : copied) std::memcpy(t.param, t.grad, t.size);
    run(averaged, apply);
    return done(inputs);
}

// The sum of products of two vectors; the sums of chunks are added up in their order.
template <class T>
double dot(const T *a, const T *b, int64_t count) {
    std::vector<double> sums((count + CHUNK - 1) / CHUNK);
    Pool::here().run(static_cast<int64_t>(sums.size()), [&](int64_t i) {
        const int64_t begin = i * CHUNK;
        sums[i] = BEST_CALL(dot(a + begin, b + begin, std::min(CHUNK, count - begin)));
    });
    double total = 0;
    for (const double sum : sums) total += sum;
    return total;
}

// x += factor * y.
template <class T>
void add_scaled(T *x, double factor, const T *y, int64_t count) {
    Pool::here().run((count + CHUNK - 1) / CHUNK, [&](int64_t i) {
        const int64_t begin = i * CHUNK;
        BEST_CALL(add_scaled(x + begin, T(factor), y + begin, std::min(CHUNK, count - begin)));
    });
}

}  // namespace

#define EXPORTED extern "C" __attribute__((visibility("default")))
#define FUNCTION(name)                                                                                               \
    EXPORTED int name(int given, void **data, int *dimensions, int64_t **shapes, const char **dtypes, void *, void *)
#define INPUTS \
    { given, data, dimensions, shapes, dtypes }
#define RULE(rule)                                                      \
    FUNCTION(rule) {                                                    \
        std::vector<Tensor> tensors;                                    \
        if (!read<plain::rule<float>>(INPUTS, tensors)) return REFUSED; \
        const auto copies = set_apart(tensors);                         \
        run(tensors, BEST(Apply, apply, rule));                         \
        return done(INPUTS);                                            \
    }
#define RULE_WITH_UNITS(rule)                                                                            \
    FUNCTION(rule) {                                                                                     \
        std::vector<Tensor> tensors;                                                                     \
        if (!read<plain::rule<float>>(INPUTS, tensors)) return REFUSED;                                  \
        const auto copies = set_apart(tensors);                                                          \
        run_long_units(tensors, BEST(Measure, measure, rule), BEST(ApplyToPiece, apply_to_piece, rule)); \
        run(tensors, BEST(Apply, apply_to_units, rule));                                                 \
        return done(INPUTS);                                                                             \
    }

RULE(adadelta)
RULE(adagrad)
RULE(adam)
RULE(adamax)
RULE(asgd)
RULE(nadam)
RULE(radam)
RULE(rmsprop)
RULE(rprop)
RULE(sgd)
RULE_WITH_UNITS(momentum_agc)
FUNCTION(average) { return step_average(INPUTS, BEST(Apply, apply, average)); }

// The elements of one vector to the powers in another. MindSpore's own power differs in the last bit between two places
// of a vector, and from run to run.
EXPORTED void ms_optim_powers(int64_t count, const double *base, const double *exponent, double *result) {
    DefaultFloats floats;
    for (int64_t i = 0; i < count; ++i) result[i] = std::pow(base[i], exponent[i]);
}

// The same in a graph, of two vectors into the output.
FUNCTION(power) {
    const Inputs inputs INPUTS;
    if (given != 3 || inputs.type(0) != Type::float64 || inputs.type(1) != Type::float64) return REFUSED;
    const int64_t size = inputs.size(0);
    if (inputs.size(1) != size || inputs.size(2) != size) return REFUSED;
    ms_optim_powers(size, inputs.values<double>(0), inputs.values<double>(1), static_cast<double *>(data[2]));
    return DONE;
}

// Functions of vectors, for ../lbfgs/vectors.py.
EXPORTED double ms_optim_dot_float32(const float *a, const float *b, int64_t count) { return dot(a, b, count); }
EXPORTED double ms_optim_dot_float64(const double *a, const double *b, int64_t count) { return dot(a, b, count); }
EXPORTED void ms_optim_add_scaled_float32(float *x, double factor, const float *y, int64_t count) {
    add_scaled(x, factor, y, count);
}
EXPORTED void ms_optim_add_scaled_float64(double *x, double factor, const double *y, int64_t count) {
    add_scaled(x, factor, y, count);
}

// How many threads take part from now on, if none has yet.
EXPORTED void ms_optim_use_threads(int count) { Pool::threads() = count; }

// What each function takes, for ../_native.py to compare with the rules in Python.
struct Entry {
    const char *rule, *numbers, *flags, *choices, *slots;
    unsigned optional;
};

template <class Rule>
constexpr Entry entry(const char *rule) {
    return {rule, Rule::number_names, Rule::flag_names, Rule::choices, Rule::slot_names, Rule::optional};
}
#define ENTRY(rule) entry<plain::rule<float>>(#rule)

EXPORTED const Entry ms_optim_rules[] = {
    ENTRY(adadelta),     ENTRY(adagrad), ENTRY(adam),  ENTRY(adamax),  ENTRY(asgd),  ENTRY(average),
    ENTRY(momentum_agc), ENTRY(nadam),   ENTRY(radam), ENTRY(rmsprop), ENTRY(rprop), ENTRY(sgd)};

// The version of the table and of what the functions do with their inputs, and how many entries there are.
EXPORTED const int ms_optim_table[] = {6, sizeof ms_optim_rules / sizeof *ms_optim_rules};
