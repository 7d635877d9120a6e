// One optimizer step over all tensors, as functions that MindSpore's `ops.Custom(..., func_type="aot")` calls.
//
// The inputs of each: numbers (float64, one row for each parameter: what `scalars` returns, and what the gradient is
// multiplied by), present (bool, for each parameter), layout (int32, for each parameter: which slots it has, then its
// flags), the parameters, the gradients, the slots (parameter by parameter, those that there are). Parameters and slots
// are written in place. The output is of no use but for the order of execution.

#include <cmath>
#include <cstring>
#include <string_view>
#include <type_traits>
#include <vector>

#include "pool.h"

namespace {

enum class Type { bfloat16, float16, float32, float64, other };
constexpr int MAX_NUMBERS = 16, MAX_SLOTS = 3;

struct Tensor {
    void *param;
    const void *grad;
    void *slots[MAX_SLOTS];
    Type type, grad_type;
    unsigned has;           // a bit for each slot that there is
    const double *numbers;  // those of the rule, then the factor of the gradient
    const int *flags;
    int64_t size;
    int64_t unit, inner;  // elements of a unit that is clipped, 0 if none is; and how far they are apart
};

// What is done to a range of a tensor, and with the sums of squares of a unit that it is a piece of.
using Work = void (*)(const Tensor &, int64_t begin, int64_t end, double *squares);

}  // namespace

// The rules for each instruction set, in a namespace of its own.
#if defined(__aarch64__)
#define HAS_FMA 1
#else
#define HAS_FMA 0
#endif
namespace plain {
#include "rules.h"
#include "apply.h"
}  // namespace plain
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#undef HAS_FMA
#define HAS_FMA 1
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
namespace avx2 {
#include "rules.h"
#include "apply.h"
}  // namespace avx2
#pragma GCC pop_options
#pragma GCC push_options
// Tensors of MindSpore begin anywhere: every access of 64 bytes would cross two lines of the cache.
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,prefer-vector-width=256")
namespace avx512 {
#include "rules.h"
#include "apply.h"
}  // namespace avx512
#pragma GCC pop_options
#define BEST(work, rule)                                            \
    (level() == 2   ? Work(avx512::work<avx512::rule>)              \
     : level() == 1 ? Work(avx2::work<avx2::rule>)                  \
                    : Work(plain::work<plain::rule>))
#else
#define BEST(work, rule) Work(plain::work<plain::rule>)
#endif

