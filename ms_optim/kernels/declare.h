// How a rule declares what it takes. Each name is written once: it is the member, its place in the order, and what the
// library exports.
#pragma once

#include <cstdint>

constexpr int count_names(const char *names) {
    int count = *names != 0;
    for (; *names; ++names) count += *names == ',';
    return count;
}

template <class From, class... Members>
static inline void read_in_order(const From *from, Members &...members) {
    ((members = static_cast<Members>(*from++)), ...);
}

// An element's state from and to the arrays of the slots; what a tensor lacks is 0 and has no array.
template <unsigned has, class T, class... Slots>
static inline void load_in_order(int64_t i, const T *first, const T *second, const T *third, Slots &...slots) {
    int k = 0;
    ((slots = has >> k & 1 ? (k == 0 ? first : k == 1 ? second : third)[i] : T(0), ++k), ...);
}

template <unsigned has, class T, class... Slots>
static inline void store_in_order(int64_t i, T *first, T *second, T *third, const Slots &...slots) {
    int k = 0;
    ((has >> k & 1 ? void((k == 0 ? first : k == 1 ? second : third)[i] = slots) : void(), ++k), ...);
}

// The numbers of a step, as the rule's function in ../*.py takes them.
#define NUMBERS(...)                                          \
    T __VA_ARGS__;                                            \
    static constexpr const char *number_names = #__VA_ARGS__; \
    void read_numbers(const double *from) { read_in_order(from, __VA_ARGS__); }

// What is decided at construction: 0 or 1, or the place of a choice.
#define FLAGS(...)                                          \
    int __VA_ARGS__;                                        \
    static constexpr const char *flag_names = #__VA_ARGS__; \
    void read_flags(const int *from) { read_in_order(from, __VA_ARGS__); }

// The choices of a flag that is not a bool.
#define CHOICES(flag, ...)      \
    enum : int { __VA_ARGS__ }; \
    static constexpr const char *choices = #flag ": " #__VA_ARGS__;

// The tensors of state, at most three; `optional` has a bit for each that a tensor may lack.
#define SLOTS(...)                                                                 \
    T __VA_ARGS__;                                                                 \
    struct Place {                                                                 \
        enum { __VA_ARGS__ };                                                      \
    };                                                                             \
    static constexpr const char *slot_names = #__VA_ARGS__;                        \
    template <unsigned has>                                                        \
    inline void load(int64_t i, const T *first, const T *second, const T *third) { \
        load_in_order<has>(i, first, second, third, __VA_ARGS__);                  \
    }                                                                              \
    template <unsigned has>                                                        \
    inline void store(int64_t i, T *first, T *second, T *third) const {            \
        store_in_order<has>(i, first, second, third, __VA_ARGS__);                 \
    }

// Whether a tensor has a slot, in a function of the template parameter `has`.
#define HAS(slot) (has >> Place::slot & 1)

// What a rule is unless it says otherwise.
struct Declaration {
    static constexpr const char *choices = "";
    static constexpr unsigned optional = 0;
    static constexpr const char *slot_names = "";
    static constexpr bool has_units = false;
    void prepare() {}
    template <unsigned, class T>
    void load(int64_t, const T *, const T *, const T *) {}
    template <unsigned, class T>
    void store(int64_t, T *, T *, T *) const {}
};
