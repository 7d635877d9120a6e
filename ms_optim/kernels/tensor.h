// A tensor in a step, and its units.
#pragma once

#include <cstdint>
#include <string_view>

enum class Type { bfloat16, float16, float32, float64, other };

inline Type type_of(std::string_view name) {
    return name == "float32"    ? Type::float32
           : name == "float16"  ? Type::float16
           : name == "bfloat16" ? Type::bfloat16
           : name == "float64"  ? Type::float64
                                : Type::other;
}

inline int64_t width_of(Type type) {
    return type == Type::float64 ? 8 : type == Type::float32 ? 4 : type == Type::other ? 1 : 2;
}

// The parts of a tensor that are measured as wholes: each is `length` elements, `stride` apart. Units of a stride lie
// across each other, `stride` of them together.
struct Units {
    int64_t length = 0, stride = 1;
    explicit operator bool() const { return length > 0; }
    int64_t together() const { return length * stride; }
};

// Sums over a unit.
struct Squares {
    double param = 0, grad = 0;
};

constexpr int MAX_SLOTS = 3;

struct Tensor {
    void *param;
    const void *grad;
    void *slots[MAX_SLOTS];
    Type type, grad_type;
    unsigned has;           // a bit for each slot that there is
    const double *numbers;  // those of the rule, then what the gradient is multiplied by
    const int *flags;
    int64_t size;
    Units units;  // none where the gradient is not clipped
};