namespace {

// 0, 1 for AVX2 with FMA, 2 for AVX-512; the environment may lower it.
[[maybe_unused]] int level() {
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
    static const int found = [] {
        int best = __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                           __builtin_cpu_supports("avx512bw")
                       ? 2
                   : __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? 1
                                                                                     : 0;
        if (const char *limit = std::getenv("MS_OPTIM_SIMD")) best = std::min(best, std::atoi(limit));
        return best;
    }();
    return found;
#else
    return 0;
#endif
}

Type type_of(std::string_view name) {
    return name == "float32"    ? Type::float32
           : name == "float16"  ? Type::float16
           : name == "bfloat16" ? Type::bfloat16
           : name == "float64"  ? Type::float64
                                : Type::other;
}

int64_t size_of(int dimensions, const int64_t *shape) {
    int64_t size = 1;
    for (int i = 0; i < dimensions; ++i) size *= shape[i];
    return size;
}

// Elements that one thread takes at a time: with their state they fit its cache.
constexpr int64_t CHUNK = 16384;

struct Job {
    Work work;
    const Tensor *tensor;
    int64_t begin, end;
    int64_t squares;  // where its sums are, among all
};

void run(const std::vector<Job> &jobs, std::vector<double> &squares) {
    Pool::here().run(static_cast<int64_t>(jobs.size()), [&](int64_t i) {
        const Job &job = jobs[i];
        job.work(*job.tensor, job.begin, job.end, squares.data() + job.squares);
    });
}

// Tensors in chunks; a unit that is clipped in one go, and where it is too long in pieces, after their sums are known.
void run(const std::vector<Tensor> &tensors, Work elements, Work units, Work piece) {
    std::vector<Job> jobs, later;
    std::vector<double> squares;
    for (const Tensor &t : tensors) {
        if (t.unit == 0) {
            for (int64_t begin = 0; begin < t.size; begin += CHUNK)
                jobs.push_back({elements, &t, begin, std::min(begin + CHUNK, t.size), 0});
        } else if (t.inner > 1 || t.unit <= 2 * CHUNK) {
            const int64_t count = t.size / (t.unit * t.inner);
            const int64_t together = std::max<int64_t>(1, CHUNK / (t.unit * t.inner));
            for (int64_t begin = 0; begin < count; begin += together)
                jobs.push_back({units, &t, begin, std::min(begin + together, count), 0});
        } else {
            for (int64_t first = 0; first < t.size; first += t.unit)
                for (int64_t begin = first; begin < first + t.unit; begin += CHUNK) {
                    later.push_back({piece, &t, begin, std::min(begin + CHUNK, first + t.unit),
                                     static_cast<int64_t>(squares.size())});
                    squares.insert(squares.end(), 3, 0.0);
                }
        }
    }
    jobs.insert(jobs.end(), later.begin(), later.end());
    run(jobs, squares);
    for (size_t first = 0, last; first < later.size(); first = last) {
        const int64_t unit = later[first].begin / later[first].tensor->unit;
        double sums[2] = {};
        for (last = first; last < later.size() && later[last].tensor == later[first].tensor &&
                           later[last].begin / later[last].tensor->unit == unit;
             ++last)
            for (int k = 0; k < 2; ++k) sums[k] += squares[later[last].squares + k];
        for (size_t i = first; i < last; ++i) {
            squares[later[i].squares] = sums[0], squares[later[i].squares + 1] = sums[1];
            squares[later[i].squares + 2] = 1;
        }
    }
    run(later, squares);
}

// The units of a tensor, as `unit_axes` of ../_math.py has them.
void lay_out_units(Tensor &t, int dimensions, const int64_t *shape, bool squeezed) {
    int wide = 0;
    for (int i = 0; i < dimensions; ++i) wide += shape[i] != 1;
    t.unit = t.size, t.inner = 1;
    if (dimensions <= 1 || (squeezed && wide <= 1)) return;
    if (squeezed && dimensions == 3)
        t.unit = shape[1], t.inner = shape[2];
    else
        t.unit = t.size / shape[0];
}

template <class Rule, class = void>
struct Clips : std::false_type {};
template <class Rule>
struct Clips<Rule, std::void_t<decltype(Rule::exempt)>> : std::true_type {};

template <class Rule>
int step(Work elements, Work units, Work piece, int nparam, void **params, int *ndims, int64_t **shapes,
         const char **dtypes) {
    if (nparam < 4 || ndims[0] != 2 || ndims[1] != 1 || ndims[2] != 2) return 1;
    const int64_t count = shapes[0][0], columns = shapes[0][1], width = shapes[2][1];
    if (columns != Rule::numbers + 1 || shapes[1][0] != count || shapes[2][0] != count || nparam < 4 + 2 * count)
        return 1;
    const auto *numbers = static_cast<const double *>(params[0]);
    const auto *present = static_cast<const bool *>(params[1]);
    const auto *layout = static_cast<const int *>(params[2]);
    std::vector<Tensor> tensors;
    tensors.reserve(count);
    int64_t slot = 3 + 2 * count;
    for (int64_t i = 0; i < count; ++i) {
        const int64_t at = 3 + i, grad = at + count;
        Tensor t{};
        t.param = params[at];
        t.type = type_of(dtypes[at]);
        t.size = size_of(ndims[at], shapes[at]);
        for (unsigned k = 0; k < Rule::slots; ++k) {
            if (!layout[i * width + k]) continue;
            if (slot >= nparam - 1 || type_of(dtypes[slot]) != t.type || size_of(ndims[slot], shapes[slot]) != t.size)
                return 2;
            t.has |= 1u << k;
            t.slots[k] = params[slot++];
        }
        if (!present[i]) continue;
        t.grad = params[grad];
        t.grad_type = type_of(dtypes[grad]);
        if (t.type == Type::other || t.grad_type == Type::other || size_of(ndims[grad], shapes[grad]) != t.size)
            return 3;
        if (t.size == 0) continue;
        t.numbers = numbers + i * columns;
        t.flags = layout + i * width + Rule::slots;
        if constexpr (Clips<Rule>::value)
            if (!Rule::exempt(t.flags)) lay_out_units(t, ndims[at], shapes[at], Rule::squeezed(t.flags));
        tensors.push_back(t);
    }
    if (slot != nparam - 1) return 4;
    run(tensors, elements, units, piece);
    return 0;
}

// An average of each tensor: inputs are its weight (float64), whether it is due (bool), which are copied (int32, for
// each), the averages and the values.
int step_average(Work elements, int nparam, void **params, int *ndims, int64_t **shapes, const char **dtypes) {
    const int64_t count = nparam < 4 || ndims[2] != 1 ? 0 : shapes[2][0];
    if (count == 0 || nparam != 4 + 2 * count) return 1;
    if (!*static_cast<const bool *>(params[1])) return 0;
    const auto *copied = static_cast<const int *>(params[2]);
    const double numbers[2] = {*static_cast<const double *>(params[0]), 1};
    std::vector<Tensor> tensors, copies;
    for (int64_t i = 0; i < count; ++i) {
        const int64_t at = 3 + i, from = at + count;
        const std::string_view name = dtypes[at];
        Tensor t{};
        t.param = params[at], t.grad = params[from];
        t.type = type_of(name), t.grad_type = type_of(dtypes[from]);
        t.size = size_of(ndims[at], shapes[at]);
        t.numbers = numbers, t.flags = copied + i;
        if (t.size != size_of(ndims[from], shapes[from])) return 3;
        if (copied[i] && name == dtypes[from]) {
            t.size *= name == "bool" ? 1 : std::atoi(name.data() + name.find_first_of("1368")) / 8;
            copies.push_back(t);
        } else if (t.type == Type::other || t.grad_type == Type::other) {
            return 3;
        } else {
            tensors.push_back(t);
        }
    }
    for (const Tensor &t : copies) std::memcpy(t.param, t.grad, t.size);
    run(tensors, elements, nullptr, nullptr);
    return 0;
}

}  // namespace

#define FUNCTION(name)                                                                                             \
    extern "C" __attribute__((visibility("default"))) int name(int nparam, void **params, int *ndims,              \
                                                               int64_t **shapes, const char **dtypes, void *, void *)
#define RULE(rule)                                                                                                 \
    FUNCTION(rule) {                                                                                               \
        return step<plain::rule<float>>(BEST(elements, rule), nullptr, nullptr, nparam, params, ndims, shapes,     \
                                        dtypes);                                                                   \
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

FUNCTION(momentum_agc) {
    return step<plain::momentum_agc<float>>(BEST(elements, momentum_agc), BEST(units, momentum_agc),
                                            BEST(piece, momentum_agc), nparam, params, ndims, shapes, dtypes);
}

FUNCTION(average) { return step_average(BEST(elements, average), nparam, params, ndims, shapes, dtypes); }
